"""An affine op's output taken apart by sign: which inputs and weights pushed it up, which down.

Every rule with modified weights is built from the same piece: run the op on the positive and on the
negative part of its operand, with a weight of its own for each, and keep the way back. Operands
that are known not to be negative need one run instead of two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from ..errors import OptionError
from ..ops import Op
from ..tape import Array, Node, Value

__all__ = [
    "BIAS", "Change", "Sides", "check_bias", "negative", "nonnegative", "positive", "signed_run",
    "spread_evenly", "weight_name", "weights_of",
]  # fmt: skip

BIAS = ("absorb", "ignore", "distribute")
"""What a rule does with the bias: it takes its share, it is left out, or its share is spread evenly
over the inputs that contribute."""


def check_bias(rule: str, bias: str) -> None:
    """Raise OptionError for another word."""
    if bias not in BIAS:
        raise OptionError(
            f"{rule} needs bias to be one of {', '.join(map(repr, BIAS))}; got {bias!r}"
        )


def positive(xp: Any, array: Array) -> Array:
    """max(array, 0)."""
    return xp.maximum(array, 0.0)


def negative(xp: Any, array: Array) -> Array:
    """min(array, 0), keeping its sign."""
    return xp.minimum(array, 0.0)


def weight_name(node: Node) -> str:
    """The parameter that multiplies: ``weight``, or ``scale`` of an elementwise op."""
    return "scale" if node.kind is Op.AFFINE else "weight"


_KEEPS_SIGN = (Op.MAXPOOL, Op.SHAPE)


def nonnegative(value: Value, depth: int = 12) -> bool:
    """Whether the tape itself shows that an array has no negative element.

    It was rectified, or is a selection, average or sum of such.
    """
    node = value.node
    if node.kind is Op.RELU:
        slope = node.attrs.get("slope", 0.0)
        return isinstance(slope, (int, float)) and slope == 0
    if node.kind is Op.SOFTMAX:
        return not node.attrs.get("log")
    if depth == 0 or not node.into:
        return False
    if node.kind is Op.ADD and any(s < 0 for s in node.attrs.get("signs", ())):
        return False
    if node.kind is Op.SHAPE and _fills_in(node):
        return False
    if node.kind is Op.AVGPOOL and "cubic" in str(node.attrs.get("mode", node.op)):
        return False  # weights of either sign
    if node.kind in (*_KEEPS_SIGN, Op.AVGPOOL, Op.ADD):
        return all(nonnegative(v, depth - 1) for v in node.into)
    return False


def _fills_in(node: Node) -> bool:
    """Whether a move may put in a constant of either sign: padding, a class token."""
    move = node.attrs.get("move")
    if isinstance(move, tuple) and move[0] in ("concat", "stack"):
        out = node.out[0].shape
        return sum(prod(v.shape) for v in node.into) != prod(out)
    return not (move in ("reshape", "view") or isinstance(move, tuple))


@dataclass(frozen=True)
class Sides:
    """The output of a signed run, and the way from shares of it back to the operand."""

    output: Array
    back: Callable[[Array], Array]
    """shares (like the output) -> operand times what the weights pull back, (batch, *in)."""


Change = Callable[[Any, Array], Array]
"""``change(xp, weight)``: a weight made from a weight."""


def signed_run(
    node: Node, weight: Array, bias: Array | None,
    changes: tuple[Change, Change] = (positive, negative),
) -> Sides:  # fmt: skip
    """``f(x+; W1, bias) + f(x-; W2)`` with the changed weights W1 and W2.

    As it stands, what pushed the output up; with ``changes=(negative, positive)`` what pushed it
    down. An operand that is not negative needs one run.
    """
    xp: Any = node.xp
    first, second = changes
    (x,) = node.inputs
    if nonnegative(node.into[0]):
        return run_with(node, first(xp, weight), bias)
    above = positive(xp, x)
    one = run_with(node, first(xp, weight), bias, above)
    other = run_with(node, second(xp, weight), None, x - above)
    return Sides(one.output + other.output, lambda shares: one.back(shares) + other.back(shares))


def run_with(node: Node, weight: Array, bias: Array | None, operand: Array | None = None) -> Sides:
    """The op with another weight and bias (None: without), on its own or another operand."""
    xp: Any = node.xp
    x = node.inputs[0] if operand is None else operand
    name = weight_name(node)
    offset = "shift" if name == "scale" else "bias"
    output, pull = node.rerun(x, **{name: weight, offset: bias})
    return Sides(output, lambda shares: xp.scaled(pull(shares)[0], x))


def weights_of(node: Node) -> tuple[Array, Array | None]:
    """(weight, bias or None) of an affine op; an op that only adds has weight one."""
    xp: Any = node.xp
    name = weight_name(node)
    weight = node.params.get(name)
    if weight is None and name == "weight":
        raise OptionError(
            f"{node.kind}.{node.op} at layer {node.layer or '(top)'} has no single constant "
            "weight, so rules that change weights cannot be used there; Epsilon can"
        )
    weight = xp.asarray(1.0 if weight is None else weight, like=node.inputs[0])
    bias = node.params.get("shift" if name == "scale" else "bias")
    return weight, None if bias is None else xp.asarray(bias, like=node.inputs[0])


def spread_evenly(node: Node, amount: Array) -> Array:
    """An amount at each output, spread in equal shares over the operand's elements that it sees."""
    xp: Any = node.xp
    x = node.inputs[0]
    here, there = tuple(xp.shape(x)), tuple(xp.shape(amount))
    if node.kind is Op.DENSE and here[:-1] == there[:-1]:
        # Every input sees every output. One sum, which rounds less than a product with ones: all
        # inputs would get the same rounding error.
        return xp.broadcast_to(xp.sum(amount, axis=-1, keepdims=True) / here[-1], here)
    weight, _ = weights_of(node)
    name = weight_name(node)
    none = {"shift" if name == "scale" else "bias": None}
    count, pull = node.rerun(xp.ones_like(x), **{name: xp.ones_like(weight)}, **none)
    return pull(amount / xp.maximum(count, 1.0))[0]
