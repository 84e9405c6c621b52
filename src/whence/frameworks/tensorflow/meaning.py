"""An operation as it was seen, and what it means on the tape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ops import Op
from ...tape import Array, Node, Value
from .cells import Cell
from .steps import Params, Step

__all__ = ["CUT", "RAGGED", "SHAPE_OF", "Meaning", "Sight", "Table", "affine_params", "text"]

CUT = frozenset(
    "StopGradient Shape ShapeN Size Rank ZerosLike OnesLike ArgMax ArgMin Floor Ceil Round Rint "
    "Sign OneHot Equal NotEqual Less LessEqual Greater GreaterEqual LogicalAnd LogicalOr "
    "LogicalNot IsNan IsInf IsFinite Where Bucketize InTopKV2 Range Fill NextAfter Bincount "
    "ApproximateEqual BroadcastArgs NonMaxSuppressionV3".split()
)
"""Operations that no gradient passes, whatever type they return."""

SHAPE_OF = frozenset({"Shape", "ShapeN", "Size", "Rank"})
"""Operations that read nothing but the shape of their operand."""

RAGGED: dict[str, tuple[int, ...]] = {
    "Where": (),
    "Unique": (),
    "UniqueV2": (),
    "UniqueWithCounts": (),
    "ListDiff": (),
    "DynamicPartition": (),
    "NonMaxSuppressionV3": (),
    "NonMaxSuppressionV4": (),
    "NonMaxSuppressionV5": (),
    "Range": (0, 1, 2),
    "Fill": (0,),
    "Tile": (1,),
    "BroadcastTo": (1,),
    "Reshape": (1,),
    "Slice": (1, 2),
    "StridedSlice": (1, 2, 3),
    "Pad": (1,),
    "PadV2": (1,),
    "OneHot": (1,),
}
"""Where the shape of a result depends on numbers: which operands decide it; () for always."""


@dataclass
class Sight:
    """An operation as the tables below see it."""

    op: str
    attr: Callable[..., Any]
    inputs: Sequence[Cell]
    slots: Sequence[int]
    results: Sequence[Array]

    @property
    def slot(self) -> int:
        """The first tracked operand."""
        return self.slots[0]

    def single(self, *among: int) -> bool:
        """Whether exactly one operand is tracked (and is one of these)."""
        return len(self.slots) == 1 and (not among or self.slot in among)

    def array(self, i: int) -> Array:
        """An operand's array."""
        return self.inputs[i].array

    def number(self, i: int) -> np.ndarray | None:
        """An operand's numbers where they are fixed."""
        return self.inputs[i].number

    def rank(self, i: int) -> int:
        """An operand's number of axes."""
        return int(self.array(i).shape.rank or 0)


@dataclass
class Meaning:
    """A kind, with the operands that are its parameters."""

    kind: Op
    operands: Mapping[str, int] = field(default_factory=dict)
    """Parameter name -> which operand holds it."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    scale: Callable[[], Array] | None = None
    shift: Callable[[], Array] | None = None
    """The factor and the summand of an AFFINE."""
    extents: tuple[tuple[int, ...], ...] = ()
    """The shapes of the factor and the summand."""
    fixed: bool = False
    """Whether the factor or summand is known while tracing."""
    minus: Value | None = None
    """The value that is subtracted, where its gradient was stopped."""
    features: tuple[int, ...] = ()
    """The axes of the output that the weight alone makes, where a bias may lie."""
    spread: Callable[[Array], Array] | None = None
    """Lays numbers along the features out so that they broadcast against the weight."""

    def fill(self, node: Node, step: Step) -> None:
        """Give a node its parameters and attributes."""
        step.params = dict(self.operands)
        makers = {name: held(step.operands[i]) for name, i in self.operands.items()}
        node.attrs = dict(self.attrs)
        if self.kind is Op.AFFINE:
            makers = affine_params(self.scale, self.shift)
            if self.shift is not None:
                node.attrs["offset"] = self.shift
            node._call = affine_call(step, self.scale, self.shift)
        node.params = Params(makers)


def held(array: Array) -> Callable[[], Array]:
    """The maker of what is there already."""
    return lambda: array


def affine_params(
    scale: Callable[[], Array] | None, shift: Callable[[], Array] | None
) -> dict[str, Callable[[], Array]]:
    """The makers of an affine node's parameters; one that is absent is left out."""
    return {k: v for k, v in (("scale", scale), ("shift", shift)) if v is not None}


def affine_call(
    step: Step, scale: Callable[[], Array] | None, shift: Callable[[], Array] | None
) -> Callable[..., Array]:
    """Run ``x * scale + shift`` again: as the operation itself, or with other numbers."""

    def call(x: Array, **changed: Array) -> Array:
        if not changed:
            return step.call(x)
        factor = changed.get("scale", scale() if scale else None)
        summand = changed.get("shift", shift() if shift else None)
        y = x if factor is None else x * factor
        return y if summand is None else y + summand

    return call


Table = Callable[[Sight], Meaning]
"""What an operation means, given how it was seen."""


def text(value: Any) -> Any:
    """Text attributes come as bytes."""
    return value.decode() if isinstance(value, bytes) else value
