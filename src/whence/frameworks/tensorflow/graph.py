"""A traced TensorFlow function as a list of instructions, in the order in which they were traced.

A ``Body`` is what one ``FuncGraph`` computes: the model itself, a function that it calls, the
condition or the body of a loop. It is read once, with ``tf.Operation``'s public properties, and run
as often as wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import tensorflow as tf

from ...errors import ModelError
from ...tape import Array
from .calls import attribute, caller, jitted
from .layers import LayerLog

__all__ = ["CALLED", "STATE_WRITES", "Body", "CustomGradient", "Instruction", "Ref"]

Ref = tuple[int, int]
"""Which instruction, and which of its results; instruction -1 holds the body's arguments."""

STATE_WRITES = frozenset(
    {
        "AssignVariableOp",
        "AssignAddVariableOp",
        "AssignSubVariableOp",
        "RngReadAndSkip",
        "RngSkip",
        "ResourceScatterAdd",
        "ResourceScatterSub",
        "ResourceScatterUpdate",
        "ResourceScatterNdUpdate",
        "ResourceScatterNdAdd",
    }
)
"""Ops that change a variable: a model's own (a recurrent state, a seed) must stay as it was."""

CALLED = {
    "PartitionedCall": ("f",),
    "StatefulPartitionedCall": ("f",),
    "If": ("then_branch", "else_branch"),
    "StatelessIf": ("then_branch", "else_branch"),
    "While": ("cond", "body"),
    "StatelessWhile": ("cond", "body"),
}
"""The ops that call functions, and the attributes that name them."""


@dataclass(eq=False)
class Instruction:
    """One operation of the graph."""

    name: str
    op: str
    inputs: tuple[Ref, ...]
    node: Any
    """Its NodeDef."""
    definition: Any
    """Its OpDef."""
    layer: str = ""
    constant: Any = None
    """Kept here once computed, where it depends on nothing."""
    gradient: CustomGradient | None = None
    jit: bool = False
    """Whether only XLA has a kernel for it: Keras compiles grouped convolutions for that reason."""

    @cached_property
    def call(self) -> Callable[..., list[Array]]:
        """Runs it on given operands."""
        return (jitted if self.jit else caller)(self.node, self.definition)

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute as a Python object."""
        return attribute(self.node.attr[name]) if name in self.node.attr else default

    @property
    def stateful(self) -> bool:
        """Whether running it twice may give two answers."""
        return bool(self.definition.is_stateful)


@dataclass(eq=False)
class CustomGradient:
    """The gradient that a model wrote for itself (``tf.custom_gradient``), as instructions."""

    cotangents: list[Ref]
    """Placeholders for what arrives at the results."""
    gradients: list[Ref | None]
    """Per operand of the instruction."""
    needed: list[int]
    """The instructions to run, in order: those that depend on a cotangent."""


class Called(NamedTuple):
    """A layer's call: where it begins, and where its outputs are. Holds no layer."""

    name: str
    type: str
    parameters: int
    start: int
    outputs: list[Ref]


