"""The gradient as a rule table: every op answers with its own vector-Jacobian product."""

from __future__ import annotations

from ..backward import Rule
from ..ops import Op
from ..tape import Array, Node

__all__ = ["GRADIENT", "gradient"]


def gradient(node: Node, relevance: Array) -> tuple[Array, ...]:
    """The chain rule [baehrens2010]: cotangents of the results in, of the operands out."""
    return node.pull(*relevance) if isinstance(relevance, tuple) else node.pull(relevance)


GRADIENT: dict[Op, Rule] = dict.fromkeys(Op, gradient)
