"""Layer-wise relevance propagation: which op gets which rule [bach2015].

Relevance is in units of the explained output, and its sum is conserved but for what a rule says it
absorbed.
"""

from __future__ import annotations

from ..backward import Rule
from ..ops import Op
from .affine import Epsilon
from .attention import halves, norm, product, softmax
from .flow import passed, transported

__all__ = ["epsilon_table"]


def epsilon_table(eps: float = 1e-6) -> dict[Op, Rule]:
    """One epsilon for every linear op; the rules for the rest as everywhere."""
    linear = Epsilon(eps)
    return {
        Op.DENSE: linear,
        Op.CONV: linear,
        Op.AFFINE: linear,
        Op.ADD: linear,
        Op.AVGPOOL: linear,
        Op.RELU: passed,
        Op.ACTIVATION: passed,
        Op.MAXPOOL: transported,
        Op.SHAPE: transported,
        Op.MUL: halves,
        Op.MATMUL: product,
        Op.SOFTMAX: softmax,
        Op.NORM: norm,
    }
