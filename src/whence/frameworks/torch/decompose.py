"""Composite calls, spelled out as the primitive operations that they consist of.

Attention and recurrent layers are single calls into PyTorch's core; here they are written out, so
that rules see matrix products, softmax and gates. A Python function of PyTorch's own that no table
knows is *looked into*: its body runs again with the recorder on, and what it calls is recorded.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ...ops import Op
from .kinds import Call, Kinded, classify, known
from .recurrent import RECURRENT

__all__ = ["find", "out_of_place"]

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
    if allowed is None and mask is None:
        return None
    shut = ~allowed if allowed is not None else torch.isneginf(mask)
    blind = shut.all(-1, keepdim=True)
    return blind if bool(blind.any()) else None


def addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """For a tracked bias: the sum of a product and the bias."""
    return torch.matmul(a, b) * alpha + bias * beta


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


def softmin(input: Tensor, dim: int) -> Tensor:
    return torch.softmax(-input, dim)


_WRITTEN_OUT: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": attention,
    "addcmul": addcmul,
    "addcdiv": addcdiv,
    "lerp": lerp,
    "glu": glu,
    **RECURRENT,
}


def find(func: Any, name: str) -> Callable[..., Any] | None:
    """How to spell a call out, or None where it is a primitive."""
    written = _WRITTEN_OUT.get(name)
    if written is not None:
        return written
    if known(name) or not isinstance(func, types.FunctionType) or func.__closure__:
        return None
    module = func.__module__ or ""
    asks = {"has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"}
    if module.startswith("torch.") and asks & set(func.__code__.co_names):
        return _looked_into(func)
    return None


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


def out_of_place(
    func: Any, name: str, flat: list[Any], spec: Any, where: int, rest: Sequence[int], target: Tensor
) -> tuple[Callable[..., Tensor], Callable[[Sequence[Any]], Kinded]]:
    """An in-place call as a function of its tracked operands, target first; and its kind.

    The result has the target's type and shape, as writing into it would.
    """
    from torch.utils._pytree import tree_unflatten

    dtype, shape = target.dtype, target.shape
    plain = getattr(torch.Tensor, name, None)
    direct = plain is not None and name not in ("setitem", "copy", "fill", "zero", "index_put", "put")

    def run(first: Tensor, *others: Tensor) -> Tensor:
        filled = list(flat)
        for place, tensor in zip(rest, others, strict=True):
            filled[place] = tensor
        if name == "zero":
            return torch.zeros_like(first)
        if name == "fill":
            filled[where] = first
            args, kwargs = tree_unflatten(filled, spec)
            value = kwargs.get("value", args[1] if len(args) > 1 else None)
            return torch.full_like(first, value) if not isinstance(value, Tensor) else value.expand(shape)
        if name == "copy":
            filled[where] = first
            args, kwargs = tree_unflatten(filled, spec)
            return kwargs.get("src", args[1] if len(args) > 1 else None).to(dtype).expand(shape)
        filled[where] = first if direct else first.clone()
        args, kwargs = tree_unflatten(filled, spec)
        kwargs.pop("inplace", None)
        if direct:
            out = plain(*args, **kwargs)  # type: ignore[misc]
        elif isinstance(func, torch._ops.OpOverload) or name in _MUTATING or func.__name__.endswith("_"):
            func(*args, **kwargs)
            out = filled[where]
        else:
            out = func(*args, **kwargs)
        return out.to(dtype)

    def kind(operands: Sequence[Any]) -> Kinded:
        filled = list(flat)
        for place, track in zip((where, *rest), operands, strict=True):
            filled[place] = track.content
        args, kwargs = tree_unflatten(filled, spec)
        tracked = frozenset(id(t.content) for t in operands if t.value is not None)
        return classify(Call(name, args, kwargs, tracked)) if known(name) else Kinded(Op.OPAQUE)

    return run, kind


_MUTATING = frozenset({"setitem"})
