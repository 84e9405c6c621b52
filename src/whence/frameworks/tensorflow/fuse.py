"""From what ran to a tape: operations that are one in mathematics become one node.

A bias joins the convolution or matrix product before it, scales and shifts join each other, and,
unless the tape is to be lean, inference batch-norm joins the operation before it. Every rewrite
keeps outputs and gradients: a joined node runs and pulls through the operations that it is made of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from ...ops import Op
from ...tape import Array, LayerRecord, Node, Tape, Value
from ..region import Region, Uses
from .meaning import Meaning, affine_params
from .patterns import recognised
from .steps import Params

if TYPE_CHECKING:
    from .reader import Reader

__all__ = ["finished"]

Maker = Callable[[], Array] | None
Extents = tuple[tuple[int, ...], ...]


def finished(
    reader: Reader,
    inputs: dict[str, Value],
    outputs: dict[str, Any],
    structure: Callable[[Mapping[str, Any]], Any],
    fold: bool,
    keep: Sequence[str],
) -> Tape:
    """The tape of what a reader ran.

    fold: join batch-norm to the operation before it, unless that is the output of a layer in
    ``keep``.
    """
    layers = by_scope(reader.nodes, unrooted=True) if reader.scopes else reader.records()
    returned = {id(v) for v in outputs.values() if isinstance(v, Value)}
    named = {n: {id(v) for r in records for v in r.values} for n, records in layers.items()}
    # Scopes are no layers: they name what is inside, and do not keep it apart.
    protected = returned if reader.scopes else returned.union(*named.values())
    wanted = {layer.partition("#")[0] for layer in keep} | set(keep)
    kept = returned.union(*(values for name, values in named.items() if name in wanted))
    nodes = numbered(without_dead(reader.nodes, protected))
    nodes = recognised(nodes, Uses(nodes, protected), reader.meanings)
    nodes = numbered(Joiner(nodes, protected, reader.meanings, kept if fold else protected).run())
    if reader.scopes:
        layers = by_scope(nodes)
    return Tape(nodes, inputs, outputs, layers, "tensorflow", "last", reader.notes, structure)


def by_scope(nodes: list[Node], *, unrooted: bool = False) -> dict[str, list[LayerRecord]]:
    """Per name scope, one record with what came out of it last.

    unrooted: first leave out, in the nodes, the scope that all of them are in: the model's own.
    """
    roots = {n.layer.split(".")[0] for n in nodes if n.layer}
    if unrooted and len(roots) == 1 and not roots & {n.layer for n in nodes}:
        for node in nodes:
            node.layer = node.layer.partition(".")[2]
    last: dict[str, Value] = {}
    for node in nodes:
        parts = node.layer.split(".") if node.layer else []
        for i in range(len(parts)):
            last[".".join(parts[: i + 1])] = node.out[0]
    return {name: [LayerRecord(name, "scope", (value,), 0)] for name, value in last.items()}


def numbered(nodes: list[Node]) -> list[Node]:
    """The nodes, each with its place."""
    for i, node in enumerate(nodes):
        node.index = i
    return nodes


def without_dead(nodes: list[Node], protected: set[int]) -> list[Node]:
    """The nodes that lead to an output or to a layer's output."""
    wanted: set[int] = set(protected)
    kept = []
    for node in reversed(nodes):
        if node.kind is Op.INPUT or any(id(v) in wanted for v in node.out):
            wanted.update(id(v) for v in node.into)
            kept.append(node)
    return kept[::-1]


