"""Where the samples are in an array of the tape, so that sums can be taken per sample.

A model may move its batch: attention merges it with heads, windows with positions, recurrent
layers put time first. Along the batch axis an index is always ``(outer, sample, inner)`` in row
order, and reshapes, transposes and joins change that in a way that shapes alone decide. Where two
axes of one length leave it open, the operation itself is asked.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from .arrays import Functions
from .ops import Op
from .tape import Array, Node, Tape, Value

__all__ = ["Layout", "layouts", "per_sample"]


class Layout(NamedTuple):
    """Samples run along ``axis``; there, index = (outer * samples + sample) * inner + rest."""

    axis: int
    inner: int = 1


def layouts(tape: Tape, samples: int) -> dict[Value, Layout | None]:
    """The layout of every value; None where a reshape split the batch itself."""
    found: dict[Value, Layout | None] = {}
    for node in tape.nodes:
        # The largest operand that is known leads: a broadcast one has fewer axes than the result.
        known = [v for v in node.into if found.get(v) is not None]
        lead = max(known, key=lambda v: (len(v.shape), prod(v.shape)), default=None)
        for value in node.out:
            if not node.into:
                found[value] = Layout(0) if _fits(value.shape, Layout(0), samples) else None
            elif lead is None:
                found[value] = None
            else:
                found[value] = _after(node, value, lead, found[lead], samples)
    return found


def _fits(shape: tuple[int, ...], layout: Layout, samples: int) -> bool:
    return len(shape) > layout.axis and shape[layout.axis] % (samples * layout.inner) == 0


def _after(
    node: Node, value: Value, lead: Value, before: Layout | None, samples: int
) -> Layout | None:
    if before is None:
        return None
    old, new = lead.shape, value.shape
    move = node.attrs.get("move", "same") if node.kind is Op.SHAPE else "keep"
    if move == "reshape":
        return _reshaped(old, new, before, samples)
    if isinstance(move, tuple) and move[0] == "transpose":
        return Layout(move[1].index(before.axis), before.inner)
    if isinstance(move, tuple) and move[0] == "stack":
        axis = move[1] % len(new)
        return Layout(before.axis + (axis <= before.axis), before.inner)
    if isinstance(move, tuple) and move[0] == "concat" and move[1] % len(new) == before.axis:
        # Batches one after another: more of the outer index, if all of them lie alike.
        return before if _fits(new, before, samples) else None
    # Everything else leaves the batch where it is, counted from either end if axes come or go.
    fitting = [
        Layout(axis, before.inner)
        for axis in dict.fromkeys((before.axis, before.axis + len(new) - len(old)))
        if 0 <= axis < len(new) and new[axis] == old[before.axis]
    ]
    fitting = [layout for layout in fitting if _fits(new, layout, samples)]
    if len(fitting) == 1 or samples == 1:
        return fitting[0] if fitting else None
    if not fitting and node.kind is not Op.SHAPE:
        return None
    return _asked(node, value, lead, before, samples) or (fitting[0] if fitting else None)


def _asked(node: Node, value: Value, lead: Value, before: Layout, samples: int) -> Layout | None:
    """Shapes leave it open: run the op on an array whose elements are their sample's number.

    None where the result does not show it; while a graph is traced, where there are no numbers to
    look at; and for a product, whose operands would both have to be marked.
    """
    xp: Any = node.xp
    held = lead.array
    if len(node.into) > 1 or not hasattr(held, "numpy"):
        return None
    mark = np.broadcast_to(_numbered(lead.shape, before, samples), lead.shape)
    mark = xp.cast(xp.asarray(mark.astype(np.float32), like=held), xp.dtype(held))
    result = node.call(xp.zeros_like(held) + mark)  # laid out in memory as the operand is
    if isinstance(result, (tuple, list)):
        result = result[value.index]
    seen = np.asarray(xp.to_numpy(result), np.float64)
    # A sum multiplies each number by how many were summed; what was padded in is zero.
    seen = seen / max(np.abs(seen).min(where=seen != 0, initial=np.inf), 1e-30)
    for axis, size in enumerate(value.shape):
        for inner in range(1, size // samples + 1):
            layout = Layout(axis, inner)
            if not _fits(value.shape, layout, samples):
                continue
            wanted = np.broadcast_to(_numbered(value.shape, layout, samples), seen.shape)
            if seen.any() and np.allclose(seen, np.where(seen == 0, 0, wanted), rtol=1e-3):
                return layout
    return None


def _numbered(shape: tuple[int, ...], layout: Layout, samples: int) -> np.ndarray:
    """1 for the first sample, 2 for the second..., along the layout's axis."""
    sample = np.arange(shape[layout.axis]) // layout.inner % samples + 1
    return sample.reshape([-1 if i == layout.axis else 1 for i in range(len(shape))])


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
    """Sum of ``array``, or of array * other, for each sample: (...) -> (samples,).

    Where the layout is unknown the sum over the whole batch is shared out evenly.
    """
    shape = tuple(xp.shape(array))
    if layout is None:
        flat = xp.reshape(array, (1, *shape))
        whole = xp.inner(flat, xp.ones_like(flat) if other is None else other)
        return xp.broadcast_to(whole / samples, (samples,))
    if layout.axis == 0 and layout.inner == 1 and shape[0] == samples:
        if other is not None:
            return xp.inner(array, other)
        wide = xp.cast(array, _wide(xp.dtype(array)))
        return xp.sum(wide, axis=tuple(range(1, len(shape)))) if len(shape) > 1 else wide
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
