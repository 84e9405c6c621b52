"""A chunk of the line of draws, as the method that makes its inputs sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from ..arrays import Array, Functions
from .seeds import Seeds

__all__ = ["Chunk", "Varied"]


class Varied(Protocol):
    """What is varied: the arrays at x by name, and the array functions that go with them."""

    @property
    def xp(self) -> Functions:
        """The framework's array functions."""
        ...

    @property
    def like(self) -> Array:
        """An array on the right device."""
        ...

    @property
    def places(self) -> Mapping[str, Array]:
        """{name: (batch, ...)}."""
        ...


class Chunk:
    """Some consecutive rows of the line of draws, and helpers to make their inputs.

    sample, draw: (rows,) whole numbers, NumPy. real: how many rows count; the rest fill up the
    shape and repeat the last real one. item: (rows,), which of the plan's samples a row is of;
    by default all of the batch are.
    """

    def __init__(
        self, sample: np.ndarray, draw: np.ndarray, real: int, seeds: Seeds, varied: Varied,
        item: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.sample = sample
        self.draw = draw
        self.item = sample if item is None else item
        self.real = real
        self.seeds = seeds
        self.xp: Functions = varied.xp
        self.like = varied.like
        self._x: Mapping[str, Array] = varied.places

    def __len__(self) -> int:
        return len(self.sample)

    @property
    def single(self) -> bool:
        """Whether all rows are of one sample."""
        return bool(self.sample[0] == self.sample[-1])

    def x(self, name: str | None = None) -> Array:
        """The unvaried array of each row at a place (default the first), (rows, ...)."""
        return self.take(self._x[next(iter(self._x)) if name is None else name])

    def take(self, array: Array, *, own: bool = False) -> Array:
        """A sample's entry for each row: (batch, ...) -> (rows, ...); NumPy stays NumPy.

        A chunk of one sample gets one row that broadcasts, without a copy, unless ``own`` asks for
        memory of its own.
        """
        if isinstance(array, np.ndarray):
            return array[self.sample]
        if self.single and not own:
            one = array[int(self.sample[0]) : int(self.sample[0]) + 1]
            return self.xp.broadcast_to(one, (len(self), *self.xp.shape(array)[1:]))
        return self.take_at(array, self.sample)

    def take_at(self, array: Array, places: np.ndarray) -> Array:
        """The framework's ``array[places]``."""
        return self.xp.take(array, self.xp.asarray(places, like=self.like_index(array)), 0)

    def like_index(self, array: Array) -> Array | None:
        """What places an index beside an array: on its device, in its own whole-number type."""
        return array if self.xp.name == "torch" else None

    def column(self, numbers: np.ndarray, like: Array) -> Array:
        """(rows,) numbers -> (rows, 1, 1...) in the type of ``like``, to multiply its rows."""
        shape = (len(self),) + (1,) * (len(self.xp.shape(like)) - 1)
        return self.array(np.asarray(numbers).reshape(shape), like)

    def array(self, numbers: np.ndarray, like: Array) -> Array:
        """A NumPy array as the framework's, in the type and on the device of ``like``."""
        return self.xp.cast(self.xp.asarray(numbers, like=like), self.xp.dtype(like))

    def random(
        self,
        draw: Callable[[np.random.Generator], np.ndarray],
        *,
        draws: np.ndarray | None = None,
        stream: int = 0,
    ) -> np.ndarray:
        """``draw(generator)`` for each row, from the row's own generator: (rows, ...), NumPy.

        draws: which draw each row counts as, (rows,); rows with equal ones get equal numbers, as
            antithetic pairs do (``chunk.draw // 2``). Default ``chunk.draw``.
        stream: tells independent uses within one draw apart.
        """
        numbers = self.draw if draws is None else np.asarray(draws)
        made: dict[tuple[int, int], np.ndarray] = {}
        rows = []
        for s, d in zip(self.sample.tolist(), numbers.tolist(), strict=True):
            if (s, d) not in made:
                made[s, d] = np.asarray(draw(self.seeds.generator(s, d, stream)))
            rows.append(made[s, d])
        return np.stack(rows)
