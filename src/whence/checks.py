"""Is this input one that the model can take? Asked before anything runs, answered in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import InputError, NotFinite
from .frameworks.base import Expectation, Framework, Inputs
from .tape import Tape

__all__ = ["check_finite", "check_inputs", "explain_failure", "first_not_finite"]


def check_inputs(framework: Framework, model: object, inputs: Inputs) -> None:
    """Raise InputError or NotFinite for an input that cannot be explained.

    Checked: an empty batch, a missing batch axis or channel in the wrong place (where the model's
    first layer says what it wants), whole-number pixels, NaN and infinity.
    """
    for name, array in inputs.arrays.items():
        shape = framework.xp.shape(array)
        if not shape:
            raise InputError(f"{_named(name)} is a single number; an array with a batch axis is wanted")
        if shape[0] == 0:
            raise InputError(f"{_named(name)} has shape {_x(shape)}: the batch is empty")
        check_finite(framework, array, _named(name))
    wants = framework.expectation(model)
    if len(inputs.arrays) == 1:
        name, array = next(iter(inputs.arrays.items()))
        _check_one(framework, wants, framework.xp.shape(array), framework.xp.is_floating(array), framework.xp.dtype(array))


def _check_one(framework: Framework, wants: Expectation, shape: tuple[int, ...], floating: bool, dtype: str) -> None:
    if not floating and not wants.tokens and wants.rank is not None:
        raise InputError(
            f"the input is {dtype}, but the model's first layer {_q(wants.layer)} wants floating pixels. "
            "Convert and scale them as in training, for example x.astype('float32') / 255; "
            "whence.images.read does it for files"
        )
    if floating and wants.tokens and wants.layer and len(shape) == 2:
        raise InputError(
            f"the input is {dtype}, but the model starts at the embedding {_q(wants.layer)}, which takes "
            "whole-number token ids, shape (batch, tokens)"
        )
    if wants.rank is None or wants.tokens:
        return
    if len(shape) == wants.rank - 1:
        raise InputError(
            f"the input has shape {_x(shape)}, without a batch axis: the model's first layer {_q(wants.layer)} "
            f"wants {wants.rank} axes. Add one: x[None]"
        )
    if len(shape) != wants.rank:
        raise InputError(
            f"the input has {len(shape)} axes, shape {_x(shape)}; the model's first layer {_q(wants.layer)} "
            f"wants {wants.rank}: {_wanted(wants)}"
        )
    _check_channels(wants, shape)


def _check_channels(wants: Expectation, shape: tuple[int, ...]) -> None:
    if wants.channels is None or wants.channel_axis is None:
        return
    axis = wants.channel_axis % len(shape)
    if shape[axis] == wants.channels:
        return
    other = len(shape) - 1 if axis == 1 else 1
    if shape[other] == wants.channels:
        order = "last" if axis != 1 else "first"
        move = f"x.transpose({_move(len(shape), other, axis)})"
        raise InputError(
            f"the input has shape {_x(shape)}, with channels on axis {other}; this model wants channels "
            f"{order}, {_wanted(wants)}. For a NumPy array: {move}"
        )
    raise InputError(
        f"the input has shape {_x(shape)}, so {shape[axis]} channels on axis {axis}; the model's first layer "
        f"{_q(wants.layer)} wants {wants.channels}: {_wanted(wants)}"
    )


def _move(rank: int, source: int, target: int) -> str:
    order = [i for i in range(rank) if i != source]
    order.insert(target, source)
    return ", ".join(map(str, order))


def _wanted(wants: Expectation) -> str:
    axes = ["batch"] + [f"size{i}" for i in range(1, (wants.rank or 4) - 1)]
    if wants.rank == 4:
        axes = ["batch", "height", "width"]
    axes.insert(1 if wants.channel_axis == 1 else len(axes), str(wants.channels or "channels"))
    return f"shape ({', '.join(axes)})"


def check_finite(framework: Framework, array: Any, what: str) -> None:
    """Raise NotFinite if there is NaN or infinity in a floating array."""
    xp = framework.xp
    if not xp.is_floating(array):
        return
    finite = xp.to_numpy(xp.isfinite(array))
    if not finite.all():
        places = np.argwhere(~finite)
        values = xp.to_numpy(array)[tuple(places[0])]
        raise NotFinite(
            f"{what} has {len(places)} value(s) that are not finite, the first ({values}) at "
            f"{tuple(int(i) for i in places[0])}; remove or replace them before explaining"
        )


def first_not_finite(framework: Framework, tape: Tape) -> str:
    """Where NaN or infinity first appears on a tape, in words; empty where it does not.

    Minus infinity at the input of a softmax is how a mask is spelled, and is not reported.
    """
    xp = framework.xp
    for node in tape.nodes:
        for value in node.results:
            array = xp.to_numpy(value.array)
            wrong = ~np.isfinite(array)
            if str(node.kind) != "softmax":
                wrong &= ~np.isneginf(array)
            if wrong.any():
                return f"{node.kind}.{node.op} at layer {node.layer or '(top)'}, node {node.index} of the tape"
    return ""


def explain_failure(framework: Framework, model: object, inputs: Inputs, error: Exception) -> InputError:
    """The model itself raised on this input: say what came and what its first layer wants."""
    shapes: Mapping[str, str] = {
        k: f"{framework.xp.dtype(v)} {_x(framework.xp.shape(v))}" for k, v in inputs.arrays.items()
    }
    wants = framework.expectation(model)
    hint = f" Its first layer {_q(wants.layer)} wants {_wanted(wants)}." if wants.rank and not wants.tokens else ""
    came = ", ".join(f"{_named(k)} {v}" for k, v in shapes.items())
    return InputError(f"the model cannot run on {came}: {type(error).__name__}: {error}.{hint}")


def _named(name: str) -> str:
    return "the input" if name == "input" else f"input {name!r}"


def _q(layer: str) -> str:
    return f"({layer})" if layer else ""


def _x(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
