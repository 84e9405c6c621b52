"""Is this input one that the model can take? Asked before anything runs, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .arrays import Functions
from .errors import InputError, NotFinite, TargetError, WhenceError
from .frameworks.base import Expectation, Framework, Inputs
from .ops import Op
from .tape import Tape

__all__ = [
    "blame",
    "check_batch",
    "check_finite",
    "check_inputs",
    "explain_failure",
    "first_not_finite",
    "is_finite",
]


def check_inputs(framework: Framework, model: object, inputs: Inputs) -> None:
    """Raise InputError or NotFinite for an input that cannot be explained.

    Checked: an empty batch, a missing batch axis or channel in the wrong place (where the model's
    first layer says what it wants), whole-number pixels, token ids that the embedding does not
    hold, NaN and infinity.
    """
    xp = framework.xp
    several = len(inputs.arrays) > 1
    for name, array in inputs.arrays.items():
        shape = xp.shape(array)
        if not shape:
            raise InputError(
                f"{_named(name)} is a single number; an array with a batch axis is wanted"
            )
        if shape[0] == 0:
            raise InputError(f"{_named(name)} has shape {_x(shape)}: the batch is empty")
        check_finite(framework, array, _named(name), mask=several)
    wants = framework.expectation(model)
    strange = _out_of_vocabulary(xp, wants, inputs)
    if strange and not _runs(framework, model, inputs):
        raise InputError(strange)
    if several:
        return
    (array,) = inputs.arrays.values()
    wrong = _mismatch(wants, xp.shape(array), xp.is_floating(array), xp.dtype(array))
    # Layers are listed as they were made, not as they run, so that a first layer's word is a hint:
    # what the model takes, and answers with one row a sample, is right all the same.
    if wrong and not _runs(framework, model, inputs):
        raise InputError(wrong)


def _out_of_vocabulary(xp: Functions, wants: Expectation, inputs: Inputs) -> str:
    """Which token id the embedding does not hold, in words; empty where it holds all."""
    if not wants.vocabulary:
        return ""
    for name, array in inputs.arrays.items():
        if xp.is_floating(array):
            continue
        ids = xp.to_numpy(array)
        wrong = (ids < 0) | (ids >= wants.vocabulary)
        if ids.dtype != bool and wrong.any():
            place = tuple(int(i) for i in np.argwhere(wrong)[0])
            return (
                f"{_named(name)} holds the token id {ids[place]} at {place}; the model's embedding"
                f"{_q(wants.layer)} has a vocabulary of {wants.vocabulary}, ids 0 to "
                f"{wants.vocabulary - 1}. Do tokenizer and model belong together?"
            )
    return ""


def _runs(framework: Framework, model: object, inputs: Inputs) -> bool:
    """Whether the model takes the input, and answers with as many rows as there are samples."""
    try:
        outputs = framework.predict(model, inputs)
    except Exception:
        return False
    shapes = [framework.xp.shape(y) for y in outputs.values()]
    return any(shape and shape[0] == inputs.batch for shape in shapes)


def _mismatch(wants: Expectation, shape: tuple[int, ...], floating: bool, dtype: str) -> str:
    """What is wrong with an input by the first layer's word; empty if nothing is."""
    layer = _q(wants.layer)
    if not floating and not wants.tokens and wants.rank is not None:
        return (
            f"the input is {dtype}, but the model's first layer{layer} wants floating pixels. "
            "Convert and scale them as in training, for example x.astype('float32') / 255; "
            "whence.images.read does it for files"
        )
    if floating and wants.tokens and wants.layer and len(shape) == 2:
        return (
            f"the input is {dtype}, but the model starts at the embedding{layer}, which takes "
            "whole-number token ids, shape (batch, tokens)"
        )
    if wants.tokens:
        return ""
    if wants.rank is None:
        bare = len(shape) == 1 and wants.channels == shape[0] and shape[0] > 1
        return _no_batch(shape, layer, 2) if bare else ""
    if len(shape) == wants.rank - 1:
        return _no_batch(shape, layer, wants.rank)
    if len(shape) != wants.rank:
        return (
            f"the input has {len(shape)} axes, shape {_x(shape)}; the model's first layer{layer} "
            f"wants {wants.rank}: {_wanted(wants)}"
        )
    return _channels_mismatch(wants, shape)


def _no_batch(shape: tuple[int, ...], layer: str, rank: int) -> str:
    return (
        f"the input has shape {_x(shape)}, without a batch axis: the model's first layer{layer} "
        f"wants {rank} axes. Add one: x[None]"
    )


