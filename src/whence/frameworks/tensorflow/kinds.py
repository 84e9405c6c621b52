"""What each TensorFlow operation is in the vocabulary of the tape, and where its parameters are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from ...ops import Op
from ...tape import Array, Node
from .cells import Cell, Level
from .steps import Params, Step

__all__ = ["CUT", "RAGGED", "SHAPE_OF", "Meaning", "Sight", "classify"]

CUT = frozenset(
    "StopGradient Shape ShapeN Size Rank ZerosLike OnesLike ArgMax ArgMin Floor Ceil Round Rint "
    "Sign OneHot Equal NotEqual Less LessEqual Greater GreaterEqual LogicalAnd LogicalOr "
    "LogicalNot IsNan IsInf IsFinite Where Bucketize InTopKV2 Range Fill NextAfter Bincount "
    "ApproximateEqual BroadcastArgs NonMaxSuppressionV3".split()
)
"""Operations that no gradient passes, whatever type they return."""

SHAPE_OF = frozenset({"Shape", "ShapeN", "Size", "Rank"})
"""Operations that read nothing but the shape of their operand."""

RAGGED: dict[str, tuple[int, ...]] = {
    "Where": (),
    "Unique": (),
    "UniqueV2": (),
    "UniqueWithCounts": (),
    "ListDiff": (),
    "DynamicPartition": (),
    "NonMaxSuppressionV3": (),
    "NonMaxSuppressionV4": (),
    "NonMaxSuppressionV5": (),
    "Range": (0, 1, 2),
    "Fill": (0,),
    "Tile": (1,),
    "BroadcastTo": (1,),
    "Reshape": (1,),
    "Slice": (1, 2),
    "StridedSlice": (1, 2, 3),
    "Pad": (1,),
    "PadV2": (1,),
    "OneHot": (1,),
}
"""Where the shape of a result depends on numbers: which operands decide it, all if none is named."""


@dataclass
class Sight:
    """An operation as the tables below see it."""

    op: str
    attr: Callable[..., Any]
    inputs: Sequence[Cell]
    slots: Sequence[int]
    results: Sequence[Array]

    @property
    def slot(self) -> int:
        """The first tracked operand."""
        return self.slots[0]

    def single(self, *among: int) -> bool:
        """Whether exactly one operand is tracked (and is one of these)."""
        return len(self.slots) == 1 and (not among or self.slot in among)

    def array(self, i: int) -> Array:
        """An operand's array."""
        return self.inputs[i].array

    def number(self, i: int) -> np.ndarray | None:
        """An operand's numbers where they are fixed."""
        return self.inputs[i].number

    def rank(self, i: int) -> int:
        """An operand's number of axes."""
        return int(self.array(i).shape.rank or 0)


@dataclass
class Meaning:
    """A kind, with the operands that are its parameters."""

    kind: Op
    operands: Mapping[str, int] = field(default_factory=dict)
    """Parameter name -> which operand holds it."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    scale: Callable[[], Array] | None = None
    shift: Callable[[], Array] | None = None
    """The factor and the summand of an AFFINE."""
    features: tuple[int, ...] = ()
    """The axes of the output that the weight alone makes, where a bias may lie."""

    def fill(self, node: Node, step: Step) -> None:
        """Give a node its parameters and attributes."""
        step.params = dict(self.operands)
        makers: dict[str, Callable[[], Array]] = {
            name: (lambda a=step.operands[i]: a) for name, i in self.operands.items()
        }
        node.attrs = dict(self.attrs)
        if self.features:
            node.attrs["features"] = self.features
        if self.kind is Op.AFFINE:
            makers = affine_params(self.scale, self.shift)
            if self.shift is not None:
                node.attrs["offset"] = self.shift
            node._call = affine_call(step, self.scale, self.shift)
        node.params = Params(makers)


def affine_params(
    scale: Callable[[], Array] | None, shift: Callable[[], Array] | None
) -> dict[str, Callable[[], Array]]:
    """The makers of an affine node's parameters; one that is absent is left out."""
    return {k: v for k, v in (("scale", scale), ("shift", shift)) if v is not None}


