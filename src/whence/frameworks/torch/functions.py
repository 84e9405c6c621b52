"""The waist's array functions, in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["TorchFunctions"]

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

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        if b.shape != a.shape:
            b = b.broadcast_to(a.shape)
        wide = torch.promote_types(a.dtype, torch.float32)
        n = a.shape[0]
        return torch.linalg.vecdot(a.reshape(n, -1).to(wide), b.reshape(n, -1).to(wide))
