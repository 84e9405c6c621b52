"""Convolutions, matrix products, sums and products: operations linear in an operand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from ...ops import Op
from ...tape import Array
from .cells import Cell, Level
from .meaning import Meaning, Sight, text

__all__ = [
    "addition",
    "batch_norm",
    "convolution",
    "einsum",
    "multiplication",
    "negation",
    "product",
    "transposed",
    "window",
]


def convolution(s: Sight) -> Meaning:
    """Conv2D, Conv3D, depthwise: linear in the image, the filter is the weight."""
    if not s.single(0):
        return Meaning(Op.MATMUL if len(s.slots) == 2 else Op.OPAQUE)
    dims = 3 if s.op == "Conv3D" else 2
    attrs, axis = window(s, dims)
    channels = int(s.array(0).shape[axis])
    if s.op == "DepthwiseConv2dNative":
        attrs |= {"groups": channels, "depthwise": True}
    else:
        attrs["groups"] = channels // int(s.array(1).shape[-2])
    attrs |= {"dims": dims, "transposed": False}
    spread = None
    if s.op == "DepthwiseConv2dNative":
        shape = [int(n) for n in s.array(1).shape[-2:]]
        spread = lambda f: tf.reshape(f, shape)  # noqa: E731
    return Meaning(Op.CONV, {"weight": 1}, attrs, features=(axis,), spread=spread)


def transposed(s: Sight) -> Meaning:
    """The gradient of a convolution as a layer: a transposed convolution."""
    if not s.single(2):
        return Meaning(Op.OPAQUE)
    dims = 3 if s.op.startswith("Conv3D") else 2
    attrs, axis = window(s, dims)
    attrs |= {"dims": dims, "transposed": True, "groups": 1}
    column = lambda f: tf.reshape(f, [-1, 1])  # noqa: E731
    return Meaning(Op.CONV, {"weight": 1}, attrs, features=(axis,), spread=column)


def window(s: Sight, dims: int) -> tuple[dict[str, Any], int]:
    """The attributes of a sliding window, and the axis of the channels."""
    layout = text(s.attr("data_format")) or ("NHWC" if dims == 2 else "NDHWC")
    axis = layout.index("C")
    attrs: dict[str, Any] = {"data_format": layout, "channel_axis": axis}
    for name in ("ksize", "strides", "dilations", "padding", "explicit_paddings"):
        value = s.attr(name)
        if value is not None and value != []:
            attrs[name] = text(value)
    return attrs, axis


def product(s: Sight) -> Meaning:
    """Matrix products: DENSE with one tracked operand, MATMUL with two."""
    if not s.single(0, 1):
        return Meaning(Op.MATMUL)
    weight = 1 - s.slot
    first = s.slot == 0
    attrs = {
        "transpose": bool(s.attr("transpose_b" if first else "transpose_a", False))
        or bool(s.attr("adj_y" if first else "adj_x", False)),
        "slot": s.slot,
    }
    rank = int(s.results[0].shape.rank or 2)
    # The features are the columns of a second operand and the rows of a first one.
    upright = first == bool(attrs["transpose"])
    spread = (lambda f: tf.reshape(f, [-1, 1])) if upright else None
    axis = rank - 1 if first else rank - 2
    return Meaning(Op.DENSE, {"weight": weight}, attrs, features=(axis,), spread=spread)


def einsum(s: Sight) -> Meaning:
    """Einstein sums of one or two operands."""
    equation = text(s.attr("equation")).replace(" ", "")
    left, out = equation.split("->")
    parts = left.split(",")
    if len(parts) == 1:
        moved = sorted(left.replace(".", "")) == sorted(out.replace(".", ""))
        if len(set(left)) < len(left):
            return Meaning(Op.OPAQUE)
        return Meaning(Op.SHAPE, attrs={"move": "other"}) if moved else Meaning(Op.AVGPOOL)
    if len(s.slots) == 2:
        return Meaning(Op.MATMUL, attrs={"equation": equation})
    weight = 1 - s.slot
    rank = int(s.results[0].shape.rank or 0)
    plain = out.replace("...", "")
    own = [c for c in plain if c in parts[weight] and c not in parts[s.slot]]
    offset = rank - len(plain) if "..." in out and out.startswith("...") else 0
    features = tuple(offset + plain.index(c) for c in own) if ("..." not in out or offset) else ()
    attrs = {"equation": equation, "slot": s.slot}
    letters = parts[weight]
    if "..." in letters:
        features = ()

    def spread(factor: Array) -> Array:
        order = [own.index(c) for c in letters if c in own]
        sizes = iter([int(factor.shape[i]) for i in order])
        return tf.reshape(
            tf.transpose(factor, order), [next(sizes) if c in own else 1 for c in letters]
        )

    return Meaning(Op.DENSE, {"weight": weight}, attrs, features=features, spread=spread)


def affine(
    cell: Cell,
    scale: Callable[[], Array] | None = None,
    shift: Callable[[], Array] | None = None,
    **more: Any,
) -> Meaning:
    """AFFINE by one constant operand."""
    return Meaning(
        Op.AFFINE,
        scale=scale,
        shift=shift,
        extents=(tuple(cell.array.shape),),
        fixed=cell.level is Level.FIXED,
        **more,
    )


def addition(s: Sight) -> Meaning:
    """Sums and differences: ADD of tracked operands, AFFINE with a constant one."""
    signs = (1, -1) if s.op == "Sub" else (1,) * len(s.inputs)
    if len(s.inputs) > 1 and len(s.slots) == len(s.inputs):
        return Meaning(Op.ADD, attrs={"signs": signs})
    if len(s.inputs) != 2:
        rest = [c.array for i, c in enumerate(s.inputs) if i not in s.slots]
        if not rest:
            return Meaning(Op.SHAPE, attrs={"move": "same"})
        attrs = {"signs": (1,) * len(s.slots), "offset": lambda: tf.add_n(rest)}
        return Meaning(Op.ADD, attrs=attrs)
    cell = s.inputs[1 - s.slot]
    other = cell.array
    if s.op == "BiasAdd":
        found = affine(cell, shift=channel_bias(s, other))
        if text(s.attr("data_format", b"NHWC")) == "NCHW":
            found.extents = ((int(other.shape[0]), *[1] * (s.rank(0) - 2)),)
        return found
    if s.op == "Sub" and s.slot == 1:
        return affine(cell, scale=lambda: -tf.ones([], other.dtype), shift=lambda: other)
    if s.op == "Sub":
        return affine(cell, shift=lambda: -other, minus=cell.origin)
    return affine(cell, shift=lambda: other)


def channel_bias(s: Sight, bias: Array) -> Callable[[], Array]:
    """A bias as it broadcasts against the output, whichever axis has the channels."""
    rank = s.rank(0)
    if text(s.attr("data_format", b"NHWC")) != "NCHW":
        return lambda: bias
    return lambda: tf.reshape(bias, [-1] + [1] * (rank - 2))


def multiplication(s: Sight) -> Meaning:
    """Products and quotients: MUL of tracked operands, AFFINE with a constant one."""
    divide = s.op in ("RealDiv", "Div", "DivNoNan")
    if len(s.slots) == 2:
        return Meaning(Op.MUL, attrs={"divide": divide})
    cell = s.inputs[1 - s.slot]
    other = cell.array
    if divide and s.slot == 1:
        return Meaning(Op.ACTIVATION)
    if divide:
        return affine(cell, scale=lambda: tf.math.reciprocal(other))
    return affine(cell, scale=lambda: other)


def negation(s: Sight) -> Meaning:
    """The negative."""
    dtype = s.array(0).dtype
    return Meaning(Op.AFFINE, scale=lambda: -tf.ones([], dtype), extents=((),), fixed=True)


def batch_norm(s: Sight) -> Meaning:
    """Fused batch-norm: affine by moving statistics, or a NORM by those of the batch."""
    layout = text(s.attr("data_format", b"NHWC"))
    axis = layout.index("C")
    epsilon = float(s.attr("epsilon", 1e-4))
    if not s.single(0):
        return Meaning(Op.OPAQUE)
    if s.attr("is_training", True):
        axes = tuple(i for i in range(len(layout)) if i != axis)
        attrs = {"axes": axes, "epsilon": epsilon, "centre": True, "channel_axis": axis}
        return Meaning(Op.NORM, {"scale": 1, "shift": 2}, attrs)
    gamma, beta, mean, variance = (s.array(i) for i in (1, 2, 3, 4))
    shape = [-1 if i == axis else 1 for i in range(len(layout))]

    def factor() -> Array:
        return gamma * tf.math.rsqrt(variance + tf.cast(epsilon, variance.dtype))

    def scale() -> Array:
        return tf.cast(tf.reshape(factor(), shape), s.array(0).dtype)

    def shift() -> Array:
        return tf.cast(tf.reshape(beta - mean * factor(), shape), s.array(0).dtype)

    extent = tuple(int(gamma.shape[0]) if n < 0 else 1 for n in shape)
    return Meaning(
        Op.AFFINE, scale=scale, shift=shift, attrs={"channel_axis": axis}, extents=(extent,)
    )
