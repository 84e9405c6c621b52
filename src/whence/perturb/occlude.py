"""Occlusion: a window slides over the input, and what the answer loses is what the window held.

Windows start every ``stride`` places from the first on; the last along an axis is cut at the
border, so that every place is covered. Units instead of windows are ``LeaveOneOut``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np

from ..arrays import Array
from ..errors import OptionError
from .chunks import Chunk
from .designs import Answer, Design
from .units import mix

__all__ = ["LeaveOneOut", "Windows", "covered", "painted"]


class LeaveOneOut(Design):
    """Each unit taken away alone: f(x) - f(x without it) [zeiler2014]. One call a unit."""

    def __init__(self, units: int) -> None:
        self.units = self.rows = units

    def coefficients(self, draws: np.ndarray) -> np.ndarray:
        """All ones but at the draw's own unit."""
        return 1.0 - np.eye(self.units)[draws]

    def answer(self, scores: np.ndarray, on: float) -> Answer:
        """What each unit's absence costs."""
        return Answer(on - scores)


class Windows:
    """The windows over one input. The last axis runs fastest.

    shape: the input's, with the batch. axes: those that the window slides along; it spans the
    others. size, stride: along each of them.
    Raises OptionError for a window that is larger than the input, is empty, or steps over places.
    """

    def __init__(
        self, shape: Sequence[int], axes: Sequence[int], size: Sequence[int],
        stride: Sequence[int], name: str = "input",
    ) -> None:  # fmt: skip
        self.shape, self.axes = tuple(shape), tuple(axes)
        for axis, length, step in zip(axes, size, stride, strict=True):
            _check(length, step, shape[axis], axis, name)
        self.starts = [
            np.arange(max(ceil((shape[a] - length) / step), 0) + 1) * step
            for a, length, step in zip(axes, size, stride, strict=True)
        ]
        self.stops = [
            np.minimum(first + length, shape[a])
            for a, first, length in zip(axes, self.starts, size, strict=True)
        ]
        self.grid = tuple(len(s) for s in self.starts)
        self.rows = int(np.prod(self.grid))

    def inside(self, axis: int) -> np.ndarray:
        """Which places of the axes' ``axis``-th each of its windows holds, (windows, side)."""
        place = np.arange(self.shape[self.axes[axis]])
        return (place >= self.starts[axis][:, None]) & (place < self.stops[axis][:, None])

    def which(self, draws: np.ndarray) -> tuple[np.ndarray, ...]:
        """Along each axis, which window a draw is."""
        return np.unravel_index(draws, self.grid)

    def share(self, drops: np.ndarray) -> np.ndarray:
        """Each place gets the mean drop of the windows that hold it: (batch, rows) -> (batch, ...).

        The result has the input's rank, and length 1 along axes that the window spans.
        """
        found = drops.reshape(-1, *self.grid)
        held = np.ones(())
        for axis in range(len(self.axes)):
            inside = self.inside(axis).astype(float)
            found = np.moveaxis(np.tensordot(found, inside, axes=(axis + 1, 0)), -1, axis + 1)
            held = np.multiply.outer(held, inside.sum(0))
        sides = [self.shape[a] if a in self.axes else 1 for a in range(1, len(self.shape))]
        # Axes come in the order they were given in; the input's own is ascending.
        order = np.argsort(self.axes)
        found = np.transpose(found / held, (0, *(order + 1)))
        return found.reshape(-1, *sides)


def _check(size: int, step: int, side: int, axis: int, name: str) -> None:
    where = f"axis {axis} of {'the input' if name == 'input' else f'input {name!r}'}"
    if size < 1:
        raise OptionError(f"a window of {size} along {where} holds nothing; give 1 to {side}")
    if size > side:
        raise OptionError(
            f"the window is {size} along {where}, which has only {side}; give 1 to {side}"
        )
    if step < 1:
        raise OptionError(
            f"a stride of {step} along {where} never moves the window; give 1 or more"
        )
    if step > size:
        raise OptionError(
            f"a stride of {step} along {where} steps over places that a window of {size} never "
            f"holds; give a stride of {size} at most, or a larger window"
        )


def _factors(
    windows: Windows, draws: np.ndarray, mine: np.ndarray, chunk: Chunk, like: Array
) -> list[Array]:
    """By axis, 1 at the places that each row's window holds: (rows, 1.., side, ..1).

    mine: (rows,), whether a row's window is over this input at all.
    """
    rank = len(windows.shape)
    factors = []
    for number, (axis, which) in enumerate(zip(windows.axes, windows.which(draws), strict=True)):
        line = windows.inside(number)[which] & mine[:, None]
        shape = [len(line) if i == 0 else line.shape[1] if i == axis else 1 for i in range(rank)]
        factors.append(chunk.array(line.reshape(shape).astype(np.float32), like))
    return factors


def covered(
    windows: Windows, draws: np.ndarray, mine: np.ndarray, chunk: Chunk, x: Array, x0: Array
) -> Array:
    """Each row's input with its window filled from ``x0``: x, x0 (rows, ...) -> (rows, ...)."""
    hole = 1
    for factor in _factors(windows, draws, mine, chunk, x):
        hole = hole * factor
    return mix(1 - hole, x, x0)


def painted(windows: Windows, draws: np.ndarray, mine: np.ndarray, chunk: Chunk, x: Array) -> Array:
    """Each row's input with its window filled from the places around it, (rows, ...).

    Every place in the window takes the mean of the nearest ones outside, straight ahead along each
    axis to both sides, weighted by 1 / distance; so a slope is continued exactly. Along an axis
    that the window fills there are none.
    """
    hole, total, weight = 1, 0, 0
    xp, rank = chunk.xp, len(windows.shape)
    factors = _factors(windows, draws, mine, chunk, x)
    for number, (axis, which) in enumerate(zip(windows.axes, windows.which(draws), strict=True)):
        hole = hole * factors[number]
        side = windows.shape[axis]
        place = np.arange(side)
        starts, stops = windows.starts[number][which], windows.stops[number][which]
        for edge, there in ((starts - 1, starts > 0), (stops, stops < side)):
            shape = [len(edge) if i == 0 else side if i == axis else 1 for i in range(rank)]
            only = place == edge[:, None]
            near = there[:, None] / np.maximum(np.abs(place - edge[:, None]), 1)
            value = xp.sum(
                chunk.array(only.reshape(shape).astype(np.float32), x) * x, axis=axis, keepdims=True
            )
            near_by = chunk.array(near.reshape(shape).astype(np.float32), x)
            total = total + near_by * value
            weight = weight + near_by
    some = xp.where(weight > 0, weight, xp.ones_like(weight))
    return mix(1 - hole, x, total / some)
