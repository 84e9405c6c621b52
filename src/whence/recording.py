"""Record a model call and look at it: the tape, and its summary by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from . import checks, frameworks, targets
from .backward import plan, walk
from .errors import InputError, TargetError, WhenceError
from .rules.gradient import gradient
from .tape import Array, Tape, Value

__all__ = ["LayerRow", "LayerTable", "Recording", "layers", "record"]


class Recording(Tape):
    """A tape that can be walked with the gradient table, as often as wanted."""

    def gradient(self, target: Any = None) -> Array | dict[str, Array]:
        """The gradient of a target with respect to the input, by the walk over this tape.

        target: None (top class), an int, one a sample, a ``whence.targets`` object; or a floating
        array of the output's shape, the cotangent to start from.
        Returns one array for one input, else a dict by input name; zeros where there is no path.
        """
        if _is_cotangent(target):
            seeds = {self._main_value(): target}
        else:
            wanted = targets.make(target)
            if wanted.head is not None:
                raise TargetError(
                    "a tape is recorded already; a function cannot be its target. Use explain"
                )
            wanted, value = targets.find(wanted, self)
            xp = value.node.xp
            if xp is None:
                raise TargetError("the target's node has no array functions")
            given = wanted.arguments(value.shape[0])
            spread = {k: xp.asarray(v) for k, v in given.items()}
            seeds = {value: wanted.weights(xp, value.array, spread)[0]}
        at = self.sources
        if not at:
            raise TargetError(
                "the input holds whole numbers and the model has no embedding for them: there is "
                "nothing that a gradient could be taken with respect to"
            )
        rules = plan(self, lambda node: gradient, list(seeds), at)
        found = walk(self, rules, seeds, at, samples=at[0].shape[0]).relevance
        named = {k: v for k, v in self.inputs.items() if v.tracked}
        named |= {
            n.layer or n.op: n.out[0]
            for n in self.nodes
            if n.out[0] in at and n.out[0] not in named.values()
        }
        grads = {k: found.get(v, v.node.xp.zeros_like(v.array)) for k, v in named.items()}  # type: ignore[union-attr]
        return next(iter(grads.values())) if len(grads) == 1 else grads

    def _main_value(self) -> Any:
        value = self.outputs[self.main]
        if not isinstance(value, Value) or not value.tracked:
            raise TargetError(f"the output {self.main!r} does not depend on the input")
        return value


def _is_cotangent(target: Any) -> bool:
    return hasattr(target, "dtype") and "float" in str(target.dtype)


def record(model: object, x: Any, *, lean: bool = False) -> Recording:
    """Run the model once in inference mode and write down what ran.

    model: a PyTorch or Keras model, or a function of their arrays; it is left as it was.
    x: one array with a batch axis, or a tuple or dict of them.
    lean: hold fewer arrays and leave batch-norm unfolded, which is enough for gradients.

    Returns the tape: iterate over its nodes, ``print`` it as a program, read ``tape.output``.
    Raises ModelError for what is not a model or cannot be recorded, InputError where the model
    cannot run on x.

    Example:
        >>> import torch, whence
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())
        >>> [str(node.kind) for node in whence.record(net, torch.ones(1, 3))]
        ['input', 'dense', 'relu']
    """
    framework = frameworks.find(model, x)
    inputs = frameworks.gather(framework, model, x)
    if inputs.batch == 0:
        raise InputError("the batch is empty: the input's first axis has length 0")
    try:
        tape = framework.record(model, inputs, lean=lean)
    except WhenceError:
        raise
    except Exception:
        checks.blame(framework, model, inputs)
        raise
    return Recording(**{f.name: getattr(tape, f.name) for f in fields(tape)})


@dataclass(frozen=True)
class LayerRow:
    """One call of one layer."""

    name: str
    type: str
    kinds: tuple[str, ...]
    """What ran in it itself, its child layers apart."""
    shape: tuple[int, ...]
    """Shape of its output, the batch included."""
    parameters: int


class LayerTable(tuple[LayerRow, ...]):
    """The layers in the order in which they returned; prints as a table."""

    __slots__ = ()

    @property
    def names(self) -> list[str]:
        """The layers' names, in order."""
        return [row.name for row in self]

    def __str__(self) -> str:
        head = ("layer", "type", "ops", "output", "parameters")
        lines = [head] + [
            (r.name, r.type, " ".join(r.kinds), "x".join(map(str, r.shape)), f"{r.parameters:,}")
            for r in self
        ]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        return "\n".join(
            "  ".join(
                cell.rjust(w) if i == 4 else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    __repr__ = __str__


def layers(model: object, x: Any) -> LayerTable:
    """The layers that run for ``x``, by the names that select them everywhere in whence.

    A layer that is called several times has a row a call, named ``name#1``, ``name#2``...

    Example:
        >>> import torch, whence
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())
        >>> print(whence.layers(net, torch.ones(1, 3)))
        layer  type    ops    output  parameters
        0      Linear  dense  1x2              8
        1      ReLU    relu   1x2              0
    """
    tape = record(model, x, lean=True)
    try:
        return LayerTable(_rows(tape))
    finally:
        tape.free()


def _rows(tape: Tape) -> Iterator[LayerRow]:
    inside: dict[str, list[str]] = {}
    for node in tape.nodes:
        kinds = inside.setdefault(node.layer, [])
        if str(node.kind) not in kinds:
            kinds.append(str(node.kind))
    rows = []
    for name, calls in tape.layers.items():
        for number, call in enumerate(calls, 1):
            label = f"{name}#{number}" if len(calls) > 1 else name
            value = call.values[0]
            ran = tuple(inside.get(name, ()))
            rows.append(
                (
                    value.node.index,
                    LayerRow(label, call.type, ran, value.shape, call.parameters),
                )
            )
    for _, row in sorted(rows, key=lambda pair: pair[0]):
        yield row
