"""Operations that are more than arithmetic: constants, calls, loops, variables, lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from ...errors import ModelError
from ...tape import Array
from .cells import Cell, Level, TensorList
from .graph import Body, Instruction
from .runner import Runner

__all__ = ["CONTROL"]

Found = list[Cell] | None
"""The results; None says that the instruction is to be run like any other."""


def constant(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """A constant of the graph, made once."""
    if x.constant is None:
        with tf.init_scope():
            tensor = tf.make_ndarray(x.node.attr["value"].tensor)
            x.constant = tf.constant(tensor, tf.dtypes.as_dtype(x.node.attr["dtype"].type))
    return [Cell(x.constant, Level.FIXED)]


def alias(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """Results that are the operands themselves."""
    return list(inputs)


def moved(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """A transpose, reshape or cast that changes nothing."""
    array = inputs[0].array
    if x.op == "Cast":
        return inputs[:1] if array.dtype == x.attr("DstT") else None
    wanted = inputs[1].number
    if wanted is None or array.shape.rank is None:
        return None
    if x.op == "Transpose":
        return inputs[:1] if wanted.tolist() == list(range(array.shape.rank)) else None
    return inputs[:1] if wanted.tolist() == array.shape.as_list() else None


def nothing(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """An operation kept out: it checks, prints, or orders others."""
    return []


def function_call(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """A call of a function: its operations are read in its place."""
    return reader.run(body.inner[x.attr("f")], inputs)


# Variables: read as they are, written only in this run's own notes.


def read_variable(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """A variable's value, or what the model wrote into it earlier in this run."""
    written = reader.state.get(id(inputs[0].array))
    return [written] if written is not None else None


def current(reader: Runner, resource: Cell, dtype: Any) -> Cell:
    """What a variable holds by now."""
    written = reader.state.get(id(resource.array))
    if written is not None:
        return written
    array = tf.raw_ops.ReadVariableOp(resource=resource.array, dtype=dtype)
    return Cell(array, Level.VARIABLE)


def assign(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """A variable is set: noted, not done."""
    reader.state[id(inputs[0].array)] = inputs[1]
    return []


def assign_add(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """A variable is changed by a sum or difference: noted, not done."""
    before = current(reader, inputs[0], x.attr("dtype"))
    sign = -1 if x.op == "AssignSubVariableOp" else 1
    array = before.array + inputs[1].array if sign > 0 else before.array - inputs[1].array
    level = max(before.level, inputs[1].level, Level.VARIABLE)
    reader.state[id(inputs[0].array)] = Cell(array, level)
    return []


def random_state(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """The state of a random generator before its next draw; the generator does not move on."""
    if x.op == "RngSkip":
        return []
    before = current(reader, inputs[0], tf.int64)
    # Philox, the only generator this op serves on every device, has three numbers of state.
    state = before.array[:3]
    delta = tf.concat([[tf.cast(inputs[2].array, tf.int64)], tf.zeros_like(before.array)[1:]], 0)
    reader.state[id(inputs[0].array)] = Cell(before.array + delta * 256, Level.VARIABLE)
    return [Cell(state, Level.VARIABLE)]


# Lists of tensors, as loops write them.


def list_reserve(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """A list of that many entries, none written yet."""
    count, shape = inputs[1].number, inputs[0].number
    if count is None or not reader.record:
        results = x.call(*(c.array for c in inputs))
        cell = Cell(results[0], max(inputs[1].level, Level.VARIABLE), ragged=True)
        cell.entry = x.attr("element_dtype")
        return [cell]
    return [tensor_list([None] * int(count), x.attr("element_dtype"), shape, Level.FIXED)]


def list_from_tensor(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """A list of the slices of a tensor along its first axis."""
    if not reader.record or inputs[0].array.shape[0] is None:
        return None
    count = int(inputs[0].array.shape[0])
    unstack = lambda t: list(tf.raw_ops.Unpack(value=t, num=count, axis=0))  # noqa: E731
    cells = reader.derived("Unpack", unstack, [inputs[0]])
    shape = inputs[0].array.shape[1:]
    return [tensor_list(cells, inputs[0].array.dtype, shape, inputs[0].level)]


def list_get(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """One entry."""
    if not isinstance(inputs[0].array, TensorList):
        if inputs[0].array.dtype == tf.variant:
            return None
        take = lambda t, i: [tf.raw_ops.GatherV2(params=t, indices=i, axis=0)]  # noqa: E731
        return reader.derived("GatherV2", take, inputs[:2])
    place = number_of(inputs[1], x)
    entry = inputs[0].array.filled()[place]
    return [entry]


def list_set(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """The list with one entry exchanged."""
    if not isinstance(inputs[0].array, TensorList):
        return None
    before = inputs[0].array
    place = number_of(inputs[1], x)
    cells: list[Cell | None] = list(before.cells)
    cells += [None] * (place + 1 - len(cells))
    cells[place] = inputs[2]
    level = max(inputs[0].level, inputs[2].level)
    return [tensor_list(cells, before.dtype, before.shape, level)]


def list_stack(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """The entries as one tensor."""
    if not isinstance(inputs[0].array, TensorList):
        # What came out of an opaque loop is one tensor already.
        return None if inputs[0].array.dtype == tf.variant else [inputs[0]]
    cells = inputs[0].array.filled()
    stack = lambda *a: [tf.raw_ops.Pack(values=list(a), axis=0)]  # noqa: E731
    return reader.derived("Pack", stack, cells, {"axis": 0})


def list_length(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """How many entries there are."""
    if not isinstance(inputs[0].array, TensorList):
        return None
    with tf.init_scope():
        return [Cell(tf.constant(len(inputs[0].array.cells), tf.int32), Level.FIXED)]


def tensor_list(cells: Sequence[Cell | None], dtype: Any, shape: Any, level: Level) -> Cell:
    """A cell that holds a list."""
    if not isinstance(shape, tf.TensorShape):
        known = shape is not None and getattr(shape, "ndim", 1) == 1
        shape = tf.TensorShape([None if n < 0 else int(n) for n in shape] if known else None)
    return Cell(TensorList(list(cells), dtype, shape), level)


def squared_difference(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """Two operations that rules know, in place of one that they do not."""
    if not reader.record or not any(c.value is not None for c in inputs):
        return None
    subtract = lambda a, b: [tf.raw_ops.Sub(x=a, y=b)]  # noqa: E731
    square = lambda d: [tf.raw_ops.Square(x=d)]  # noqa: E731
    return reader.derived("Square", square, reader.derived("Sub", subtract, inputs))


class NotStatic(Exception):
    """A loop turned out to depend on numbers while it was being unrolled."""


def number_of(cell: Cell, x: Instruction) -> int:
    """A place in a list, known while tracing."""
    number = cell.number
    if number is None:
        raise NotStatic(x.name)
    return int(number)


# Branches and loops.


def branch(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """A branch: read in its place where the condition is fixed, else one opaque operation."""
    sides = body.inner[x.attr("then_branch")], body.inner[x.attr("else_branch")]
    known = inputs[0].number
    if known is not None:
        return reader.run(sides[0] if bool(known) else sides[1], inputs[1:])
    return opaque(reader, x, inputs, lambda cells: conditional(reader, sides, cells))


def conditional(reader: Runner, sides: tuple[Body, Body], cells: list[Cell]) -> list[Array]:
    """Run one of two bodies, by a condition that is only known when the graph runs."""

    def side(which: Body) -> Callable[[], list[Array]]:
        return lambda: [c.array for c in reader.without_tape().run(which, cells[1:])]

    return list(tf.cond(tf.cast(cells[0].array, tf.bool), side(sides[0]), side(sides[1])))


def loop(reader: Runner, body: Body, x: Instruction, inputs: list[Cell]) -> Found:
    """A loop: unrolled where the number of rounds is fixed, else one opaque operation."""
    condition, inside = body.inner[x.attr("cond")], body.inner[x.attr("body")]
    if reader.record:
        mark = reader.mark()
        try:
            cells = list(inputs)
            while True:
                again = reader.run(condition, cells)[0].number
                if again is None:
                    raise NotStatic(x.name)
                if not bool(again):
                    return cells
                cells = reader.run(inside, cells)
        except NotStatic:
            reader.rewind(mark)
    return opaque(reader, x, inputs, lambda cells: repeated(reader, condition, inside, x, cells))


def repeated(
    reader: Runner, condition: Body, inside: Body, x: Instruction, cells: list[Cell]
) -> list[Array]:
    """Run a loop whose number of rounds is only known when the graph runs."""
    changing = [i for i, (j, k) in enumerate(inside.results) if not passed_on(inside, i)]
    shapes = x.attr("output_shapes") or [tf.TensorShape(None)] * len(cells)

    def state(arrays: tuple[Array, ...]) -> list[Cell]:
        now = list(cells)
        for i, array in zip(changing, arrays, strict=True):
            now[i] = Cell(array, Level.LIVE, ragged=True)
        return now

    def go_on(*arrays: Array) -> Array:
        return reader.without_tape().run(condition, state(arrays))[0].array

    def once(*arrays: Array) -> list[Array]:
        results = reader.without_tape().run(inside, state(arrays))
        return [results[i].array for i in changing]

    last = tf.while_loop(
        go_on,
        once,
        [cells[i].array for i in changing],
        shape_invariants=[shapes[i] for i in changing],
    )
    results = [c.array for c in cells]
    for i, array in zip(changing, last, strict=True):
        results[i] = array
    return results


def passed_on(body: Body, i: int) -> bool:
    """Whether a loop's body hands its i-th variable on as it came."""
    j, k = body.results[i]
    while j >= 0 and body.instructions[j].op == "Identity":
        j, k = body.instructions[j].inputs[0]
    return (j, k) == (-1, i)


def opaque(
    reader: Runner, x: Instruction, inputs: list[Cell], run: Callable[[list[Cell]], list[Array]]
) -> list[Cell]:
    """One operation for a whole branch or loop, with the framework's own gradient."""
    unpacked, pack = unlisted(inputs)

    def function(*arrays: Array) -> list[Array]:
        cells = [
            Cell(a, max(c.level, Level.VARIABLE), None, c.token, True)
            for a, c in zip(arrays, unpacked, strict=True)
        ]
        return [dense_list(a, inputs) for a in run(pack(cells))]

    return reader.derived(x.op, function, unpacked)


def unlisted(
    inputs: list[Cell],
) -> tuple[list[Cell], Callable[[list[Cell]], list[Cell]]]:
    """Operands with lists taken apart into their entries, and how to put them together again."""
    counts: list[int | None] = []
    unpacked: list[Cell] = []
    for cell in inputs:
        if isinstance(cell.array, TensorList):
            entries = cell.array.filled()
            counts.append(len(entries))
            unpacked += entries
        else:
            counts.append(None)
            unpacked.append(cell)

    def pack(cells: list[Cell]) -> list[Cell]:
        rest, packed = list(cells), []
        for cell, count in zip(inputs, counts, strict=True):
            if count is None:
                packed.append(rest.pop(0))
                continue
            entries, rest = [c.array for c in rest[:count]], rest[count:]
            listed: TensorList = cell.array
            handle = tf.raw_ops.TensorListReserve(
                element_shape=-1, num_elements=count, element_dtype=listed.dtype
            )
            for i, entry in enumerate(entries):
                handle = tf.raw_ops.TensorListSetItem(input_handle=handle, index=i, item=entry)
            packed.append(Cell(handle, Level.LIVE))
        return packed

    return unpacked, pack


def dense_list(array: Array, inputs: list[Cell]) -> Array:
    """A list that comes out of a loop, as a tensor; anything else as it is."""
    if array.dtype != tf.variant:
        return array
    kinds = {c.array.dtype if isinstance(c.array, TensorList) else c.entry for c in inputs} - {None}
    if len(kinds) != 1:
        raise ModelError(
            "a loop of unknown length writes lists of several types, which cannot be recorded. "
            "Gradient methods, which run the model as a whole, still work."
        )
    dtype = kinds.pop()
    return tf.raw_ops.TensorListStack(input_handle=array, element_shape=-1, element_dtype=dtype)


CONTROL: dict[str, Callable[[Any, Any, Any, list[Cell]], Found]] = {
    "Const": constant,
    "Identity": alias,
    "IdentityN": alias,
    "Snapshot": alias,
    "CheckNumerics": alias,
    "EnsureShape": alias,
    "Cast": moved,
    "Reshape": moved,
    "Transpose": moved,
    "NoOp": nothing,
    "Assert": nothing,
    "PrintV2": nothing,
    "PartitionedCall": function_call,
    "StatefulPartitionedCall": function_call,
    "ReadVariableOp": read_variable,
    "AssignVariableOp": assign,
    "AssignAddVariableOp": assign_add,
    "AssignSubVariableOp": assign_add,
    "RngReadAndSkip": random_state,
    "RngSkip": random_state,
    "TensorListReserve": list_reserve,
    "TensorListFromTensor": list_from_tensor,
    "TensorListGetItem": list_get,
    "TensorListSetItem": list_set,
    "TensorListStack": list_stack,
    "TensorListLength": list_length,
    "SquaredDifference": squared_difference,
    "If": branch,
    "StatelessIf": branch,
    "While": loop,
    "StatelessWhile": loop,
}
"""Op name -> what to do with it instead of running it."""
