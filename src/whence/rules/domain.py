"""Deep Taylor's rules: an operand's domain says where the root point lies [montavon2017]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..backward import Rule, Split, Total
from ..errors import OptionError
from ..ops import Op
from ..tape import Array, Node, Value
from .affine import shares_of
from .parts import nonnegative
from .rooted import Box, WSquare
from .signed import ZPlus

__all__ = ["Domain", "Raised"]


@dataclass(frozen=True)
class Domain:
    """The rule that the operand's domain asks for, op by op.

    z+ (without the bias) where the tape shows that the operand has no negative element: it was
    rectified, or is a selection, average or sum of such. z^B between ``low`` and ``high`` at the
    input itself, where they are given. w^2 everywhere else: the operand may be any number.
    An elementwise op has one term an output, which takes all.

    low, high: bounds of the model's input as for ``Box``, both or neither. Raises OptionError for
    one alone, and what ``Box`` raises.
    """

    low: Any = None
    high: Any = None
    kinds: ClassVar[tuple[Op, ...]] = (Op.DENSE, Op.CONV, Op.AFFINE)

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise OptionError(
                "deep-taylor needs both bounds of the input, low and high, or neither"
            )
        if self.low is not None:
            Box(self.low, self.high)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Domain) and self._bounds() == other._bounds()

    def __hash__(self) -> int:
        return hash(self._bounds())

    def _bounds(self) -> Box | None:
        return None if self.low is None else Box(self.low, self.high)

    def for_node(self, node: Node) -> Rule:
        """The rule of one op."""
        (operand,) = node.into
        if node.kind is Op.AFFINE:
            return WSquare()
        if nonnegative(operand):
            return ZPlus(bias="ignore")
        if self.low is not None and _is_input(operand):
            return Box(self.low, self.high)
        return WSquare()

    @property
    def __name__(self) -> str:
        """What tables of a composite show; a plan shows what each op gets."""
        first = "" if self.low is None else f"Box({self.low!r}, {self.high!r}) at the input, "
        return first + "ZPlus(bias='ignore') where not negative, else WSquare()"

    def __call__(self, node: Node, relevance: Array) -> Any:
        """The rule of the op, applied."""
        return self.for_node(node)(node, relevance)


def _is_input(value: Value) -> bool:
    """Whether an array is the model's input, or was moved only."""
    while value.node.kind is Op.SHAPE and len(value.node.into) == 1:
        value = value.node.into[0]
    return value.node.kind is Op.INPUT


@dataclass(frozen=True)
class Raised:
    """Sums and averages share among the terms that raised them: x+ / sum of x+ of what arrives.

    Where no term is above zero all of them take the same share (an average: by its weights), so
    that nothing is lost and no relevance changes its sign.
    """

    def __call__(self, node: Node, relevance: Array) -> Split:
        """Relevance of the result in, of each term out."""
        xp: Any = node.xp
        signs = node.attrs.get("signs") or (1,) * len(node.into)
        zero = [xp.zeros_like(x) for x in node.inputs]
        raising = [
            xp.where(x * s > 0, x, z) for x, s, z in zip(node.inputs, signs, zero, strict=True)
        ]
        units = [z + 1.0 / s for s, z in zip(signs, zero, strict=True)]
        up, pull = node.rerun(*raising)
        count, pull_evenly = node.rerun(*units)
        offset = node.offset
        if offset is not None:  # a constant among the terms takes no part
            up, count = (a - xp.asarray(offset, like=a) for a in (up, count))
        nothing = xp.zeros_like(relevance)
        shares = xp.where(up > 0, shares_of(node, relevance, up), nothing)
        even = xp.where(up > 0, nothing, relevance / count)
        parts = tuple(
            r * a + u * b
            for r, a, u, b in zip(raising, pull(shares), units, pull_evenly(even), strict=True)
        )

        def absorbed(total: Total) -> Mapping[str, Array]:
            return {"epsilon": total(relevance) - total(shares, up) - total(even, count)}

        return Split(parts, absorbed)
