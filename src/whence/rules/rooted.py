"""Rules for the first affine op, whose operand is the input itself [montavon2017, bach2015].

Pixels have bounds and may be zero or negative without being absent, so the share of an input
element is measured from a bound, or by the weights alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backward import Split, Total
from ..errors import OptionError
from ..tape import Array, Node
from .affine import shares_of
from .parts import negative, positive, weight_name, weights_of

__all__ = ["Box", "Flat", "WSquare"]


def _by_weights(node: Node, relevance: Array, weight: Array, bias: Array | None) -> Split:
    """weight^T R / s(sum of weight (+ bias)): the operand's values play no part."""
    xp: Any = node.xp
    name = weight_name(node)
    offset = "shift" if name == "scale" else "bias"
    z, pull = node.rerun(xp.ones_like(node.inputs[0]), **{name: weight, offset: bias})
    shares = shares_of(node, relevance, z)
    empty = xp.where(z == 0, relevance, xp.zeros_like(relevance))

    def absorbed(total: Total) -> Mapping[str, Array]:
        lost = total(empty)
        books = {"epsilon": total(relevance) - total(shares, z) - lost, "empty": lost}
        if bias is not None:
            aligned = xp.reshape(bias, xp.shape(xp.asarray(node.offset, like=z)))
            books["bias"] = total(shares, aligned)
        return books

    return Split(pull(shares), absorbed)


@dataclass(frozen=True)
class WSquare:
    """LRP-w^2: (W^2)^T R / s(sum W^2), for inputs without bounds [montavon2017].

    bias: whether b^2 takes its share too, as some implementations have it.
    """

    bias: bool = False

    def __call__(self, node: Node, relevance: Array) -> Split:
        """Relevance of the output in, of the operand out."""
        weight, bias = weights_of(node)
        squared = None if bias is None or not self.bias else bias * bias
        return _by_weights(node, relevance, weight * weight, squared)


@dataclass(frozen=True)
class Flat:
    """LRP-flat: every input element that an output sees takes the same share [lapuschkin2019]."""

    def __call__(self, node: Node, relevance: Array) -> Split:
        """Relevance of the output in, of the operand out."""
        xp: Any = node.xp
        weight, _ = weights_of(node)
        return _by_weights(node, relevance, xp.ones_like(weight), None)


@dataclass(frozen=True, eq=False)
class Box:
    """LRP-z^B: (xW - lW+ - hW-)^T R / s(same), for pixels between low and high [montavon2017].

    low, high: in the op's operand's units: a number, one a channel, or an array that broadcasts
    to one sample. Padding that the op adds is not input: bounds are zero there. The bias takes no
    part. Raises OptionError where low is above high or a bound does not fit.
    """

    low: Any = None
    high: Any = None

    def __post_init__(self) -> None:
        if self.low is None or self.high is None:
            raise OptionError(
                "Box needs the bounds of the input, low and high, in the model's units: for pixels "
                "in 0..1 normalised with mean and std they are (0 - mean) / std and "
                "(1 - mean) / std"
            )
        if not np.all(_numpy(self.low) <= _numpy(self.high)):
            raise OptionError(f"Box needs low <= high; got low={self.low!r}, high={self.high!r}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and all(
            np.array_equal(_numpy(a), _numpy(b))
            for a, b in ((self.low, other.low), (self.high, other.high))
        )

    def __hash__(self) -> int:
        return hash((_numpy(self.low).tobytes(), _numpy(self.high).tobytes()))

    def __call__(self, node: Node, relevance: Array) -> Split:
        """Relevance of the output in, of the operand out."""
        xp: Any = node.xp
        (x,) = node.inputs
        weight, _ = weights_of(node)
        name = weight_name(node)
        none = {"shift" if name == "scale" else "bias": None}
        low, high = (self._bound(node, b, x) for b in (self.low, self.high))
        middle, pull = node.rerun(x, **{name: weight}, **none)
        bottom, pull_low = node.rerun(low, **{name: positive(xp, weight)}, **none)
        top, pull_high = node.rerun(high, **{name: negative(xp, weight)}, **none)
        z = middle - bottom - top
        shares = shares_of(node, relevance, z)
        part = x * pull(shares)[0] - low * pull_low(shares)[0] - high * pull_high(shares)[0]
        return Split((part,), lambda total: {"epsilon": total(relevance) - total(shares, z)})

    def _bound(self, node: Node, bound: Any, x: Array) -> Array:
        """A bound as an array like the operand."""
        xp: Any = node.xp
        array = _numpy(bound).astype(np.float64)
        shape = xp.shape(x)
        axis = _channel_axis(node, len(shape))
        if array.ndim == 1 and array.size == shape[axis]:
            array = array.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        try:
            fits = np.broadcast_shapes(array.shape, tuple(shape)) == tuple(shape)
        except ValueError:
            fits = False
        if not fits:
            raise OptionError(
                f"Box's bound has shape {array.shape}, which does not fit the operand "
                f"{tuple(shape)}: give a number, {shape[axis]} numbers (one a channel), or an "
                "array that broadcasts"
            )
        return xp.zeros_like(x) + xp.cast(xp.asarray(array, like=x), xp.dtype(x))


def _channel_axis(node: Node, rank: int) -> int:
    axis = node.attrs.get("channel_axis")
    return rank - 1 if axis is None else int(axis) % rank


def _numpy(bound: Any) -> np.ndarray:
    return np.asarray(bound.detach().cpu() if hasattr(bound, "detach") else bound)
