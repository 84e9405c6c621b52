"""What a recorded PyTorch node can do: pull a cotangent back, and run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge
from torch.utils._pytree import tree_unflatten

from ...ops import Op
from .kinds import Kinded

__all__ = ["AutogradPull", "Rerun", "add_pull", "affine_pull", "relu_pull", "summed_to"]

Tensor = torch.Tensor


class AutogradPull:
    """The vector-Jacobian product through the small autograd graph that one op left behind.

    Only the graph's edges are held, so an output that nothing else needs can go.
    """

    def __init__(self, outputs: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
        self._edges = [get_gradient_edge(o) for o in outputs]
        self._leaves = list(leaves)
        self._like = [(o.shape, o.dtype, o.device) for o in outputs]

    def __call__(self, *cotangents: Tensor) -> tuple[Tensor, ...]:
        given = [
            torch.zeros(shape, dtype=dtype, device=device) if c is None else c.to(dtype)
            for c, (shape, dtype, device) in zip(cotangents, self._like, strict=True)
        ]
        grads = torch.autograd.grad(
            self._edges, self._leaves, given, allow_unused=True, retain_graph=True
        )
        return tuple(
            torch.zeros_like(x) if g is None else g for g, x in zip(grads, self._leaves, strict=True)
        )

    def free(self) -> None:
        self._edges.clear()
        self._leaves.clear()


def summed_to(array: Tensor, shape: Sequence[int]) -> Tensor:
    """Undo a broadcast: sum over the axes along which ``shape`` was stretched."""
    return array if array.shape == torch.Size(shape) else array.sum_to_size(tuple(shape))


def affine_pull(scale: Any, operand: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """For x * scale + shift."""
    shape, dtype = operand.shape, operand.dtype

    def pull(cotangent: Tensor) -> tuple[Tensor, ...]:
        if scale is not None:
            cotangent = cotangent * (scale.detach() if isinstance(scale, Tensor) else scale)
        return (summed_to(cotangent, shape).to(dtype),)

    return pull


def add_pull(signs: Sequence[Any], operands: Sequence[Tensor]) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """For a sum of tracked operands."""
    like = [(o.shape, o.dtype) for o in operands]

    def pull(cotangent: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            summed_to(cotangent if sign == 1 else cotangent * sign, shape).to(dtype)
            for sign, (shape, dtype) in zip(signs, like, strict=True)
        )

    return pull


def relu_pull(output: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """For ReLU, which needs its output only: its input can be let go."""

    def pull(cotangent: Tensor) -> tuple[Tensor, ...]:
        return (torch.ops.aten.threshold_backward(cotangent, output, 0),)

    return pull


class Rerun:
    """An op that can be run again on other operands or parameters, without a graph."""

    def __init__(
        self, func: Callable[..., Any], flat: Sequence[Any], spec: Any, places: Sequence[int], kinded: Kinded
    ) -> None:
        self._func = func
        self._flat = [None if i in set(places) else a for i, a in enumerate(flat)]
        self._spec = spec
        self._places = list(places)
        self._kinded = kinded
        self._roles = {
            role: i
            for role, held in kinded.params.items()
            for i, a in enumerate(self._flat)
            if isinstance(a, Tensor) and a is held
        }

    def __call__(self, *inputs: Tensor, **params: Any) -> Any:
        kinded = self._kinded
        if params and kinded.kind is Op.AFFINE:
            return affine(inputs[0], {**kinded.params, **params})
        flat = list(self._flat)
        for place, array in zip(self._places, inputs, strict=True):
            flat[place] = array
        added = None
        for role, array in params.items():
            if role in self._roles:
                flat[self._roles[role]] = array
            elif role == "bias":
                added = array
            else:
                raise KeyError(f"this op has no parameter {role!r}; it has {sorted(self._roles)}")
        args, kwargs = tree_unflatten(flat, self._spec)
        with torch.no_grad():
            out = self._func(*args, **kwargs)
        if added is not None:
            out = out + added.reshape(bias_shape(kinded.kind, kinded.attrs, added))
        return out

    def view(self, place: int, *, single: bool) -> Callable[[Tensor], Tensor]:
        """The op as a way to read a view out of its operand, for ``alias.Track.chain``."""
        func, flat, spec, where = self._func, list(self._flat), self._spec, self._places[0]

        def read(array: Tensor) -> Tensor:
            filled = list(flat)
            filled[where] = array
            args, kwargs = tree_unflatten(filled, spec)
            out = func(*args, **kwargs)
            return out if single and isinstance(out, Tensor) else out[place]

        return read


def affine(x: Tensor, params: Mapping[str, Any]) -> Tensor:
    """x * scale + shift, either of which may be absent."""
    with torch.no_grad():
        if params.get("scale") is not None:
            x = x * params["scale"]
        return x + params["shift"] if params.get("shift") is not None else x


def bias_shape(kind: Op, attrs: Mapping[str, Any], bias: Tensor) -> tuple[int, ...]:
    """The shape in which a bias broadcasts against the op's output."""
    if kind is Op.CONV and bias.dim() == 1:
        return (-1,) + (1,) * int(attrs["dims"])
    return tuple(bias.shape)
