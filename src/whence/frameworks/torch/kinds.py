"""What each PyTorch operation is: its name -> a kind of the closed vocabulary, with its constants.

One name stands for every spelling: ``torch.relu``, ``Tensor.relu_``, ``F.relu`` and
``aten.relu.default`` are all ``relu``. A name that no table knows is OPAQUE, or, where it is a
Python function of PyTorch's own, looked into (see ``decompose.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ...ops import Op

__all__ = ["CUT", "MOVES", "Call", "Kinded", "classify", "known", "plain_name"]

_MISSING = object()


@dataclass(frozen=True)
class Call:
    """One call of a PyTorch function: its arguments, and which of them are tracked tensors."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tracked: frozenset[int]
    """``id`` of every tracked tensor among the arguments (they are leaves made for this call)."""

    def get(self, place: int, *names: str, default: Any = None) -> Any:
        """The argument at a place or under one of its names."""
        for name in names:
            if name in self.kwargs:
                return self.kwargs[name]
        return self.args[place] if place < len(self.args) else default

    def is_tracked(self, argument: Any) -> bool:
        return isinstance(argument, torch.Tensor) and id(argument) in self.tracked


@dataclass(frozen=True)
class Kinded:
    """A call's kind, its constants by role, and what rules may want to know."""

    kind: Op
    params: Mapping[str, Any] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)


def plain_name(func: Any) -> str:
    """The one name of a function in all its spellings: no dunder, no overload, no underscore."""
    if isinstance(func, torch._ops.OpOverload):
        name = func._schema.name.partition("::")[2]
    elif isinstance(func, torch._ops.OpOverloadPacket):
        name = func.__name__
    else:
        name = getattr(func, "__name__", type(func).__name__)
        if name == "__get__":
            return str(getattr(getattr(func, "__self__", None), "__name__", name))
    if name.startswith("__") and name.endswith("__"):
        return _DUNDER.get(name, name)
    name = name.rstrip("_") if not name.startswith("_") else name
    return _SYNONYMS.get(name, name)


_SYNONYMS = {"subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div"}
_DUNDER = {
    f"__{p}{name}__": plain
    for p in ("", "i")
    for name, plain in {
        "add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "div": "div",
        "matmul": "matmul", "pow": "pow",
    }.items()
} | {
    "__radd__": "add", "__rmul__": "mul", "__rsub__": "rsub", "__rmatmul__": "rmatmul",
    "__rtruediv__": "rdiv", "__rdiv__": "rdiv", "__rpow__": "rpow", "__neg__": "neg",
    "__pos__": "positive", "__abs__": "abs", "__getitem__": "getitem", "__setitem__": "setitem",
}  # fmt: skip


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CUT = _words("detach data stop_gradient")
"""The gradient ends here, in PyTorch as on the tape."""

