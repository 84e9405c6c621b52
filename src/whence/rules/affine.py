"""Relevance rules for ops that are linear in each operand: dense, convolution, sums, averages.

With x the operands, z the output, J the op's Jacobian and R the relevance arriving at z, in units
of the explained output: ``s(z) = z + eps * sign(z)``, sign(0) = +1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..backward import Split, Total
from ..errors import OptionError
from ..ops import Op
from ..tape import Array, Node

__all__ = ["Epsilon", "Norm", "finite", "stabilise"]

_HALF = ("float16", "bfloat16")


def stabilise(node: Node, array: Array, eps: float) -> Array:
    """``array`` moved away from zero by eps, on its own side; zero moves up.

    In half precision eps is taken in units of each sample's root mean square, so that it neither
    vanishes nor overflows.
    """
    xp: Any = node.xp
    shift: Any = eps
    if xp.dtype(array) in _HALF:
        wide = xp.cast(array, "float32")
        axes = tuple(range(1, len(xp.shape(array))))
        rms = xp.sqrt(xp.mean(wide * wide, axis=axes, keepdims=True))
        shift = xp.cast(xp.maximum(rms, 1.0) * max(eps, 1e-3), xp.dtype(array))
    return xp.where(array >= 0, array + shift, array - shift)


def finite(xp: Any, array: Array) -> Array:
    """``array`` with zeros where it is not finite."""
    return xp.where(xp.isfinite(array), array, xp.zeros_like(array))


@dataclass(frozen=True)
class Epsilon:
    """LRP-epsilon: x * J^T (R / s(z)), for ops that are linear in each operand [bach2015].

    eps: how far the denominator is kept from zero, in units of the op's output; 0 is LRP-0.
    The bias absorbs its share b R / s(z), and eps the share eps sign(z) R / s(z).
    Raises OptionError if eps < 0.
    """

    eps: float = 1e-6

    def __post_init__(self) -> None:
        if not self.eps >= 0:
            raise OptionError(f"Epsilon needs eps >= 0, the stabiliser; got {self.eps!r}")

    def __call__(self, node: Node, relevance: Array) -> Split:
        """Relevance of the output in, of each operand out."""
        xp: Any = node.xp
        z = node.output
        shares = relevance / stabilise(node, z, self.eps)
        inputs = node.inputs
        if node.kind is Op.ADD:
            # A mask of -inf may be added to scores. No relevance comes back there; 0 * inf is NaN.
            inputs = tuple(finite(xp, x) for x in inputs)
        parts = tuple(x * p for x, p in zip(inputs, node.pull(shares), strict=True))
        offset = node.offset

        def absorbed(total: Total) -> Mapping[str, Array]:
            masked = node.kind in (Op.ADD, Op.AFFINE)
            books = {"epsilon": total(relevance) - total(shares, finite(xp, z) if masked else z)}
            if offset is not None:
                shift = xp.asarray(offset, like=shares)
                books["bias"] = total(shares, finite(xp, shift) if masked else shift)
            return books

        return Split(parts, absorbed)


@dataclass(frozen=True)
class Norm(Epsilon):
    """Sums and averages share in proportion, x * J^T (R / s(z)): epsilon under the name that the field
    uses at pooling [montavon2018].
    """
