"""References: the input that an explanation compares with.

What a user may write for ``baseline=``, and the arrays that it stands for: a number, an array, a
name ("zero", "black", "mean", "blur", "noise"), one of the objects below, a list of these (a set),
or a tuple or dict of them for a model of several inputs. Each sample's reference depends on that
sample alone, so it is the same in any batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Array
from .errors import OptionError, unknown
from .frameworks import to_numpy
from .frameworks.base import Framework, Inputs

__all__ = ["NAMES", "Black", "Blur", "Mean", "Noise", "References", "references", "stacked"]

References = list[dict[str, Array]]
"""One dict a reference: by input name, an array like that input, in the framework's type."""


@dataclass(frozen=True)
class Axes:
    """Which axes of an input hold places, and which one channels (None for a table)."""

    space: tuple[int, ...]
    channel: int | None


@dataclass(frozen=True)
class Black:
    """No light: the lower bound of what a pixel can be after preprocessing.

    low: a number, or one a channel; (0 - mean) / std where pixels were normalised so.
    """

    low: Any = None

    def made(self, x: np.ndarray, axes: Axes) -> np.ndarray:
        """(batch, ...) like x. Raises OptionError where the bound is not known or does not fit."""
        if self.low is None:
            raise OptionError(
                'baseline="black" needs to know what black is after preprocessing: give '
                "baseline=whence.baselines.Black(low), a number or one a channel; for pixels that "
                'were not shifted it is "zero"'
            )
        low = np.asarray(to_numpy(self.low) if hasattr(self.low, "shape") else self.low, x.dtype)
        if low.ndim == 0:
            return np.broadcast_to(low, x.shape)
        if axes.channel is None or low.shape != (x.shape[axes.channel],):
            held = "none" if axes.channel is None else x.shape[axes.channel]
            raise OptionError(
                f"Black needs one number, or one a channel; got shape {low.shape} for {held} "
                "channels"
            )
        line = [1] * x.ndim
        line[axes.channel] = -1
        return np.broadcast_to(low.reshape(line), x.shape)


@dataclass(frozen=True)
class Mean:
    """The sample's own mean colour: per channel, the mean over all places."""

    def made(self, x: np.ndarray, axes: Axes) -> np.ndarray:
        """(batch, ...) like x. Raises OptionError for tables, which have no places."""
        _needs_places("mean", axes, "give the means of the training data as an array")
        return np.broadcast_to(x.mean(axes.space, keepdims=True), x.shape)


@dataclass(frozen=True)
class Blur:
    """The sample without its detail: a Gaussian blur along every axis of places.

    sigma: the width in places (pixels, steps); None takes a twentieth of the longest axis.
    Edges are continued. Raises OptionError if sigma is not positive.
    """

    sigma: float | None = None

    def __post_init__(self) -> None:
        if self.sigma is not None and not self.sigma > 0:
            raise OptionError(f"Blur needs sigma > 0, in pixels; got {self.sigma!r}")

    def made(self, x: np.ndarray, axes: Axes) -> np.ndarray:
        """(batch, ...) like x. Raises OptionError for tables, which have no places."""
        _needs_places("blur", axes, 'use a number, an array, "zero" or "noise"')
        sigma = self.sigma or max(max(x.shape[a] for a in axes.space) / 20, 0.5)
        blurred = x.astype(np.float64)
        for axis in axes.space:
            weights = _gaussian(x.shape[axis], sigma)
            blurred = np.moveaxis(np.tensordot(weights, blurred, (1, axis)), 0, axis)
        return blurred.astype(x.dtype)


@dataclass(frozen=True)
class Noise:
    """Uniform noise between the sample's own lowest and highest number, per channel.

    seed: names the noise. The pattern is the same for every sample, so that a sample has the same
    reference alone and in a batch.
    """

    seed: int = 0

    def made(self, x: np.ndarray, axes: Axes) -> np.ndarray:
        """(batch, ...) like x."""
        within = axes.space or tuple(range(1, x.ndim))
        low, high = x.min(within, keepdims=True), x.max(within, keepdims=True)
        drawn = np.random.default_rng(self.seed).random((1, *x.shape[1:]))
        return (low + (high - low) * drawn).astype(x.dtype)