@dataclass(eq=False)
class Body:
    """What one traced function computes."""

    name: str
    arguments: int
    instructions: list[Instruction]
    results: list[Ref]
    needed: list[int]
    """The instructions that a result (or a layer's output) depends on, in order."""
    inner: dict[str, Body]
    """Functions that are called, by name."""
    calls: list[Called] = field(default_factory=list)
    """Layer calls traced here, in order."""
    writes: bool = False
    """Whether anything in here changes a variable."""

    @classmethod
    def of(cls, graph: Any, log: LayerLog, seen: dict[int, Body] | None = None) -> Body:
        """Read a FuncGraph. Functions that it calls are read too, each once."""
        seen = {} if seen is None else seen
        if id(graph) in seen:
            return seen[id(graph)]
        arguments = {t.op.name: i for i, t in enumerate(graph.inputs)}
        traced = graph.get_operations()
        gradients = extend_custom_gradients(graph, traced)
        operations = [o for o in graph.get_operations() if o.name not in arguments]
        place = {o.name: i for i, o in enumerate(operations)}

        def ref(tensor: Any) -> Ref:
            name = tensor.op.name
            if name in arguments:
                return -1, arguments[name]
            return place[name], tensor.value_index

        instructions = [
            Instruction(o.name, o.type, tuple(map(ref, o.inputs)), o.node_def, o.op_def)
            for o in operations
        ]
        calls = log.calls_in(graph)
        layers = log.layers_of(graph, [o.name for o in traced])
        for instruction in instructions:
            instruction.layer = layers.get(instruction.name, "")
        begins = starts_among([o.name for o in traced], place)
        outputs = [
            Called(
                c.name, c.type, c.parameters, begins[c.start], [ref(t) for t in c.outputs_in(graph)]
            )
            for c in calls
        ]
        results = [ref(t) for t in graph.outputs]
        body = cls(graph.name, len(arguments), instructions, results, [], {}, outputs)
        seen[id(graph)] = body
        for name in sorted({f for i in instructions for f in functions_named(i.node)}):
            body.inner[name] = cls.of(inner_graph(graph, name), log, seen)
        for caller_of in (i for i in instructions if i.attr("_XlaMustCompile")):
            for x in body.inner[functions_named(caller_of.node)[0]].instructions:
                x.jit = x.op in ("Conv2D", "Conv3D")
        for operation, cotangents, found in gradients:
            starts = [ref(t) for t in cotangents]
            ends = [None if t is None else ref(t) for t in found]
            # The placeholders are traced first; what the gradient adds comes after them.
            begin = max(i for i, _ in starts)
            added = [i for i in body.leading_to([r[0] for r in ends if r]) if i > begin]
            instructions[place[operation.name]].gradient = CustomGradient(starts, ends, added)
        written = [i for i, x in enumerate(instructions) if body.changes(x)]
        body.writes = bool(written)
        roots = [r for r, _ in results] + [r for c in outputs for r, _ in c.outputs] + written
        body.needed = body.leading_to(roots)
        return body

    def changes(self, instruction: Instruction) -> bool:
        """Whether an instruction changes a variable, itself or in a function that it calls."""
        if instruction.op in STATE_WRITES:
            return True
        return any(self.inner[f].writes for f in functions_named(instruction.node))

    def leading_to(self, roots: Iterable[int]) -> list[int]:
        """The instructions that these depend on, themselves included, in order."""
        found: set[int] = set()
        waiting = [r for r in roots if r >= 0]
        while waiting:
            i = waiting.pop()
            if i not in found:
                found.add(i)
                waiting += [j for j, _ in self.instructions[i].inputs if j >= 0]
                custom = self.instructions[i].gradient
                if custom is not None:
                    first = min(j for j, _ in custom.cotangents)
                    used = [j for k in custom.needed for j, _ in self.instructions[k].inputs]
                    waiting += [j for j in used if 0 <= j < first]
        return sorted(found)


def starts_among(traced: list[str], place: dict[str, int]) -> list[int]:
    """Per traced operation (and one past the last), the first instruction at or after it."""
    begins = [len(place)] * (len(traced) + 1)
    for i in range(len(traced) - 1, -1, -1):
        begins[i] = place.get(traced[i], begins[i + 1])
    return begins


def functions_named(node: Any) -> list[str]:
    """The functions that a node calls: a call's own, or both branches, or condition and body."""
    names = [node.attr[key].func.name for key in CALLED.get(node.op, ())]
    return names


def inner_graph(graph: Any, name: str) -> Any:
    """The FuncGraph of a function that ``graph`` calls.

    The one thing here that TensorFlow does not publish: functions of a graph, by name.
    """
    while graph is not None:
        function = getattr(graph, "_functions", {}).get(name)
        if function is not None and getattr(function, "graph", None) is not None:
            return function.graph
        graph = getattr(graph, "outer_graph", None)
    raise ModelError(
        f"cannot look into the function {name!r} that the model calls, with TensorFlow "
        f"{tf.__version__}. Gradient methods, which run the model as a whole, still work."
    )


def extend_custom_gradients(
    graph: Any, operations: Iterable[Any]
) -> list[tuple[Any, list[Any], list[Any]]]:
    """Trace, into ``graph`` itself, the gradients that ``tf.custom_gradient`` put there.

    Such a gradient is a Python closure over this very graph, so nowhere else could it be run.
    The graph's function was made before and does not notice. Returns, per op, the placeholders of
    the cotangents and the gradient per operand (None where there is none).
    """
    found = []
    for operation in list(operations):
        if operation.type != "IdentityN" or "_gradient_op_type" not in operation.node_def.attr:
            continue
        with graph.as_default():
            # With a default, so that the function itself can still be run and differentiated.
            cotangents = [
                tf.raw_ops.PlaceholderWithDefault(input=tf.zeros_like(t), shape=t.shape)
                for t in operation.outputs
            ]
            gradients = tf.gradients(
                list(operation.outputs),
                list(operation.inputs),
                cotangents,
                stop_gradients=list(operation.inputs),
            )
        dense = [
            tf.convert_to_tensor(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients
        ]
        found.append((operation, cotangents, dense))
    return found
