"""Products in which one factor decides and the other carries: gates, and attention weights."""

from __future__ import annotations

from typing import Any

from ..backward import Split
from ..ops import Op
from ..tape import Array, Node, Value
from .affine import shares_of
from .attention import halves, product, summed_to

__all__ = ["gate_of", "signal", "stopped", "values_only"]

_SATURATING = ("sigmoid", "hardsigmoid", "hard_sigmoid")


def _source(value: Value, depth: int = 10) -> Value:
    """What a factor was before it was moved, scaled or shifted by constants."""
    node = value.node
    while depth and node.kind in (Op.SHAPE, Op.AFFINE) and len(node.into) == 1:
        value, depth = node.into[0], depth - 1
        node = value.node
    return value


def _saturates(node: Node) -> bool:
    sigmoid = node.kind is Op.ACTIVATION and node.op.lower() in _SATURATING
    return node.kind is Op.SOFTMAX or sigmoid


def _activates(node: Node) -> bool:
    return node.kind in (Op.ACTIVATION, Op.RELU)


def gate_of(node: Node) -> int | None:
    """Which of two factors is the gate; None if the two cannot be told apart.

    The gate is a sigmoid or a softmax, else any activation.
    """
    sources = [_source(v).node for v in node.into]
    for decides in (_saturates, _activates):
        hits = [decides(n) for n in sources]
        if sum(hits) == 1:
            return hits.index(True)
    return None


def signal(node: Node, relevance: Array) -> tuple[Array, ...] | Split:
    """Signal takes all: the gate gets nothing [arras2017]; half each where neither is the gate."""
    gate = gate_of(node)
    if gate is None or node.attrs.get("divide"):
        return halves(node, relevance)
    xp: Any = node.xp
    carried = summed_to(xp, relevance, node.into[1 - gate].shape)
    nothing = xp.zeros_like(node.inputs[gate])
    return (nothing, carried) if gate == 0 else (carried, nothing)


def values_only(node: Node, relevance: Array) -> tuple[Array, ...] | Split:
    """A matrix product with attention weights: held constant, the values take all [ali2022].

    Any other product gives half to each factor.
    """
    gate = gate_of(node)
    if gate is None or _source(node.into[gate]).node.kind is not Op.SOFTMAX:
        return product(node, relevance)
    xp: Any = node.xp
    z = node.output
    shares = shares_of(node, relevance, z)
    pulled = node.pull(shares)
    parts = [xp.zeros_like(p) for p in pulled]
    parts[1 - gate] = node.inputs[1 - gate] * pulled[1 - gate]
    return Split(tuple(parts), lambda total: {"epsilon": total(relevance) - total(shares, z)})


def stopped(node: Node, relevance: Array) -> Split:
    """Attention weights held constant: what arrives at a softmax ends there [ali2022]."""
    xp: Any = node.xp
    nothing = tuple(xp.zeros_like(x) for x in node.inputs)
    return Split(nothing, lambda total: {"softmax": total(relevance)})
