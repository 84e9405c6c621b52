"""The rescale rule for every kind of operation, and the books in units of the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...arrays import Array
from ...backward import Row, Rule
from ...ops import Op
from ...tape import Node, Value
from .coupled import normalised, softmax
from .elementwise import is_inverse, midpoint, moved, quotient, rescale, scaled_by_inverse
from .halves import Halves, wide
from .selection import ORDERED, selected

__all__ = ["DeepRule", "Ledgered", "rescale_rule", "unknown_by_gradient"]

DeepRule = Callable[[Node, Any, Halves], tuple[Any, ...]]
"""``rule(node, multiplier, halves)``: the multiplier of the result in, of each operand out. Arrays
are shaped like the values, and the same for input and reference."""

LEFT = {"moved": "constant", "ordered": "selection", "opaque": "unknown"}
"""Rules that may leave something over, and the reason under which it is booked."""

_BY_NUMBERS = frozenset(
    (
        *("where", "masked_fill", "masked_scatter", "masked_select", "gather", "take", "index"),
        *("take_along_dim", "index_select", "index_put", "index_fill", "index_copy", "scatter"),
        *("Select", "SelectV2", "GatherV2", "GatherNd", "DynamicStitch", "TensorScatterUpdate"),
    )
)
"""Moves of data whose places may depend on the input without a gradient's knowing it."""


_COSTLY = frozenset({Op.CONV, Op.DENSE})
"""Ops beside which taking halves apart and joining them again costs little."""


def linear(node: Node, multiplier: Any, halves: Halves) -> tuple[Array, ...]:
    """Ops that are linear in each operand, with the same constants for x and x0: the gradient's.

    Multipliers are the same for both, so where the op allows it only one half is carried back.
    """
    if isinstance(multiplier, tuple):
        return node.pull(*multiplier)
    if node.kind in _COSTLY and node.pulls_any_batch and halves.leads(node):
        (operand,) = node.into
        (half,) = node.pull(halves.first(node.results[0], multiplier))
        return (halves.twice(operand, half),)
    return node.pull(multiplier)


def ordered(node: Node, multiplier: Any, halves: Halves) -> tuple[Array, ...]:
    """Sorted values: by the midpoint. What changed by another element's taking the rank is left."""
    return midpoint(node, multiplier, halves)


def opaque(node: Node, multiplier: Any, halves: Halves) -> tuple[Array, ...]:
    """An op of unknown structure by its mean gradient at x and x0: the user's explicit choice."""
    return midpoint(node, multiplier, halves)


def _product(node: Node) -> DeepRule:
    if node.attrs.get("divide"):
        return quotient
    return scaled_by_inverse if any(map(is_inverse, node.into)) else midpoint


def _selection(node: Node) -> DeepRule:
    return ordered if node.op in ORDERED else selected


def _affine(node: Node) -> DeepRule:
    """A factor that has the samples' axis was made from the input, by a detach or a comparison."""
    shape = node.out[0].shape
    same = node.into[0].shape == shape
    held = [node.params.get(k) for k in ("scale", "shift")]
    shapes = [tuple(h.shape) for h in held if h is not None and hasattr(h, "shape")]
    samples = any(len(s) == len(shape) and s[0] == shape[0] > 1 for s in shapes)
    return moved if samples and same else linear


def _shape(node: Node) -> DeepRule:
    return moved if node.op in _BY_NUMBERS else linear


_CHOICES: dict[Op, Callable[[Node], DeepRule]] = {
    **dict.fromkeys((Op.DENSE, Op.CONV, Op.ADD, Op.AVGPOOL), lambda node: linear),
    Op.AFFINE: _affine,
    Op.SHAPE: _shape,
    Op.MUL: _product,
    Op.MATMUL: lambda node: midpoint,
    Op.RELU: lambda node: rescale,
    Op.ACTIVATION: lambda node: rescale,
    Op.MAXPOOL: _selection,
    Op.SOFTMAX: lambda node: softmax,
    Op.NORM: lambda node: normalised,
}


def rescale_rule(node: Node) -> DeepRule | None:
    """The rule of an op; None for OPAQUE ones."""
    choice = _CHOICES.get(node.kind)
    return choice(node) if choice else None


