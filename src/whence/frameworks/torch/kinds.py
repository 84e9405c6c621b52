"""What each PyTorch operation is: its name -> a kind of the closed vocabulary, with its constants.

A name that no table knows is OPAQUE, or, where it is a Python function of PyTorch's own, looked
into (see ``decompose.py``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...ops import Op
from .calls import Call, Kinded, offset_of, roles
from .names import (
    ACTIVATIONS,
    AVERAGES,
    CONVOLUTIONS,
    JOINS,
    MAXIMA,
    MOVES,
    PRODUCTS,
    RELAID,
    RESHAPES,
    SAME,
    TAKES,
    TRANSPOSES,
)  # fmt: skip
from .norms import BATCH_NORMS, NORMS, batch_norm, norm

__all__ = ["classify", "known", "moves"]


def _reshape(call: Call) -> Kinded:
    return Kinded(Op.SHAPE, attrs={"move": "reshape"})


def _transpose(call: Call) -> Kinded:
    tensor = call.get(0, "input", "self")
    order = list(range(tensor.dim()))
    name = call.name
    if name == "permute":
        dims = call.get(1, "dims")
        dims = call.args[1:] if isinstance(dims, int) else dims
        order = [int(d) % tensor.dim() for d in dims]
    elif name in ("transpose", "swapaxes", "swapdims"):
        a = call.get(1, "dim0", "axis0") % tensor.dim()
        b = call.get(2, "dim1", "axis1") % tensor.dim()
        order[a], order[b] = order[b], order[a]
    elif name in ("mT", "mH", "adjoint"):
        order[-1], order[-2] = order[-2], order[-1]
    elif name in ("t", "T", "H"):
        order = order[::-1]
    else:
        source, target = call.get(1, "source"), call.get(2, "destination")
        probe = torch.empty(tuple(range(2, tensor.dim() + 2)), device="meta")
        moved = torch.movedim(probe, source, target).shape
        order = [int(size) - 2 for size in moved]
    return Kinded(Op.SHAPE, attrs={"move": ("transpose", tuple(order))})


def _join(call: Call) -> Kinded:
    axis = call.get(1, "dim", "axis", default=0)
    move = ("concat", int(axis)) if call.name in ("cat", "concat", "concatenate") else "other"
    return Kinded(Op.SHAPE, attrs={"move": move})


def _stack(call: Call) -> Kinded:
    return Kinded(Op.SHAPE, attrs={"move": ("stack", int(call.get(1, "dim", default=0)))})


def _linear(call: Call) -> Kinded:
    x, weight = call.get(0, "input"), call.get(1, "weight")
    bias = call.get(2, "bias")
    if call.is_tracked(bias):
        return Kinded(Op.OPAQUE)  # spelled out as a product and a sum
    if call.is_tracked(x) and not call.is_tracked(weight):
        return Kinded(Op.DENSE, roles(weight=weight, bias=bias), offset_of(bias))
    if call.is_tracked(weight) and not call.is_tracked(x):
        return Kinded(Op.DENSE, {"weight": x}, {**offset_of(bias), "reversed": True})
    return Kinded(Op.MATMUL, attrs=offset_of(bias))


def _product(call: Call) -> Kinded:
    tensors = call.tensors
    tracked = [t for t in tensors if call.is_tracked(t)]
    constant = [t for t in tensors if not call.is_tracked(t)]
    if len(tensors) == 1:
        return Kinded(Op.AVGPOOL if call.name == "einsum" else Op.OPAQUE)
    if len(tracked) == 1:
        weight = constant[0] if len(constant) == 1 else None
        plain = call.name in ("matmul", "mm", "linalg_matmul") and tensors[0] is tracked[0]
        columns = plain and weight is not None and weight.dim() == 2
        return Kinded(Op.DENSE, roles(weight=weight), {"columns": True} if columns else {})
    return Kinded(Op.MATMUL if len(tensors) == 2 else Op.OPAQUE)


def _addmm(call: Call) -> Kinded:
    bias = call.get(0, "input", "self")
    a, b = call.get(1, "mat1", "batch1", "mat"), call.get(2, "mat2", "batch2", "vec")
    beta = call.get(3, "beta", default=1)
    alpha = call.get(4, "alpha", default=1)
    if call.is_tracked(bias):
        return Kinded(Op.OPAQUE)  # spelled out as a product and a sum
    offset = {"offset": bias.detach() if beta == 1 else bias.detach() * beta, "alpha": alpha}
    both = call.is_tracked(a) and call.is_tracked(b)
    if both:
        return Kinded(Op.MATMUL, attrs=offset)
    weight = b if call.is_tracked(a) else a
    return Kinded(Op.DENSE, {"weight": weight, "bias": offset["offset"]}, offset)


_PLACES = {
    False: "stride padding dilation groups",
    True: "stride padding output_padding groups dilation",
}
"""The options of a convolution in order, by whether it is transposed."""


def _conv(call: Call) -> Kinded:
    x, weight, bias = call.get(0, "input", "self"), call.get(1, "weight"), call.get(2, "bias")
    dims = weight.dim() - 2
    named = {"dims": dims, "channel_axis": x.dim() - dims - 1}
    if bias is not None and not call.is_tracked(bias):
        named["offset"] = bias.detach().reshape((-1,) + (1,) * dims)
    transposed = "transpose" in call.name
    places = _PLACES[transposed]
    if call.name in ("convolution", "_convolution"):
        places = "stride padding dilation transposed output_padding groups"
        transposed = bool(call.get(6, "transposed"))
    for i, place in enumerate(places.split(), 3):
        named[place] = call.get(i, place, default=0 if "padding" in place else 1)
    named["transposed"] = transposed
    if call.is_tracked(x) and not call.is_tracked(weight) and not call.is_tracked(bias):
        return Kinded(Op.CONV, roles(weight=weight, bias=bias), named)
    if call.is_tracked(bias):
        return Kinded(Op.OPAQUE, attrs=named)  # spelled out as a convolution and a sum
    return Kinded(Op.MATMUL, attrs=named)  # a kernel that depends on the input: a contraction


def _add(call: Call) -> Kinded:
    a, b = call.get(0, "input", "self"), call.get(1, "other")
    alpha = call.get(2, "alpha", default=1)
    first, second = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[call.name]
    if call.is_complex:
        return Kinded(Op.OPAQUE)
    if call.is_tracked(a) and call.is_tracked(b):
        return Kinded(Op.ADD, attrs={"signs": (first, second)})
    x_sign, constant, sign = (first, b, second) if call.is_tracked(a) else (second, a, first)
    shift = constant * sign if sign != 1 else constant
    params = {"shift": shift} | ({} if x_sign == 1 else {"scale": x_sign})
    return Kinded(Op.AFFINE, params, {"offset": shift})


def _mul(call: Call) -> Kinded:
    a, b = call.get(0, "input", "self"), call.get(1, "other")
    if call.is_tracked(a) and call.is_tracked(b):
        return Kinded(Op.MUL, attrs={"divide": True} if call.name == "div" else {})
    if call.is_complex:
        return Kinded(Op.OPAQUE)
    if call.name == "div":
        if call.get(2, "rounding_mode") is not None or not call.is_tracked(a):
            return Kinded(Op.ACTIVATION)
        return Kinded(
            Op.AFFINE, {"scale": 1 / (b.to(a.dtype) if isinstance(b, torch.Tensor) else b)}
        )
    return Kinded(Op.AFFINE, {"scale": b if call.is_tracked(a) else a})


def _neg(call: Call) -> Kinded:
    return Kinded(Op.AFFINE, {} if call.name == "positive" else {"scale": -1})


def _softmax(call: Call) -> Kinded:
    axis = call.get(1, "dim", default=-1)
    return Kinded(
        Op.SOFTMAX, attrs={"axis": -1 if axis is None else axis, "log": "log" in call.name}
    )


def _rectifier(call: Call) -> Kinded:
    slope = 0.0
    if call.name == "leaky_relu":
        slope = call.get(1, "negative_slope", default=0.01)
    elif call.name == "prelu":
        weight = call.get(1, "weight")
        if call.is_tracked(weight):
            return Kinded(Op.OPAQUE)
        return Kinded(Op.RELU, attrs={"slope": weight.detach()})
    return Kinded(Op.RELU, attrs={"slope": slope} | ({"cap": 6.0} if call.name == "relu6" else {}))


def _clamp(call: Call) -> Kinded:
    """Clamps whose lower bound is zero are rectifiers; others are elementwise functions."""
    name = call.name
    low = call.get(1, "min", "min_val", "threshold", default=-1.0 if name == "hardtanh" else None)
    high = call.get(2, "max", "max_val", default=1.0 if name == "hardtanh" else None)
    if name == "threshold" and call.get(2, "value") != 0:
        return Kinded(Op.ACTIVATION)
    if name == "clamp_max" or isinstance(low, torch.Tensor) or low is None or low != 0:
        return Kinded(Op.ACTIVATION)
    cap = {} if high is None or name in ("threshold", "clamp_min") else {"cap": high}
    return Kinded(Op.RELU, attrs={"slope": 0.0, **cap})


def _extreme(call: Call) -> Kinded:
    """max(x) selects; max(x, 0) rectifies; max(x, constant) is an elementwise function."""
    if call.name.startswith("max_pool"):
        size, gaps = call.get(1, "kernel_size"), call.get(4, "dilation", default=1)
        attrs = {"kernel_size": size, "dilation": gaps, "dims": int(call.name[8])}
        return Kinded(Op.MAXPOOL, attrs=attrs)
    a, b = call.get(0, "input", "self"), call.get(1, "other")
    if not isinstance(b, torch.Tensor) or (call.is_tracked(a) and call.is_tracked(b)):
        return Kinded(Op.MAXPOOL)
    constant = b if call.is_tracked(a) else a
    if call.name in ("max", "maximum", "fmax") and not bool(constant.any()):
        return Kinded(Op.RELU, attrs={"slope": 0.0})
    return Kinded(Op.ACTIVATION)


def _activation(call: Call) -> Kinded:
    tracked = sum(map(call.is_tracked, call.tensors))
    return Kinded(Op.ACTIVATION if tracked == 1 else Op.OPAQUE)


def _average(call: Call) -> Kinded:
    tracked = sum(map(call.is_tracked, call.tensors))
    return Kinded(Op.AVGPOOL if tracked == 1 else Op.OPAQUE)


def _shape(move: str) -> Callable[[Call], Kinded]:
    return lambda call: Kinded(Op.SHAPE, attrs={"move": move, "takes": call.name in TAKES})


_MOVING = RESHAPES | SAME | RELAID | MOVES | JOINS | TRANSPOSES | {"stack"}

_TABLE: dict[str, Callable[[Call], Kinded]] = {
    **dict.fromkeys(ACTIVATIONS, _activation),
    **dict.fromkeys(AVERAGES, _average),
    **dict.fromkeys(MAXIMA, _extreme),
    **dict.fromkeys(CONVOLUTIONS, _conv),
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(TRANSPOSES, _transpose),
    **dict.fromkeys(SAME, _shape("same")),
    **dict.fromkeys(MOVES | RELAID, _shape("other")),
    **dict.fromkeys(JOINS, _join),
    **dict.fromkeys(("add", "sub", "rsub"), _add),
    **dict.fromkeys(("mul", "div"), _mul),
    **dict.fromkeys(("neg", "negative", "positive"), _neg),
    **dict.fromkeys(("relu", "relu6", "leaky_relu", "prelu"), _rectifier),
    **dict.fromkeys(("hardtanh", "clamp", "clip", "clamp_min", "threshold"), _clamp),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), _softmax),
    **dict.fromkeys((*NORMS, "normalize"), norm),
    **dict.fromkeys(BATCH_NORMS, batch_norm),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _addmm),
    "linear": _linear,
    "stack": _stack,
}  # fmt: skip


def known(name: str) -> bool:
    """Whether the table has a row for the name."""
    return name in _TABLE


def moves(name: str) -> bool:
    """Whether a function only moves data, so that token numbers stay token numbers."""
    return name in _MOVING


def classify(call: Call) -> Kinded:
    """The kind of a call; OPAQUE where the table has no row."""
    row = _TABLE.get(call.name)
    return row(call) if row is not None else Kinded(Op.OPAQUE)
