"""What the tests of perturbation methods share: models that are formulas, in both frameworks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import whence

FRAMEWORKS = ("torch", "tensorflow")


class Formulas:
    """A framework's arrays, and models that are functions of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.module = pytest.importorskip(name)

    def array(self, numbers: Any, dtype: str = "float32") -> Any:
        made = np.asarray(numbers, dtype)
        return self.module.tensor(made) if self.name == "torch" else self.module.constant(made)

    def sum(self, array: Any) -> Any:
        """Over everything but the batch: (batch, ...) -> (batch,)."""
        axes = list(range(1, len(array.shape)))
        return array.sum(axes) if self.name == "torch" else self.module.reduce_sum(array, axes)

    def weighed(self, weights: Any) -> Callable[[Any], Any]:
        """The model that sums weights times x, one number a sample."""
        held = self.array(weights)
        return lambda x: self.sum(x * held)

    def sin(self, array: Any) -> Any:
        return self.module.sin(array)

    def tanh(self, array: Any) -> Any:
        return self.module.tanh(array)

    def larger(self, a: Any, b: Any) -> Any:
        return self.module.maximum(a, b)

    def smaller(self, a: Any, b: Any) -> Any:
        return self.module.minimum(a, b)

    def stack(self, arrays: Any) -> Any:
        """Numbers of each sample, (batch,) each, as columns."""
        return self.module.stack(list(arrays), 1)

    def explain(self, model: Any, x: Any, *args: Any, **options: Any) -> Any:
        """The explanation of a NumPy input, of which the arrays come back as NumPy."""
        given = tuple(map(self.array, x)) if isinstance(x, tuple) else self.array(x)
        return whence.explain(model, given, *args, **options)


def numbers(explanation: Any) -> Any:
    """The attribution as NumPy."""
    return explanation.to_numpy()
