"""The waist's array functions, in NumPy: for results that are already on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import numpy as np

from ..errors import InputError

__all__ = ["NumpyFunctions"]

Array = np.ndarray


class NumpyFunctions:
    """``whence.frameworks.base.Functions`` for ``numpy.ndarray``."""

    name = "numpy"

    def asarray(self, array: Any, like: Array | None = None) -> Array:
        return np.asarray(array)

    def to_numpy(self, array: Any) -> Array:
        return np.asarray(array)

    def shape(self, array: Array) -> tuple[int, ...]:
        return tuple(array.shape)

    def dtype(self, array: Array) -> str:
        return str(array.dtype)

    def cast(self, array: Array, dtype: str) -> Array:
        return array.astype(dtype)

    def is_floating(self, array: Array) -> bool:
        return np.issubdtype(array.dtype, np.floating)

    def zeros_like(self, array: Array) -> Array:
        return np.zeros_like(array)

    def ones_like(self, array: Array) -> Array:
        return np.ones_like(array)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        return np.where(condition, a, b)

    def abs(self, array: Array) -> Array:
        return np.abs(array)

    def sqrt(self, array: Array) -> Array:
        return np.sqrt(array)

    def exp(self, array: Array) -> Array:
        return np.exp(array)

    def maximum(self, a: Array, b: Any) -> Array:
        return np.maximum(a, b)

    def minimum(self, a: Array, b: Any) -> Array:
        return np.minimum(a, b)

    def isfinite(self, array: Array) -> Array:
        return np.isfinite(array)

    def gated(self, array: Array, by: Array) -> Array:
        return np.where(by > 0, array, np.zeros_like(array))

    def known_zero(self, array: Array) -> bool:
        return not bool(np.any(array))

    def raised(self, array: Array, gamma: float) -> Array:
        return array + gamma * np.maximum(array, 0)

    def known_one_sided(self, array: Array) -> bool:
        return bool(np.all(array > 0) or np.all(array < 0))

    def sum(self, array: Array, axis: Any = None, keepdims: bool = False) -> Array:
        return np.sum(array, axis=axis, keepdims=keepdims)

    def mean(self, array: Array, axis: Any = None, keepdims: bool = False) -> Array:
        return np.mean(array, axis=axis, keepdims=keepdims)

    def max(self, array: Array, axis: Any = None, keepdims: bool = False) -> Array:
        return np.max(array, axis=axis, keepdims=keepdims)

    def argmax(self, array: Array, axis: int) -> Array:
        return np.argmax(array, axis=axis)

    def one_hot(self, index: Array, depth: int, like: Array) -> Array:
        return (np.asarray(index)[..., None] == np.arange(depth)).astype(like.dtype)

    def reshape(self, array: Array, shape: Sequence[int]) -> Array:
        return np.reshape(array, tuple(shape))

    def transpose(self, array: Array, axes: Sequence[int]) -> Array:
        return np.transpose(array, tuple(axes))

    def broadcast_to(self, array: Array, shape: Sequence[int]) -> Array:
        return np.broadcast_to(array, tuple(shape))

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        return np.concatenate(list(arrays), axis=axis)

    def take(self, array: Array, index: Array, axis: int) -> Array:
        return np.take(array, index, axis=axis)

    def matmul(self, a: Array, b: Array) -> Array:
        return a @ b

    def shares(self, relevance: Array, z: Array, eps: float) -> Array:
        return relevance / np.where(z >= 0, z + eps, z - eps)

    def scaled(self, array: Array, factor: Array) -> Array:
        return array * factor

    def after(self, arrays: Sequence[Array]) -> AbstractContextManager[Any]:
        return nullcontext()

    def vjp(self, function: Callable[..., Array], inputs: Sequence[Array]) -> NoReturn:
        raise InputError(
            "a vector-Jacobian product was asked of NumPy arrays, and NumPy has no gradients; give "
            "torch or TensorFlow tensors"
        )

    def inner(self, a: Array, b: Array) -> Array:
        wide = np.promote_types(a.dtype, np.float32)
        n = a.shape[0]
        product = a.astype(wide) * np.broadcast_to(b, a.shape)
        return product.reshape(n, -1).sum(1)
