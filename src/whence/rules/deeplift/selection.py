"""DeepLIFT through selections of extremes: pooling, max and min, of windows, axes or operands."""

from __future__ import annotations

from typing import Any

from ...arrays import Array
from ...tape import Node
from .halves import Halves, narrow, wide

__all__ = ["ORDERED", "contributions", "selected"]

ORDERED = frozenset(
    ("topk", "sort", "msort", "kthvalue", "median", "nanmedian", "mode", "TopKV2", "quantile")
)
"""Selections by rank: the winner's change does not bound the result's."""


def is_lowest(node: Node, place: int) -> bool:
    """Whether a result of the op is a smallest value rather than a largest one."""
    name = node.op.lower()
    return place == 0 if name == "aminmax" else "min" in name


def contributions(node: Node, flows: list[Array], halves: Halves) -> tuple[Array, ...]:
    """What each result's change contributed (halves) -> multipliers of the operands.

    A maximum that rose owes it to the winner in x, one that fell to the winner in x0: that element
    changed at least as much, in the same direction. For a minimum it is the other way round.
    """
    xp: Any = node.xp
    cotangents = []
    for place, (value, flow) in enumerate(zip(node.results, flows, strict=True)):
        rose = halves.delta(value) >= 0
        by_x, by_x0 = xp.where(rose, flow, 0.0), xp.where(rose, 0.0, flow)
        if is_lowest(node, place):
            by_x, by_x0 = by_x0, by_x
        cotangents.append(narrow(xp, halves.join(value, by_x, by_x0), value.array))
    parts = []
    for value, pulled in zip(node.into, node.pull(*cotangents), strict=True):
        one, other = (wide(xp, h) for h in halves.of(value, pulled))
        delta = halves.delta(value)
        still = delta == 0
        safe = xp.where(still, 1.0, delta)
        half = xp.where(still, xp.zeros_like(delta), (one + other) / safe)
        parts.append(halves.twice(value, narrow(xp, half, pulled)))
    return tuple(parts)


def selected(node: Node, multiplier: Any, halves: Halves) -> tuple[Array, ...]:
    """Max-pooling, also with windows that overlap, and every other largest or smallest value."""
    xp: Any = node.xp
    given = multiplier if isinstance(multiplier, tuple) else (multiplier,)
    flows = [
        wide(xp, halves.first(v, m)) * halves.delta(v)
        for v, m in zip(node.results, given, strict=True)
    ]
    return contributions(node, flows, halves)
