"""What each TensorFlow operation is in the vocabulary of the tape, and where its parameters are."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ops import Op
from .linear import (
    addition,
    batch_norm,
    convolution,
    einsum,
    multiplication,
    negation,
    product,
    transposed,
    window,
)
from .meaning import Meaning, Sight, Table

__all__ = ["classify"]


def is_kind(kind: Op, **attrs: Any) -> Table:
    """The same kind whatever the operands."""
    return lambda s: Meaning(kind, attrs=attrs)


def moves(how: Any) -> Table:
    """A SHAPE op that moves data in that way."""
    return lambda s: Meaning(Op.SHAPE, attrs={"move": how})


def pool(kind: Op) -> Table:
    """Pooling over windows."""

    def table(s: Sight) -> Meaning:
        return Meaning(kind, attrs=window(s, 3 if "3D" in s.op else 2)[0])

    return table


def same(s: Sight) -> Meaning:
    """Elementwise and without effect on numbers."""
    return Meaning(Op.SHAPE, attrs={"move": "same"})


def extreme(s: Sight) -> Meaning:
    """Elementwise maximum or minimum: a rectifier against zero, else a selection or a clamp."""
    if len(s.slots) == 2:
        return Meaning(Op.MAXPOOL)
    number = s.number(1 - s.slot)
    zero = number is not None and not np.any(number)
    bound = {} if number is None or number.size != 1 else {"bound": float(number.reshape(()))}
    return Meaning(Op.RELU if zero and s.op == "Maximum" else Op.ACTIVATION, attrs=bound)


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