def unknown_by_gradient(choose: Callable[[Node], DeepRule | None]) -> Callable[[Node], DeepRule]:
    """The same choice, and the mean gradient for ops without a rule."""
    return lambda node: choose(node) or opaque


class Ledgered:
    """DeepLIFT's rules as the walk wants them, with the books kept in contributions.

    The walk carries multipliers; an op's row holds what they amount to, m * (x - x0) summed over
    each sample: what came to its results, and what went on to its operands.
    """

    def __init__(self, halves: Halves, keep_books: bool) -> None:
        self.halves = halves
        self.keep_books = keep_books
        self.rows: list[Row] = []
        self._leading: set[Value] = set()
        self._used: list[tuple[DeepRule, Node]] = []
        self._sums: dict[Value, tuple[Any, Array]] = {}

    def lead(self, nodes: Iterable[Node], at: Iterable[Value]) -> None:
        """Say which ops are walked and where to: what goes elsewhere passes around."""
        self._leading = set(at).union(*(node.out for node in nodes))

    def prepare(self, values: Iterable[Value]) -> None:
        """Take the differences where the attribution is read, while the arrays are there."""
        for value in values:
            self.halves.delta(value)

    @property
    def notes(self) -> list[str]:
        """Which ops went without a rule, by the user's choice."""
        guessed = [r for r in self._used if r[0] is opaque]
        ops = list(dict.fromkeys(f"{n.op} at {n.layer or '(top)'}" for _, n in guessed))
        if not ops:
            return []
        shown = ", ".join(ops[:4]) + (f" and {len(ops) - 4} more" if len(ops) > 4 else "")
        return [
            f'unknown="gradient": no rule for {shown}; its mean gradient at input and reference '
            "was taken"
        ]

    def carried(self, parts: tuple[Any, ...]) -> tuple[Any, ...]:
        """Multipliers as the walk adds them up."""
        return parts

    def rule(self, deep: DeepRule) -> Rule:
        """A rule for the walk."""

        def walked(node: Node, multiplier: Any) -> tuple[Any, ...]:
            self._used.append((deep, node))
            parts = self.carried(deep(node, multiplier, self.halves))
            if self.keep_books:
                given = multiplier if isinstance(multiplier, tuple) else (multiplier,)
                self._book(node, deep, dict(zip(node.results, given, strict=True)), parts)
            for value in node.out:
                self.halves.forget(value)
            return parts

        return walked

    def amount(self, value: Value, multiplier: Any) -> Array:
        """What a multiplier at a value amounts to, per sample.

        Kept until the op that made the value is booked: with one reader, what went on to a value is
        what came to its op.
        """
        held = self._sums.get(value)
        if held is None or held[0] is not multiplier:
            held = (multiplier, self.of(value, multiplier))
            self._sums[value] = held
        return held[1]

    def contributions(self, value: Value, multiplier: Any) -> Array:
        """Multiplier times difference, element by element, a half."""
        return wide(value.node.xp, self.halves.first(value, multiplier)) * self.halves.delta(value)

    def of(self, value: Value, multiplier: Any) -> Array:
        """Multiplier times difference, summed over each sample, (samples,)."""
        return self.halves.contribution(value, multiplier)

    def _book(
        self, node: Node, deep: DeepRule, given: Mapping[Value, Any], parts: tuple[Any, ...]
    ) -> None:
        known = self.halves.knows
        if not all(known(v) for v in (*given, *node.into)):
            return  # the samples lie mixed there; the ops around it keep the books
        came = sum(self.amount(v, m) for v, m in given.items())
        for value in given:
            self._sums.pop(value, None)
        pairs = list(zip(node.into, parts, strict=True))
        on = [self.amount(v, m) for v, m in pairs if v in self._leading]
        around = [self.of(v, m) for v, m in pairs if v not in self._leading]
        went: Any = sum(on[1:], on[0]) if on else came * 0.0
        absorbed = {"around": sum(around[1:], around[0])} if around else {}
        name = deep.__name__
        if name in LEFT:
            absorbed[LEFT[name]] = came - went - sum(absorbed.values())
        self.rows.append(
            Row(node.index, node.layer, node.op, str(node.kind), name, came, went, absorbed)
        )
