"""Which number is explained: a class, a unit of a layer, a difference of two, any function.

A target says *where* (an output of the model, a layer, or a function of the outputs) and *how much
of each element there*: weights over the array found at that place. The explained number is the
weighted sum, one a sample; its gradient with respect to the place is the weights, and relevance
starts as weights times values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .errors import TargetError, unknown
from .frameworks.base import Functions
from .tape import Array, Tape, Value

__all__ = [
    "Callback", "Classes", "Difference", "Neuron", "Target", "Top", "difference", "make", "neuron",
    "output",
]  # fmt: skip


class Target(ABC):
    """What is explained. Frozen data; ``make`` turns what users write into one."""

    output: str | int | None = None
    """Which of several outputs, by name or place; None for the only (or main) one."""
    layer: str | None = None
    """The layer whose output is read, None for the model's own."""
    head: Callable[..., Any] | None = None
    """A function of the model's outputs that is run, and recorded, after it."""

    def arguments(self, samples: int) -> dict[str, np.ndarray]:
        """Arrays that differ from call to call, for which no graph should be compiled again.

        Raises TargetError where their length is neither 1 nor the number of samples.
        """
        return {}

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """Names the computation (without the arguments)."""

    @abstractmethod
    def weights(self, xp: Functions, y: Array, arguments: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """(weights like y, chosen index (batch,) or None) for the array at the target's place."""

    @abstractmethod
    def describe(self) -> str:
        """Words for titles: ``class 3``, ``layer4 channel 37``."""

    def check(self, shape: Sequence[int]) -> None:
        """Raise TargetError if the array at the target's place has not got what is asked for."""


@dataclass(frozen=True)
class Top(Target):
    """The class with the highest output, for each sample."""

    output: str | int | None = None

    @property
    def key(self) -> Hashable:
        return ("top", self.output)

    def check(self, shape: Sequence[int]) -> None:
        _needs_classes(shape, "the top class")

    def weights(self, xp: Functions, y: Array, arguments: Mapping[str, Array]) -> tuple[Array, Array | None]:
        if len(xp.shape(y)) == 1:
            return xp.ones_like(y), None
        index = xp.argmax(y, axis=1)
        return xp.one_hot(index, xp.shape(y)[1], y), index

    def describe(self) -> str:
        return "top class"


@dataclass(frozen=True)
class Classes(Target):
    """A class, the same for all samples or one for each."""

    index: tuple[int, ...]
    output: str | int | None = None

    def arguments(self, samples: int) -> dict[str, np.ndarray]:
        return {"target": _spread(self.index, samples)}

    @property
    def key(self) -> Hashable:
        return ("classes", self.output)

    def check(self, shape: Sequence[int]) -> None:
        _needs_classes(shape, f"class {self.index[0]}")
        _in_range(self.index, shape)

    def weights(self, xp: Functions, y: Array, arguments: Mapping[str, Array]) -> tuple[Array, Array | None]:
        if len(xp.shape(y)) == 1:
            return xp.ones_like(y), None
        index = arguments["target"]
        return xp.one_hot(index, xp.shape(y)[1], y), index

    def describe(self) -> str:
        return f"class {self.index[0]}" if len(set(self.index)) == 1 else "class"


@dataclass(frozen=True)
class Difference(Target):
    """Output a minus output b: why this class rather than that one."""

    a: tuple[int, ...]
    b: tuple[int, ...]
    output: str | int | None = None

    def arguments(self, samples: int) -> dict[str, np.ndarray]:
        return {"target": _spread(self.a, samples), "other": _spread(self.b, samples)}

    @property
    def key(self) -> Hashable:
        return ("difference", self.output)

    def check(self, shape: Sequence[int]) -> None:
        if len(shape) < 2:
            raise TargetError("a difference needs at least two classes; the model returns one number a sample")
        _needs_classes(shape, f"class {self.a[0]} minus class {self.b[0]}")
        _in_range((*self.a, *self.b), shape)

    def weights(self, xp: Functions, y: Array, arguments: Mapping[str, Array]) -> tuple[Array, Array | None]:
        classes = xp.shape(y)[1]
        index = arguments["target"]
        return xp.one_hot(index, classes, y) - xp.one_hot(arguments["other"], classes, y), index

    def describe(self) -> str:
        return f"class {self.a[0]} minus class {self.b[0]}"


@dataclass(frozen=True)
class Neuron(Target):
    """A unit of a layer, or all of a channel.

    ``position``: None sums over all positions, "mean" averages, "max" takes the strongest one,
    a place (an int for sequences and tokens, a tuple for maps) takes that one.
    """

    layer: str = ""
    channel: int | None = None
    position: str | int | tuple[int, ...] | None = None
    channel_axis: int | None = None
    """Where channels stand in the layer's output; None lets the tape say."""

    @property
    def key(self) -> Hashable:
        return ("neuron", self.layer, self.channel, self.position, self.channel_axis)

    def axis(self, rank: int) -> int:
        axis = self.channel_axis
        return (1 if axis is None else axis) % rank

    def check(self, shape: Sequence[int]) -> None:
        if len(shape) < 2:
            raise TargetError(f"layer {self.layer} has output shape {tuple(shape)}, without units to choose from")
        axis = self.axis(len(shape))
        if self.channel is not None and not -shape[axis] <= self.channel < shape[axis]:
            raise TargetError(
                f"channel {self.channel} of layer {self.layer} was asked for; its output is "
                f"{tuple(shape)}, so channels go from 0 to {shape[axis] - 1} (axis {axis})"
            )
        spatial = [s for i, s in enumerate(shape) if i not in (0, axis)]
        place = self._place()
        if place is None:
            if self.position not in (None, "mean", "max"):
                raise TargetError(f'position is None, "mean", "max" or a place; got {self.position!r}')
            return
        if len(place) != len(spatial) or any(not -s <= p < s for p, s in zip(place, spatial, strict=True)):
            raise TargetError(
                f"position {self.position} of layer {self.layer} was asked for; its positions are "
                f"{'x'.join(map(str, spatial)) or 'none (one unit a channel)'}"
            )

    def _place(self) -> tuple[int, ...] | None:
        if isinstance(self.position, (int, np.integer)):
            return (int(self.position),)
        return tuple(self.position) if isinstance(self.position, (tuple, list)) else None

    def weights(self, xp: Functions, y: Array, arguments: Mapping[str, Array]) -> tuple[Array, Array | None]:
        shape = xp.shape(y)
        axis = self.axis(len(shape))
        weights = np.ones((1, *shape[1:]), np.float32)
        if self.channel is not None:
            chosen = np.zeros(shape[axis], np.float32)
            chosen[self.channel] = 1
            weights *= chosen.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        spatial = [i for i in range(1, len(shape)) if i != axis]
        place = self._place()
        if place is not None:
            for i, p in zip(spatial, place, strict=True):
                line = np.zeros(shape[i], np.float32)
                line[p] = 1
                weights *= line.reshape([-1 if j == i else 1 for j in range(len(shape))])
        elif self.position == "mean":
            weights /= max(int(np.prod([shape[i] for i in spatial])), 1)
        mask = xp.cast(xp.asarray(weights, like=y), xp.dtype(y))
        mask = xp.zeros_like(y) + mask
        return (_strongest(xp, y, mask), None) if self.position == "max" else (mask, None)

    def describe(self) -> str:
        words = [self.layer] + ([f"channel {self.channel}"] if self.channel is not None else [])
        if self.position is not None:
            words.append(f"at {self.position}")
        return " ".join(words)


@dataclass(frozen=True)
class Callback(Target):
    """A function of the model's outputs that returns one number a sample, (batch,)."""

    head: Callable[..., Any] | None = None

    @property
    def key(self) -> Hashable:
        return ("callback", self.head)

    def check(self, shape: Sequence[int]) -> None:
        if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
            raise TargetError(
                f"the target function must return one number a sample, shape (batch,); it returned {tuple(shape)}"
            )

    def weights(self, xp: Functions, y: Array, arguments: Mapping[str, Array]) -> tuple[Array, Array | None]:
        return xp.ones_like(y), None

    def describe(self) -> str:
        return getattr(self.head, "__name__", "function").replace("<lambda>", "function")


def neuron(
    layer: str,
    channel: int | None = None,
    position: str | int | tuple[int, ...] | None = None,
    *,
    channel_axis: int | None = None,
) -> Neuron:
    """A unit, a channel or a whole layer as the target: the neuron's own heat map.

    layer: a name from ``whence.layers``; ``name#2`` for a layer's second call.
    channel: which channel, counted from 0; None sums over all.
    position: None sums over all positions; "mean"; "max", the strongest of each sample; (row, column)
    of a map; an int for the place in a sequence, the token.
    channel_axis: where channels stand in the layer's output, if the tape's own answer is not wanted.

    Example:
        >>> import whence
        >>> whence.neuron("layer4.1.conv2", channel=37).describe()
        'layer4.1.conv2 channel 37'
    """
    return Neuron(layer, channel, tuple(position) if isinstance(position, list) else position, channel_axis)


def difference(a: int | Sequence[int], b: int | Sequence[int]) -> Difference:
    """Class a's output minus class b's: what speaks for a rather than b.

    Example:
        >>> import whence
        >>> whence.difference(3, 8).describe()
        'class 3 minus class 8'
    """
    return Difference(_indices(a), _indices(b))


def output(name: str | int, target: Any = None) -> Target:
    """One of several outputs: its name or place, and the target within it.

    Example:
        >>> import whence
        >>> whence.targets.output("logits", 3).output
        'logits'
    """
    inner = make(target)
    if not isinstance(inner, (Top, Classes, Difference)):
        raise TargetError("output(name, target) takes a class, one per sample, a difference, or None")
    return replace(inner, output=name)


def make(target: Any, classes: Sequence[str] | None = None) -> Target:
    """What users write -> a Target.

    target: None (top class), an int, one int a sample, a class name where ``classes`` are known, a
    Target, or a function of the model's outputs. Raises TargetError, or UnknownName for a class
    name, with the nearest names.
    """
    if target is None:
        return Top()
    if isinstance(target, Target):
        return target
    if isinstance(target, str):
        if not classes:
            raise TargetError(f"class {target!r} was asked for by name, but the model's class names are not known; give its number")
        if target not in classes:
            raise unknown("class", target, classes)
        return Classes((list(classes).index(target),))
    if callable(target):
        return Callback(target)
    return Classes(_indices(target))


def _indices(target: Any) -> tuple[int, ...]:
    if hasattr(target, "detach"):
        target = target.detach().cpu()
    array = np.asarray(target)
    if array.dtype.kind not in "iu" or array.ndim > 1 or array.size == 0:
        raise TargetError(
            "a target is None, a class number, one number a sample, whence.neuron(...), "
            f"whence.difference(...) or a function of the outputs; got {target!r}"
        )
    return tuple(int(i) for i in np.atleast_1d(array))


def _spread(index: tuple[int, ...], samples: int) -> np.ndarray:
    if len(index) not in (1, samples):
        raise TargetError(f"{len(index)} targets were given for {samples} samples; give one, or one a sample")
    return np.broadcast_to(np.asarray(index, np.int64), (samples,)).copy()


def _in_range(index: Sequence[int], shape: Sequence[int]) -> None:
    classes = shape[1] if len(shape) == 2 else 1
    wrong = [i for i in index if not 0 <= i < classes]
    if wrong:
        raise TargetError(f"class {wrong[0]} was asked for; the model has {classes} outputs, 0 to {classes - 1}")


def _needs_classes(shape: Sequence[int], what: str) -> None:
    if len(shape) not in (1, 2):
        raise TargetError(
            f"{what} was asked for, but the model's output has shape {tuple(shape)}: not one number a class. "
            "Give a function of the outputs that returns one number a sample, or whence.neuron(...)"
        )


def _strongest(xp: Functions, y: Array, mask: Array) -> Array:
    """Weight 1 at the largest masked value of each sample, shared between equals."""
    axes = tuple(range(1, len(xp.shape(y))))
    inside = xp.where(mask > 0, y, xp.zeros_like(y) - float("inf"))
    peak = xp.max(inside, axis=axes, keepdims=True)
    hit = xp.where(inside >= peak, xp.ones_like(y), xp.zeros_like(y))
    return hit / xp.sum(hit, axis=axes, keepdims=True)


def pick(target: Target, outputs: Mapping[str, Any]) -> str:
    """The name of the output that a target means.

    Raises TargetError where there are several and none was named, UnknownName for a wrong name.
    """
    names = list(outputs)
    wanted = target.output
    if wanted is None:
        if len(names) == 1 or target.head is not None:
            return names[0]
        if "logits" in names:
            return "logits"
        raise TargetError(
            f"the model has {len(names)} outputs ({', '.join(names)}); name one: "
            f"target=whence.targets.output({names[0]!r}, class)"
        )
    if isinstance(wanted, int):
        if not -len(names) <= wanted < len(names):
            raise TargetError(f"output {wanted} was asked for; the model has {len(names)}: {', '.join(names)}")
        return names[wanted]
    if wanted not in outputs:
        raise unknown("output", wanted, names)
    return wanted


def find(target: Target, tape: Tape) -> tuple[Target, Value]:
    """The value on a tape that a target reads, and the target with its channel axis filled in.

    Raises TargetError where the value does not depend on the input.
    """
    if target.layer is not None:
        value = tape.at(target.layer)
        if isinstance(target, Neuron) and target.channel_axis is None:
            target = replace(target, channel_axis=channel_axis(value, tape.channels))
    else:
        name = pick(target, tape.outputs)
        found = tape.outputs[name]
        if not isinstance(found, Value) or not found.tracked:
            raise TargetError(
                f"the model's output {name!r} does not depend on its input: no path of differentiable "
                "operations leads back (a constant, a detach(), or whole numbers in between)"
            )
        value = found
    target.check(value.shape)
    return target, value


def channel_axis(value: Value, channels: str) -> int:
    """Where channels stand in an array of the tape: as its own op says, else by rank."""
    rank = len(value.shape)
    seen = value
    while rank > 2:
        node = seen.node
        if "channel_axis" in node.attrs:
            return int(node.attrs["channel_axis"]) % rank
        if str(node.kind) in ("dense", "norm") and "channel_axis" not in node.attrs:
            return rank - 1
        if not node.into or str(node.kind) == "shape" or len(node.into[0].shape) != rank:
            break
        seen = node.into[0]
    return 1 if rank <= 2 or (channels == "first" and rank > 3) else rank - 1
