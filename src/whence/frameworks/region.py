"""Several nodes that stand between one value and one result, run and pulled through as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..tape import Array, Node, Value

__all__ = ["Region", "Uses", "between"]


class Uses:
    """Who reads each value, and which values are asked for by name."""

    def __init__(self, nodes: Iterable[Node], protected: set[int]) -> None:
        self.protected = protected
        self.readers: dict[int, list[Node]] = {}
        for node in nodes:
            for value in node.into:
                self.readers.setdefault(id(value), []).append(node)

    def only_within(self, value: Value, nodes: set[int]) -> bool:
        """Whether nothing but these nodes reads a value."""
        readers = self.readers.get(id(value), [])
        return id(value) not in self.protected and all(id(r) in nodes for r in readers)

    def replaced(self, leaf: Value, nodes: set[int], by: Node) -> None:
        """Some nodes became one, which reads the leaf in their place."""
        readers = self.readers[id(leaf)]
        self.readers[id(leaf)] = [*(r for r in readers if id(r) not in nodes), by]


class Region:
    """Nodes in order, all operands of which are the leaf or results of earlier nodes."""

    def __init__(self, nodes: Sequence[Node], leaf: Value) -> None:
        self.leaf = id(leaf)
        # The nodes themselves are about to change; what they were made of is kept.
        self.parts: list[Any] = [
            ([id(v) for v in n.into], id(n.out[0]), n._call, n._pull) for n in nodes
        ]
        self.frees = [n._free for n in nodes if n._free is not None]

    def call(self, x: Array, **changed: Array) -> Array:
        """Run them on another operand."""
        if changed:
            raise TypeError(f"this operation has no parameter {next(iter(changed))!r}")
        found = {self.leaf: x}
        for into, out, call, _ in self.parts:
            found[out] = call(*(found[i] for i in into))
        return found[self.parts[-1][1]]

    def pull(self, cotangent: Array) -> tuple[Array, ...]:
        """The vector-Jacobian product of all of them."""
        arrived = {self.parts[-1][1]: cotangent}
        for into, out, _, pull in reversed(self.parts):
            if out not in arrived:
                continue
            for i, part in zip(into, pull(arrived.pop(out)), strict=True):
                arrived[i] = arrived[i] + part if i in arrived else part
        return (arrived[self.leaf],)

    def free(self) -> None:
        """Let go of what the parts hold."""
        for free in self.frees:
            free()
        self.parts, self.frees = [], []


def between(leaf: Value, last: Node) -> list[Node]:
    """The nodes on the ways from a value to a node's result, in order."""
    found = {id(last): last}
    waiting = [last]
    while waiting:
        for value in waiting.pop().into:
            # Not a function that calls itself: that is a ring, which would keep the nodes alive.
            if value is not leaf and id(value.node) not in found:
                found[id(value.node)] = value.node
                waiting.append(value.node)
    return sorted(found.values(), key=lambda node: node.index)
