"""Fold an affine op into the convolution or dense op before it: batch-norm at inference.

Relevance rules then see the one affine map that the pair is. The tape changes, the model does not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...ops import Op
from ...tape import Lazy, Node, Tape, Value
from .closed import ClosedPull
from .nodes import affine, bias_shape

__all__ = ["folded"]


def folded(tape: Tape, keep: Sequence[Value] = ()) -> Tape:
    """The same tape with every AFFINE joined to the CONV, DENSE or AFFINE that alone feeds it.

    keep: values that must stay.
    """
    uses = Counter(id(v) for node in tape.nodes for v in node.into)
    uses.update(id(v) for v in tape.outputs.values() if isinstance(v, Value))
    uses.update(id(v) for v in keep)
    kept: dict[int, Node] = {}
    for node in tape.nodes:
        before = node.into[0].node if node.kind is Op.AFFINE and node.into else None
        if before is not None and uses[id(node.into[0])] == 1 and _joins(before, node):
            del kept[id(before)]
            node = _joined(before, node)
        kept[id(node)] = node
    for index, node in enumerate(kept.values()):
        node.index = index
    tape.nodes[:] = kept.values()
    return tape


def _joins(first: Node, second: Node) -> bool:
    """Whether the second op only rescales and shifts the first op's channels."""
    if first.out[0].shape != second.out[0].shape or first.out[0].dtype != second.out[0].dtype:
        return False
    if first.kind is Op.AFFINE:
        return True
    if first.kind not in (Op.CONV, Op.DENSE) or "weight" not in first.params:
        return False
    if first.attrs.get("reversed"):  # the operand is what multiplies
        return False
    if first.kind is Op.DENSE and first.op not in ("linear", "addmm"):
        if not first.attrs.get("columns"):  # x @ weight, a column of the weight an output
            return False
    if "alpha" in first.attrs and first.attrs["alpha"] != 1:
        return False
    rank = len(first.out[0].shape)
    axis = first.attrs.get("channel_axis", rank - 1)
    return all(_along(p, axis, rank) for p in second.params.values())


def _along(constant: Any, axis: int, rank: int) -> bool:
    """Whether a constant varies along one axis only."""
    if not isinstance(constant, torch.Tensor):
        return True
    shape = (1,) * (rank - constant.dim()) + tuple(constant.shape)
    return all(size == 1 or place == axis for place, size in enumerate(shape))


def _joined(first: Node, second: Node) -> Node:
    pulls, calls = (first._pull, second._pull), (first._call, second._call)
    scale, shift = second.params.get("scale"), second.params.get("shift")
    params: Mapping[str, Any]
    if first.kind is Op.AFFINE:
        params = _composed(first.params, scale, shift)
        attrs = {**first.attrs, **second.attrs}
        if "shift" in params:
            attrs["offset"] = params["shift"]
    else:
        params = _folded(first, scale, shift)
        attrs = {**first.attrs, "offset": lambda: _offset(params, first)}
        if first.attrs.get("offset") is None and shift is None:
            attrs.pop("offset")

    if first._way_back and _lighter(first, scale):
        pull = ClosedPull(_through_weight(params, first), any_batch=True)
    else:
        pull = ClosedPull(
            lambda cotangent: pulls[0](*pulls[1](cotangent)),  # type: ignore[misc]
            any_batch=all(getattr(p, "any_batch", False) for p in pulls),
        )

    def call(x: Any, **changed: Any) -> Any:
        if not changed:
            return calls[1](calls[0](x))  # type: ignore[misc]
        if first.kind is Op.AFFINE:
            return affine(x, {**params, **changed})
        return calls[0](x, **{**params, **changed})  # type: ignore[misc]

    node = Node(
        first.kind, f"{first.op}+{second.op}", first.layer, first.into, second.out,
        params=params, attrs=attrs, xp=first.xp, parts=(first, second), _pull=pull, _call=call,
        _free=first._free, _way_back=first._way_back,
    )  # fmt: skip
    for value in second.out:
        value.node = node
    return node


def _lighter(first: Node, scale: Any) -> bool:
    """Whether rescaling its weight takes less than rescaling a sample of its output."""
    weight = first.params["weight"]
    if isinstance(scale, torch.Tensor) and scale.dtype != weight.dtype:
        return False
    return bool(weight.numel() < math.prod(first.out[0].shape[1:]))


def _through_weight(params: Mapping[str, Any], first: Node) -> Callable[[Any], tuple[Any, ...]]:
    """The way back through the rescaled weight."""
    back: Any = first._way_back
    like = torch.empty(first.into[0].shape, device="meta")
    return lambda cotangent: back(params["weight"], like)(cotangent)


def _composed(params: Mapping[str, Any], scale: Any, shift: Any) -> dict[str, Any]:
    """(x * a + b) * scale + shift, as one scale and shift; absent ones stay absent."""
    out = dict(params)
    if scale is not None:
        out = {k: v * scale for k, v in out.items()}
        out.setdefault("scale", scale)
    if shift is not None:
        out["shift"] = out["shift"] + shift if "shift" in out else shift
    return out


def _folded(first: Node, scale: Any, shift: Any) -> Lazy:
    """Weight and bias of the pair, computed when a rule first asks."""
    makers = {"weight": lambda: _weight(first, scale)}
    if "bias" in first.params or shift is not None:
        makers["bias"] = lambda: _bias(first, scale, shift)
    return Lazy(makers)


@torch.no_grad()
def _weight(first: Node, scale: Any) -> torch.Tensor:
    weight = first.params["weight"].detach()
    if scale is None:
        return weight
    if not isinstance(scale, torch.Tensor) or scale.numel() == 1:
        return weight * _flat(scale)
    flat = scale.reshape(-1)
    if first.op == "addmm" or first.attrs.get("columns"):
        return weight * flat
    if first.attrs.get("transposed"):
        groups = int(first.attrs["groups"])
        shape = weight.shape
        grouped = weight.reshape(groups, shape[0] // groups, shape[1], -1)
        return (grouped * flat.reshape(groups, 1, -1, 1)).reshape(shape)
    return weight * flat.reshape((-1,) + (1,) * (weight.dim() - 1))


@torch.no_grad()
def _bias(first: Node, scale: Any, shift: Any) -> torch.Tensor:
    weight, bias = first.params["weight"], first.params.get("bias")
    total = weight.new_zeros(()) if bias is None else bias.detach()
    if scale is not None:
        total = total * _flat(scale)
    if shift is not None:
        total = total + _flat(shift)
    if total.dim() == 0:
        total = total.expand(first.out[0].shape[first.attrs.get("channel_axis", -1)])
    return total


def _flat(constant: Any) -> Any:
    """One number, or one a channel."""
    if not isinstance(constant, torch.Tensor):
        return constant
    return constant.detach().reshape(() if constant.numel() == 1 else -1)


def _offset(params: Mapping[str, Any], first: Node) -> Any:
    bias = params.get("bias")
    return None if bias is None else bias.reshape(bias_shape(first.kind, first.attrs, bias))
