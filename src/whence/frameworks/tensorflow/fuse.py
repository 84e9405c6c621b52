"""From what ran to a tape: operations that are one in mathematics become one node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...ops import Op
from ...tape import Node, Tape, Value

if TYPE_CHECKING:
    from .reader import Reader

__all__ = ["finished"]


def finished(
    reader: Reader,
    inputs: dict[str, Value],
    outputs: dict[str, Any],
    structure: Callable[[Mapping[str, Any]], Any],
    fold: bool,
) -> Tape:
    """The tape of what a reader ran."""
    layers = reader.records()
    protected = {id(v) for v in outputs.values() if isinstance(v, Value)}
    protected |= {id(v) for rs in layers.values() for r in rs for v in r.values}
    nodes = without_dead(reader.nodes, protected)
    for i, node in enumerate(nodes):
        node.index = i
    return Tape(
        nodes, inputs, outputs, layers, "tensorflow", "last", reader.notes, structure
    )


def without_dead(nodes: list[Node], protected: set[int]) -> list[Node]:
    """The nodes that lead to an output or to a layer's output."""
    wanted: set[int] = set(protected)
    kept = []
    for node in reversed(nodes):
        if node.kind is Op.INPUT or any(id(v) in wanted for v in node.out):
            wanted.update(id(v) for v in node.into)
            kept.append(node)
    return kept[::-1]
