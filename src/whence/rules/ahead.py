"""An elementwise affine op ahead of a convolution or dense op becomes part of it.

Recorders fold batch-norm into the affine op before it. Where there is none (a normalised input,
batch-norm without a rectifier behind it) it belongs to the affine op after it: a rule would else
share out x * scale + shift element by element, which divides by numbers around zero and leaves to
``shift`` what the inputs did.

The pair is exact at every border. A padded convolution pads what the affine op gave, not its
operand, so that the bias of the pair differs from place to place; it is kept as an array like one
sample of the output rather than as one number a channel.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..ops import Op
from ..tape import Array, Lazy, Node, Tape, Value

__all__ = ["fold_ahead"]


def fold_ahead(tape: Tape, keep: Collection[str] = ()) -> None:
    """Join every AFFINE that only DENSE and CONV ops read to each of these, on the tape itself.

    keep: layers (``name``, or ``name#2`` for a call) whose outputs must stay.
    """
    readers: dict[Value, list[Node]] = {}
    for node in tape.nodes:
        for value in node.into:
            readers.setdefault(value, []).append(node)
    needed = {v for v in tape.outputs.values() if isinstance(v, Value)}
    for name in keep:
        records = tape.layers.get(name) or tape.layers.get(name.partition("#")[0]) or ()
        needed.update(v for record in records for v in record.values)
    nodes: dict[Node, Node | None] = {node: node for node in tape.nodes}
    for node in tape.nodes:
        if node.kind is not Op.AFFINE or len(node.out) != 1 or node.out[0] in needed:
            continue
        after = readers.get(node.out[0], [])
        if after and all(_joins(node, n, tape) for n in after):
            nodes[node] = None
            for each in after:
                nodes[each] = _joined(node, each, tape.framework, alone=len(after) == 1)
    tape.nodes[:] = [n for n in nodes.values() if n is not None]
    for index, node in enumerate(tape.nodes):
        node.index = index


def _joins(first: Node, second: Node, tape: Tape) -> bool:
    """Whether the first op only rescales and shifts the channels that the second one reads."""
    value = first.out[0]
    if second.kind not in (Op.CONV, Op.DENSE) or len(second.into) != 1:
        return False
    if first.into[0].shape != value.shape or first.into[0].dtype != value.dtype:
        return False
    axis = _operand_axis(second, len(value.shape))
    if axis is None or _laid_out(second, tape.framework) is None:
        return False
    count = value.shape[axis]
    return all(
        _along(tuple(int(n) for n in getattr(p, "shape", ())), axis, len(value.shape), count)
        for p in first.params.values()
    )


def _along(shape: tuple[int, ...], axis: int, rank: int, count: int) -> bool:
    """Whether a constant of that shape varies along one axis at most."""
    if len(shape) > rank:
        return False
    whole = (1,) * (rank - len(shape)) + shape
    return all(n == 1 or (i == axis and n == count) for i, n in enumerate(whole))


def _operand_axis(node: Node, rank: int) -> int | None:
    """Which axis of its operand an op mixes."""
    if node.kind is Op.DENSE:
        return rank - 1
    axis = node.attrs.get("channel_axis")
    return None if axis is None else int(axis) % rank


def _laid_out(node: Node, framework: str) -> str | None:
    """Which axis of the weight counts the operand's channels, in words; None where unknown."""
    weight = node.params.get("weight")
    if weight is None or node.attrs.get("alpha", 1) != 1:
        return None
    groups, turned = node.attrs.get("groups", 1), node.attrs.get("transposed")
    name = node.op.split("+")[0]
    if framework == "torch":
        if node.kind is Op.DENSE:
            if name == "linear":
                return "last"
            upright = node.attrs.get("columns") or name == "addmm"
            return "first" if upright else None
        if turned:
            return "first"
        return "second" if groups == 1 else "second of a group"
    if node.kind is Op.DENSE:
        plain = name == "MatMul" and node.attrs.get("slot") == 0
        return None if not plain else "last" if node.attrs.get("transpose") else "first"
    if node.attrs.get("depthwise"):
        return "last but one"
    if groups != 1:
        return "last but one of a group"
    return "last" if turned else "last but one"


_PLACES = {"first": 0, "second": 1, "last": -1, "last but one": -2}


def _scaled(xp: Any, weight: Array, scale: Array, layout: str, groups: int) -> Array:
    """The weight times a factor for each channel of the operand. scale: (channels,) or ()."""
    shape = tuple(xp.shape(weight))
    rank = len(shape)
    if xp.shape(scale) == ():
        return weight * scale
    if layout in _PLACES:
        place = _PLACES[layout] % rank
        return weight * xp.reshape(scale, [-1 if i == place else 1 for i in range(rank)])
    outs, per = (0, 1) if layout == "second of a group" else (rank - 1, rank - 2)
    size, inner = shape[outs], shape[per]
    # (groups, channels of a group) -> one row of channels an output of the group.
    rows = xp.reshape(scale, (groups, 1, inner))
    rows = xp.reshape(xp.broadcast_to(rows, (groups, size // groups, inner)), (size, inner))
    if outs > per:
        rows = xp.transpose(rows, (1, 0))
    return weight * xp.reshape(rows, [shape[i] if i in (outs, per) else 1 for i in range(rank)])


def _pair(first: Node, second: Node, layout: str) -> Lazy:
    """Weight and bias of the pair, computed when a rule first asks."""
    xp: Any = first.xp

    def weight() -> Array:
        held, scale = second.params["weight"], first.params.get("scale")
        if scale is None:
            return held
        scale = xp.asarray(scale, like=held)
        flat = xp.reshape(scale, ()) if _size(xp, scale) == 1 else xp.reshape(scale, (-1,))
        return _scaled(xp, held, flat, layout, int(second.attrs.get("groups", 1)))

    def bias() -> Array:
        """What the pair gives for zeros: (1, *out), other at the borders than inside."""
        nothing = xp.zeros_like(first.inputs[0])  # a whole batch: its length may be fixed
        return second.call(first.call(nothing))[:1]

    if "bias" in second.params or first.params.get("shift") is not None:
        return Lazy({"weight": weight, "bias": bias})
    return Lazy({"weight": weight})


def _size(xp: Any, array: Array) -> int:
    count = 1
    for n in xp.shape(array):
        count *= int(n)
    return count


def _joined(first: Node, second: Node, framework: str, alone: bool) -> Node:
    pulls, calls = (first._pull, second._pull), (first._call, second._call)
    # What others pull through as well is not given back by the one that is done first.
    done = (first, second) if alone else (second,)
    frees = [n._free for n in done if n._free is not None]
    layout = _laid_out(second, framework)
    params = _pair(first, second, layout or "")
    attrs = {k: v for k, v in second.attrs.items() if k != "offset"}
    if "bias" in params:
        attrs["offset"] = lambda: params["bias"]

    def pull(cotangent: Array) -> tuple[Array, ...]:
        return pulls[0](*pulls[1](cotangent))  # type: ignore[misc]

    def call(x: Array, **changed: Array) -> Array:
        if not changed:
            return calls[1](calls[0](x))  # type: ignore[misc]
        weight = changed["weight"] if "weight" in changed else params["weight"]
        bias = changed["bias"] if "bias" in changed else params.get("bias")
        z = calls[1](x, weight=weight, bias=None)  # type: ignore[misc]
        return z if bias is None else z + bias

    def free() -> None:
        for each in frees:
            each()

    node = Node(
        second.kind, f"{first.op}+{second.op}", second.layer, first.into, second.out,
        params=params, attrs=attrs, index=second.index, xp=second.xp, parts=(first, second),
        _pull=pull, _call=call, _free=free, _way_back=second._way_back,
    )  # fmt: skip
    for value in second.out:
        value.node = node
    return node
