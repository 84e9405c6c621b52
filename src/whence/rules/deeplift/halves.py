"""Input and reference in one batch: where each is in an array, and how far they are apart.

The model runs once on ``[x; x0]``. In every array of its tape the samples lie along one axis, on
which an index is ``(outer, half, sample, inner)`` in row order; ``whence.layout`` says which axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...arrays import Array
from ...errors import MissingRule
from ...layout import Layout, layouts, per_sample
from ...ops import Op
from ...tape import Node, Tape, Value

__all__ = ["Halves", "ambiguous"]


class Halves:
    """Takes the arrays of a tape apart into those of the input and those of the reference.

    samples: how many there are of each. places: where they lie, if that is known already.
    Arrays called ``half`` hold one of the two, ``both`` one after the other.
    """

    def __init__(
        self, tape: Tape, samples: int, places: Mapping[Value, Layout | None] | None = None
    ) -> None:
        self.samples = samples
        self.places = dict(places) if places else layouts(tape, 2 * samples)
        self._masked = _maybe_infinite(tape)
        self._deltas: dict[Value, Array] = {}

    def knows(self, value: Value) -> bool:
        """Whether the samples can be told apart in a value."""
        return self.places.get(value) is not None

    def leads(self, node: Node) -> bool:
        """Whether the samples run along the first axis of an op's operands and results."""
        return all(
            (place := self.places.get(v)) is not None
            and place.axis == 0
            and v.shape[0] == 2 * self.samples * place.inner
            for v in (*node.into, *node.results)
        )

    def layout(self, value: Value) -> Layout:
        """Where the samples are. Raises MissingRule where a reshape has split the batch itself."""
        layout = self.places.get(value)
        if layout is None:
            node = value.node
            raise MissingRule(
                f"DeepLIFT cannot tell input and reference apart in the output of {node.kind}."
                f"{node.op} at layer {node.layer or '(top)'}, node {node.index} of the tape, shape "
                f"{value.shape}: what ran there mixed the samples of the batch, or picked some of "
                "them by their numbers. A gradient or perturbation method needs no such order"
            )
        return layout

    def _split(self, value: Value) -> tuple[tuple[int, ...], int]:
        """A shape with an axis of its own for the halves, and which axis that is."""
        axis, inner = self.layout(value)
        shape = value.shape
        rest = self.samples * inner
        outer = shape[axis] // (2 * rest)
        return (*shape[:axis], outer, 2, rest, *shape[axis + 1 :]), axis + 1

    def half_shape(self, value: Value) -> tuple[int, ...]:
        """The shape of one half of a value."""
        axis = self.layout(value).axis
        shape = value.shape
        return (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])

    def of(self, value: Value, both: Array) -> tuple[Array, Array]:
        """An array shaped like a value -> (what belongs to x, what belongs to x0)."""
        shape, at = self._split(value)
        ahead: tuple[Any, ...] = (slice(None),) * (at - 1)
        if shape[at - 1] == 1:
            rest = shape[at + 1]
            return both[(*ahead, slice(0, rest))], both[(*ahead, slice(rest, 2 * rest))]
        xp: Any = value.node.xp
        apart = xp.reshape(both, shape)
        half = self.half_shape(value)
        one, other = (apart[(*ahead, slice(None), slice(i, i + 1))] for i in (0, 1))
        return xp.reshape(one, half), xp.reshape(other, half)

    def first(self, value: Value, both: Array) -> Array:
        """The half that belongs to x; of a multiplier, which is the same in both."""
        return self.of(value, both)[0]

    def join(self, value: Value, one: Array, other: Array) -> Array:
        """Two halves in one array, shaped like a value."""
        xp: Any = value.node.xp
        shape, at = self._split(value)
        if shape[at - 1] == 1:
            return xp.concat([one, other], axis=at - 1)
        single = (*shape[:at], 1, *shape[at + 1 :])
        parts = [xp.reshape(half, single) for half in (one, other)]
        return xp.reshape(xp.concat(parts, axis=at), value.shape)

    def twice(self, value: Value, half: Array) -> Array:
        """The same half for both."""
        return self.join(value, half, half)

    def times(self, value: Value, both: Array, half: Array) -> Array:
        """Both halves of an array multiplied by the same half."""
        xp: Any = value.node.xp
        shape, at = self._split(value)
        single = (*shape[:at], 1, *shape[at + 1 :])
        return xp.reshape(xp.reshape(both, shape) * xp.reshape(half, single), value.shape)

    def mean(self, value: Value, both: Array) -> Array:
        """The average of the two halves."""
        one, other = self.of(value, both)
        return (one + other) * 0.5

    def delta(self, value: Value) -> Array:
        """The difference x - x0 at a value, a half; 0 where either is infinite (a mask).

        Kept until ``forget``. Half precision is widened, so that a difference keeps its digits.
        """
        if value not in self._deltas:
            xp: Any = value.node.xp
            one, other = (wide(xp, a) for a in self.of(value, value.array))
            apart = one - other
            if value in self._masked:
                apart = xp.where(xp.isfinite(apart), apart, 0.0)
            self._deltas[value] = apart
        return self._deltas[value]

    def forget(self, value: Value) -> None:
        """Let go of a difference."""
        self._deltas.pop(value, None)

    def total(self, value: Value, half: Array) -> Array:
        """The sum of a half over each sample, (samples,)."""
        xp: Any = value.node.xp
        return per_sample(xp, half, None, self.layout(value), self.samples)

    def contribution(self, value: Value, multiplier: Array) -> Array:
        """Multiplier times difference, summed over each sample, (samples,)."""
        xp: Any = value.node.xp
        half = wide(xp, self.first(value, multiplier))
        layout = self.layout(value)
        return per_sample(xp, half, self.delta(value), layout, self.samples)


