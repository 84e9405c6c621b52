"""Functions that come spelled out, seen for what they are: normalisations, softmax, gated units.

Each pattern is exact: a node is replaced only where the operations between one value and one result
are those of the definition, nothing else reads what is in between, and no layer is named by it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from ...ops import Op
from ...tape import Array, Node, Value
from ..region import Region, Uses
from .meaning import Meaning
from .steps import Params

__all__ = ["recognised"]

SMOOTH = (Op.ACTIVATION, Op.RELU, Op.AFFINE, Op.MUL, Op.ADD)
"""Kinds that a gated unit may consist of, besides casts."""

Maker = Callable[[], Array] | None


class Found(NamedTuple):
    """What a pattern found: where it begins, and what the node becomes."""

    leaf: Value
    kind: Op
    op: str
    attrs: dict[str, Any]
    scale: Maker = None
    shift: Maker = None


def recognised(nodes: list[Node], uses: Uses, meanings: dict[int, Meaning]) -> list[Node]:
    """The nodes with every pattern replaced; a replaced node is the last one of its pattern."""
    seen = Seer(uses, meanings)
    gone: set[int] = set()
    for node in nodes:
        patterns = (seen.clamp, seen.norm, seen.rms, seen.softmax, seen.gated)
        found = next(filter(None, (pattern(node) for pattern in patterns)), None)
        if found is None:
            continue
        inside = between(found.leaf, node)
        names = {id(n) for n in inside}
        if not all(uses.only_within(n.out[0], names) for n in inside if n is not node):
            continue
        region = Region(inside, found.leaf)
        gone |= names - {id(node)}
        readers = uses.readers[id(found.leaf)]
        uses.readers[id(found.leaf)] = [*(r for r in readers if id(r) not in names), node]
        node.kind, node.op, node.into = found.kind, found.op, (found.leaf,)
        node.attrs = dict(found.attrs)
        node._pull, node._call, node._free = region.pull, region.call, region.free
        node.params = Params({})
        if found.kind is Op.NORM:
            dress_norm(node, found)
        if found.kind is Op.SOFTMAX:
            node._call = softmax_call(found.attrs["axis"])
        meanings.pop(id(node), None)
    return [n for n in nodes if id(n) not in gone]


def between(leaf: Value, last: Node) -> list[Node]:
    """The nodes on the ways from a value to a node's result, in order."""
    found: dict[int, Node] = {}

    def visit(node: Node) -> None:
        if id(node) in found:
            return
        for value in node.into:
            if value is not leaf:
                visit(value.node)
        found[id(node)] = node

    visit(last)
    return list(found.values())


def dress_norm(node: Node, found: Found) -> None:
    """Give a NORM its parameters and its call.

    It is run by its definition: a mean whose gradient is stopped is a constant of the operations
    that it was spelled in, and would not follow another operand.
    """
    makers = {k: m for k, m in (("scale", found.scale), ("shift", found.shift)) if m is not None}
    node.params = Params(makers)
    axes, epsilon, centre = (found.attrs[k] for k in ("axes", "epsilon", "centre"))

    def call(x: Array, **changed: Array) -> Array:
        y = x - tf.reduce_mean(x, axes, keepdims=True) if centre else x
        y = y * tf.math.rsqrt(tf.reduce_mean(y * y, axes, keepdims=True) + epsilon)
        for name, combine in (("scale", tf.multiply), ("shift", tf.add)):
            made = makers[name]() if name in makers and name not in changed else None
            number = changed.get(name, made)
            y = y if number is None else combine(y, number)
        return y

    node._call = call


def softmax_call(axis: int) -> Callable[..., Array]:
    """Softmax along an axis."""
    return lambda x: tf.nn.softmax(x, axis)


