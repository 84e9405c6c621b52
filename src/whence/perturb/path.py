"""Integrals of the gradient along a path from a baseline x0 to the input x.

For any path, ``sum_i integral (df/dx_i)(dx_i/dt) dt = f(x) - f(x0)``: the attribution of an
element is its share of that sum. A path says where it is at t in 0..1 (``Straight``, ``Blur``); the
sums are taken by the shared loop, all samples and steps in one line of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from ..arrays import Array
from ..errors import OptionError
from .chunks import Chunk
from .engine import Engine, Plan
from .quadrature import quadrature

__all__ = [
    "MOST_STEPS", "Integral", "Path", "Straight", "gaps", "idgi", "integrate", "refined",
    "rounding", "rows_replaced", "step_sums", "wide",
]  # fmt: skip

Arrays = dict[str, Array]

MOST_STEPS = 2048
"""Where more steps end."""


class Path(Protocol):
    """A way from x0 (t = 0) to x (t = 1), for every sample."""

    @property
    def count(self) -> int:
        """How many baselines each sample is led from; the attribution is their mean."""
        ...

    def at(self, chunk: Chunk, t: np.ndarray, which: np.ndarray) -> Arrays:
        """The arrays of each row at its t (rows,), from its baseline number ``which`` (rows,)."""
        ...


@dataclass(frozen=True)
class Straight:
    """x0 + t (x - x0) [sundararajan2017].

    start: {place: (baselines, batch or 1, ...)}; an axis of 1 for one baseline, or for baselines
    that all samples share. Places that are absent stay as in x.
    """

    engine: Engine
    start: Mapping[str, Array]

    @property
    def count(self) -> int:
        """How many baselines."""
        return int(next(iter(self.start.values())).shape[0])

    def _ends(self, chunk: Chunk, name: str, which: np.ndarray) -> tuple[Array, Array]:
        """(x0, x - x0) of each row."""
        xp = self.engine.xp
        if self.count == 1:
            x0, way = self._single[name]
            return chunk.take(x0), chunk.take(way)
        start = self.start[name]
        shape = xp.shape(start)
        flat = xp.reshape(start, (shape[0] * shape[1], *shape[2:]))
        place = which * shape[1] + (chunk.sample if shape[1] > 1 else 0)
        return self._led(chunk.x(name), chunk.take_at(flat, place))

    @cached_property
    def _single(self) -> dict[str, tuple[Array, Array]]:
        """(x0, x - x0) of each sample, (batch, ...), where there is one baseline."""
        places = self.engine.places
        return {k: self._led(places[k], start[0]) for k, start in self.start.items()}

    def _led(self, x: Array, x0: Array) -> tuple[Array, Array]:
        """(x0, x - x0); an element of x that is no number stays where it is."""
        xp = self.engine.xp
        good = xp.isfinite(x)
        x0 = xp.broadcast_to(x0, xp.shape(x))
        return xp.where(good, x0, x), xp.where(good, x - x0, xp.zeros_like(x))

    def at(self, chunk: Chunk, t: np.ndarray, which: np.ndarray) -> Arrays:
        """x0 + t (x - x0)."""
        made = {}
        for name in self.start:
            x0, way = self._ends(chunk, name, which)
            made[name] = x0 + chunk.column(t, way) * way
        return made

    def way(self, chunk: Chunk, which: np.ndarray) -> Arrays:
        """The path's velocity: x - x0 of each row."""
        return {k: self._ends(chunk, k, which)[1] for k in self.start}


@dataclass
class Integral:
    """Sums along a path, for some samples.

    attribution: {place: (samples, ...)}. steps: how many were taken for each sample. missed:
    whether the gap is larger than was asked for, (samples,), at the end of what is tried.
    """

    attribution: Arrays
    steps: np.ndarray
    missed: np.ndarray


