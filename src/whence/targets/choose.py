"""From what users write to a target, and from a target to the array that it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import InputError, TargetError, unknown
from ..ops import Op
from ..tape import Tape, Value
from .base import Target
from .classes import Callback, Classes, Difference, Top
from .neuron import Neuron, channel_axis
from .token import Token

__all__ = ["difference", "find", "logit", "make", "neuron", "output", "pick"]


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
    position: None sums over all positions; "mean"; "max", the strongest of each sample; (row,
        column) of a map; an int for the place in a sequence, the token.
    channel_axis: where channels stand in the layer's output, if the tape's own answer is not
        wanted.

    Example:
        >>> import whence
        >>> whence.neuron("layer4.1.conv2", channel=37).describe()
        'layer4.1.conv2 channel 37'
    """
    place = tuple(position) if isinstance(position, list) else position
    return Neuron(layer, channel, place, channel_axis)


def difference(a: Any, b: Any, classes: Sequence[str] | None = None) -> Difference:
    """Class a's output minus class b's: what speaks for a rather than b.

    a, b: class numbers, or one a sample each; names where ``classes`` are given.

    Example:
        >>> import whence
        >>> whence.difference(3, 8).describe()
        'class 3 minus class 8'
    """
    return Difference(_indices(a, classes), _indices(b, classes))


def output(name: str | int, target: Any = None) -> Target:
    """One of several outputs: its name or place, and the target within it.

    Example:
        >>> import whence
        >>> whence.targets.output("logits", 3).output
        'logits'
    """
    inner = make(target)
    if not isinstance(inner, (Top, Classes, Difference, Token)):
        raise TargetError(
            "output(name, target) takes a class, one per sample, a difference, a token, or None"
        )
    return replace(inner, output=name)


def logit(target: Any = None, classes: Sequence[str] | None = None) -> Target:
    """The value before the model's last softmax (or sigmoid), for a model that ends in one.

    A softmax turns evidence for one class into evidence against all others, and a confident model's
    gradient through it is next to nothing; before it, each class speaks for itself.

    target: None (top class), a class number or name, one a sample, a difference.
    Raises TargetError here for anything else, and when explaining a model that does not end so.

    Example:
        >>> import whence
        >>> whence.logit(3).describe()
        'class 3 before the softmax'
    """
    inner = make(target, classes)
    if not isinstance(inner, (Top, Classes, Difference)):
        raise TargetError("logit(target) takes a class, one per sample, a difference, or None")
    return replace(inner, logit=True)


def make(target: Any, classes: Sequence[str] | None = None) -> Target:
    """What users write -> a Target.

    target: None (top class), an int, one int a sample, a class name (or one a sample) where
    ``classes`` are known, a Target, or a function of the model's outputs. Raises TargetError, or
    UnknownName for a class name, with the nearest names.
    """
    if target is None:
        return Top()
    if isinstance(target, Target):
        return target
    if callable(target):
        return Callback(target)
    return Classes(_indices(target, classes))


def _indices(target: Any, classes: Sequence[str] | None = None) -> tuple[int, ...]:
    if isinstance(target, str):
        return (_by_name(target, classes),)
    if isinstance(target, (list, tuple)) and target and all(isinstance(t, str) for t in target):
        return tuple(_by_name(t, classes) for t in target)
    if hasattr(target, "detach"):
        target = target.detach().cpu()
    array = np.asarray(target)
    if array.dtype.kind not in "iu" or array.ndim > 1 or array.size == 0:
        raise TargetError(
            "a target is None, a class number, one number a sample, whence.neuron(...), "
            f"whence.difference(...) or a function of the outputs; got {target!r}"
        )
    return tuple(int(i) for i in np.atleast_1d(array))


def _by_name(name: str, classes: Sequence[str] | None) -> int:
    if not classes:
        raise TargetError(
            f"class {name!r} was asked for by name, but the model's class names are not known; "
            "give its number"
        )
    if name not in classes:
        raise unknown("class", name, classes)
    return list(classes).index(name)


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
            raise TargetError(
                f"output {wanted} was asked for; the model has {len(names)}: {', '.join(names)}"
            )
        return names[wanted]
    if wanted not in outputs:
        raise unknown("output", wanted, names)
    return wanted


def find(target: Target, tape: Tape) -> tuple[Target, Value]:
    """The value on a tape that a target reads, and the target with its channel axis filled in.

    Raises TargetError where the value does not depend on the input, InputError where the input is
    whole numbers that nothing can be attributed to.
    """
    if tape.inputs and not tape.sources:
        kind = next(iter(tape.inputs.values())).dtype
        raise InputError(
            f"the input is {kind}: whole numbers, which the model does not look up in an "
            "embedding, so "
            "nothing can be attributed to them. Convert and scale them as in training, for "
            "example x.astype('float32') / 255; whence.images.read does it for files"
        )
    if target.layer is not None:
        value = tape.at(target.layer)
        if not value.tracked:
            raise TargetError(
                f"the output of layer {target.layer} does not depend on the input by any path of "
                "differentiable operations"
            )
        if isinstance(target, Neuron) and target.channel_axis is None:
            target = replace(target, channel_axis=channel_axis(value, tape.channels))
    else:
        name = pick(target, tape.outputs)
        found = tape.outputs[name]
        if not isinstance(found, Value) or not found.tracked:
            what = f"target {target.describe()!r}" if target.head else f"model's output {name!r}"
            raise TargetError(
                f"the {what} does not depend on its input: no path of differentiable "
                "operations leads back (a constant, a detach(), or whole numbers in between)"
            )
        value = _before_softmax(found, name) if target.logit else found
    target.check(value.shape)
    return target, value


def _before_softmax(value: Value, name: str) -> Value:
    """What went into the softmax or sigmoid that an output came out of."""
    node = value.node
    while node.kind is Op.SHAPE and len(node.into) == 1 and node.into[0].shape == value.shape:
        node = node.into[0].node
    if node.kind is Op.SOFTMAX or (node.kind is Op.ACTIVATION and node.op.lower() == "sigmoid"):
        return node.into[0]
    raise TargetError(
        f"the model's output {name!r} does not come out of a softmax or sigmoid but of "
        f"{node.kind}.{node.op} at layer {node.layer or '(top)'}: it is the logit already; leave "
        "whence.logit out"
    )
