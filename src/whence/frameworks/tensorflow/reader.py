"""A traced function, run again operation by operation, and written down on a tape.

Eager tensors in, eager tensors on the tape; symbolic tensors of an outer graph in, and the tape and
all that rules compute from it become part of that graph. What depends on constants alone is
computed once, while reading; variables are read on every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import tensorflow as tf

from ...ops import Op
from ...tape import Array, LayerRecord, Node, Value
from .cells import Cell, Level, TensorList, differentiable, together
from .control import CONTROL
from .custom import attached, custom_step
from .functions import TensorFlowFunctions, shape_of
from .graph import Body, Called, Instruction
from .kinds import classify
from .layers import scope_of
from .meaning import CUT, RAGGED, SHAPE_OF, Meaning, Sight
from .steps import Params, Step, step_of

__all__ = ["Reader"]

XP = TensorFlowFunctions()


class Reader:
    """Runs a body; with ``record`` it keeps a node for every operation that a gradient passes."""

    def __init__(self, *, record: bool = True, scopes: bool = False) -> None:
        self.record = record
        self.scopes = scopes
        """Whether name scopes stand for layers, as there are none."""
        self.nodes: list[Node] = []
        self.calls: list[tuple[Called, list[Cell]]] = []
        self.notes: list[str] = []
        self.state: dict[int, Cell] = {}
        """What the model wrote into its variables in this run; the variables stay as they were."""
        self.layer = ""
        self.meanings: dict[int, Meaning] = {}
        """What was found out about the nodes, by id, for those who rewrite the tape."""

    def input(self, name: str, array: Array) -> Cell:
        """An array that the caller gave, as the first node of the tape."""
        node = Node(Op.INPUT, name, "", (), xp=XP, _pull=lambda *cotangents: ())
        cell = Cell(array, Level.LIVE, None, token=not differentiable(array))
        value = self.value(node, 0, array, differentiable(array))
        node.out = (value,)
        if value.tracked and self.record:
            cell.value = value
        self.nodes.append(node)
        return cell

    def run(self, body: Body, arguments: Sequence[Cell]) -> list[Cell]:
        """Run a body on its arguments (captured ones last) and return its results."""
        done: dict[int, list[Cell]] = {-1: list(arguments)}
        calls = iter([*body.calls, None])
        opened: list[tuple[Called, int]] = []
        upcoming = next(calls)
        above = self.layer
        for i in body.needed:
            while upcoming is not None and upcoming.start <= i:
                opened.append((upcoming, self.begin(upcoming)))
                upcoming = next(calls)
            instruction = body.instructions[i]
            inputs = [done[j][k] for j, k in instruction.inputs]
            self.layer = instruction.layer or above or self.scope(instruction)
            if instruction.gradient is not None:
                own = self.custom if self.record else partial(attached, self)
                done[i] = own(body, instruction, inputs, done)
            else:
                done[i] = self.execute(body, instruction, inputs)
        while upcoming is not None:
            opened.append((upcoming, self.begin(upcoming)))
            upcoming = next(calls)
        self.layer = above
        for called, place in opened:
            self.calls[place][1].extend(done[j][k] for j, k in called.outputs if j in done)
        return [done[j][k] for j, k in body.results]

    def begin(self, called: Called) -> int:
        """Note that a layer's call begins here; returns its place in the list."""
        self.calls.append((called, []))
        return len(self.calls) - 1

    def scope(self, instruction: Instruction) -> str:
        """The name scope in place of a layer, where there are no layers."""
        return scope_of(instruction.name) if self.scopes else ""

    def execute(self, body: Body, instruction: Instruction, inputs: list[Cell]) -> list[Cell]:
        """Run one instruction."""
        control = CONTROL.get(instruction.op)
        if control is not None:
            found = control(self, body, instruction, inputs)
            if found is not None:
                return found
        level, token, ragged = together(inputs)
        if level is Level.FIXED and not instruction.stateful:
            with tf.init_scope():
                return [Cell(a, Level.FIXED) for a in instruction.call(*(c.array for c in inputs))]
        tracked = any(c.value is not None for c in inputs)
        if not tracked or instruction.op in CUT or not self.record:
            return self.plain(instruction, inputs, max(level, Level.VARIABLE), token, ragged)
        return self.operation(instruction, inputs, level, ragged)

    def plain(
        self, instruction: Instruction, inputs: list[Cell], level: Level, token: bool, ragged: bool
    ) -> list[Cell]:
        """Run an instruction that no gradient passes through."""
        arrays = [c.array if self.record else local(c) for c in inputs]
        results = instruction.call(*arrays)
        if instruction.op in SHAPE_OF and not ragged:
            known = [fixed_value(a) for a in results]
            if all(k is not None for k in known):
                return [Cell(k, Level.FIXED) for k in known]
        ragged = ragged or makes_ragged(instruction, inputs)
        cells = [Cell(a, level, None, token and not differentiable(a), ragged) for a in results]
        if instruction.op == "StopGradient":
            cells[0].origin = inputs[0].value or inputs[0].origin
        if self.record and self.is_embedding(instruction, inputs):
            self.embedding(instruction, inputs, cells[0])
        return cells

    def is_embedding(self, instruction: Instruction, inputs: list[Cell]) -> bool:
        """Whether this looks up rows of a constant table at whole-number input."""
        if instruction.op not in ("GatherV2", "ResourceGather"):
            return False
        table, places = inputs[0], inputs[1]
        return table.level < Level.LIVE and places.level is Level.LIVE and places.token

    def embedding(self, instruction: Instruction, inputs: list[Cell], cell: Cell) -> None:
        """Start the tape at the output of a table look-up."""
        if not differentiable(cell.array):
            return
        table = inputs[0].array
        if table.dtype == tf.resource:
            dtype = instruction.attr("dtype")
            weight: Any = lambda: tf.raw_ops.ReadVariableOp(resource=table, dtype=dtype)  # noqa: E731
        else:
            weight = lambda: table  # noqa: E731
        node = Node(
            Op.EMBEDDING,
            instruction.op,
            self.layer,
            (),
            params=Params({"weight": weight}),
            xp=XP,
            _pull=lambda *cotangents: (),
            _call=lambda **changed: cell.array,
        )
        node.out = (self.value(node, 0, cell.array, True),)
        cell.value = node.out[0]
        self.nodes.append(node)

    def operation(
        self, instruction: Instruction, inputs: list[Cell], level: Level, ragged: bool
    ) -> list[Cell]:
        """Run and write down an instruction that a gradient passes through."""
        ragged = ragged or makes_ragged(instruction, inputs)
        return self.tracked(instruction.op, instruction.call, inputs, instruction.attr, ragged)

    def tracked(
        self,
        op: str,
        function: Callable[..., list[Array]],
        inputs: Sequence[Cell],
        attr: Callable[..., Any],
        ragged: bool,
    ) -> list[Cell]:
        """Run a function of tracked operands under a tape, say what it is, and write it down."""
        slots = [i for i, c in enumerate(inputs) if c.value is not None]
        step = step_of(function, [c.array for c in inputs], slots)
        if not step.targets:
            # An embedding layer makes its floating input whole: these are tokens.
            source = inputs[0].value
            token = op == "Cast" and source is not None and source.node.kind is Op.INPUT
            return [Cell(a, Level.LIVE, None, token, ragged) for a in step.results]
        meaning = classify(Sight(op, attr, inputs, slots, step.results))
        return self.write(meaning.kind, op, step, inputs, Level.LIVE, ragged, meaning)

    def derived(
        self,
        op: str,
        function: Callable[..., list[Array]],
        inputs: Sequence[Cell],
        attrs: Mapping[str, Any] | None = None,
    ) -> list[Cell]:
        """Run what is no instruction of the graph but stands for one, or for several."""
        level, token, ragged = together(inputs)
        arrays = [c.array for c in inputs]
        if self.record and any(c.value is not None for c in inputs):
            return self.tracked(op, function, inputs, (attrs or {}).get, ragged)
        if level is Level.FIXED:
            with tf.init_scope():
                return [Cell(a, Level.FIXED) for a in function(*arrays)]
        return [
            Cell(a, level, None, token and not differentiable(a), ragged) for a in function(*arrays)
        ]

    def without_tape(self) -> Reader:
        """A reader that runs in the same state and writes nothing down."""
        reader = Reader(record=False)
        reader.state = dict(self.state)
        return reader

    def mark(self) -> tuple[int, int, dict[int, Cell]]:
        """Where things stand, to come back to."""
        return len(self.nodes), len(self.calls), dict(self.state)

    def rewind(self, mark: tuple[int, int, dict[int, Cell]]) -> None:
        """Forget what was written down since."""
        nodes, calls, self.state = mark
        del self.nodes[nodes:], self.calls[calls:]

    def write(
        self,
        kind: Op,
        op: str,
        step: Step,
        inputs: Sequence[Cell],
        level: Level,
        ragged: bool,
        meaning: Meaning | None = None,
    ) -> list[Cell]:
        """Put a step on the tape and return its results."""
        into = tuple(v for v in (inputs[i].value for i in step.slots) if v is not None)
        node = Node(kind, op, self.layer, into, xp=XP, _free=step.free)
        node._pull, node._call = step.pull, step.call
        if meaning is not None:
            meaning.fill(node, step)
            self.meanings[id(node)] = meaning
        values = tuple(
            self.value(node, i, a, i in step.targets) for i, a in enumerate(step.results)
        )
        node.out = values
        self.nodes.append(node)
        return [Cell(v.array, level, v if v.tracked else None, ragged=ragged) for v in values]

    def value(self, node: Node, index: int, array: Array, tracked: bool) -> Value:
        """A value of a node."""
        return Value(node, index, array, shape_of(array), array.dtype.name, tracked)

    def custom(
        self,
        body: Body,
        instruction: Instruction,
        inputs: list[Cell],
        done: Mapping[int, list[Cell]],
    ) -> list[Cell]:
        """Write down an operation whose gradient the model's author wrote."""
        step, kind = custom_step(self, body, instruction, inputs, done)
        if step is None:
            return [Cell(c.array, c.level, None, c.token, c.ragged) for c in inputs]
        _, _, ragged = together(inputs)
        return self.write(kind, "CustomGradient", step, inputs, Level.LIVE, ragged)

    def records(self) -> dict[str, list[LayerRecord]]:
        """Per layer name, one record a call, in the order in which they began."""
        found: dict[str, list[LayerRecord]] = {}
        for called, cells in self.calls:
            values = tuple(self.as_value(c) for c in cells if not isinstance(c.array, TensorList))
            record = LayerRecord(called.name, called.type, values, called.parameters)
            found.setdefault(called.name, []).append(record)
        return found

    def as_value(self, cell: Cell) -> Value:
        """A cell as a value; one that no gradient reaches stands apart from the tape."""
        if cell.value is not None:
            return cell.value
        node = Node(Op.OPAQUE, "constant", "", (), xp=XP)
        node.out = (self.value(node, 0, cell.array, False),)
        return node.out[0]


def fixed_value(array: Array) -> Array | None:
    """An array whose numbers are known while tracing, as an eager tensor; else None."""
    known = tf.get_static_value(array)
    if known is None:
        return None
    with tf.init_scope():
        return tf.constant(known, array.dtype)


def local(cell: Cell) -> Array:
    """A cell's array; what is fixed, as a constant of the graph that is being traced.

    The gradient of a loop cannot take hold of an eager tensor.
    """
    number = None if tf.executing_eagerly() or cell.array.dtype == tf.variant else cell.number
    return cell.array if number is None else tf.constant(number, cell.array.dtype)


def makes_ragged(instruction: Instruction, inputs: list[Cell]) -> bool:
    """Whether the shape of the result depends on numbers."""
    places = RAGGED.get(instruction.op)
    if places is None:
        return False
    return not places or any(inputs[i].level is Level.LIVE for i in places if i < len(inputs))
