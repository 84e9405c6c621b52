"""The waist's array functions, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch

__all__ = ["TorchFunctions", "wants_graph"]

_GRAPH: ContextVar[bool] = ContextVar("whence_graph", default=False)


def wants_graph() -> bool:
    """Whether an op that is run again should leave a graph to pull through (inside ``vjp``)."""
    return _GRAPH.get()


Tensor = torch.Tensor


class TorchFunctions:
    """``whence.frameworks.base.Functions`` for ``torch.Tensor``."""

    name = "torch"

    def asarray(self, array: Any, like: Tensor | None = None) -> Tensor:
        if like is None:
            return torch.as_tensor(array)
        return torch.as_tensor(array, device=like.device)

    def to_numpy(self, array: Tensor) -> np.ndarray:
        array = array.detach().cpu()
        if array.dtype is torch.bfloat16:  # NumPy has no such type
            array = array.float()
        return np.asarray(array.resolve_conj().resolve_neg().numpy())

    def shape(self, array: Tensor) -> tuple[int, ...]:
        return tuple(array.shape)

    def dtype(self, array: Tensor) -> str:
        return str(array.dtype).removeprefix("torch.")

    def cast(self, array: Tensor, dtype: str) -> Tensor:
        return array.to(getattr(torch, dtype))

    def is_floating(self, array: Tensor) -> bool:
        return array.is_floating_point()

    def zeros_like(self, array: Tensor) -> Tensor:
        return torch.zeros_like(array)

    def ones_like(self, array: Tensor) -> Tensor:
        return torch.ones_like(array)

    def where(self, condition: Tensor, a: Any, b: Any) -> Tensor:
        chosen = _by_bits(condition, a, b) if condition.device.type == "cpu" else None
        return torch.where(condition, a, b) if chosen is None else chosen

    def gated(self, array: Tensor, by: Tensor) -> Tensor:
        if array.dtype != by.dtype or array.shape != by.shape:
            return self.where(by > 0, array, 0.0)
        return torch.ops.aten.threshold_backward(array, by, 0)

    def abs(self, array: Tensor) -> Tensor:
        return torch.abs(array)

    def sqrt(self, array: Tensor) -> Tensor:
        return torch.sqrt(array)

    def exp(self, array: Tensor) -> Tensor:
        return torch.exp(array)

    def maximum(self, a: Tensor, b: Any) -> Tensor:
        return torch.maximum(a, b) if isinstance(b, Tensor) else a.clamp(min=b)

    def minimum(self, a: Tensor, b: Any) -> Tensor:
        return torch.minimum(a, b) if isinstance(b, Tensor) else a.clamp(max=b)

    def isfinite(self, array: Tensor) -> Tensor:
        return torch.isfinite(array)

    def known_zero(self, array: Tensor) -> bool:
        # Largest and smallest: several times as quick as ``any`` on floating-point numbers.
        return not array.numel() or (not bool(array.amax()) and not bool(array.amin()))

    def raised(self, array: Tensor, gamma: float) -> Tensor:
        return array.clamp(min=0).mul_(gamma).add_(array)

    def known_one_sided(self, array: Tensor) -> bool:
        return bool(array.numel()) and (bool(array.amin() > 0) or bool(array.amax() < 0))

    def sum(self, array: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
        return array.sum() if axis is None else array.sum(dim=axis, keepdim=keepdims)

    def mean(self, array: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
        return array.mean() if axis is None else array.mean(dim=axis, keepdim=keepdims)

    def max(self, array: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
        return array.max() if axis is None else array.amax(dim=axis, keepdim=keepdims)

    def argmax(self, array: Tensor, axis: int) -> Tensor:
        return array.argmax(dim=axis)

    def one_hot(self, index: Tensor, depth: int, like: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(index.long(), depth).to(like)

    def reshape(self, array: Tensor, shape: Sequence[int]) -> Tensor:
        return array.reshape(tuple(shape))

    def transpose(self, array: Tensor, axes: Sequence[int]) -> Tensor:
        return array.permute(tuple(axes))

    def broadcast_to(self, array: Tensor, shape: Sequence[int]) -> Tensor:
        return array.broadcast_to(tuple(shape))

    def concat(self, arrays: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(list(arrays), dim=axis)

    def take(self, array: Tensor, index: Tensor, axis: int) -> Tensor:
        return array.index_select(axis, index.long())

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    def shares(self, relevance: Tensor, z: Tensor, eps: float) -> Tensor:
        z = z.detach()
        # copysign takes -0.0 for negative; only sums of nothing but zeros are -0.0, and they
        # share nothing.
        moved = torch.copysign(torch.full((), eps, dtype=z.dtype, device=z.device), z).add_(z)
        if relevance.requires_grad or relevance.dtype != z.dtype or relevance.shape != z.shape:
            return relevance / moved
        return torch.div(relevance, moved, out=moved)

    def scaled(self, array: Tensor, factor: Tensor) -> Tensor:
        if array.requires_grad or array.dtype != factor.dtype or array.shape != factor.shape:
            return array * factor
        return array.mul_(factor.detach())

    def after(self, arrays: Sequence[Tensor]) -> AbstractContextManager[Any]:
        return nullcontext()

    def vjp(
        self, function: Callable[..., Tensor], inputs: Sequence[Tensor]
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
        leaves = [x.detach().requires_grad_() for x in inputs]
        token = _GRAPH.set(True)
        try:
            with torch.enable_grad():
                output = function(*leaves)
        finally:
            _GRAPH.reset(token)

        def pull(cotangent: Tensor) -> tuple[Tensor, ...]:
            if output.grad_fn is None:
                return tuple(map(torch.zeros_like, leaves))
            grads = torch.autograd.grad(
                output, leaves, cotangent, allow_unused=True, retain_graph=True
            )
            return tuple(
                torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=True)
            )

        return output.detach(), pull

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        wide = torch.promote_types(a.dtype, torch.float32)
        lead = a.dim() - b.dim()
        thin = [i for i in range(1, a.dim()) if i < lead or b.shape[i - lead] != a.shape[i]]
        if thin:  # b is constant along these axes: sum a there first, rather than stretch b
            a = a.sum(dim=thin, keepdim=True, dtype=wide)
        # A product and a sum: a dot product in float32 would lose what the books are balanced to,
        # where a sum adds in pairs.
        product = a.to(wide) * b.to(wide)
        return product.reshape(a.shape[0], -1).sum(1)


_SAME_SIZE = {
    torch.float64: torch.int64, torch.float32: torch.int32,
    torch.float16: torch.int16, torch.bfloat16: torch.int16,
}  # fmt: skip


def _by_bits(condition: Tensor, a: Any, b: Any) -> Tensor | None:
    """``torch.where`` by bitwise operations, or None where that does not apply.

    On CPUs those use vector instructions and ``torch.where`` does not: it takes ten times as long.
    """
    like = a if isinstance(a, Tensor) else b
    whole = _SAME_SIZE.get(like.dtype) if isinstance(like, Tensor) else None
    if whole is None or condition.numel() < 4096:
        return None
    bits = []
    for each in (a, b):
        if not isinstance(each, Tensor):
            each = torch.full((), each, dtype=like.dtype)
        if each.dtype != like.dtype or each.requires_grad:
            return None
        bits.append(each.view(whole))
    mask = condition.to(whole).neg_()
    differ = bits[0] ^ bits[1]
    if differ.shape == mask.shape:
        return mask.bitwise_and_(differ).bitwise_xor_(bits[1]).view(like.dtype)
    return (mask & differ).bitwise_xor(bits[1]).view(like.dtype)
