"""Relevance rules for ops that are linear in each operand: dense, convolution, sums, averages.

With x the operands, z the output, J the op's Jacobian and R the relevance arriving at z, in units
of the explained output: ``s(z) = z + eps * sign(z)``, sign(0) = +1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..backward import Split, Total
from ..errors import OptionError
from ..ops import Op
from ..tape import Array, Node

__all__ = ["Epsilon", "Norm", "finite", "shares_of", "stabilise"]

_HALF = ("float16", "bfloat16")
_FRESH = (Op.DENSE, Op.CONV)
"""Ops whose pull makes a new array, which may then be written to."""


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


def shares_of(node: Node, relevance: Array, z: Array, eps: float = 1e-6, side: int = 0) -> Array:
    """R / s(z): how much relevance falls to one unit of an output.

    side: 1 if z is known to be nowhere negative, -1 if nowhere positive.
    """
    xp: Any = node.xp
    if xp.dtype(z) in _HALF:
        return relevance / stabilise(node, z, eps)
    return relevance / (z + side * eps) if side else xp.shares(relevance, z, eps)


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
    masked: bool = field(default=False, repr=False)
    """For sums that end in a softmax, whose terms may be -inf: no relevance comes back there, and
    0 * inf is not a number."""

    def __post_init__(self) -> None:
        if not self.eps >= 0:
            raise OptionError(f"Epsilon needs eps >= 0, the stabiliser; got {self.eps!r}")

    def __call__(self, node: Node, relevance: Array) -> Split:
        """Relevance of the output in, of each operand out."""
        xp: Any = node.xp
        z = node.output
        shares = shares_of(node, relevance, z, self.eps)
        inputs, offset = node.inputs, node.offset
        if self.masked:
            inputs = tuple(finite(xp, x) for x in inputs)
        pulled = node.pull(shares)
        if node.kind in _FRESH:
            parts = tuple(xp.scaled(p, x) for x, p in zip(inputs, pulled, strict=True))
        else:
            parts = tuple(x * p for x, p in zip(inputs, pulled, strict=True))

        def absorbed(total: Total) -> Mapping[str, Array]:
            kept = finite(xp, z) if self.masked else z
            books = {"epsilon": total(relevance) - total(shares, kept)}
            if offset is not None:
                shift = xp.asarray(offset, like=shares)
                books["bias"] = total(shares, finite(xp, shift) if self.masked else shift)
            return books

        return Split(parts, absorbed)


@dataclass(frozen=True)
class Norm(Epsilon):
    """Sums and averages share in proportion, x * J^T (R / s(z)) [montavon2018].

    It is epsilon, under the name that the field uses at pooling.
    """