NAMES: dict[str, Any] = {
    "zero": 0.0,
    "black": Black(),
    "mean": Mean(),
    "blur": Blur(),
    "noise": Noise(),
}
"""What each name stands for."""

_WORDS = "a number, an array like the input, {names}, a list of these, or a dict by input name"


def _gaussian(length: int, sigma: float) -> np.ndarray:
    """(length, length): row i holds the weights of the places that place i becomes a mean of.

    What would lie beyond an edge is the edge's own number.
    """
    reach = max(int(np.ceil(4 * sigma)), 1)
    steps = np.arange(-reach, reach + 1)
    bell = np.exp(-0.5 * (steps / sigma) ** 2)
    weights = np.zeros((length, length))
    for place in range(length):
        np.add.at(weights[place], np.clip(place + steps, 0, length - 1), bell / bell.sum())
    return weights


def _needs_places(name: str, axes: Axes, instead: str) -> None:
    if not axes.space:
        raise OptionError(
            f'baseline="{name}" needs an image, a volume or a sequence; this input is a table, '
            f"which has no neighbouring places: {instead}"
        )


def references(
    baseline: Any, framework: Framework, model: object, inputs: Inputs
) -> tuple[References, list[str]]:
    """(one dict of arrays for each reference, notes for the reader).

    Every reference has an array for every input, of the same shape and type. Whole-number inputs
    keep their numbers (a mask, positions), unless the dict names them, or one is the only input:
    then the baseline is a token id, or ids.
    Raises OptionError where a baseline does not fit its input, UnknownName for a wrong name.
    """
    if isinstance(baseline, list) and not _is_numbers(baseline):
        if not baseline:
            raise OptionError("the set of references is empty; give at least one")
        if all(isinstance(one, int | float) for one in baseline):
            raise OptionError(
                f"a list of numbers may be one reference or a set of them; got {_said(baseline)}. "
                "Give a NumPy array for one reference, or a list of arrays for a set"
            )
        several = [references(one, framework, model, inputs) for one in baseline]
        notes = list(dict.fromkeys(note for _, said in several for note in said))
        return [one for found, _ in several for one in found], notes
    by_input, notes = _by_input(baseline, framework, inputs)
    made = dict(inputs.arrays)
    for name, one in by_input.items():
        made[name] = _array(one, framework, model, name, inputs)
    return [made], notes


def stacked(baseline: Any) -> Any:
    """An array whose first axis runs over references, or a dict of such, as a list of references.

    Lists are left as they are. Raises OptionError for what is no set.
    """
    if isinstance(baseline, list) and not _is_numbers(baseline):
        return baseline
    if isinstance(baseline, Mapping) and baseline:
        apart = {k: stacked(v) for k, v in baseline.items()}
        lengths = {len(v) for v in apart.values()}
        if len(lengths) > 1:
            raise OptionError(
                "the set of references has a different length for each input: "
                + ", ".join(f"{k} {len(v)}" for k, v in apart.items())
            )
        return [{k: v[i] for k, v in apart.items()} for i in range(lengths.pop())]
    array = np.asarray(baseline) if isinstance(baseline, list) else baseline
    if not hasattr(array, "shape") or len(array.shape) < 1 or not int(array.shape[0]):
        raise OptionError(
            "a set of references is wanted: an array (references, ...) or a list of baselines; got "
            f"{_said(baseline)}"
        )
    return [array[i] for i in range(int(array.shape[0]))]