def affine_call(
    step: Step, scale: Callable[[], Array] | None, shift: Callable[[], Array] | None
) -> Callable[..., Array]:
    """Run ``x * scale + shift`` again: as the operation itself, or with other numbers."""

    def call(x: Array, **changed: Array) -> Array:
        if not changed:
            return step.call(x)
        factor = changed.get("scale", scale() if scale else None)
        summand = changed.get("shift", shift() if shift else None)
        y = x if factor is None else x * factor
        return y if summand is None else y + summand

    return call


Table = Callable[[Sight], Meaning]


def is_kind(kind: Op, **attrs: Any) -> Table:
    """The same kind whatever the operands."""
    return lambda s: Meaning(kind, attrs=attrs)


def moves(how: Any) -> Table:
    """A SHAPE op that moves data in that way."""
    return lambda s: Meaning(Op.SHAPE, attrs={"move": how})


def text(value: Any) -> Any:
    """Text attributes come as bytes."""
    return value.decode() if isinstance(value, bytes) else value


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
    return Meaning(Op.CONV, {"weight": 1}, attrs, features=(axis,))


def transposed(s: Sight) -> Meaning:
    """The gradient of a convolution as a layer: a transposed convolution."""
    if not s.single(2):
        return Meaning(Op.OPAQUE)
    dims = 3 if s.op.startswith("Conv3D") else 2
    attrs, axis = window(s, dims)
    attrs |= {"dims": dims, "transposed": True, "groups": 1}
    return Meaning(Op.CONV, {"weight": 1}, attrs, features=(axis,))


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


def pool(kind: Op) -> Table:
    """Pooling over windows."""

    def table(s: Sight) -> Meaning:
        return Meaning(kind, attrs=window(s, 3 if "3D" in s.op else 2)[0])

    return table


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
    return Meaning(Op.DENSE, {"weight": weight}, attrs, features=(rank - 1 if first else rank - 2,))


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
    return Meaning(Op.DENSE, {"weight": weight}, attrs, features=features)


def addition(s: Sight) -> Meaning:
    """Sums and differences: ADD of tracked operands, AFFINE with a constant one."""
    signs = (1, -1) if s.op == "Sub" else (1,) * len(s.inputs)
    if len(s.inputs) > 1 and len(s.slots) == len(s.inputs):
        return Meaning(Op.ADD, attrs={"signs": signs})
    if len(s.inputs) != 2:
        rest = [c.array for i, c in enumerate(s.inputs) if i not in s.slots]
        if len(s.slots) == 1:
            return Meaning(Op.AFFINE, shift=lambda: tf.add_n(rest)) if rest else same(s)
        return Meaning(Op.ADD, attrs={"signs": (1,) * len(s.slots), "offset": lambda: tf.add_n(rest)})
    other = s.array(1 - s.slot)
    if s.op == "BiasAdd":
        shift = channel_bias(s, other)
        return Meaning(Op.AFFINE, shift=shift, attrs={"bias": True})
    if s.op == "Sub" and s.slot == 1:
        return Meaning(Op.AFFINE, scale=lambda: -tf.ones([], other.dtype), shift=lambda: other)
    return Meaning(Op.AFFINE, shift=(lambda: -other) if s.op == "Sub" else (lambda: other))


def channel_bias(s: Sight, bias: Array) -> Callable[[], Array]:
    """A bias as it broadcasts against the output, whichever axis has the channels."""
    rank = s.rank(0)
    if text(s.attr("data_format", b"NHWC")) != "NCHW":
        return lambda: bias
    return lambda: tf.reshape(bias, [-1] + [1] * (rank - 2))


def same(s: Sight) -> Meaning:
    """Elementwise and without effect on numbers."""
    return Meaning(Op.SHAPE, attrs={"move": "same"})