_UNBOUNDED = frozenset(
    "log log2 log10 log1p rsqrt reciprocal inv rdiv pow logit digamma xlogy atanh".split()
)
"""Elementwise functions of finite numbers that may be infinite."""


def _maybe_infinite(tape: Tape) -> set[Value]:
    """Values that may hold infinite numbers: scores that are masked before a softmax, poles."""
    found: set[Value] = set()
    for node in reversed(tape.nodes):
        pole = node.kind is Op.ACTIVATION and node.op.lower() in _UNBOUNDED
        leads = node.kind in (Op.SHAPE, Op.ADD, Op.AFFINE) and any(v in found for v in node.out)
        if node.kind is Op.SOFTMAX or leads:
            found.update(node.into)
        if pole or node.kind is Op.SOFTMAX:
            found.update(node.out)
    return found


def ambiguous(tape: Tape, halves: Halves) -> bool:
    """Whether an op without numbers (in a graph that is traced) left open which axis is the batch.

    That is so where an axis came or went, and two axes are as long as the batch.
    """
    for node in tape.nodes:
        if node.kind is Op.SHAPE and node.attrs.get("move") in ("reshape", "same"):
            continue
        for value in node.out:
            for operand in node.into:
                layout = halves.places.get(operand)
                if layout is None or hasattr(operand.array, "numpy"):
                    continue
                old, new, axis = operand.shape, value.shape, layout.axis
                other = axis + len(new) - len(old)
                ends = [a for a in {axis, other} if 0 <= a < len(new) and new[a] == old[axis]]
                if len(ends) > 1:
                    return True
    return False


def wide(xp: Any, array: Array) -> Array:
    """At least single precision."""
    return xp.cast(array, "float32") if xp.dtype(array) in ("float16", "bfloat16") else array


def narrow(xp: Any, array: Array, like: Array) -> Array:
    """Back to the type of another array."""
    return array if xp.dtype(array) == xp.dtype(like) else xp.cast(array, xp.dtype(like))
