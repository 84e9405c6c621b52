"""Relevance rules for ops that hand relevance on: activations, selections, moves of data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..backward import Split
from ..ops import Op
from ..tape import Array, Node
from .affine import stabilise

__all__ = ["Pass", "passed", "proportional", "transported"]


@dataclass(frozen=True)
class Pass:
    """Activations hand relevance on as it is, also at zero and where f(0) is not 0 [bach2015]."""

    def __call__(self, node: Node, relevance: Array) -> tuple[Array, ...]:
        """Relevance of the output in, the same out."""
        return (relevance,)


passed = Pass()


def transported(node: Node, relevance: Any) -> tuple[Array, ...] | Split:
    """Ops that move or select data carry relevance to where the data came from.

    What arrives at constants that were joined in (a class token, padding) is absorbed there.
    """
    given = relevance if isinstance(relevance, tuple) else (relevance,)
    parts = node.pull(*given)
    move = node.attrs.get("move")
    takes = node.kind is not Op.SHAPE or move == "reshape" or node.attrs.get("takes")
    only_moves = takes or isinstance(move, tuple)
    if len(given) > 1 or (only_moves and not (isinstance(move, tuple) and move[0] == "concat")):
        return parts
    return Split(parts, lambda total: {"constant": total(given[0], _constant(node))})


def _constant(node: Node) -> Array:
    """1 where the output of a data-moving op does not come from a tracked operand, else 0."""
    xp: Any = node.xp
    low = node.call(*(xp.zeros_like(x) for x in node.inputs))
    high = node.call(*(xp.ones_like(x) for x in node.inputs))
    if isinstance(high, (tuple, list)):  # one piece of a split into one
        place = node.results[0].index
        low, high = low[place], high[place]
    return xp.where(high == low, xp.ones_like(high), xp.zeros_like(high))


def proportional(node: Node, relevance: Any) -> Split:
    """X * J^T (R / s(z)) for an op of unknown structure: the user's explicit choice.

    How far the op is from linear is what it loses, booked as ``unknown``.
    """
    given = relevance if isinstance(relevance, tuple) else (relevance,)
    shares = [r / stabilise(node, v.array, 1e-6) for r, v in zip(given, node.results, strict=True)]
    parts = tuple(x * p for x, p in zip(node.inputs, node.pull(*shares), strict=True))
    return Split(parts, lambda total: {}, rest="unknown")
