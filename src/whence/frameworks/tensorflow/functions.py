"""The array functions of TensorFlow, on eager tensors and on symbolic ones of a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import tensorflow as tf

from ...tape import Array

__all__ = ["TensorFlowFunctions"]


def shape_of(array: Array) -> tuple[int, ...]:
    """The static shape; an axis of unknown length is -1."""
    if array.shape.rank is None:
        return ()
    return tuple(-1 if n is None else int(n) for n in array.shape)


def common(a: Any, b: Any) -> tuple[Array, Array]:
    """Two operands as tensors of one type, where either may be a Python number."""
    if tf.is_tensor(a):
        return a, (b if tf.is_tensor(b) else tf.convert_to_tensor(b, a.dtype))
    if tf.is_tensor(b):
        return tf.convert_to_tensor(a, b.dtype), b
    return tf.convert_to_tensor(a), tf.convert_to_tensor(b)


class TensorFlowFunctions:
    """``whence.frameworks.base.Functions`` in TensorFlow."""

    name = "tensorflow"

    def asarray(self, array: Any, like: Array | None = None) -> Array:
        """As a tensor; a floating one takes the floating type of ``like``."""
        tensor = tf.convert_to_tensor(array)
        if like is not None and tensor.dtype != like.dtype and like.dtype.is_floating:
            tensor = tf.cast(tensor, like.dtype)
        return tensor

    def to_numpy(self, array: Array) -> np.ndarray:
        """As a NumPy array; bfloat16, which NumPy does not have, comes as float32."""
        array = tf.convert_to_tensor(array)
        if array.dtype == tf.bfloat16:
            array = tf.cast(array, tf.float32)
        return np.asarray(array)

    def shape(self, array: Array) -> tuple[int, ...]:
        """The static shape."""
        return shape_of(array)

    def dtype(self, array: Array) -> str:
        """The type's name: ``float32``."""
        return str(array.dtype.name)

    def cast(self, array: Array, dtype: str) -> Array:
        """Converted to the type of that name."""
        return tf.cast(array, dtype)

    def is_floating(self, array: Array) -> bool:
        """Whether it holds real floating-point numbers."""
        return bool(array.dtype.is_floating)

    def zeros_like(self, array: Array) -> Array:
        """Zeros of the same shape and type."""
        return tf.zeros_like(array)

    def ones_like(self, array: Array) -> Array:
        """Ones of the same shape and type."""
        return tf.ones_like(array)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        """``a`` where the condition holds, else ``b``; either may be a number."""
        return tf.where(condition, *common(a, b))

    def abs(self, array: Array) -> Array:
        """The absolute value."""
        return tf.abs(array)

    def sqrt(self, array: Array) -> Array:
        """The square root."""
        return tf.sqrt(array)

    def exp(self, array: Array) -> Array:
        """The exponential."""
        return tf.exp(array)

    def maximum(self, a: Array, b: Any) -> Array:
        """The larger of two, element by element; the second may be a number."""
        return tf.maximum(*common(a, b))

    def minimum(self, a: Array, b: Any) -> Array:
        """The smaller of two, element by element; the second may be a number."""
        return tf.minimum(*common(a, b))

    def isfinite(self, array: Array) -> Array:
        """Where the numbers are neither infinite nor NaN."""
        if not array.dtype.is_floating:
            return tf.ones_like(array, tf.bool)
        return tf.math.is_finite(array)

    def gated(self, array: Array, by: Array) -> Array:
        """``array`` where ``by`` is above zero, zero elsewhere."""
        if array.dtype != by.dtype or array.shape != by.shape:
            return self.where(by > 0, array, 0.0)
        return tf.raw_ops.ReluGrad(gradients=array, features=by)

    def raised(self, array: Array, gamma: float) -> Array:
        """``array + gamma * max(array, 0)``."""
        return array + tf.cast(gamma, array.dtype) * tf.nn.relu(array)

    def known_one_sided(self, array: Array) -> bool:
        """Whether an eager array is above zero throughout, or below; False for a symbolic one."""
        known = tf.get_static_value(array)
        return known is not None and bool(np.all(known > 0) or np.all(known < 0))

    def known_zero(self, array: Array) -> bool:
        """Whether an eager array holds nothing but zeros; False for a symbolic one."""
        known = tf.get_static_value(array)
        return known is not None and not np.any(known)

    def sum(self, array: Array, axis: Any = None, keepdims: bool = False) -> Array:
        """The sum over an axis, several, or all."""
        return tf.reduce_sum(array, axis, keepdims)

    def mean(self, array: Array, axis: Any = None, keepdims: bool = False) -> Array:
        """The mean over an axis, several, or all."""
        return tf.reduce_mean(array, axis, keepdims)

    def max(self, array: Array, axis: Any = None, keepdims: bool = False) -> Array:
        """The largest over an axis, several, or all."""
        return tf.reduce_max(array, axis, keepdims)

    def argmax(self, array: Array, axis: int) -> Array:
        """The place of the largest along an axis, the first of equals; int64."""
        return tf.argmax(array, axis)

    def one_hot(self, index: Array, depth: int, like: Array) -> Array:
        """(batch,) whole numbers -> (batch, depth) ones and zeros of the type of ``like``."""
        return tf.one_hot(index, depth, dtype=like.dtype)

    def reshape(self, array: Array, shape: Sequence[int]) -> Array:
        """The same numbers in another shape."""
        return tf.reshape(array, [int(n) for n in shape])

    def transpose(self, array: Array, axes: Sequence[int]) -> Array:
        """The axes in another order."""
        return tf.transpose(array, list(axes))

    def broadcast_to(self, array: Array, shape: Sequence[int]) -> Array:
        """Repeated to that shape by the rules of broadcasting."""
        return tf.broadcast_to(array, [int(n) for n in shape])

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        """Joined along an axis."""
        return tf.concat(list(arrays), axis)

    def take(self, array: Array, index: Array, axis: int) -> Array:
        """The entries at those places along an axis."""
        return tf.gather(array, index, axis=axis)

    def matmul(self, a: Array, b: Array) -> Array:
        """The matrix product of the last two axes."""
        return tf.matmul(a, b)

    def after(self, arrays: Sequence[Array]) -> AbstractContextManager[Any]:
        """What a graph computes inside starts when these are there."""
        return tf.control_dependencies(list(arrays))

    def vjp(
        self, function: Callable[..., Array], inputs: Sequence[Array]
    ) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
        """(function(*inputs), the vector-Jacobian product at that point)."""
        leaves = [tf.identity(x) for x in inputs]
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(leaves)
            output = function(*leaves)

        def pull(cotangent: Array) -> tuple[Array, ...]:
            found = tape.gradient(
                output,
                leaves,
                output_gradients=cotangent,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            return tuple(tf.convert_to_tensor(g) for g in found)

        return output, pull

    def shares(self, relevance: Array, z: Array, eps: float) -> Array:
        """``relevance / (z + eps * sign(z))``, with sign(0) = +1."""
        step = tf.constant(eps, z.dtype)
        return relevance / (z + tf.where(z >= 0, step, -step))

    def scaled(self, array: Array, factor: Array) -> Array:
        """The product; nothing is written in place here."""
        return array * factor

    def inner(self, a: Array, b: Array) -> Array:
        """Per sample, the sum of a * b; half precision is summed in single precision."""
        if a.dtype in (tf.float16, tf.bfloat16):
            a, b = tf.cast(a, tf.float32), tf.cast(b, tf.float32)
        product = a * b
        return tf.reduce_sum(tf.reshape(product, [shape_of(product)[0], -1]), 1)
