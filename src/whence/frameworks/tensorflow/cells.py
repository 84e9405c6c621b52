"""What flows between instructions while a graph is run: an array, and what is known about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import tensorflow as tf

from ...tape import Value

__all__ = ["Cell", "Level", "TensorList", "differentiable"]


class Level(IntEnum):
    """What a number depends on; the larger wins where several meet."""

    FIXED = 0
    """Nothing: known while tracing."""
    VARIABLE = 1
    """The model's variables (or a random draw): read anew on every run."""
    LIVE = 2
    """The model's input."""


class Cell:
    """One array, while running.

    value: its place on the tape, where a gradient leads from it to an input.
    token: whether it is whole numbers that came in as whole numbers (words, categories).
    ragged: whether its shape depends on numbers, not on shapes alone.
    """

    __slots__ = ("array", "entry", "level", "origin", "ragged", "token", "value")

    def __init__(
        self,
        array: Any,
        level: Level,
        value: Value | None = None,
        token: bool = False,
        ragged: bool = False,
    ) -> None:
        self.array = array
        self.level = level
        self.value = value
        self.token = token
        self.ragged = ragged
        self.entry: Any = None
        """The type of the entries, if this is the handle of a list of tensors."""
        self.origin: Value | None = None
        """The value that this is, but for its gradient, which was stopped."""

    @property
    def number(self) -> np.ndarray | None:
        """The array in NumPy where it is fixed, else None."""
        if self.level is not Level.FIXED or isinstance(self.array, TensorList):
            return None
        return np.asarray(self.array.numpy())


@dataclass(eq=False)
class TensorList:
    """A list of tensors inside the graph (``tf.TensorArray``), kept as a list of cells.

    Loops that build a sequence write into these. As cells the entries stay ordinary arrays on the
    tape, where a handle of type ``variant`` would be opaque to every rule.
    """

    cells: list[Cell | None]
    dtype: Any
    shape: Any
    """The shape of an entry, where it is known."""

    def filled(self) -> list[Cell]:
        """The entries, with zeros where nothing was written."""
        shape = self.shape
        for cell in self.cells:
            if cell is not None and not tf.TensorShape(shape).is_fully_defined():
                shape = cell.array.shape
        return [
            Cell(tf.zeros(shape, self.dtype), Level.FIXED) if c is None else c for c in self.cells
        ]


def differentiable(array: Any) -> bool:
    """Whether a gradient can pass through an array of this type."""
    dtype = getattr(array, "dtype", None)
    return dtype is not None and bool(dtype.is_floating or dtype.is_complex)


def together(cells: Iterable[Cell]) -> tuple[Level, bool, bool]:
    """Level, token and ragged of what depends on all of these."""
    level, token, ragged = Level.FIXED, False, False
    for cell in cells:
        level = max(level, cell.level)
        token = token or cell.token
        ragged = ragged or cell.ragged
    return level, token, ragged