@dataclass(frozen=True)
class Linear:
    """A convolution or matrix product, what is done to its shape around it, and its new factor.

    The output is ``after(core(before(x), weight * scale)) + shift``.
    """

    core: Node
    meaning: Meaning
    call: Callable[..., Array]
    """The core's own, kept: the node is freed when the joined one is."""
    before: tuple[Callable[[Array], Array], ...] = ()
    after: tuple[Callable[[Array], Array], ...] = ()
    features: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    scale: Maker = None
    shift: Maker = None

    def along(self, extent: tuple[int, ...]) -> bool:
        """Whether an array of that shape, against the output, varies along the features alone."""
        shape = (1,) * (len(self.shape) - len(extent)) + extent
        if len(shape) > len(self.shape):
            return False
        return all(
            size == 1 or (i in self.features and size == self.shape[i])
            for i, size in enumerate(shape)
        )

    def weight(self) -> Array:
        """The weight, times the factor."""
        weight = self.core.params["weight"]
        if self.scale is None:
            return weight
        factor = self.scale()
        sizes = [self.shape[i] for i in self.features]
        if tuple(factor.shape) != ():
            padded = [1] * (len(self.shape) - len(factor.shape)) + list(factor.shape)
            kept = [padded[i] for i in self.features]
            own = self.core.out[0].shape
            flat = [own[i] for i in self.meaning.features]
            factor = tf.reshape(tf.broadcast_to(tf.reshape(factor, kept), sizes), flat)
            factor = self.meaning.spread(factor) if self.meaning.spread else factor
        return weight * tf.cast(factor, weight.dtype)

    def run(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """The output for another operand, weight (already with its factor) and bias."""
        for move in self.before:
            x = move(x)
        y = self.call(x, weight=weight)
        for move in self.after:
            y = move(y)
        return y if bias is None else y + bias


@dataclass
class Joiner:
    """Joins nodes, in one pass over the tape."""

    nodes: list[Node]
    protected: set[int]
    """Values that somebody asks for; a bias is joined only to what is not among them."""
    meanings: dict[int, Meaning]
    kept_values: set[int]
    """Those among them that may not be folded away."""

    def run(self) -> list[Node]:
        """The nodes after joining."""
        self.uses = Counter(id(v) for n in self.nodes for v in n.into)
        self.linear: dict[int, Linear] = {}
        self.affine: dict[int, tuple[Maker, Maker, Extents]] = {}
        self.kept: dict[int, Node] = {}
        for node in self.nodes:
            if node.kind in (Op.CONV, Op.DENSE):
                self.note_linear(node)
            if node.kind is Op.AFFINE and len(node.into) == 1:
                meaning = self.meanings.get(id(node))
                if meaning is not None:
                    self.affine[id(node)] = meaning.scale, meaning.shift, meaning.extents
                    self.join(node)
            self.kept[id(node)] = node
        return list(self.kept.values())

    def note_linear(self, node: Node) -> None:
        """Remember a node that a bias may join."""
        meaning = self.meanings.get(id(node))
        if meaning is not None and node._call is not None and len(node.out) == 1:
            shape = node.out[0].shape
            self.linear[id(node)] = Linear(
                node, meaning, node._call, features=meaning.features, shape=shape
            )

    def lone(self, value: Value) -> bool:
        """Whether one node alone reads a value, and nobody else asks for it."""
        return self.uses[id(value)] == 1 and id(value) not in self.protected

    def join(self, node: Node) -> None:
        """Join an affine node to what comes before it, where that may be."""
        value = node.into[0]
        first = value.node
        scale, shift, _ = self.affine[id(node)]
        free = self.uses[id(value)] == 1 and id(value) not in self.kept_values
        if not free or len(first.out) != 1 or value.dtype != node.out[0].dtype:
            return
        if first.kind is Op.AFFINE and id(first) in self.affine:
            self.compose(first, node)
        elif id(first) in self.linear and (scale is None or self.folds):
            self.absorb(first, node, self.linear[id(first)])
        elif first.kind is Op.SHAPE and (scale is None or self.folds):
            self.join_through(node)
        elif first.kind is Op.AVGPOOL and first.op == "Sum" and shift is None and self.lone(value):
            self.average(first, node)

    @property
    def folds(self) -> bool:
        """Whether a factor may be joined as well, and over the border of a layer."""
        return self.kept_values is not self.protected

    def replace(self, node: Node, parts: list[Node], leaf: Value) -> None:
        """Let ``node`` stand for ``parts`` and itself, from ``leaf`` on."""
        region = Region([*parts, node], leaf)
        joined = (*parts, replace(node))
        for part in parts:
            self.kept.pop(id(part), None)
        node.op = "+".join([*(p.op for p in parts if p.kind is not Op.SHAPE), node.op])
        node.into, node.parts = (leaf,), joined
        node._pull, node._call, node._free = region.pull, region.call, region.free

    def compose(self, first: Node, node: Node) -> None:
        """Two affine nodes as one."""
        (a, b, here), (c, d, there) = self.affine[id(first)], self.affine[id(node)]
        scale, shift = composed((a, b), (c, d))
        self.replace(node, [first], first.into[0])
        self.affine[id(node)] = scale, shift, here + there
        node.op = first.op if first.op == node.op else node.op
        node.params = Params(affine_params(scale, shift))
        node.attrs = {**first.attrs, **node.attrs}
        set_offset(node, shift)
        whole = node._call

        def call(x: Array, **changed: Array) -> Array:
            if not changed and whole is not None:
                return whole(x)
            factor = changed.get("scale", scale() if scale else None)
            summand = changed.get("shift", shift() if shift else None)
            y = x if factor is None else x * factor
            return y if summand is None else y + summand

        node._call = call
        self.join(node)

    def absorb(
        self, first: Node, node: Node, linear: Linear, *, parts: list[Node] | None = None
    ) -> None:
        """A scale and shift into the linear operation before them."""
        own_scale, own_shift, extents = self.affine[id(node)]
        shape = node.out[0].shape
        if shape != linear.shape or not all(map(linear.along, extents)):
            return
        if own_scale is not None and (not linear.features or not linear.core.params):
            return
        scale, shift = composed((linear.scale, linear.shift), (own_scale, own_shift))
        joined = replace(linear, scale=scale, shift=shift)
        parts = parts or [first]
        attrs = dict(first.attrs)
        self.replace(node, parts, parts[0].into[0])
        node.kind, node.layer = linear.core.kind, linear.core.layer
        node.attrs = attrs
        set_offset(node, shift)
        makers: dict[str, Callable[[], Array]] = {}
        if "weight" in linear.core.params:
            makers["weight"] = joined.weight
        if shift is not None:
            makers["bias"] = shift
        node.params = Params(makers)
        whole = node._call

        def call(x: Array, **changed: Array) -> Array:
            if not changed and whole is not None:
                return whole(x)
            weight = changed["weight"] if "weight" in changed else joined.weight()
            bias = changed["bias"] if "bias" in changed else (shift() if shift else None)
            return joined.run(x, weight, bias)

        node._call = call
        self.affine.pop(id(node))
        self.linear[id(node)] = joined

    def join_through(self, node: Node) -> None:
        """A bias behind a reshape.

        Keras lays sequences out for a convolution of two dimensions, dilated windows as batches,
        and the tokens of a sequence as rows of a matrix.
        """
        after = self.moves_behind(node.into[0])
        core = after[0].into[0].node if after else None
        linear = self.linear.get(id(core)) if core is not None else None
        if core is None or linear is None or linear.scale or linear.shift or linear.before:
            return
        inner, out = core.out[0].shape, node.out[0].shape
        if linear.features != (len(inner) - 1,):
            return
        # The features may come out split over several axes, never mixed with others.
        split = next((i for i in range(len(out)) if prod(out[i:]) == inner[-1]), None)
        if split is None or (core.kind is Op.CONV and split != len(out) - 1):
            return
        before = self.moves_before(core)
        calls = [tuple(n._call for n in part if n._call is not None) for part in (before, after)]
        features = tuple(range(split, len(out)))
        through = replace(linear, before=calls[0], after=calls[1], features=features, shape=out)
        self.absorb(core, node, through, parts=[*before, core, *after])
        if node.kind is Op.CONV:
            node.attrs = {**node.attrs, "channel_axis": len(out) - 1, "dims": len(out) - 2}

    def moves_behind(self, value: Value) -> list[Node]:
        """The reshapes that alone lead to a value, in order; empty where one is asked for."""
        found: list[Node] = []
        while value.node.op in ("Squeeze", "BatchToSpaceND", "Reshape"):
            if not self.lone(value):
                return []
            found.insert(0, value.node)
            value = value.node.into[0]
        return found if self.lone(value) else []

    def moves_before(self, core: Node) -> list[Node]:
        """The reshapes by which the layer of an operation lays its operand out, in order."""
        found: list[Node] = []
        value = core.into[0]
        while value.node.op in ("ExpandDims", "SpaceToBatchND", "Reshape"):
            if not self.lone(value) or value.node.layer != core.layer:
                break
            found.insert(0, value.node)
            value = value.node.into[0]
        return found

    def average(self, first: Node, node: Node) -> None:
        """A sum times a number: an average."""
        if any(prod(extent) != 1 for extent in self.affine[id(node)][2]):
            return
        attrs = first.attrs
        self.replace(node, [first], first.into[0])
        node.kind, node.attrs, node.params = Op.AVGPOOL, attrs, {}
        self.affine.pop(id(node))


def composed(first: tuple[Maker, Maker], second: tuple[Maker, Maker]) -> tuple[Maker, Maker]:
    """``(x * a + b) * c + d`` as one factor and one summand; what is absent stays absent."""
    (a, b), (c, d) = first, second
    scale = (lambda: a() * c()) if a and c else a or c
    moved = (lambda: b() * c()) if b and c else b
    shift = (lambda: moved() + d()) if moved and d else moved or d
    return scale, shift


def set_offset(node: Node, shift: Maker) -> None:
    """The part of the output that does not depend on the operand."""
    attrs = {k: v for k, v in node.attrs.items() if k != "offset"}
    node.attrs = attrs if shift is None else {**attrs, "offset": shift}