class Seer:
    """Looks back from a node."""

    def __init__(self, uses: Uses, meanings: dict[int, Meaning]) -> None:
        self.uses = uses
        self.meanings = meanings

    def affine(self, value: Value) -> tuple[Value, Maker, Maker] | None:
        """A value that is ``x * scale + shift``: x, scale, shift."""
        meaning = self.meanings.get(id(value.node))
        if value.node.kind is not Op.AFFINE or meaning is None:
            return None
        return value.node.into[0], meaning.scale, meaning.shift

    def scaled(self, value: Value) -> tuple[Value, Maker]:
        """A value with a factor taken off, if it has one and nothing else."""
        found = self.affine(value)
        return (found[0], found[1]) if found and found[1] and not found[2] else (value, None)

    def shifted(self, value: Value) -> tuple[Value, Maker]:
        """A value with a summand taken off, if it has one and nothing else."""
        found = self.affine(value)
        return (found[0], found[2]) if found and found[2] and not found[1] else (value, None)

    def mean(self, value: Value) -> tuple[Value, tuple[int, ...]] | None:
        """A value that is a mean with its axes kept: of what, over which axes."""
        node = value.node
        if node.op != "Mean" or not node.attrs.get("keepdims") or "axes" not in node.attrs:
            return None
        return node.into[0], node.attrs["axes"]

    def spread(self, value: Value, root: str) -> tuple[Value, tuple[int, ...], float] | None:
        """A value that is sqrt(mean(d^2) + epsilon), or one over it: d, axes, epsilon."""
        if value.node.op != root:
            return None
        inner, shift = self.shifted(value.node.into[0])
        epsilon = self.number(value.node.into[0]) if shift else 0.0
        over = self.mean(inner)
        if epsilon is None or over is None or over[0].node.op != "Square":
            return None
        return over[0].node.into[0], over[1], epsilon

    def number(self, value: Value) -> float | None:
        """The one number, known while tracing, that an affine node adds or multiplies by."""
        meaning = self.meanings.get(id(value.node))
        if meaning is None or not meaning.fixed or any(prod(e) != 1 for e in meaning.extents):
            return None
        maker = meaning.scale or meaning.shift
        if maker is None:
            return None
        with tf.init_scope():
            return float(np.reshape(maker().numpy(), ()))

    def is_centred(self, value: Value, x: Value, axes: tuple[int, ...]) -> bool:
        """Whether a value is ``x - mean(x)``, the mean held constant for the gradient or not."""
        node = value.node
        if node.kind is Op.ADD and node.attrs.get("signs") == (1, -1):
            return node.into[0] is x and self.mean(node.into[1]) == (x, axes)
        meaning = self.meanings.get(id(node))
        if node.kind is not Op.AFFINE or meaning is None or meaning.minus is None:
            return False
        return node.into[0] is x and self.mean(meaning.minus) == (x, axes)

    def norm(self, node: Node) -> Found | None:
        """Layer, group or instance norm: ``x * g + (beta - mean * g)`` with g = scale / spread."""
        if node.kind is not Op.ADD or node.attrs.get("signs") != (1, 1):
            return None
        for first, second in (node.into, node.into[::-1]):
            moved, beta = self.shifted(second)
            if first.node.kind is not Op.MUL or moved.node.kind is not Op.MUL:
                continue
            for x, g in (first.node.into, first.node.into[::-1]):
                for mean, again in (moved.node.into, moved.node.into[::-1]):
                    found = self.norm_of(x, g, mean, again)
                    if found is not None:
                        return found._replace(shift=beta)
        return None

    def norm_of(self, x: Value, g: Value, mean: Value, again: Value) -> Found | None:
        """The norm of x, where g is its scale over its spread and mean its negative mean."""
        if g is not again:
            return None
        spread, gamma = self.scaled(g)
        found = self.spread(spread, "Rsqrt")
        positive, sign = self.scaled(mean)
        if found is None or sign is None or self.number(mean) != -1.0:
            return None
        centred, axes, epsilon = found
        if self.mean(positive) != (x, axes) or not self.is_centred(centred, x, axes):
            return None
        attrs = {"axes": axes, "epsilon": epsilon, "centre": True}
        return Found(x, Op.NORM, "LayerNorm", attrs, scale=gamma)

    def rms(self, node: Node) -> Found | None:
        """``x / sqrt(mean(x^2) + epsilon)``: RMS-norm, or layer norm where x was centred first."""
        if node.kind is not Op.MUL:
            return None
        divide = bool(node.attrs.get("divide"))
        orders = [node.into] if divide else [node.into, node.into[::-1]]
        for x, g in orders:
            spread, gamma = (g, None) if divide else self.scaled(g)
            found = self.spread(spread, "Sqrt" if divide else "Rsqrt")
            if found is None or found[0] is not x:
                continue
            _, axes, epsilon = found
            attrs = {"axes": axes, "epsilon": epsilon, "centre": False}
            before = x.node.into[0] if x.node.into else x
            if x.node.kind is Op.ADD and self.is_centred(x, before, axes):
                return Found(before, Op.NORM, "LayerNorm", attrs | {"centre": True}, scale=gamma)
            return Found(x, Op.NORM, "RMSNorm", attrs, scale=gamma)
        return None

    def softmax(self, node: Node) -> Found | None:
        """``exp(x - max) / sum(exp(x - max))`` along one axis."""
        if node.kind is not Op.MUL or not node.attrs.get("divide"):
            return None
        top, bottom = node.into
        total = bottom.node
        axes = total.attrs.get("axes", ())
        if total.op != "Sum" or total.into[0] is not top or not total.attrs.get("keepdims"):
            return None
        if top.node.op != "Exp" or len(axes) != 1:
            return None
        x = top.node.into[0]
        lower, _ = self.shifted(x)
        meaning = self.meanings.get(id(x.node))
        if lower is not x and meaning is not None and meaning.minus is not None:
            largest = meaning.minus.node
            if (
                largest.op == "Max"
                and largest.into[0] is lower
                and largest.attrs.get("axes") == axes
            ):
                x = lower
        elif x.node.kind is Op.ADD and x.node.attrs.get("signs") == (1, -1):
            largest = x.node.into[1].node
            if largest.op == "Max" and largest.into[0] is x.node.into[0]:
                x = x.node.into[0]
        return Found(x, Op.SOFTMAX, "Softmax", {"axis": axes[0], "log": False})

    def clamp(self, node: Node) -> Found | None:
        """A minimum and a maximum, one after the other: a rectifier with a cap, from zero on."""
        before = node.into[0].node if len(node.into) == 1 else node
        if {node.op, before.op} not in ({"Maximum", "Minimum"}, {"Relu", "Minimum"}):
            return None
        bounds = {
            n.op: n.attrs.get("bound", 0.0 if n.op == "Relu" else None) for n in (node, before)
        }
        low, high = bounds.get("Maximum", bounds.get("Relu")), bounds["Minimum"]
        if len(before.into) != 1 or low is None or high is None or low > high:
            return None
        kind, attrs = (Op.RELU, {"cap": high}) if low == 0.0 else (Op.ACTIVATION, {})
        return Found(before.into[0], kind, "Clip", attrs)

    def gated(self, node: Node) -> Found | None:
        """A product of two elementwise functions of one value: GELU, SiLU, hard-swish, mish."""
        if node.kind is not Op.MUL or len(node.out) != 1:
            return None
        shape = node.out[0].shape
        front: dict[int, Value] = {id(v): v for v in node.into}
        bent: set[str] = set()
        for _ in range(16):
            if len(front) == 1:
                leaf = next(iter(front.values()))
                found = Found(leaf, Op.ACTIVATION, gate_name(bent), {})
                return found if bent and leaf.shape == shape else None
            value = max(front.values(), key=lambda v: self.depth(v))
            inner = value.node
            if not self.elementwise(inner) or value.shape != shape:
                return None
            if inner.kind in (Op.ACTIVATION, Op.RELU):
                bent.add(inner.op)
            del front[id(value)]
            front.update({id(v): v for v in inner.into})
        return None

    def depth(self, value: Value) -> int:
        """How late a value was made."""
        return value.node.index

    def elementwise(self, node: Node) -> bool:
        """Whether a node maps each number by itself, with numbers the same for all elements."""
        if node.kind is Op.SHAPE:
            return node.attrs.get("move") == "same" and len(node.into) == 1
        if node.kind not in SMOOTH or len(node.out) != 1:
            return False
        meaning = self.meanings.get(id(node))
        if node.kind is Op.AFFINE:
            return meaning is not None and all(prod(e) == 1 for e in meaning.extents)
        return True


def gate_name(ops: set[str]) -> str:
    """What a gated unit is called, by the functions in it."""
    if ops & {"Erf", "Erfc"} or ops == {"Tanh", "Pow"}:
        return "Gelu"
    return (
        {"Sigmoid": "Silu", "Relu6": "HardSwish"}.get(next(iter(ops)), "Gated")
        if len(ops) == 1
        else "Gated"
    )