def _channels_mismatch(wants: Expectation, shape: tuple[int, ...]) -> str:
    if wants.channels is None or wants.channel_axis is None:
        return ""
    axis = wants.channel_axis % len(shape)
    if shape[axis] == wants.channels:
        return ""
    other = len(shape) - 1 if axis == 1 else 1
    if shape[other] == wants.channels:
        order = "last" if axis != 1 else "first"
        move = f"x.transpose({_move(len(shape), other, axis)})"
        return (
            f"the input has shape {_x(shape)}, with channels on axis {other}; this model wants "
            f"channels {order}, {_wanted(wants)}. For a NumPy array: {move}"
        )
    return (
        f"the input has shape {_x(shape)}, so {shape[axis]} channels on axis {axis}; the model's "
        f"first layer{_q(wants.layer)} wants {wants.channels}: {_wanted(wants)}"
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


def check_batch(shape: tuple[int, ...], samples: int, what: str) -> None:
    """Raise TargetError where the explained array has not got the samples along its first axis."""
    if not shape or shape[0] != samples:
        raise TargetError(
            f"{what} has shape {_x(shape)} for {samples} sample(s): its first axis is not the "
            "batch. Choose a place that keeps the batch first, or give a function of the outputs "
            "that returns one number a sample"
        )


def is_finite(xp: Functions, array: Any) -> bool:
    """Whether a floating array holds neither NaN nor infinity; one number crosses to the host."""
    return bool(np.isfinite(xp.to_numpy(xp.sum(array * 0))).all())


def check_finite(framework: Framework, array: Any, what: str, *, mask: bool = False) -> None:
    """Raise NotFinite if there is NaN or infinity in a floating array.

    mask: minus infinity is let pass where all other numbers are zero or less, for an attention mask
    is spelled so.
    """
    xp = framework.xp
    if not xp.is_floating(array) or is_finite(xp, array):
        return
    numbers = xp.to_numpy(array)
    wrong = ~np.isfinite(numbers)
    if mask and bool((numbers <= 0).all()):
        return
    places = np.argwhere(wrong)
    first = tuple(int(i) for i in places[0])
    raise NotFinite(
        f"{what} has {len(places)} value(s) that are not finite, the first ({numbers[first]}) at "
        f"{first}; remove or replace them before explaining"
    )


def first_not_finite(framework: Framework, tape: Tape) -> str:
    """Where NaN or infinity first appears on a tape, in words; empty where it does not.

    Minus infinity is how a mask is spelled, and is let pass where it was filled in or added.
    """
    xp = framework.xp
    for node in tape.nodes:
        for value in node.results:
            array = xp.to_numpy(value.array)
            wrong = ~np.isfinite(array)
            if node.kind in (Op.INPUT, Op.SHAPE, Op.AFFINE, Op.ADD):
                wrong &= ~np.isneginf(array)
            if wrong.any():
                place = f"{node.kind}.{node.op} at layer {node.layer or '(top)'}"
                return f"{place}, node {node.index} of the tape"
    return ""


def blame(framework: Framework, model: object, inputs: Inputs) -> None:
    """Raise InputError if it is the model itself that cannot run on this input.

    Called when something went wrong, to say in the input's terms whose fault it was.
    """
    try:
        framework.predict(model, inputs)
    except WhenceError:
        raise
    except Exception as own:
        raise explain_failure(framework, model, inputs, own) from own


def explain_failure(
    framework: Framework, model: object, inputs: Inputs, error: Exception
) -> InputError:
    """The model itself raised on this input: say what came and what its first layer wants."""
    xp = framework.xp
    shapes: Mapping[str, str] = {
        k: f"{xp.dtype(v)} {_x(xp.shape(v))}" for k, v in inputs.arrays.items()
    }
    wants = framework.expectation(model)
    hint = ""
    if wants.rank and not wants.tokens:
        hint = f" Its first layer{_q(wants.layer)} wants {_wanted(wants)}."
    came = ", ".join(f"{_named(k)} {v}" for k, v in shapes.items())
    said = str(error).rstrip(". \n")
    kind = type(error).__name__
    return InputError(f"the model cannot run on {came}: {kind}{': ' if said else ''}{said}.{hint}")


def _named(name: str) -> str:
    return "the input" if name == "input" else f"input {name!r}"


def _q(layer: str) -> str:
    return f" ({layer})" if layer else ""


def _x(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