def multiplication(s: Sight) -> Meaning:
    """Products and quotients: MUL of tracked operands, AFFINE with a constant one."""
    divide = s.op in ("RealDiv", "Div", "DivNoNan")
    if len(s.slots) == 2:
        return Meaning(Op.MUL, attrs={"divide": divide})
    other = s.array(1 - s.slot)
    if divide and s.slot == 1:
        return Meaning(Op.ACTIVATION)
    if divide:
        return Meaning(Op.AFFINE, scale=lambda: tf.math.reciprocal(other))
    return Meaning(Op.AFFINE, scale=lambda: other)


def negation(s: Sight) -> Meaning:
    """The negative."""
    dtype = s.array(0).dtype
    return Meaning(Op.AFFINE, scale=lambda: -tf.ones([], dtype))


def extreme(s: Sight) -> Meaning:
    """Elementwise maximum or minimum: a rectifier against zero, else a selection or a clamp."""
    if len(s.slots) == 2:
        return Meaning(Op.MAXPOOL)
    number = s.number(1 - s.slot)
    zero = number is not None and not np.any(number)
    return Meaning(Op.RELU if zero and s.op == "Maximum" else Op.ACTIVATION)


def clip(s: Sight) -> Meaning:
    """Clamped to a range; from zero upwards it is a rectifier."""
    low, high = s.number(1), s.number(2)
    if s.single(0) and low is not None and not np.any(low):
        attrs = {} if high is None or high.size != 1 else {"cap": float(high.reshape(()))}
        return Meaning(Op.RELU, attrs=attrs)
    return Meaning(Op.ACTIVATION if s.single(0) else Op.OPAQUE)


def leaky(s: Sight) -> Meaning:
    """A leaky rectifier."""
    return Meaning(Op.RELU, attrs={"slope": float(s.attr("alpha", 0.2))})


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

    return Meaning(Op.AFFINE, scale=scale, shift=shift, attrs={"channel_axis": axis})


def transpose(s: Sight) -> Meaning:
    """The axes in another order."""
    perm = s.number(1)
    how: Any = "other" if perm is None else ("transpose", tuple(int(p) for p in perm))
    return Meaning(Op.SHAPE, attrs={"move": how})


def join(s: Sight) -> Meaning:
    """Concatenation along an axis, or stacking along a new one."""
    if s.op == "Pack":
        return Meaning(Op.SHAPE, attrs={"move": ("stack", int(s.attr("axis", 0)))})
    axis = s.number(len(s.inputs) - 1)
    if axis is None:
        return Meaning(Op.SHAPE, attrs={"move": "other"})
    rank = int(s.results[0].shape.rank or 1)
    return Meaning(Op.SHAPE, attrs={"move": ("concat", int(axis) % rank)})


def power(s: Sight) -> Meaning:
    """A power: elementwise in one operand."""
    return Meaning(Op.ACTIVATION if len(s.slots) == 1 else Op.OPAQUE)


def reduction(kind: Op) -> Table:
    """A reduction over fixed axes."""

    def table(s: Sight) -> Meaning:
        axes = s.number(1)
        attrs: dict[str, Any] = {"keepdims": bool(s.attr("keep_dims", False))}
        if axes is not None:
            rank = s.rank(0)
            attrs["axes"] = tuple(int(a) % max(rank, 1) for a in np.ravel(axes))
        return Meaning(kind if s.single(0) else Op.OPAQUE, attrs=attrs)

    return table


def softmax(s: Sight) -> Meaning:
    """Softmax and its log, along the last axis."""
    return Meaning(Op.SOFTMAX, attrs={"axis": s.rank(0) - 1, "log": s.op == "LogSoftmax"})


def gather(s: Sight) -> Meaning:
    """Entries taken along an axis."""
    return Meaning(Op.SHAPE if s.slots[0] == 0 else Op.OPAQUE, attrs={"move": "other"})


