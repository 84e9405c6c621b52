"""The waist's array functions, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import cache
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
        return torch.where(condition, a, b)

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
        return not bool(array.any())

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
        moved = torch.copysign(z.new_tensor(eps), z).add_(z)
        if relevance.requires_grad or relevance.dtype != z.dtype or relevance.shape != z.shape:
            return relevance / moved
        return torch.div(relevance, moved, out=moved)

    def scaled(self, array: Tensor, factor: Tensor) -> Tensor:
        if array.requires_grad or array.dtype != factor.dtype or array.shape != factor.shape:
            return array * factor
        return array.mul_(factor.detach())

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
        # Dot products of blocks, then a sum of those in double precision: one long dot product in
        # float32 would lose what the books are balanced to.
        n, length = a.shape[0], a[0].numel()
        blocks = _blocks(length)
        rows = a.reshape(n * blocks, 1, -1).to(wide)
        columns = b.to(wide).broadcast_to(a.shape).reshape(n * blocks, -1, 1)
        return torch.bmm(rows, columns).reshape(n, blocks).sum(1, dtype=torch.float64).to(wide)


@cache
def _blocks(length: int, wanted: int = 4096) -> int:
    """Into how many equal blocks to cut a row, so that each is near ``wanted`` long."""
    for blocks in range(max(length // wanted, 1), max(length // wanted * 4, 1) + 1):
        if length % blocks == 0:
            return blocks
    return 1