_RESHAPES = _words(
    "reshape view flatten unflatten ravel view_as reshape_as squeeze unsqueeze _unsafe_view"
)
_SAME = _words(
    "contiguous clone to float double half bfloat16 type type_as cuda cpu _to_copy alias "
    "masked_fill where tril triu roll flip fliplr flipud lift_fresh dropout dropout1d dropout2d "
    "dropout3d alpha_dropout feature_dropout feature_alpha_dropout native_dropout "
    "masked_scatter scatter index_copy index_fill index_put slice_scatter select_scatter setitem "
    "write_back copy fill zero put convert_element_type identity"
)
_MOVES = _words(
    "expand expand_as broadcast_to broadcast_tensors repeat tile repeat_interleave chunk split "
    "split_with_sizes tensor_split hsplit vsplit dsplit unbind select narrow slice getitem "
    "index_select gather take take_along_dim masked_select index pad constant_pad_nd "
    "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
    "replication_pad3d rot90 as_strided unfold im2col pixel_shuffle pixel_unshuffle "
    "channel_shuffle diag diagonal diag_embed atleast_1d atleast_2d atleast_3d block_diag "
    "view_as_real view_as_complex real imag conj resolve_conj max_unpool1d max_unpool2d "
    "max_unpool3d affine_grid unsafe_chunk unsafe_split _unsafe_index _unsafe_index_put"
)
_JOINS = _words("cat concat concatenate hstack vstack dstack column_stack")
_TRANSPOSES = _words("permute transpose t T mT H mH swapaxes swapdims movedim moveaxis adjoint")
_ACTIVATIONS = _words(
    "sigmoid tanh gelu silu elu selu celu softplus softsign mish hardswish hardsigmoid logsigmoid "
    "log_sigmoid exp exp2 expm1 log log2 log10 log1p sqrt rsqrt abs absolute sin cos tan asin acos "
    "atan arctan sinh cosh asinh acosh atanh erf erfc erfinv pow float_power rpow square reciprocal "
    "rdiv tanhshrink softshrink hardshrink nan_to_num logit expit sign floor ceil round trunc frac "
    "digamma lgamma sinc xlogy glu_activation hardtanh clamp clip clamp_min clamp_max threshold "
    "special_expit special_erf fake_quantize_per_tensor_affine rrelu"
)
_AVERAGES = _words(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d mean sum nansum cumsum "
    "interpolate upsample upsample_bilinear2d upsample_nearest1d upsample_nearest2d "
    "upsample_nearest3d upsample_bicubic2d upsample_linear1d upsample_trilinear3d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa trace fold col2im grid_sample "
    "grid_sampler grid_sampler_2d segment_reduce index_reduce"
)
_MAXIMA = _words(
    "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices "
    "max_pool1d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "fractional_max_pool2d fractional_max_pool3d max min amax amin topk sort msort cummax cummin "
    "median nanmedian mode kthvalue maximum minimum fmax fmin aminmax"
)
_CONVS = _words(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution _convolution"
)
_PRODUCTS = _words("matmul mm bmm mv dot vdot inner rmatmul einsum tensordot outer ger linalg_matmul")


def _dims(call: Call) -> int:
    tensor = call.get(0, "input", "self")
    return int(tensor.dim())


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
    if call.is_tracked(x) and not call.is_tracked(weight):
        return Kinded(Op.DENSE, _roles(weight=weight, bias=bias), _offset(bias))
    if call.is_tracked(weight) and not call.is_tracked(x):
        return Kinded(Op.DENSE, {"weight": x}, _offset(bias))
    return Kinded(Op.MATMUL, attrs=_offset(bias))


def _product(call: Call) -> Kinded:
    tensors = [a for a in _flat(call) if isinstance(a, torch.Tensor)]
    tracked = [t for t in tensors if call.is_tracked(t)]
    constant = [t for t in tensors if not call.is_tracked(t)]
    if len(tensors) == 1:
        return Kinded(Op.AVGPOOL if call.name == "einsum" else Op.OPAQUE)
    if len(tracked) == 1:
        return Kinded(Op.DENSE, {"weight": constant[0]} if len(constant) == 1 else {})
    return Kinded(Op.MATMUL if len(tensors) == 2 else Op.OPAQUE)


def _addmm(call: Call) -> Kinded:
    bias, a, b = (call.get(i, *names) for i, names in enumerate(
        (("input", "self"), ("mat1", "batch1", "vec", "mat"), ("mat2", "batch2", "vec2"))))  # fmt: skip
    beta = call.get(3, "beta", default=1)
    alpha = call.get(4, "alpha", default=1)
    if call.is_tracked(bias):
        return Kinded(Op.OPAQUE)
    offset = {"offset": bias * beta, "alpha": alpha}
    both = call.is_tracked(a) and call.is_tracked(b)
    if both:
        return Kinded(Op.MATMUL, attrs=offset)
    weight = b if call.is_tracked(a) else a
    return Kinded(Op.DENSE, {"weight": weight, "bias": bias}, offset)