def _by_input(
    baseline: Any, framework: Framework, inputs: Inputs
) -> tuple[dict[str, Any], list[str]]:
    """Which input gets which baseline."""
    names = list(inputs.arrays)
    if isinstance(baseline, Mapping):
        for name in baseline:
            if name not in names:
                raise unknown("input", str(name), names, "The baseline's keys are input names.")
        return dict(baseline), []
    if isinstance(baseline, tuple):
        if len(baseline) != len(names):
            raise OptionError(
                f"{len(baseline)} baselines were given for {len(names)} inputs, {names}"
            )
        return dict(zip(names, baseline, strict=True)), []
    floats = [k for k, v in inputs.arrays.items() if framework.xp.is_floating(v)]
    if floats:
        return dict.fromkeys(floats, baseline), []
    if len(names) > 1:
        raise OptionError(
            f"the inputs {names} hold whole numbers; say which of them are token ids, and with "
            f"which ids to compare: baseline={{{names[0]!r}: 0}}. The others keep their numbers"
        )
    said = f"the reference is token id {baseline} at every place"
    return dict.fromkeys(names, baseline), [said] if isinstance(baseline, int) else []


def _array(one: Any, framework: Framework, model: object, name: str, inputs: Inputs) -> Array:
    """One input's reference, in the framework's type."""
    xp = framework.xp
    x = inputs.arrays[name]
    shape = tuple(xp.shape(x))
    if isinstance(one, str):
        if one not in NAMES:
            raise unknown("baseline", one, NAMES, f"A baseline is {_words()}.")
        one = NAMES[one]
    floating = xp.is_floating(x)
    if hasattr(one, "made"):
        if not floating:
            raise OptionError(
                f"{_named(name)} holds whole numbers: {type(one).__name__} is for floating input. "
                "Give token ids, a number or an array"
            )
        axes = _axes(framework, model, shape)
        numbers = np.asarray(xp.to_numpy(x))
        made = np.array(one.made(numbers, axes))
        return xp.cast(xp.asarray(made, like=x), xp.dtype(x))
    given = to_numpy(one) if hasattr(one, "shape") else _numbers(one)
    if not floating and given.dtype.kind not in "iub":
        if not np.all(given == np.round(given)):
            raise OptionError(
                f"{_named(name)} holds whole numbers (token ids), so its baseline must too; got "
                f"{_said(one)}"
            )
    _check_fit(given, shape, name)
    spread = np.array(np.broadcast_to(given, shape))
    if not floating or given.dtype.kind in "iub":
        spread = spread.astype(np.int64 if not floating else np.float32)
    return xp.cast(xp.asarray(spread, like=x), xp.dtype(x))


def _check_fit(given: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    """Raise OptionError for a shape that does not broadcast to the input's, or NaN or infinity."""
    try:
        fits = np.broadcast_shapes(given.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        hint = ""
        if given.shape[1:] == shape[1:]:
            hint = (
                f" It holds {given.shape[0]} references: a set is a list of arrays, or the "
                'baseline of method "deepshap"'
            )
        raise OptionError(
            f"the baseline has shape {given.shape}, {_named(name)} {shape}: give a number, an "
            f"array of shape {shape[1:]} for all samples, or {shape}, one each.{hint}"
        )
    if given.dtype.kind in "fc" and not np.isfinite(given).all():
        raise OptionError(f"the baseline of {_named(name)} holds NaN or infinity")


def _axes(framework: Framework, model: object, shape: Sequence[int]) -> Axes:
    """By rank: maps keep channels as the framework does, sequences keep features last."""
    rank = len(shape)
    channel: int | None = None
    if rank >= 4 or (rank == 3 and framework.expectation(model).rank == 3):
        channel = 1 if framework.channels == "first" else rank - 1
    elif rank == 3:
        channel = 2
    space = () if channel is None else tuple(i for i in range(1, rank) if i != channel)
    return Axes(space, channel)


def _numbers(one: Any) -> np.ndarray:
    try:
        array = np.asarray(one)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "iufb":
        raise OptionError(f"a baseline is {_words()}; got {_said(one)}")
    return array


def _is_numbers(items: list[Any]) -> bool:
    """Whether a list is an array written out in lists, rather than a set of baselines."""
    return any(isinstance(item, list) for item in items)


def _words() -> str:
    return _WORDS.format(names=", ".join(f'"{n}"' for n in NAMES))


def _named(name: str) -> str:
    return "the input" if name == "input" else f"input {name!r}"


def _said(one: Any) -> str:
    shape = getattr(one, "shape", None)
    return f"an array of shape {tuple(shape)}" if shape is not None else repr(one)[:80]
