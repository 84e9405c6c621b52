"""Functions that a model spells out, seen for what they are: norms, softmax, gated units.

``x * rsqrt(mean(x^2) + eps) * weight`` is an RMS-norm, ``x * sigmoid(x)`` an activation. As the
operations they consist of, rules would share relevance between the factors of products that are
none. Each pattern is exact: the operations between one value and one result are those of the
definition, nothing else reads what is in between, and no layer that is asked for is named by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from ...ops import Op
from ...tape import Node, Tape, Value
from ..region import Region, Uses, between
from .functions import wants_graph
from .nodes import Rerun

__all__ = ["recognised"]

SMOOTH = (Op.ACTIVATION, Op.RELU, Op.AFFINE, Op.MUL, Op.ADD)
"""Kinds that a gated unit may consist of, besides casts."""

_DEEPEST = 24  # operations in a gated unit; a GELU by its series has eight


class Found(NamedTuple):
    """What a pattern found: where it begins, and what its last node becomes."""

    leaf: Value
    kind: Op
    op: str
    attrs: dict[str, Any]


def recognised(tape: Tape, keep: Sequence[Value] = ()) -> Tape:
    """The same tape with every pattern replaced by one NORM, SOFTMAX or ACTIVATION.

    keep: values that must stay. Output and gradient stay exactly what they were.
    """
    protected = {id(v) for v in tape.outputs.values() if isinstance(v, Value)}
    uses = Uses(tape.nodes, protected | {id(v) for v in keep})
    gone: set[int] = set()
    for node in tape.nodes:
        found = norm(node) or softmax(node) or gated(node)
        if found is None:
            continue
        inside = between(found.leaf, node)
        names = {id(n) for n in inside}
        inner = [n for n in inside if n is not node]
        if not all(len(n.out) == 1 and uses.only_within(n.out[0], names) for n in inner):
            continue
        gone |= names - {id(node)}
        uses.replaced(found.leaf, names, node)
        _become(node, found, inside, {})
    for node in tape.nodes:
        if node.kind is Op.AFFINE and node.into:
            gone |= _joined(node, node.into[0].node, uses)
    tape.nodes[:] = [n for n in tape.nodes if id(n) not in gone]
    for index, node in enumerate(tape.nodes):
        node.index = index
    return tape


def _become(node: Node, found: Found, inside: list[Node], params: dict[str, Any]) -> None:
    """Make a node stand for all those that lead from the leaf to it."""
    region = Region(inside, found.leaf)
    hidden = [v for n in inside if n is not node for v in n.out]

    def free() -> None:
        region.free()
        for value in hidden:
            value.release()

    node.kind, node.op, node.into = found.kind, found.op, (found.leaf,)
    node.attrs, node.params = dict(found.attrs), params
    node.parts = tuple(n for n in inside if n is not node)
    node._pull, node._free = region.pull, free
    node._call = region.call
    if found.kind is Op.NORM:
        node._call = _norm_call(region, found.attrs, params)


def _joined(node: Node, before: Node, uses: Uses) -> set[int]:
    """Take a norm's scale and shift into it, and a gated unit's factor; the names of what went."""
    recognised_here = bool(before.parts) and before.kind in (Op.NORM, Op.ACTIVATION)
    alone = uses.only_within(before.out[0], {id(node)})
    if not (recognised_here and alone and before.layer == node.layer and _whole(before, node)):
        return set()
    params = dict(before.params)
    if before.kind is Op.ACTIVATION:
        if "shift" in node.params or not _is_scalar(node):
            return set()
    else:
        role = next(iter(node.params), "")
        # An RMS-norm's rule hands everything on, so a shift keeps its own node and its books.
        free = not params if role == "scale" else before.attrs["centre"] and role not in params
        if len(node.params) != 1 or not free:
            return set()
        params[role] = _constant(node.params[role])
    found = Found(before.into[0], before.kind, before.op, dict(before.attrs))
    parts = before.parts
    _become(node, found, [before, node], params)
    node.parts = (*parts, before)
    uses.replaced(found.leaf, {id(before)}, node)
    return {id(before)}


def _whole(first: Node, second: Node) -> bool:
    return first.out[0].shape == second.out[0].shape and first.out[0].dtype == second.out[0].dtype


def _constant(number: Any) -> Any:
    return number.detach() if isinstance(number, torch.Tensor) else torch.tensor(number)


def _norm_call(
    region: Region, attrs: dict[str, Any], params: dict[str, Any]
) -> Callable[..., torch.Tensor]:
    """A norm by its parts; by its definition where a parameter is replaced."""

    def call(x: torch.Tensor, **changed: Any) -> torch.Tensor:
        if not changed:
            return region.call(x)
        given = {**params, **changed}
        with torch.set_grad_enabled(wants_graph()):
            y = x - x.mean(attrs["axes"], keepdim=True) if attrs["centre"] else x
            y = y * torch.rsqrt((y * y).mean(attrs["axes"], keepdim=True) + attrs["epsilon"])
            y = y if given.get("scale") is None else y * given["scale"]
            return y if given.get("shift") is None else y + given["shift"]

    return call


# ---- normalisations


def norm(node: Node) -> Found | None:
    """``x / sqrt(mean(x^2) + eps)``: RMS-norm, or layer norm where x was centred first."""
    if node.kind is not Op.MUL or len(node.into) != 2:
        return None
    divide = bool(node.attrs.get("divide"))
    orders = [node.into] if divide else [node.into, node.into[::-1]]
    for x, g in orders:
        spread = _spread(g, -0.5) if not divide else _spread(g, 0.5)
        if spread is None:
            continue
        squared, axes, epsilon = spread
        attrs = {"axes": axes, "epsilon": epsilon, "centre": False}
        centred = _centred(x, axes)
        if centred is not None and _centred(squared, axes) is centred:
            return Found(centred, Op.NORM, "layer_norm", attrs | {"centre": True})
        if squared is x and tuple(x.shape) == tuple(node.out[0].shape):
            return Found(x, Op.NORM, "rms_norm", attrs)
    return None


def _spread(value: Value, power: float) -> tuple[Value, tuple[int, ...], float] | None:
    """A value that is (mean(d^2) + epsilon) ** power: d, the axes of the mean, epsilon."""
    inner = _raised(value, power)
    if inner is None:
        return None
    epsilon, node = 0.0, inner.node
    if node.kind is Op.AFFINE and node.into:
        shift = _number(node.params.get("shift"))
        if shift is None or "scale" in node.params:
            return None
        epsilon, inner = shift, node.into[0]
    mean = _mean(inner)
    if mean is None:
        return None
    squared = _squared(mean[0])
    return None if squared is None else (squared, mean[1], epsilon)


def _raised(value: Value, power: float) -> Value | None:
    """What was raised to a power: by ``rsqrt``, ``sqrt``, ``1 / sqrt`` or ``pow``."""
    node = value.node
    if node.kind is not Op.ACTIVATION or len(node.into) != 1:
        return None
    if node.op == {0.5: "sqrt", -0.5: "rsqrt"}[power] or _exponent(node) == power:
        return node.into[0]
    inverse = node.op == "reciprocal" or (node.op in ("div", "rdiv") and _dividend(node) == 1)
    return _raised(node.into[0], 0.5) if inverse and power < 0 else None


def _arguments(node: Node) -> list[Any]:
    """What a recorded call was given, with None for its tracked operands."""
    return node._call._flat if isinstance(node._call, Rerun) else []


def _exponent(node: Node) -> float | None:
    given = _arguments(node) if node.op == "pow" else []
    return _number(given[1]) if len(given) > 1 and given[0] is None else None


def _dividend(node: Node) -> float | None:
    numbers = [_number(a) for a in _arguments(node) if a is not None]
    return numbers[0] if len(numbers) == 1 else None


def _number(constant: Any) -> float | None:
    """A constant as one number, if it is one."""
    if isinstance(constant, torch.Tensor) and constant.numel() == 1:
        return float(constant.detach())
    is_number = isinstance(constant, (int, float)) and not isinstance(constant, bool)
    return float(constant) if is_number else None


def _squared(value: Value) -> Value | None:
    node = value.node
    if node.kind is Op.MUL and not node.attrs.get("divide") and node.into[0] is node.into[1]:
        return node.into[0]
    square = node.op == "square" or _exponent(node) == 2
    return node.into[0] if node.kind is Op.ACTIVATION and square else None


def _mean(value: Value) -> tuple[Value, tuple[int, ...]] | None:
    """A value that is a mean with its axes kept: of what, over which axes."""
    return _over(value, Op.AVGPOOL, ("mean",))


def _over(value: Value, kind: Op, ops: tuple[str, ...]) -> tuple[Value, tuple[int, ...]] | None:
    """A value that is taken over some axes, which it keeps: of what, over which."""
    node = value.node
    if node.kind is not kind or node.op not in ops or len(node.into) != 1:
        return None
    before, after = node.into[0].shape, value.shape
    if len(before) != len(after):
        return None
    axes = tuple(i for i, (b, a) in enumerate(zip(before, after, strict=True)) if b != a)
    return (node.into[0], axes) if axes else None


def _centred(value: Value, axes: tuple[int, ...]) -> Value | None:
    """What a value is ``x - mean(x)`` of, if it is."""
    node = value.node
    if node.kind is not Op.ADD or tuple(node.attrs.get("signs", ())) != (1, -1):
        return None
    mean = _mean(node.into[1])
    return node.into[0] if mean is not None and mean == (node.into[0], axes) else None


# ---- softmax


def softmax(node: Node) -> Found | None:
    """``exp(x - max x) / sum(exp(x - max x))`` along one axis, with the maximum or without."""
    if node.kind is not Op.MUL or not node.attrs.get("divide"):
        return None
    top, bottom = node.into
    total = _over(bottom, Op.AVGPOOL, ("sum",))
    if total is None or total[0] is not top or len(total[1]) != 1:
        return None
    if top.node.kind is not Op.ACTIVATION or top.node.op != "exp":
        return None
    x = _unshifted(top.node.into[0], total[1])
    return Found(x, Op.SOFTMAX, "softmax", {"axis": total[1][0], "log": False})


def _unshifted(value: Value, axes: tuple[int, ...]) -> Value:
    """A value before its maximum along the axes was taken off, if that is what happened last."""
    node = value.node
    if node.kind is Op.ADD and tuple(node.attrs.get("signs", ())) == (1, -1):
        x, largest = node.into
        return x if _over(largest, Op.MAXPOOL, ("max", "amax")) == (x, axes) else value
    if node.kind is Op.AFFINE and node.into and set(node.params) == {"shift"}:
        shift, x = node.params["shift"], node.into[0]  # a maximum without a gradient
        if isinstance(shift, torch.Tensor) and shift.dim() == len(x.shape):
            largest = x.array.amax(axes, keepdim=True)
            return x if shift.shape == largest.shape and torch.equal(-shift, largest) else value
    return value


# ---- gated units


def gated(node: Node) -> Found | None:
    """A product of two elementwise functions of one value: SiLU, GELU, hard-swish, mish."""
    if node.kind is not Op.MUL or len(node.out) != 1:
        return None
    shape = node.out[0].shape
    front: dict[int, Value] = {id(v): v for v in node.into}
    bent: set[str] = set()
    for _ in range(_DEEPEST):
        if len(front) == 1:
            leaf = next(iter(front.values()))
            whole = bool(bent) and leaf.shape == shape
            return Found(leaf, Op.ACTIVATION, _gate_name(bent), {}) if whole else None
        value = max(front.values(), key=lambda v: v.node.index)  # the last one made
        inner = value.node
        if not _elementwise(inner) or value.shape != shape:
            return None
        if inner.kind in (Op.ACTIVATION, Op.RELU):
            bent.add(inner.op)
        del front[id(value)]
        front.update({id(v): v for v in inner.into})
    return None


def _elementwise(node: Node) -> bool:
    """Whether a node maps each number by itself, with numbers the same for all elements."""
    if len(node.out) != 1 or not node.into:
        return False
    if node.kind is Op.SHAPE:
        return node.attrs.get("move") == "same" and node.op in _CASTS
    if node.kind is Op.AFFINE:
        return _is_scalar(node)
    return node.kind in SMOOTH


_CASTS = frozenset({"to", "float", "double", "half", "bfloat16", "type", "type_as", "clone"})


def _is_scalar(node: Node) -> bool:
    return all(_number(p) is not None for p in node.params.values())


def _gate_name(ops: set[str]) -> str:
    """What a gated unit is called, by the functions in it."""
    if ops & {"erf", "erfc"} or (ops - {"pow", "square"}) == {"tanh"}:
        return "gelu" if ops & {"erf", "erfc", "pow"} else "gated"
    if ops & {"relu6", "clamp", "clip", "hardtanh"} and len(ops) == 1:
        return "hardswish"
    return "silu" if ops == {"sigmoid"} else "gated"
