"""What a target is: a place among the model's arrays, and how much of each element there.

A target says *where* (an output of the model, a layer, or a function of the outputs) and *how much
of each element there*: weights over the array found at that place. The explained number is the
weighted sum, one a sample; its gradient with respect to the place is the weights, and relevance
starts as weights times values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import Array, Functions

__all__ = ["Target"]


class Target(ABC):
    """What is explained. Frozen data; ``make`` turns what users write into one."""

    output: str | int | None = None
    """Which of several outputs, by name or place; None for the only (or main) one."""
    layer: str | None = None
    """The layer whose output is read, None for the model's own."""
    head: Callable[..., Any] | None = None
    """A function of the model's outputs that is run, and recorded, after it."""
    logit: bool = False
    """Whether the value before the model's last softmax is meant, rather than its output."""

    def arguments(self, samples: int) -> dict[str, np.ndarray]:
        """Arrays that differ from call to call, for which no graph should be compiled again.

        Raises TargetError where their length is neither 1 nor the number of samples.
        """
        return {}

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """Names the computation (without the arguments)."""

    @abstractmethod
    def weights(
        self, xp: Functions, y: Array, arguments: Mapping[str, Array]
    ) -> tuple[Array, Array | None]:
        """(weights like y, chosen index (batch,) or None) for the array at the target's place."""

    @abstractmethod
    def describe(self) -> str:
        """Words for titles: ``class 3``, ``layer4 channel 37``."""

    @abstractmethod
    def check(self, shape: Sequence[int]) -> None:
        """Raise TargetError if the array at the target's place has not got what is asked for."""

    def names(
        self, samples: int, index: Sequence[int] | None, classes: Sequence[str] | None
    ) -> list[str]:
        """The target in words, one a sample.

        index: the class that was chosen for each, where one was. classes: their names, if known.
        """
        if index is None:
            return [self.describe()] * samples
        return [named(i, classes) for i in index]


def named(index: int, classes: Sequence[str] | None) -> str:
    """A class in words: its name where names are known."""
    if classes is not None and 0 <= index < len(classes):
        return str(classes[index])
    return f"class {index}"
