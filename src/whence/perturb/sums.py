"""Sums over the draws of each sample, taken as the draws come, so that no step is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..arrays import Array, Functions

__all__ = ["Sums"]


class Sums:
    """Adds up rows that come sample by sample, ``draws`` rows each, in chunks cut anywhere.

    ends: where each sample's rows end on the line, (samples,), where they are not as many.
    Only finished samples and the one sample in hand are held.
    """

    def __init__(self, xp: Functions, draws: int, ends: np.ndarray | None = None) -> None:
        self.xp = xp
        self.draws = draws
        self.ends = ends
        self.done = 0
        """Rows so far."""
        self._whole: dict[str, list[Array]] = {}
        self._open: dict[str, Array] = {}

    def add(
        self, arrays: Mapping[str, Array], real: int, weights: np.ndarray | None = None
    ) -> None:
        """Add the first ``real`` rows of {name: (rows, ...)}, each times its weight (rows,)."""
        parts: Callable[[str, Array], tuple[list[Array], Array | None]] = self._parts
        if self.ends is not None:
            parts = partial(self._uneven, ends=self.ends[self.ends > self.done] - self.done)
        # Nothing is kept before all is computed: a chunk may fail half way and come again, smaller.
        found = {k: parts(k, self._weighted(a, real, weights)) for k, a in arrays.items()}
        for name, (whole, rest) in found.items():
            self._whole.setdefault(name, []).extend(whole)
            self._open.pop(name, None)
            if rest is not None:
                self._open[name] = rest
        self.done += real

    @property
    def finished_samples(self) -> int:
        """How many samples are finished."""
        if self.ends is None:
            return self.done // self.draws
        return int(np.searchsorted(self.ends, self.done, side="right"))

    def _weighted(self, array: Array, real: int, weights: np.ndarray | None) -> Array:
        xp: Any = self.xp
        array = array[:real]
        if xp.dtype(array) in ("float16", "bfloat16"):
            array = xp.cast(array, "float32")
        if weights is not None:
            shape = (real,) + (1,) * (len(xp.shape(array)) - 1)
            factor = xp.asarray(np.asarray(weights)[:real].reshape(shape), like=array)
            array = array * xp.cast(factor, xp.dtype(array))
        return array

    def _parts(self, name: str, array: Array) -> tuple[list[Array], Array | None]:
        """The sums of the samples that the rows finish, and of the one that they leave open."""
        xp: Any = self.xp
        before, real = self.done % self.draws, xp.shape(array)[0]
        held = self._open.get(name)
        head = min((self.draws - before) % self.draws, real)
        whole: list[Array] = []
        if before:
            part = xp.sum(array[:head], axis=0, keepdims=True)
            held = part if held is None else held + part
            if before + head < self.draws:
                return [], held
            whole.append(held)
        full = (real - head) // self.draws
        if full:
            block = array[head : head + full * self.draws]
            split = xp.reshape(block, (full, self.draws, *xp.shape(array)[1:]))
            whole.append(xp.sum(split, axis=1))
        tail = array[head + full * self.draws :]
        if xp.shape(tail)[0]:
            return whole, xp.sum(tail, axis=0, keepdims=True)
        return whole, None

    def _uneven(
        self, name: str, array: Array, ends: np.ndarray
    ) -> tuple[list[Array], Array | None]:
        """As ``_parts``, where samples have rows of different numbers, which end at such rows."""
        xp: Any = self.xp
        stop = xp.shape(array)[0]
        held, whole, place = self._open.get(name), [], 0
        for end in map(int, ends):
            if place == stop:
                break
            part = xp.sum(array[place : min(end, stop)], axis=0, keepdims=True)
            held = part if held is None else held + part
            if end <= stop:
                whole.append(held)
                held = None
            place = min(end, stop)
        return whole, held

    def finished(self) -> dict[str, Array]:
        """The sums of the finished samples: {name: (samples, ...)}."""
        return {k: self.xp.concat(v, 0) for k, v in self._whole.items() if v}