def _split(chunk: Chunk, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(the step, the baseline's number) of each row: a sample's draws run through the steps."""
    return chunk.draw % steps, chunk.draw // steps


def integrate(
    engine: Engine, path: Straight, steps: int, rule: str, samples: Sequence[int] | None = None
) -> Arrays:
    """The integral along straight lines by a quadrature rule: {place: (samples, ...)}.

    Exact with one step where the gradient is constant along the line.
    """
    places, weights = quadrature(rule, steps)

    def make(chunk: Chunk) -> Arrays:
        step, which = _split(chunk, steps)
        return path.at(chunk, places[step], which)

    def weigh(chunk: Chunk) -> np.ndarray:
        return weights[_split(chunk, steps)[0]] / path.count

    def terms(chunk: Chunk, grads: Arrays, scores: Array) -> Arrays:
        way = path.way(chunk, _split(chunk, steps)[1])
        return {k: grads[k] * way[k] for k in way if k in grads}

    plan = Plan(steps * path.count, make, samples, "integrated gradients")
    if path.count > 1:
        return engine.gradient(plan, weigh, terms)
    # One baseline: the way is the same at every step, so it is multiplied in once.
    sums = engine.gradient(plan, weigh)
    chosen = np.arange(engine.batch) if samples is None else np.asarray(samples)
    whole = Chunk(chosen, np.zeros_like(chosen), len(chosen), engine.seeds, engine.caller)
    way = path.way(whole, np.zeros_like(chosen))
    return {k: sums[k] * engine.xp.cast(way[k], engine.xp.dtype(sums[k])) for k in way if k in sums}


def step_sums(
    engine: Engine, path: Path, steps: int, samples: Sequence[int] | None = None
) -> Arrays:
    """Sum over steps of the gradient in the middle of a step times the step, for any path."""

    def make(chunk: Chunk) -> Arrays:
        step, which = _split(chunk, steps)
        return path.at(chunk, (step + 0.5) / steps, which)

    def terms(chunk: Chunk, grads: Arrays, scores: Array) -> Arrays:
        step, which = _split(chunk, steps)
        before, after = (path.at(chunk, (step + i) / steps, which) for i in (0, 1))
        return {k: grads[k] * (after[k] - before[k]) for k in after if k in grads}

    plan = Plan(steps * path.count, make, samples, "integrated gradients")
    return engine.gradient(plan, np.full(plan.draws, 1 / path.count), terms)


def idgi(engine: Engine, path: Path, steps: int, samples: Sequence[int] | None = None) -> Arrays:
    """The change of f over each step, shared out by the squared gradient at its start [yang2023].

    Adds up to f(x) - f(x0) by construction, as long as no gradient on the way is zero.
    Costs one more forward call a step.
    """
    chosen = np.arange(engine.batch) if samples is None else np.asarray(samples)

    def along(chunk: Chunk, count: int) -> Arrays:
        step, which = _split(chunk, count)
        return path.at(chunk, step / steps, which)

    ahead = Plan((steps + 1) * path.count, lambda c: along(c, steps + 1), samples, "scores")
    scores = engine.forward(ahead).reshape(len(chosen), path.count, steps + 1)
    rise = np.diff(scores, axis=2).reshape(len(chosen), -1) / path.count
    row_of = {int(s): i for i, s in enumerate(chosen)}

    def weigh(chunk: Chunk) -> np.ndarray:
        return rise[[row_of[int(s)] for s in chunk.sample], chunk.draw]

    plan = Plan(steps * path.count, lambda c: along(c, steps), samples, "idgi")
    return engine.gradient(plan, weigh, lambda c, grads, scores: shares(engine.xp, grads))


def shares(xp: Any, grads: Arrays) -> Arrays:
    """Squared gradients, so scaled that each row's add up to 1; zeros where all are zero."""
    squares = {k: g * g for k, g in grads.items()}
    total = sum(xp.sum(s, axis=tuple(range(1, len(xp.shape(s))))) for s in squares.values())
    safe = xp.where(total > 0, total, xp.ones_like(total))
    return {
        k: s / xp.reshape(safe, (-1,) + (1,) * (len(xp.shape(s)) - 1)) for k, s in squares.items()
    }


def refined(
    compute: Callable[[int, np.ndarray], Arrays],
    change: np.ndarray,
    steps: int,
    tolerance: float | None,
    xp: Any,
    most: int = MOST_STEPS,
    floor: np.ndarray | float = 0.0,
) -> Integral:
    """Compute with so many steps; double them for those samples, and only those, above a gap.

    compute: (steps, samples (k,)) -> {place: (k, ...)}. change: f(x) - f(x0), (batch,).
    tolerance: largest gap, |sum - change| / |change|; None computes once.
    floor: |sum - change| that is the scores' own rounding, (batch,), which no step takes away.
    """
    batch = len(change)
    floor = np.broadcast_to(floor, (batch,))
    found = compute(steps, np.arange(batch))
    taken = np.full(batch, steps)
    if tolerance is None:
        return Integral(found, taken, np.zeros(batch, bool))
    if not 0 < tolerance < float("inf"):
        raise OptionError(f"tolerance is a number above 0, or None; got {tolerance!r}")
    left = np.flatnonzero(_above(xp, found, change, tolerance, floor))
    while len(left) and steps * 2 <= most:
        steps *= 2
        better = compute(steps, left)
        found = {k: rows_replaced(xp, a, better[k], left) for k, a in found.items() if k in better}
        taken[left] = steps
        left = left[_above(xp, better, change[left], tolerance, floor[left])]
    return Integral(found, taken, np.isin(np.arange(batch), left))


def wide(xp: Any, array: Array) -> Array:
    """In single precision at least."""
    return xp.cast(array, "float32") if xp.dtype(array) in ("float16", "bfloat16") else array


def rounding(dtype: str) -> float:
    """The relative size of a number's last place."""
    bits = {"float16": 10, "bfloat16": 7, "float32": 23}.get(dtype, 52)
    return float(2.0**-bits)


def _above(
    xp: Any, found: Arrays, change: np.ndarray, tolerance: float, floor: np.ndarray
) -> np.ndarray:
    """Which samples have a gap that more steps could close."""
    gap = gaps(xp, found, change)
    return (gap > tolerance) & ~(gap * np.abs(change) <= floor)


def gaps(xp: Any, attribution: Arrays, change: np.ndarray) -> np.ndarray:
    """|sum of the attribution - change| / |change|, (samples,); 0 where both are 0."""
    total = np.zeros(len(change))
    for array in attribution.values():
        numbers = np.asarray(xp.to_numpy(array), np.float64)
        total += numbers.reshape(len(change), -1).sum(1)
    off = np.abs(total - change)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(off == 0, 0.0, off / np.abs(change))


def rows_replaced(xp: Any, array: Array, better: Array, places: np.ndarray) -> Array:
    """``array`` with the rows at ``places`` from ``better``."""
    order = np.arange(xp.shape(array)[0])
    order[places] = len(order) + np.arange(len(places))
    like = array if xp.name == "torch" else None
    return xp.take(xp.concat([array, better], 0), xp.asarray(order, like=like), 0)