TABLE: dict[str, Table] = {
    **dict.fromkeys(("Conv2D", "Conv3D", "DepthwiseConv2dNative"), convolution),
    **dict.fromkeys(("Conv2DBackpropInput", "Conv3DBackpropInputV2"), transposed),
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), product),
    "Einsum": einsum,
    **dict.fromkeys(("Add", "AddV2", "Sub", "AddN", "BiasAdd"), addition),
    **dict.fromkeys(("Mul", "MulNoNan", "RealDiv", "Div", "DivNoNan"), multiplication),
    "Neg": negation,
    **dict.fromkeys(("Maximum", "Minimum"), extreme),
    "ClipByValue": clip,
    "Relu": is_kind(Op.RELU),
    "Relu6": is_kind(Op.RELU, cap=6.0),
    "LeakyRelu": leaky,
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), batch_norm),
    **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
    **dict.fromkeys(("MaxPool", "MaxPool3D", "MaxPoolV2"), pool(Op.MAXPOOL)),
    **dict.fromkeys(("AvgPool", "AvgPool3D"), pool(Op.AVGPOOL)),
    **dict.fromkeys(("Max", "Min"), reduction(Op.MAXPOOL)),
    **dict.fromkeys(("Mean", "Sum"), reduction(Op.AVGPOOL)),
    **dict.fromkeys(
        (
            *("Cumsum", "ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea"),
            *("ScaleAndTranslate", "SegmentSum", "SegmentMean", "UnsortedSegmentSum"),
        ),
        is_kind(Op.AVGPOOL),
    ),
    **dict.fromkeys(("TopKV2", "UnsortedSegmentMax"), is_kind(Op.MAXPOOL)),
    **dict.fromkeys(("Reshape", "Squeeze", "ExpandDims"), moves("reshape")),
    "Transpose": transpose,
    **dict.fromkeys(("ConcatV2", "Pack"), join),
    **dict.fromkeys(("Cast", "Select", "SelectV2", "Identity", "CheckNumerics", "Bitcast"), same),
    **dict.fromkeys(("GatherV2", "GatherNd"), gather),
    **dict.fromkeys(
        (
            *("Pad", "PadV2", "MirrorPad", "Split", "SplitV", "Unpack", "StridedSlice", "Slice"),
            *("Tile", "BroadcastTo", "SpaceToBatchND", "BatchToSpaceND", "SpaceToDepth"),
            *("DepthToSpace", "ReverseV2", "ReverseSequence", "Roll", "ScatterNd"),
            *("TensorScatterUpdate", "TensorScatterAdd", "MatrixDiagV3", "MatrixDiagPartV3"),
            *("MatrixBandPart", "ExtractImagePatches", "DynamicStitch", "DynamicPartition"),
            *("InvertPermutation", "SpaceToBatch", "BatchToSpace", "MatrixSetDiagV3"),
        ),
        moves("other"),
    ),
    **dict.fromkeys(("Pow", "FloorMod", "Xlogy", "Xdivy", "Xlog1py", "Atan2"), power),
    **dict.fromkeys(
        (
            *("Elu", "Selu", "Sigmoid", "Tanh", "Erf", "Erfc", "Exp", "Log", "Log1p", "Expm1"),
            *("Rsqrt", "Sqrt", "Square", "Softplus", "Softsign", "Reciprocal", "Inv", "Abs"),
            *("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh"),
            *("Atanh", "Lgamma", "Digamma", "Ndtri", "Erfinv", "BesselI0e", "BesselI1e", "Inv"),
        ),
        is_kind(Op.ACTIVATION),
    ),
}
"""Op name -> its meaning, given its operands."""


def classify(sight: Sight) -> Meaning:
    """What an operation is; OPAQUE, with its own gradient, where the table does not know it."""
    table = TABLE.get(sight.op)
    return table(sight) if table else Meaning(Op.OPAQUE)


def constant_level(cells: Sequence[Cell]) -> bool:
    """Whether none of these depends on the input."""
    return all(c.level < Level.LIVE for c in cells)