def _conv(call: Call) -> Kinded:
    x, weight, bias = call.get(0, "input", "self"), call.get(1, "weight"), call.get(2, "bias")
    dims = weight.dim() - 2
    named = {"dims": dims, "channel_axis": x.dim() - dims - 1}
    if bias is not None and not call.is_tracked(bias):
        named["offset"] = bias.detach().reshape((-1,) + (1,) * dims)
    transposed = "transpose" in call.name or bool(
        call.name in ("convolution", "_convolution") and call.get(6, "transposed")
    )
    places = ("stride", "padding", "output_padding", "groups", "dilation") if transposed else (
        "stride", "padding", "dilation", "groups")  # fmt: skip
    if call.name in ("convolution", "_convolution"):
        places = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
    for i, place in enumerate(places):
        named[place] = call.get(3 + i, place, default={"padding": 0, "output_padding": 0}.get(place, 1))
    named["transposed"] = transposed
    if call.is_tracked(x) and not call.is_tracked(weight) and not call.is_tracked(bias):
        return Kinded(Op.CONV, _roles(weight=weight, bias=bias), named)
    if call.is_tracked(bias):
        return Kinded(Op.OPAQUE, attrs=named)
    return Kinded(Op.MATMUL, attrs=named)  # a kernel that depends on the input: a contraction


def _add(call: Call) -> Kinded:
    a, b = call.get(0, "input", "self"), call.get(1, "other")
    alpha = call.get(2, "alpha", default=1)
    first, second = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[call.name]
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
    if call.name == "div":
        if call.get(2, "rounding_mode") is not None or not call.is_tracked(a):
            return Kinded(Op.ACTIVATION)
        return Kinded(Op.AFFINE, {"scale": 1 / b})
    return Kinded(Op.AFFINE, {"scale": b if call.is_tracked(a) else a})


def _neg(call: Call) -> Kinded:
    return Kinded(Op.AFFINE, {"scale": -1} if call.name in ("neg", "negative") else {})


def _batch_norm(call: Call) -> Kinded:
    named = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    if call.name == "_native_batch_norm_legit_no_training":
        named = ("input", "weight", "bias", "running_mean", "running_var", "momentum", "eps")
    elif call.name in ("native_batch_norm", "torch_batch_norm", "_batch_norm_impl_index"):
        named = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
    given = {n: call.get(i, n, default=_MISSING) for i, n in enumerate(named)}
    x, mean, var = given["input"], given["running_mean"], given["running_var"]
    weight, bias = (None if given[k] is _MISSING else given[k] for k in ("weight", "bias"))
    eps = 1e-5 if given["eps"] is _MISSING else given["eps"]
    training = given.get("training", False)
    if (training is not _MISSING and training) or mean is None:
        return Kinded(Op.NORM, _roles(scale=weight, shift=bias), {
            "axes": (0, *range(2, x.dim())), "epsilon": eps, "centre": True})  # fmt: skip
    scale = torch.rsqrt(var.detach() + eps)
    if weight is not None:
        scale = scale * weight.detach()
    shift = -mean.detach() * scale
    if bias is not None:
        shift = shift + bias.detach()
    shape = (-1,) + (1,) * (x.dim() - 2)
    scale, shift = scale.reshape(shape), shift.reshape(shape)
    return Kinded(
        Op.AFFINE, {"scale": scale, "shift": shift}, {"offset": shift, "channel_axis": 1, "norm": True}
    )


def _norm(call: Call) -> Kinded:
    x = call.get(0, "input")
    name = call.name
    if name in ("layer_norm", "native_layer_norm", "rms_norm"):
        count = len(call.get(1, "normalized_shape"))
        axes = tuple(range(x.dim() - count, x.dim()))
        places = {"scale": (2, "weight"), "shift": (3, "bias"), "eps": (4, "eps")}
        if name == "rms_norm":
            places = {"scale": (2, "weight"), "shift": (99, "-"), "eps": (3, "eps")}
        default = torch.finfo(x.dtype).eps if name == "rms_norm" else 1e-5
        attrs: dict[str, Any] = {"axes": axes, "centre": name != "rms_norm"}
    elif name == "normalize":
        axis = call.get(2, "dim", default=1)
        axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
        return Kinded(Op.NORM, attrs={"axes": axes, "centre": False, "epsilon": 0.0, "power": call.get(1, "p", default=2.0)})
    elif name == "group_norm":
        places = {"scale": (2, "weight"), "shift": (3, "bias"), "eps": (4, "eps")}
        attrs = {"groups": call.get(1, "num_groups"), "axes": tuple(range(1, x.dim())), "centre": True}
        default = 1e-5
    else:
        places = {"scale": (3, "weight"), "shift": (4, "bias"), "eps": (7, "eps")}
        attrs = {"axes": tuple(range(2, x.dim())), "centre": True}
        default = 1e-5
    scale, shift = (call.get(*places[k]) for k in ("scale", "shift"))
    eps = call.get(*places["eps"])
    attrs["epsilon"] = default if eps is None else eps
    if scale is not None and name in ("group_norm", "instance_norm"):
        shape = (-1,) + (1,) * (x.dim() - 2)
        scale, shift = (None if t is None else t.detach().reshape(shape) for t in (scale, shift))
    return Kinded(Op.NORM, _roles(scale=scale, shift=shift), attrs)


