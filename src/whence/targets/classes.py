"""Targets on the model's outputs: the top class, a class, a difference of two, a function."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array, Functions
from ..errors import TargetError
from .base import Target, named

__all__ = ["Callback", "Classes", "Difference", "Top"]


@dataclass(frozen=True)
class Top(Target):
    """The class with the highest output, for each sample."""

    output: str | int | None = None
    logit: bool = False

    @property
    def key(self) -> Hashable:
        """Names the computation."""
        return ("top", self.output, self.logit)

    def check(self, shape: Sequence[int]) -> None:
        """Raise TargetError where the output is not one number a class."""
        _needs_classes(shape, "the top class")

    def weights(
        self, xp: Functions, y: Array, arguments: Mapping[str, Array]
    ) -> tuple[Array, Array | None]:
        """1 at each sample's largest output."""
        if len(xp.shape(y)) == 1:
            return xp.ones_like(y), None
        index = xp.argmax(y, axis=1)
        return xp.one_hot(index, xp.shape(y)[1], y), index

    def describe(self) -> str:
        """In words."""
        return "top class" + _of(self.logit)


@dataclass(frozen=True)
class Classes(Target):
    """A class, the same for all samples or one for each."""

    index: tuple[int, ...]
    output: str | int | None = None
    logit: bool = False

    def arguments(self, samples: int) -> dict[str, np.ndarray]:
        """``target``: the class of each sample."""
        return {"target": _spread(self.index, samples)}

    @property
    def key(self) -> Hashable:
        """Names the computation, whichever the class."""
        return ("classes", self.output, self.logit)

    def check(self, shape: Sequence[int]) -> None:
        """Raise TargetError where there is no such class."""
        _needs_classes(shape, f"class {self.index[0]}")
        _in_range(self.index, shape)

    def weights(
        self, xp: Functions, y: Array, arguments: Mapping[str, Array]
    ) -> tuple[Array, Array | None]:
        """1 at each sample's class."""
        if len(xp.shape(y)) == 1:
            return xp.ones_like(y), None
        index = arguments["target"]
        return xp.one_hot(index, xp.shape(y)[1], y), index

    def describe(self) -> str:
        """In words; without a number where it differs between samples."""
        words = f"class {self.index[0]}" if len(set(self.index)) == 1 else "class"
        return words + _of(self.logit)


@dataclass(frozen=True)
class Difference(Target):
    """Output a minus output b: why this class rather than that one."""

    a: tuple[int, ...]
    b: tuple[int, ...]
    output: str | int | None = None
    logit: bool = False

    def arguments(self, samples: int) -> dict[str, np.ndarray]:
        """``target`` and ``other``: the two classes of each sample."""
        return {"target": _spread(self.a, samples), "other": _spread(self.b, samples)}

    @property
    def key(self) -> Hashable:
        """Names the computation, whichever the classes."""
        return ("difference", self.output, self.logit)

    def check(self, shape: Sequence[int]) -> None:
        """Raise TargetError where there are no such classes."""
        if len(shape) < 2:
            raise TargetError(
                "a difference needs at least two classes; the model returns one number a sample"
            )
        _needs_classes(shape, f"class {self.a[0]} minus class {self.b[0]}")
        _in_range((*self.a, *self.b), shape)

    def weights(
        self, xp: Functions, y: Array, arguments: Mapping[str, Array]
    ) -> tuple[Array, Array | None]:
        """1 at a, -1 at b. No index: a difference is not a class."""
        classes = xp.shape(y)[1]
        a, b = (xp.one_hot(arguments[k], classes, y) for k in ("target", "other"))
        return a - b, None

    def describe(self) -> str:
        """In words; without numbers where they differ between samples."""
        alike = len(set(self.a)) == 1 and len(set(self.b)) == 1
        words = f"class {self.a[0]} minus class {self.b[0]}" if alike else "class minus class"
        return words + _of(self.logit)

    def names(
        self, samples: int, index: Sequence[int] | None, classes: Sequence[str] | None
    ) -> list[str]:
        """``cat minus dog`` for each sample."""
        pairs = zip(_spread(self.a, samples), _spread(self.b, samples), strict=True)
        return [f"{named(int(a), classes)} minus {named(int(b), classes)}" for a, b in pairs]


@dataclass(frozen=True)
class Callback(Target):
    """A function of the model's outputs that returns one number a sample, (batch,)."""

    head: Callable[..., Any] | None = None

    @property
    def key(self) -> Hashable:
        """Names the computation: the function itself."""
        return ("callback", self.head)

    def check(self, shape: Sequence[int]) -> None:
        """Raise TargetError where the function does not return one number a sample."""
        if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
            raise TargetError(
                "the target function must return one number a sample, shape (batch,); it returned "
                f"{tuple(shape)}"
            )

    def weights(
        self, xp: Functions, y: Array, arguments: Mapping[str, Array]
    ) -> tuple[Array, Array | None]:
        """All that the function returned."""
        return xp.ones_like(y), None

    def describe(self) -> str:
        """The function's name."""
        name = str(getattr(self.head, "__name__", "function"))
        return name.replace("<lambda>", "function")


def _of(logit: bool) -> str:
    return " before the softmax" if logit else ""


def _spread(index: tuple[int, ...], samples: int) -> np.ndarray:
    if len(index) not in (1, samples):
        raise TargetError(
            f"{len(index)} targets were given for {samples} samples; give one, or one a sample"
        )
    return np.broadcast_to(np.asarray(index, np.int64), (samples,)).copy()


def _in_range(index: Sequence[int], shape: Sequence[int]) -> None:
    classes = shape[1] if len(shape) == 2 else 1
    wrong = [i for i in index if not 0 <= i < classes]
    if wrong:
        raise TargetError(
            f"class {wrong[0]} was asked for; the model has {classes} outputs, 0 to {classes - 1}"
        )


def _needs_classes(shape: Sequence[int], what: str) -> None:
    if len(shape) == 3:
        raise TargetError(
            f"{what} was asked for, but the model's output has shape {tuple(shape)}: (batch, "
            "tokens, vocabulary) of a language model? Then target=whence.token() is the likeliest "
            "next token, whence.token(5, position=2) a chosen one, whence.token(5, against=7) a "
            "difference; else give a function of the outputs that returns one number a sample"
        )
    if len(shape) not in (1, 2):
        raise TargetError(
            f"{what} was asked for, but the model's output has shape {tuple(shape)}: not one "
            "number a class. Give a function of the outputs that returns one number a sample, or "
            "whence.neuron(...)"
        )
