"""Backward rules that are a line of arithmetic.

An op that has one runs without a graph: it is quicker, and its operand can be let go. Those here
are linear or keep their result, so none reads its operand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...ops import Op
from .calls import Kinded

__all__ = ["ClosedPull", "closed_form", "closed_pull", "way_back"]

Tensor = torch.Tensor
_PLAIN = (Tensor, torch.nn.Parameter)


@dataclass(frozen=True)
class ClosedPull:
    """A vector-Jacobian product that is known in advance."""

    function: Callable[[Tensor], tuple[Tensor, ...]]
    any_batch: bool = False
    """Whether it takes cotangents of another number of samples too."""

    def __call__(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        return self.function(cotangent)


def closed_form(kinded: Kinded, name: str, leaves: Sequence[Tensor]) -> bool:
    """Whether the op has such a rule."""
    if kinded.kind in (Op.AFFINE, Op.ADD):
        return True
    if kinded.kind is Op.RELU:
        return name == "relu"
    if kinded.kind is Op.CONV:
        return name in _CONVOLUTIONS and _has_plain_weight(kinded, leaves) and _fits(kinded, leaves)
    if kinded.kind is Op.DENSE:
        straight = name == "linear" and not kinded.attrs.get("reversed")
        return straight and _has_plain_weight(kinded, leaves)
    return False


_CONVOLUTIONS = frozenset(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))


def _has_plain_weight(kinded: Kinded, leaves: Sequence[Tensor]) -> bool:
    """One operand, and a weight of its type: no autocast, nothing quantised, sparse or complex."""
    weight: Any = kinded.params.get("weight")
    return (
        len(leaves) == 1
        and type(weight) in _PLAIN
        and weight.dim() >= 2
        and weight.dtype == leaves[0].dtype
        and weight.is_floating_point()
        and weight.layout is torch.strided
        and not torch._C._is_any_autocast_enabled()
    )


def _fits(kinded: Kinded, leaves: Sequence[Tensor]) -> bool:
    """A batch of its own axis, and padding in numbers."""
    attrs = kinded.attrs
    return leaves[0].dim() == attrs["dims"] + 2 and attrs["padding"] != "same"


def closed_pull(kinded: Kinded, out: Tensor, leaves: Sequence[Tensor]) -> ClosedPull:
    """The backward rule of an op of ``closed_form``."""
    if kinded.kind in (Op.CONV, Op.DENSE):
        return way_back(kinded)(kinded.params["weight"], leaves[0])
    same = all(leaf.shape == out.shape for leaf in leaves)
    if kinded.kind is Op.AFFINE:
        scale = kinded.params.get("scale")
        thin = not isinstance(scale, Tensor) or scale.dim() < out.dim() or scale.shape[0] == 1
        return ClosedPull(_affine(scale, leaves[0], out), any_batch=same and thin)
    if kinded.kind is Op.ADD:
        return ClosedPull(_add(kinded.attrs["signs"], leaves, out), any_batch=same)
    return ClosedPull(_relu(out))


def way_back(kinded: Kinded) -> Callable[[Tensor, Tensor], ClosedPull]:
    """From the weight and operand of a run of a convolution or dense op to its backward rule."""
    back = _convolution if kinded.kind is Op.CONV else _dense

    def pull(weight: Tensor, operand: Tensor) -> ClosedPull:
        return ClosedPull(back(kinded.attrs, weight.detach(), operand), any_batch=True)

    return pull


def _like(operand: Tensor, out: Tensor) -> Callable[[Tensor], Tensor]:
    """Undo a broadcast, if there was one, by summing over the stretched axes; and the type."""
    dtype, shape = operand.dtype, tuple(operand.shape)
    if operand.shape == out.shape:
        return lambda cotangent: cotangent.to(dtype)
    return lambda cotangent: cotangent.sum_to_size(shape).to(dtype)


def _affine(scale: Any, operand: Tensor, out: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """For x * scale + shift."""
    like = _like(operand, out)
    if scale is None:
        return lambda cotangent: (like(cotangent),)
    factor = scale.detach() if isinstance(scale, Tensor) else scale
    return lambda cotangent: (like(cotangent * factor),)


def _add(
    signs: Sequence[Any], operands: Sequence[Tensor], out: Tensor
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """For a sum of tracked operands."""
    like = [_like(o, out) for o in operands]

    def pull(cotangent: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            back(cotangent if sign == 1 else cotangent * sign)
            for sign, back in zip(signs, like, strict=True)
        )

    return pull


def _relu(output: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """For ReLU, which needs its output only."""
    return lambda cotangent: (torch.ops.aten.threshold_backward(cotangent, output, 0),)


def _dense(
    attrs: Mapping[str, Any], weight: Tensor, operand: Tensor
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """For x @ weight^T + bias."""
    return lambda cotangent: (cotangent.to(weight.dtype) @ weight,)


def _convolution(
    attrs: Mapping[str, Any], weight: Tensor, operand: Tensor
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """For a convolution of any dimension, transposed or not, of which only the sizes matter."""

    def numbers(name: str) -> list[int]:
        given = attrs.get(name, 0)
        given = 0 if given == "valid" else given
        return [int(given)] * attrs["dims"] if isinstance(given, int) else [int(n) for n in given]

    sizes = tuple(operand.shape[1:])

    def pull(cotangent: Tensor) -> tuple[Tensor, ...]:
        places = [numbers(name) for name in ("stride", "padding", "dilation")]
        more = attrs["transposed"], numbers("output_padding"), int(attrs["groups"])
        empty = weight.new_empty((cotangent.shape[0], *sizes))
        found = torch.ops.aten.convolution_backward(
            cotangent.to(weight.dtype), empty, weight, None, *places, *more, (True, False, False)
        )
        return (found[0],)

    return pull