def _softmax(call: Call) -> Kinded:
    axis = call.get(1, "dim", default=-1)
    return Kinded(Op.SOFTMAX, attrs={"axis": -1 if axis is None else axis, "log": "log" in call.name})


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
    a, b = call.get(0, "input", "self"), call.get(1, "other")
    if not isinstance(b, torch.Tensor) or (call.is_tracked(a) and call.is_tracked(b)):
        return Kinded(Op.MAXPOOL)
    constant = b if call.is_tracked(a) else a
    if call.name in ("max", "maximum", "fmax") and not bool(constant.any()):
        return Kinded(Op.RELU, attrs={"slope": 0.0})
    return Kinded(Op.ACTIVATION)


def _activation(call: Call) -> Kinded:
    tracked = sum(call.is_tracked(a) for a in _flat(call))
    return Kinded(Op.ACTIVATION if tracked == 1 else Op.OPAQUE)


def _average(call: Call) -> Kinded:
    tracked = sum(call.is_tracked(a) for a in _flat(call))
    return Kinded(Op.AVGPOOL if tracked == 1 else Op.OPAQUE)


def _flat(call: Call) -> list[Any]:
    out: list[Any] = []
    for a in (*call.args, *call.kwargs.values()):
        out.extend(a) if isinstance(a, (tuple, list)) else out.append(a)
    return out


def _roles(**params: Any) -> dict[str, Any]:
    return {k: v for k, v in params.items() if v is not None}


def _offset(bias: Any) -> dict[str, Any]:
    return {} if bias is None else {"offset": bias.detach()}


def _shape(move: str) -> Callable[[Call], Kinded]:
    return lambda call: Kinded(Op.SHAPE, attrs={"move": move})


MOVES = _RESHAPES | _SAME | _MOVES | _JOINS | _TRANSPOSES | {"stack"} - {"where", "masked_fill"}
"""Functions that only move data, so that token numbers stay token numbers."""

_TABLE: dict[str, Callable[[Call], Kinded]] = {
    **dict.fromkeys(_ACTIVATIONS, _activation),
    **dict.fromkeys(_AVERAGES, _average),
    **dict.fromkeys(_MAXIMA, _extreme),
    **dict.fromkeys(_CONVS, _conv),
    **dict.fromkeys(_PRODUCTS, _product),
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys(_TRANSPOSES, _transpose),
    **dict.fromkeys(_SAME, _shape("same")),
    **dict.fromkeys(_MOVES, _shape("other")),
    **dict.fromkeys(_JOINS, _join),
    **dict.fromkeys(("add", "sub", "rsub"), _add),
    **dict.fromkeys(("mul", "div"), _mul),
    **dict.fromkeys(("neg", "negative", "positive"), _neg),
    **dict.fromkeys(("relu", "relu6", "leaky_relu", "prelu"), _rectifier),
    **dict.fromkeys(("hardtanh", "clamp", "clip", "clamp_min", "threshold"), _clamp),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), _softmax),
    **dict.fromkeys(
        ("layer_norm", "native_layer_norm", "rms_norm", "group_norm", "instance_norm", "normalize"), _norm
    ),
    **dict.fromkeys(
        ("batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm
    ),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _addmm),
    "linear": _linear,
    "stack": _stack,
}  # fmt: skip


def known(name: str) -> bool:
    """Whether the table has a row for the name."""
    return name in _TABLE


def classify(call: Call) -> Kinded:
    """The kind of a call; OPAQUE where the table has no row."""
    row = _TABLE.get(call.name)
    return row(call) if row is not None else Kinded(Op.OPAQUE)
