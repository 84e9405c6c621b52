"""Which arrays a tape holds, and which it makes again when they are read.

What an op's backward reads is held anyway. Relevance rules read more: the result of a linear op and
what went into it. Those are held unless the recording is lean, save where another run of the op
that made them is cheap beside the memory: moved data, and the products inside attention.
"""

from __future__ import annotations

from torch import Tensor

from ...ops import Op
from ...tape import Node, Value
from .names import RANDOM
from .nodes import released

__all__ = ["hold_operands", "holds"]

_RESULTS = frozenset({Op.DENSE, Op.CONV, Op.AFFINE, Op.ADD, Op.AVGPOOL, Op.MUL, Op.NORM, Op.OPAQUE})
"""Kinds whose results rules read."""
_SAVED = frozenset({Op.RELU, Op.SOFTMAX})
"""Kinds whose results their own backward reads: holding them costs nothing."""
_OPERANDS = frozenset(set(Op) - {Op.SHAPE, Op.SOFTMAX, Op.RELU, Op.AFFINE, Op.MATMUL})
"""Kinds whose operands rules read."""
_CHEAP = frozenset({Op.SHAPE, Op.MATMUL})
_FOLDS = frozenset({Op.CONV, Op.DENSE, Op.AFFINE})
"""Kinds that a following AFFINE may be folded into; it alone then holds the result."""


def holds(node: Node, *, lean: bool) -> bool:
    """Whether a node's results are held."""
    if node.op in RANDOM or node.kind in _SAVED:  # another draw would be another result
        return True
    if node.kind is Op.AFFINE and node.into and node.into[0].node.kind in _CHEAP:
        return False
    return not lean and node.kind in _RESULTS


def hold_operands(node: Node, *, lean: bool) -> None:
    """Hold what went into a node, if rules read it; let go what no longer need be held."""
    if lean:
        return
    if node.kind in _OPERANDS:
        for value in node.into:
            if value.node.kind not in _CHEAP:
                value.hold()
    elif node.kind is Op.AFFINE and node.into:
        _let_go(node.into[0])


def _let_go(value: Value) -> None:
    """An affine op's operand is not read again once the two are folded."""
    if value.node.kind in _FOLDS and isinstance(value._array, Tensor):
        value._array = released(value._array, value.node, value.index)
