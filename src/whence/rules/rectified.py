"""Deconvolution and guided backpropagation: the gradient, but not through rectifiers.

Both differ from the gradient at RELU ops only, however these were spelled (ReLU, ReLU6, leaky and
parametric ReLU, a clamp at zero); pooling, convolutions and the rest pull as they are.
"""

from __future__ import annotations

from ..backward import Rule
from ..ops import Op
from ..tape import Array, Node
from .gradient import GRADIENT

__all__ = ["DECONVOLUTION", "GUIDED", "deconvolution", "guided"]


def deconvolution(node: Node, relevance: Array) -> tuple[Array, ...]:
    """Rectify the signal that comes back, whatever the forward activation was [zeiler2014]."""
    xp = node.xp
    return (xp.maximum(relevance, 0.0),)  # type: ignore[union-attr]


def guided(node: Node, relevance: Array) -> tuple[Array, ...]:
    """Let back what is positive, and only where the unit was active [springenberg2015]."""
    xp = node.xp
    return node.pull(xp.maximum(relevance, 0.0))  # type: ignore[union-attr]


DECONVOLUTION: dict[Op, Rule] = GRADIENT | {Op.RELU: deconvolution}
GUIDED: dict[Op, Rule] = GRADIENT | {Op.RELU: guided}
