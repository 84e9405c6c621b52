"""Where the samples are in an array of the tape, so that sums can be taken per sample.

A model may move its batch: attention merges it with heads, windows with positions, recurrent
layers put time first. Along the batch axis an index is always ``(outer, sample, inner)`` in row
order, and reshapes, transposes and joins change that in a way that shapes alone decide.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from .arrays import Functions
from .ops import Op
from .tape import Array, Node, Tape, Value

__all__ = ["Layout", "layouts", "per_sample"]


class Layout(NamedTuple):
    """Samples run along ``axis``; there, index = (outer index * samples + sample) * inner + rest."""

    axis: int
    inner: int = 1


def layouts(tape: Tape, samples: int) -> dict[Value, Layout | None]:
    """The layout of every value; None where a reshape split the batch itself."""
    found: dict[Value, Layout | None] = {}
    for node in tape.nodes:
        before = next((found[v] for v in node.into if found.get(v) is not None), None)
        for value in node.out:
            if not node.into:
                found[value] = Layout(0) if _fits(value.shape, Layout(0), samples) else None
            elif before is None:
                found[value] = None
            else:
                found[value] = _after(node, value, before, samples)
    return found


def _fits(shape: tuple[int, ...], layout: Layout, samples: int) -> bool:
    return len(shape) > layout.axis and shape[layout.axis] % (samples * layout.inner) == 0


def _after(node: Node, value: Value, before: Layout, samples: int) -> Layout | None:
    operand = next(v for v in node.into if v.shape)
    old, new = _widest(node).shape, value.shape
    move = node.attrs.get("move", "same") if node.kind is Op.SHAPE else "keep"
    if move == "reshape":
        return _reshaped(old, new, before, samples)
    if isinstance(move, tuple) and move[0] == "transpose":
        return Layout(move[1].index(before.axis), before.inner)
    if isinstance(move, tuple) and move[0] == "stack":
        axis = move[1] % len(new)
        return Layout(before.axis + (axis <= before.axis), before.inner)
    # Everything else leaves the batch where it is, counted from the end if the front grew or shrank.
    for axis in (before.axis, before.axis + len(new) - len(operand.shape)):
        layout = Layout(axis, before.inner)
        if 0 <= axis < len(new) and new[axis] == old[before.axis] and _fits(new, layout, samples):
            return layout
    return None


def _widest(node: Node) -> Value:
    return max(node.into, key=lambda v: (len(v.shape), prod(v.shape)))


def _reshaped(
    old: tuple[int, ...], new: tuple[int, ...], before: Layout, samples: int
) -> Layout | None:
    """In memory order, neighbouring samples stay the same distance apart, whatever the axes."""
    distance = before.inner * prod(old[before.axis + 1 :])
    for axis in range(len(new)):
        behind = prod(new[axis + 1 :])
        if behind and distance % behind == 0:
            layout = Layout(axis, distance // behind)
            if _fits(new, layout, samples):
                return layout
    return None


def per_sample(
    xp: Functions, array: Array, other: Array | None, layout: Layout | None, samples: int
) -> Array:
    """Sum of ``array`` (or of array * other) for each sample. (...) -> (samples,)

    Where the layout is unknown the sum over the whole batch is shared out evenly.
    """
    shape = tuple(xp.shape(array))
    if layout is None:
        flat = xp.reshape(array, (1, *shape))
        whole = xp.inner(flat, xp.ones_like(flat) if other is None else other)
        return xp.broadcast_to(whole / samples, (samples,))
    if layout.axis == 0 and layout.inner == 1 and shape[0] == samples:
        return xp.inner(array, xp.ones_like(array) if other is None else other)
    if other is not None:
        array = array * other
    size = shape[layout.axis]
    outer = size // (samples * layout.inner)
    split = (*shape[: layout.axis], outer, samples, layout.inner, *shape[layout.axis + 1 :])
    rest = tuple(i for i in range(len(split)) if i != layout.axis + 1)
    wide = xp.reshape(xp.cast(array, _wide(xp.dtype(array))), split)
    return xp.sum(wide, axis=rest)


def _wide(dtype: str) -> str:
    return "float32" if dtype in ("float16", "bfloat16") else dtype
