"""What a recorded PyTorch node can do: pull a cotangent back, and run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge
from torch.utils.weak import TensorWeakRef

from ...ops import Op
from ...tape import Node, Value
from .calls import Kinded, Spec, circumstances, rebuild, tensors_in
from .functions import wants_graph

__all__ = [
    "AutogradPull", "LatePull", "Rerun", "affine", "bias_shape", "leaf_of", "released",
]  # fmt: skip

Tensor = torch.Tensor


def leaf_of(array: Tensor) -> Tensor:
    """A tensor on the same numbers where an operation's own small graph begins.

    A plain leaf would be held by the graph for good, whether or not the operation's backward reads
    it. This one hangs on an empty leaf, so that only what backward reads stays in memory.
    """
    with torch.enable_grad():
        root = array.detach().requires_grad_()
        leaf = root.view_as(root)
    root.data = _nothing(array.dtype, array.device)
    return leaf


@cache
def _nothing(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(0, dtype=dtype, device=device)


class AutogradPull:
    """The vector-Jacobian product through the small autograd graph that one op left behind."""

    def __init__(self, outputs: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
        self._outputs = [(get_gradient_edge(o), o.dtype) for o in outputs]
        self._leaves = [get_gradient_edge(x) for x in leaves]
        self._like = [(x.shape, x.dtype, x.device) for x in leaves]

    def __call__(self, *cotangents: Tensor | None) -> tuple[Tensor, ...]:
        arrived = [
            (edge, c.to(dtype))
            for (edge, dtype), c in zip(self._outputs, cotangents, strict=True)
            if c is not None
        ]
        grads = torch.autograd.grad(
            [edge for edge, _ in arrived], self._leaves, [c for _, c in arrived],
            allow_unused=True, retain_graph=True,
        )  # fmt: skip
        return tuple(
            torch.zeros(shape, dtype=dtype, device=device) if g is None else g
            for g, (shape, dtype, device) in zip(grads, self._like, strict=True)
        )

    def free(self) -> None:
        self._outputs.clear()
        self._leaves.clear()


class LatePull:
    """The same for an op that is cheap beside what it would hold: run again when it is asked."""

    def __init__(self, rerun: Rerun, into: Sequence[Value]) -> None:
        self._rerun, self._into = rerun, tuple(into)

    def __call__(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        leaves = [leaf_of(v.array) for v in self._into]
        with torch.enable_grad():
            out = self._rerun.traced(leaves)
        return AutogradPull([out], leaves)(cotangent)


def released(leaf: Tensor, node: Node, place: int) -> Callable[[], Any]:
    """A way back to an array that nothing need hold: its leaf while it lives, else the op again.

    It knows the op and its operands but not the node, which knows its results: no ring keeps a
    dropped tape in memory.
    """
    alive, call, into = TensorWeakRef(leaf), node._call, node.into

    def array() -> Any:
        nonlocal alive
        held = alive()
        if held is None:
            if call is None:
                raise RuntimeError("an array that was let go cannot be made again without its op")
            held = tensors_in(call(*(v.array for v in into)))[0][place]
            alive = TensorWeakRef(held)  # shared by those who ask while one of them has it
        return held.detach() if held.requires_grad else held

    return array


class Rerun:
    """An op that can be run again on other operands or parameters, without a graph."""

    def __init__(
        self, func: Callable[..., Any], flat: Sequence[Any], spec: Spec, places: Sequence[int],
        kinded: Kinded | None,
    ) -> None:  # fmt: skip
        self._func = func
        self._flat = [None if i in places else a for i, a in enumerate(flat)]
        self._spec = spec
        self._places = list(places)
        self._kinded = kinded or Kinded(Op.OPAQUE)
        self._circumstances = circumstances()

    def _with(self, inputs: Sequence[Tensor]) -> list[Any]:
        flat = list(self._flat)
        for place, array in zip(self._places, inputs, strict=True):
            flat[place] = array
        return flat

    def __call__(self, *inputs: Tensor, **params: Any) -> Any:
        kinded = self._kinded
        if params and kinded.kind is Op.AFFINE:
            return affine(inputs[0], {**kinded.params, **params})
        flat, added = self._with(inputs), None
        for role, array in params.items():
            held = kinded.params.get(role)
            places = [i for i, a in enumerate(flat) if a is held and i not in self._places]
            if held is not None and places:
                flat[places[0]] = array
            elif role == "bias":
                if self._takes_bias(array):
                    flat[2] = array
                else:
                    added = array
            elif array is None:
                continue
            else:
                raise KeyError(f"this op has no parameter {role!r}; it has {sorted(kinded.params)}")
        args, kwargs = rebuild(flat, self._spec)
        with torch.set_grad_enabled(wants_graph()), self._circumstances():
            out = self._func(*args, **kwargs)
        if added is not None:
            out = out + added.reshape(bias_shape(kinded.kind, kinded.attrs, added))
        return out

    def _takes_bias(self, bias: Any) -> bool:
        """Whether the call has a place for the bias, left empty: input, weight, None."""
        return (
            self._kinded.kind in (Op.CONV, Op.DENSE)
            and isinstance(self._spec, tuple)
            and self._spec[0] > 2
            and self._flat[2] is None
            and 2 not in self._places
            and isinstance(bias, Tensor)
            and bias.dim() == 1
        )

    def traced(self, inputs: Sequence[Tensor]) -> Any:
        """Run again with a graph."""
        args, kwargs = rebuild(self._with(inputs), self._spec)
        with self._circumstances():
            return self._func(*args, **kwargs)

    def view(self, place: int, *, single: bool, slot: int = 0) -> Callable[[Tensor], Tensor]:
        """The op as a way to read a view out of its operand, for ``memory.Track.chain``."""
        func, spec, flat, where = self._func, self._spec, list(self._flat), self._places[slot]

        def read(array: Tensor) -> Tensor:
            filled = list(flat)
            for i in self._places:
                filled[i] = array
            filled[where] = array
            args, kwargs = rebuild(filled, spec)
            out = func(*args, **kwargs)
            return out if single and isinstance(out, Tensor) else tensors_in(out)[0][place]

        return read


def affine(x: Tensor, params: Mapping[str, Any]) -> Tensor:
    """X * scale + shift, either of which may be absent."""
    with torch.set_grad_enabled(wants_graph()):
        if params.get("scale") is not None:
            x = x * params["scale"]
        return x + params["shift"] if params.get("shift") is not None else x


def bias_shape(kind: Op, attrs: Mapping[str, Any], bias: Tensor) -> tuple[int, ...]:
    """The shape in which a bias broadcasts against the op's output."""
    if kind is Op.CONV and bias.dim() == 1:
        return (-1,) + (1,) * int(attrs["dims"])
    return tuple(bias.shape)
