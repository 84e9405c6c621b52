"""What of a call can be varied, and a model that takes it as an input of its own.

Floating inputs are varied as they are. Whole-number inputs have no points in between, so the
embeddings that they are looked up as are varied instead; and with ``at`` a layer's output is. For
those the model becomes one with more inputs: an array for each such place, which stands for what
the model computes there. The user's model itself is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from .. import checks, targets
from ..arrays import Array, Functions
from ..errors import TargetError
from ..frameworks.base import Inputs
from ..ops import Op
from ..tape import Node, Tape, Value
from ..targets import Neuron, Target
from .explained import Explained

__all__ = ["Patch", "lookups", "patch"]


@dataclass(frozen=True)
class Patch:
    """A call whose places can be varied."""

    model: Any
    inputs: Inputs
    target: Target
    """The job's target, as it reads on this model."""
    places: dict[str, Array]
    """What can be varied, as it is at x: {name: (batch, ...)}."""
    public: dict[str, str]
    """Names of the model's inputs that can be varied -> names of places."""
    axes: tuple[str, ...] | None = None
    read: Callable[[Inputs], dict[str, Array]] | None = None
    """The places of another input (under its own names); None where places are inputs."""

    @property
    def private(self) -> dict[str, str]:
        """Names of places -> names of the model's inputs."""
        return {v: k for k, v in self.public.items()}


def patch(job: Explained) -> Patch:
    """What can be varied in a job's call.

    Raises TargetError where nothing can, or where a layer does not keep the batch first.
    """
    xp = job.framework.xp
    arrays = job.inputs.arrays
    whole = [k for k, v in arrays.items() if not xp.is_floating(v)]
    # What has no batch (a mask for all samples, a table) is no sample's own to vary.
    floats = {
        k: v for k, v in arrays.items() if k not in whole and xp.shape(v)[:1] == (job.inputs.batch,)
    }
    if job.at is None and not whole:
        return Patch(job.model, job.inputs, job.target, floats, {k: k for k in floats})
    found = _look(job, job.inputs)
    inner = {k: v for k, v in found["places"].items() if k not in floats or job.at is not None}
    if job.at is not None:
        floats = {}
    if not inner:
        if floats:
            return Patch(job.model, job.inputs, job.target, floats, {k: k for k in floats})
        raise TargetError(
            "the input holds whole numbers and the model has no embedding for them, so nothing can "
            "be varied by degrees; give floating-point input"
        )
    for name, array in inner.items():
        where = f"layer {job.at}" if job.at is not None else f"the embedding {name}"
        checks.check_batch(xp.shape(array), job.inputs.batch, where)
    wrap = import_module(f"..frameworks.{job.framework.name}.patched", __package__).wrap
    names = {k: k for k in floats} | {f"@{k}": k for k in inner}
    order = {f"@{k}": found["numbers"][k] for k in inner}
    target, inside = _inside(job)
    model = wrap(job, order, inside)
    inputs = _with(job.inputs, {f"@{k}": v for k, v in inner.items()})

    def read(other: Inputs) -> dict[str, Array]:
        values = _look(job, other)["places"]
        return {k: values[k] for k in inner} | {k: other.arrays[k] for k in floats}

    return Patch(model, inputs, target, {**floats, **inner}, names, found["axes"], read)


def _inside(job: Explained) -> tuple[Target, Callable[[Tape], Array] | None]:
    """The target as it reads on the patched model, and how to read its place off a tape.

    Where a graph is traced, the patched model has no layers of its own, so that it returns a place
    inside the model itself.
    """
    target = job.target
    if job.framework.name == "torch" or (target.layer is None and not target.logit):
        return target, None
    if isinstance(target, Neuron) and target.channel_axis is None:
        # Only the whole tape can say where channels stand.
        target = replace(target, channel_axis=_channel_axis(job, target))

    def read(tape: Tape) -> Array:
        return targets.find(target, tape)[1].array

    return Inside(target), read


def _channel_axis(job: Explained, target: Neuron) -> int | None:
    def program(tape: Tape) -> dict[str, Any]:
        return {"axis": getattr(targets.find(target, tape)[0], "channel_axis", None)}

    found = job.framework.compute(
        job.model, job.inputs, program, key=("channel axis", target.key), keep=[target.layer]
    )
    axis: int | None = found["axis"]
    return axis


@dataclass(frozen=True)
class Inside(Target):
    """A target inside the model, on a model that returns the array there."""

    of: Target

    @property
    def key(self) -> Hashable:
        """Names the computation."""
        return ("inside", self.of.key)

    def arguments(self, samples: int) -> dict[str, Any]:
        """The target's own."""
        return self.of.arguments(samples)

    def weights(
        self, xp: Functions, y: Array, arguments: Mapping[str, Array]
    ) -> tuple[Array, Array | None]:
        """The target's own."""
        return self.of.weights(xp, y, arguments)

    def describe(self) -> str:
        """The target's own words."""
        return self.of.describe()

    def check(self, shape: Sequence[int]) -> None:
        """The target's own check."""
        self.of.check(shape)


def _with(inputs: Inputs, more: Mapping[str, Array]) -> Inputs:
    """The inputs, with the places' arrays beside them; the model takes both as two dicts."""

    def call(now: Mapping[str, Array]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        swaps = {k: now[k] for k in more}
        args, kwargs = inputs.call({k: v for k, v in now.items() if k not in more})
        return (swaps, args, kwargs), {}

    return Inputs({**inputs.arrays, **more}, call, inputs.restore)


def _look(job: Explained, inputs: Inputs) -> dict[str, Any]:
    """The arrays at the places that are no inputs, and where they are in the model."""

    def program(tape: Tape) -> dict[str, Any]:
        if job.at is not None:
            values = {"at": tape.at(job.at)}
            numbers: dict[str, Any] = {"at": job.at}
        else:
            found = lookups(tape)
            values = {name: node.out[0] for name, node in found.items()}
            numbers = {name: number for number, name in enumerate(found)}
        return {
            "places": {k: v.array for k, v in values.items()},
            "numbers": numbers,
            "axes": _axes(tape, job.at, values),
        }

    return job.framework.compute(
        job.model, inputs, program, key=("places", job.at), lean=True,
        keep=[job.at] if job.at else (),
    )  # fmt: skip


def lookups(tape: Tape) -> dict[str, Node]:
    """The embeddings of a tape by name, in order.

    The only one of the only whole-number input stands for that input and bears its name; others
    have their layer's. A table that is looked up several times has "table#1", "table#2"...
    """
    embedded = [n for n in tape.nodes if n.kind is Op.EMBEDDING]
    whole = [k for k, v in tape.inputs.items() if not v.tracked]
    if len(embedded) == 1 and len(whole) == 1:
        return {whole[0]: embedded[0]}
    layers = [n.layer or "embedding" for n in embedded]
    return {
        name + (f"#{layers[: k + 1].count(name)}" if layers.count(name) > 1 else ""): node
        for k, (name, node) in enumerate(zip(layers, embedded, strict=True))
    }


def _axes(tape: Tape, at: str | None, values: Mapping[str, Value]) -> tuple[str, ...] | None:
    if not values:
        return None
    value = next(iter(values.values()))
    rank = len(value.shape)
    if rank == 3:
        return ("batch", "token", "feature")
    if at is None:
        return None
    if rank in (4, 5):
        space = ["height", "width"] if rank == 4 else ["depth", "height", "width"]
        space.insert(0 if targets.channel_axis(value, tape.channels) == 1 else rank - 2, "channel")
        return ("batch", *space)
    return ("batch", "feature") if rank == 2 else None
