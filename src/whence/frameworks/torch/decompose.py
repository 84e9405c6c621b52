"""Composite calls, spelled out as the primitive operations that they consist of.

Attention and recurrent layers are single calls into PyTorch's core; here they are written out, so
that rules see matrix products, softmax and gates. A Python function of PyTorch's own that no table
knows is *looked into*: its body runs again with the recorder on, and what it calls is recorded.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from .kinds import known
from .recurrent import RECURRENT

__all__ = ["find", "instead"]

Tensor = torch.Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot-product attention: softmax(q k^T * scale + mask) v."""
    if enable_gqa:
        groups = query.size(-3) // key.size(-3)
        key = key.repeat_interleave(groups, -3)
        value = value.repeat_interleave(groups, -3)
    scale = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    allowed = None
    if is_causal:
        rows, columns = query.size(-2), key.size(-2)
        allowed = torch.ones(rows, columns, dtype=torch.bool, device=scores.device).tril()
    elif attn_mask is not None and attn_mask.dtype is torch.bool:
        allowed = attn_mask
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = F.softmax(scores, -1)
    blind = _blind_rows(allowed, attn_mask)
    if blind is not None:  # a row that may look at nothing gives zero, not NaN
        weights = weights.masked_fill(blind, 0.0)
    if dropout_p:
        weights = F.dropout(weights, dropout_p)
    return torch.matmul(weights, value)


def _blind_rows(allowed: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Rows of a mask that let nothing through, or None where every row lets something."""
    if allowed is not None:
        shut = ~allowed
    elif mask is not None:
        shut = torch.isneginf(mask)
    else:
        return None
    blind = shut.all(-1, keepdim=True)
    return blind if bool(blind.any()) else None


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return input + tensor1 * tensor2 * value


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return input + tensor1 / tensor2 * value


def lerp(input: Tensor, end: Tensor, weight: Any) -> Tensor:
    return input + weight * (end - input)


def rdiv(self: Tensor, other: Any) -> Tensor:
    return self.reciprocal() * other


def glu(input: Tensor, dim: int = -1) -> Tensor:
    signal, gate = input.chunk(2, dim)
    return signal * torch.sigmoid(gate)


def var(input: Tensor, *args: Any, **options: Any) -> Tensor:
    """The mean square distance from the mean, over n - correction."""
    return var_mean(input, *args, **options)[0]


def var_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
    axis: Any = None,
) -> tuple[Tensor, Tensor]:
    if isinstance(dim, bool):  # var(unbiased)
        dim, unbiased = None, dim
    dim = axis if dim is None else dim
    dims = tuple(range(input.dim())) if dim is None or dim == () else dim
    dims = (dims,) if isinstance(dims, int) else tuple(dims)
    correction = 1.0 if correction is None else correction
    correction = float(unbiased) if unbiased is not None else correction
    mean = input.mean(dims, keepdim=True)
    found = (input - mean).square().mean(dims, keepdim=True)
    if correction:
        count = math.prod(input.shape[d] for d in dims)
        found = found * (count / (count - correction) if count > correction else math.nan)
    if not keepdim:
        found, mean = found.squeeze(dims), mean.squeeze(dims)
    return found, mean


def softmin(input: Tensor, dim: int) -> Tensor:
    return torch.softmax(-input, dim)


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    train: bool = True,
) -> Tensor:
    """Nothing at inference. One that is on all the same is a product with the mask that it drew."""
    if not (training and train) or not p:
        return input
    kept = F.dropout(torch.ones_like(input), p, True)
    return input * kept


def linear(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(input, weight) + bias


def addmm(input: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    product = torch.matmul(a, b)
    product = product if alpha == 1 else product * alpha
    return product + (input if beta == 1 else input * beta)


def convolution(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A convolution whose bias depends on the input."""

    def spelled(input: Tensor, weight: Tensor, bias: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return call(input, weight, None, *args, **kwargs) + bias.reshape(
            -1, *(1,) * (weight.dim() - 2)
        )

    return spelled


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = torch.einsum("...i,oij->...oj", input1, weight)
    out = (rows * input2.unsqueeze(-2)).sum(-1)
    return out if bias is None else out + bias


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    return (F.normalize(x1, dim=dim, eps=eps) * F.normalize(x2, dim=dim, eps=eps)).sum(dim)


def einsum(equation: str, *operands: Any) -> Tensor:
    """A contraction of three or more, two at a time from the left."""
    tensors = list(operands[0] if isinstance(operands[0], (list, tuple)) else operands)
    terms, _, out = equation.replace(" ", "").partition("->")
    names = terms.split(",")
    while len(tensors) > 2:
        later = set(out).union(*names[2:])
        both = "".join(dict.fromkeys(n for n in names[0] + names[1] if n in later))
        tensors[:2] = [torch.einsum(f"{names[0]},{names[1]}->{both}", *tensors[:2])]
        names[:2] = [both]
    return torch.einsum(f"{','.join(names)}->{out}", *tensors)


def added_at(name: str) -> Callable[..., Tensor]:
    """``index_add`` and its kin on a tracked base: what is added, by itself, then a sum."""

    def spelled(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self + getattr(torch.zeros_like(self), name)(*args, **kwargs)

    return spelled


_WRITTEN_OUT: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": attention,
    "addcmul": addcmul,
    "addcdiv": addcdiv,
    "lerp": lerp,
    "var": var,
    "var_mean": var_mean,
    "glu": glu,
    "dropout": dropout,
    **RECURRENT,
}
_INSTEAD: dict[str, Callable[..., Any]] = {
    "linear": linear,
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), addmm),
    **{
        f"conv{t}{n}d": convolution(getattr(F, f"conv{t}{n}d"))
        for t in ("", "_transpose")
        for n in (1, 2, 3)
    },
    "bilinear": bilinear,
    "cosine_similarity": cosine_similarity,
    "einsum": einsum,
    "index_add": added_at("index_add"),
    "scatter_add": added_at("scatter_add"),
}


def instead(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any] | None:
    """How to spell out a call that is OPAQUE as it stands: its bias depends on the input."""
    if name == "einsum":
        equation = args[0]
        pairs = equation.count(",") < 2 if isinstance(equation, str) else True
        if pairs or "..." in equation or "->" not in equation:
            return None
    if "out_dtype" in kwargs:
        return None
    return _INSTEAD.get(name)


def find(func: Any, name: str) -> Callable[..., Any] | None:
    """How to spell a call out, or None where it is a primitive."""
    written = _WRITTEN_OUT.get(name)
    if written is not None:
        return written
    return None if known(name) or not _is_python(func) else _looked_into(func)


@cache
def _is_python(func: Any) -> bool:
    """Whether a call is a Python function of PyTorch's own that hands itself to the recorder."""
    if not isinstance(func, types.FunctionType) or func.__closure__:
        return False
    asks = {"has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"}
    return (func.__module__ or "").startswith("torch.") and bool(asks & set(func.__code__.co_names))


def _looked_into(func: types.FunctionType) -> Callable[..., Any]:
    """The same function, but its own check for torch functions says no, so that its body runs."""
    quiet = {
        "has_torch_function": lambda *_: False,
        "has_torch_function_unary": lambda *_: False,
        "has_torch_function_variadic": lambda *_: False,
    }
    copy = types.FunctionType(
        func.__code__, {**func.__globals__, **quiet}, func.__name__, func.__defaults__
    )
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy
