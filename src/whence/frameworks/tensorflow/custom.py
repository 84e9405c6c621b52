"""Operations whose gradient the model's author wrote (``tf.custom_gradient``), ``tf.nn.silu`` too.

In the graph such an operation is an ``IdentityN`` behind the ordinary operations of its forward
pass. On the tape it is one node from the arguments to the results, with the author's gradient; the
forward operations lead nowhere any more and are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from ...ops import Op
from ...tape import Array
from .cells import Cell, Level, differentiable
from .graph import Body, Instruction
from .runner import Runner
from .steps import Step

__all__ = ["attached", "custom_step"]

ELEMENTWISE = frozenset(
    "Mul AddV2 Add Sub Neg RealDiv Sigmoid Tanh Erf Erfc Exp Log Log1p Expm1 Softplus Relu Relu6 "
    "Elu Selu Square Sqrt Rsqrt Pow Abs Maximum Minimum Identity Cast Sign Round Floor Const "
    "StopGradient ClipByValue Select SelectV2 Greater GreaterEqual Less LessEqual".split()
)


def custom_step(
    reader: Runner,
    body: Body,
    instruction: Instruction,
    inputs: list[Cell],
    done: Mapping[int, list[Cell]],
) -> tuple[Step | None, Op]:
    """The step of an operation with its author's gradient, and its kind; None without a path."""
    gradient = instruction.gradient
    if gradient is None:
        return None, Op.OPAQUE
    slots = [i for i, c in enumerate(inputs) if c.value is not None and gradient.gradients[i]]
    if not slots:
        return None, Op.OPAQUE
    arrays = [tf.identity(c.array) if differentiable(c.array) else c.array for c in inputs]
    refs = {instruction.inputs[i]: i for i in slots}
    forward = leading_from(body, set(refs), [j for j, _ in instruction.inputs])
    used = [*forward, *gradient.needed]
    kept = {j: done[j] for i in used for j, _ in body.instructions[i].inputs if j in done}
    # Arguments come after the results and are handed through; only the results are results.
    first = min(slots)
    targets = [i for i in range(first) if differentiable(arrays[i])]
    first_cotangent = {ref[0]: i for i, ref in enumerate(gradient.cotangents)}

    def replay(changed: Mapping[int, list[Cell]], instructions: list[int], swap: Any) -> Any:
        plain = reader.without_tape()
        seen = {**kept, **changed}
        for i in instructions:
            x = body.instructions[i]
            cells = [swap.get((j, k)) or seen[j][k] for j, k in x.inputs]
            seen[i] = plain.execute(body, x, cells)
        return seen

    def pull(*cotangents: Array) -> tuple[Array, ...]:
        given = dict(zip(targets, cotangents, strict=True))
        changed = {
            j: [Cell(given[i] if i in given else tf.zeros_like(arrays[i]), Level.LIVE)]
            for j, i in first_cotangent.items()
        }
        seen = replay(changed, gradient.needed, {})
        found = [gradient.gradients[i] for i in slots]
        return tuple(seen[r[0]][r[1]].array for r in found if r)

    def run(*operands: Array) -> list[Array]:
        swap = {ref: Cell(operands[i], Level.LIVE) for ref, i in refs.items()}
        seen = replay({}, forward, swap)
        cells = [
            swap.get(ref) or (seen[ref[0]][ref[1]] if ref[0] in seen else inputs[i])
            for i, ref in enumerate(instruction.inputs)
        ]
        return [c.array for c in attached(reader, body, instruction, cells, seen)]

    step = Step(run, arrays, slots, arrays, targets)
    step.own_pull = pull
    alone = len(slots) == 1 and len(targets) == 1
    plain = all(body.instructions[i].op in ELEMENTWISE for i in forward)
    shaped = alone and arrays[targets[0]].shape == arrays[slots[0]].shape
    return step, Op.ACTIVATION if alone and plain and shaped else Op.OPAQUE


def attached(
    reader: Runner,
    body: Body,
    instruction: Instruction,
    inputs: list[Cell],
    done: Mapping[int, list[Cell]],
) -> list[Cell]:
    """Run an operation with its author's gradient where nothing is written down.

    TensorFlow's own tapes, which may be watching, then see that gradient too.
    """
    gradient = instruction.gradient
    slots = [] if gradient is None else [i for i, g in enumerate(gradient.gradients) if g]
    if gradient is None or not slots:
        return inputs
    first = min(slots)

    def back(*cotangents: Array) -> list[Array]:
        seen = dict(done)
        for i, (j, _) in enumerate(gradient.cotangents):
            given = cotangents[i] if i < first else tf.zeros_like(inputs[i].array)
            seen[j] = [Cell(given, Level.LIVE)]
        for i in gradient.needed:
            x = body.instructions[i]
            seen[i] = reader.without_tape().execute(body, x, [seen[j][k] for j, k in x.inputs])
        found = [gradient.gradients[i] for i in slots]
        return [seen[r[0]][r[1]].array for r in found if r]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def results(*operands: Array) -> Any:
        return [tf.identity(c.array) for c in inputs[:first]], back

    arrays = results(*(inputs[i].array for i in slots))
    cells = [
        Cell(a, c.level, None, c.token, c.ragged) for a, c in zip(arrays, inputs, strict=False)
    ]
    return [*cells, *inputs[first:]]


def leading_from(body: Body, starts: set[tuple[int, int]], ends: list[int]) -> list[int]:
    """The instructions that depend on ``starts`` and that ``ends`` depend on, in order."""
    found: set[int] = set()
    for i in body.leading_to(ends):
        inputs = body.instructions[i].inputs
        if any(r in starts or r[0] in found for r in inputs):
            found.add(i)
    return sorted(found)
