"""What a picture needs of an explanation, as plain NumPy: maps, inputs to show, and words.

Everything that could be wrong with the request is found here, before anything is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whence.errors import InputError, NotFinite
from whence.render.words import number, percentage, plain

if TYPE_CHECKING:
    from whence.result import Explanation

__all__ = ["View", "answers", "choose", "notes", "numpy_of", "same_samples", "targets", "views"]


@dataclass(frozen=True)
class View:
    """One input's maps by one method."""

    explanation: Explanation
    title: str
    maps: NDArray[np.float64]
    """(sample, height, width) or (sample, position)."""
    signed: bool
    pictures: list[NDArray[np.float64]] | None
    """What was explained, for each sample: (height, width), (height, width, 3) or (position,)."""
    part: str = ""
    """Which of several inputs, empty where there is one."""

    @property
    def flat(self) -> bool:
        """Whether the maps have one axis only."""
        return self.maps.ndim == 2

    def gap(self, sample: int) -> str:
        """What the attribution misses of the output's change, in words; empty if not known."""
        gap = self.explanation.gap
        return (
            ""
            if gap is None
            else f"gap\N{NO-BREAK SPACE}{percentage(float(np.ravel(numpy_of(gap))[sample]))}"
        )


def numpy_of(array: Any) -> NDArray[Any]:
    """A framework's array, on any device and of any float type, as NumPy."""
    if hasattr(array, "detach"):  # torch; bfloat16 has no NumPy twin
        array = array.detach().cpu()
        array = array.double() if array.is_floating_point() else array
        array = array.resolve_neg()
    if hasattr(array, "numpy") and not isinstance(array, np.ndarray):
        array = array.numpy()
    return np.asarray(array)


def _parts(thing: Any) -> dict[str | int | None, Any]:
    """Several inputs' arrays by name or place, leaving out those without; one array by None."""
    if isinstance(thing, Mapping):
        return {k: v for k, v in thing.items() if v is not None}
    if isinstance(thing, tuple | list):
        return {i: v for i, v in enumerate(thing) if v is not None}
    return {None: thing}


def _title(part: str | int | None) -> str:
    return f"input {part + 1}" if isinstance(part, int) else plain(part or "")


def views(explanation: Explanation, images: Any = None) -> list[View]:
    """The views of an explanation, one for each input that it explains.

    images: what to show as the input instead of the array that the model got (which may be
    normalised): (sample, height, width) or (sample, height, width, 3), channels last, 8-bit or 0 to
    1; also a list of arrays of different sizes. Raises InputError and NotFinite.
    """
    parts = list(_parts(explanation.attribution))
    inputs = _parts(explanation.inputs) if explanation.inputs is not None else {}
    if parts == [None]:  # one map, such as a layer's, is shown beside whichever input is a picture
        inputs = {None: next(iter(inputs.values()))} if len(inputs) == 1 else dict(inputs)
    found = []
    for part in parts:
        values = explanation.heatmap() if part is None else explanation.heatmap(name=part)
        array = np.asarray(numpy_of(values), dtype=np.float64)
        name = _title(part) if len(parts) > 1 else ""
        what = f"the {explanation.method} map" + (f" of {name!r}" if name else "")
        if array.ndim not in (2, 3) or array.size == 0:
            raise InputError(
                f"{what} has shape {array.shape}; pictures are drawn of (sample, height, width) "
                "and (sample, position), none of them empty: take a slice or sum over an axis first"
            )
        _finite(array, what)
        shown = _given(images, len(array)) if images is not None else None
        beside = [inputs[part]] if part in inputs else list(inputs.values()) if part is None else []
        for candidate in beside if shown is None else ():
            shown = shown or _pictures(candidate, explanation.channels, array.ndim)
        if shown is not None and len(shown) != len(array):
            shown = None
        title = plain(explanation.method) + (f" · {name}" if name else "")
        found.append(View(explanation, title, array, bool(explanation.signed), shown, name))
    return found


def _finite(array: NDArray[Any], what: str) -> None:
    good = np.isfinite(array.reshape(len(array), -1))
    if not good.all():
        sample = int(np.argmin(good.all(axis=1)))
        raise NotFinite(
            f"{what} of sample {sample} holds {int((~good[sample]).sum())} NaN or infinite of "
            f"{good.shape[1]} values and is not drawn; look for the first such number in the "
            "model's activations"
        )


def _given(images: Any, count: int) -> list[NDArray[np.float64]]:
    listed = [numpy_of(image) for image in images]
    if len(listed) != count:
        raise InputError(f"images holds {len(listed)} images for {count} samples; give one each")
    for image in listed:
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
            raise InputError(
                f"an image of shape {image.shape} cannot be shown; give (height, width) or "
                "(height, width, 3), channels last"
            )
    return [_displayable(image) for image in listed]


def _pictures(array: Any, channels: str | None, rank: int) -> list[NDArray[np.float64]] | None:
    """The model's input as something to look at; None where it is not (embeddings, volumes)."""
    values = numpy_of(array)
    if values.dtype.kind not in "fiub":
        return None
    _finite(values.astype(np.float64), "the input")
    if values.ndim == 4 and channels in ("first", "last"):
        values = np.moveaxis(values, 1, -1) if channels == "first" else values
    elif values.ndim == 3 and rank == 2 and channels in ("first", "last"):
        axis = 1 if channels == "first" else 2
        if values.shape[axis] != 1:
            return None
        values = values.squeeze(axis)
    elif values.ndim != rank:
        return None
    return [_displayable(value) for value in values]


def _displayable(image: NDArray[Any]) -> NDArray[np.float64]:
    """One sample in 0 to 1: 8-bit by 255, else as it is, else (normalised) by its own range."""
    scale = 255.0 if image.dtype == np.uint8 else 1.0
    values = image.astype(np.float64) / scale
    if not np.isfinite(values).all():
        raise NotFinite("an input holds NaN or infinite values and is not drawn")
    if values.ndim == 1:
        return values
    if values.ndim == 3:
        values = values[..., :3] if values.shape[2] in (3, 4) else values.mean(axis=2)
    low, high = float(values.min()), float(values.max())
    if low >= 0.0 and high <= 1.0:
        return values
    return (values - low) / (high - low) if high > low else np.full_like(values, 0.5)


def notes(found: Sequence[View]) -> list[str]:
    """What a reader of the results should know, each once, with the method that says it."""
    said = [(v.explanation.method, note) for v in found for note in v.explanation.notes]
    return [f"{plain(method)}: {plain(note)}" for method, note in dict.fromkeys(said)]


def same_samples(found: Sequence[View]) -> int:
    """How many samples all views have; raises InputError where they differ."""
    counts = {f"{view.title} {len(view.maps)}": len(view.maps) for view in found}
    if len(set(counts.values())) != 1:
        raise InputError(
            "explanations of different inputs cannot share a grid; samples in each: "
            + ", ".join(counts)
        )
    return next(iter(counts.values()))


def choose(rows: Sequence[int] | None, count: int) -> list[int]:
    """The samples to show; raises InputError for one that is not there, or none at all."""
    chosen = list(range(count)) if rows is None else [int(r) for r in rows]
    wrong = [r for r in chosen if not 0 <= r < count]
    if wrong or not chosen:
        raise InputError(f"rows={wrong or chosen}: samples are numbered 0 to {count - 1}")
    return chosen


def targets(explanation: Explanation) -> list[str]:
    """What was explained, in words, for each sample."""
    count = len(np.ravel(numpy_of(explanation.output)))
    names = explanation.target_names
    if names:
        return [plain(name) for name in names]
    if isinstance(explanation.target, str):
        return [plain(explanation.target)] * count
    return [str(t) for t in np.broadcast_to(numpy_of(explanation.target), (count,))]


def answers(explanation: Explanation, classes: Sequence[str] | None) -> list[str] | None:
    """The model's answer and its probability, in words, for each sample; None if it has none.

    The class's name comes from ``classes`` or, where the answer is the target, from its name.
    """
    if explanation.answer is None:
        return None
    named = targets(explanation)
    aims = explanation.target
    chosen = None if isinstance(aims, str) else np.broadcast_to(numpy_of(aims), (len(named),))
    found = []
    for i, index in enumerate(np.ravel(numpy_of(explanation.answer)).tolist()):
        name = str(index)
        if classes is not None and 0 <= index < len(classes):
            name = plain(classes[index])
        elif chosen is not None and int(chosen[i]) == index:
            name = named[i]
        if explanation.probability is not None:
            name += f" ({percentage(float(np.ravel(numpy_of(explanation.probability))[i]))})"
        found.append(name)
    return found


def outputs(explanation: Explanation) -> list[str]:
    """The explained number of each sample, in words that stay on one line."""
    return [
        f"output\N{NO-BREAK SPACE}{number(v)}"
        for v in np.ravel(numpy_of(explanation.output)).tolist()
    ]


def options_text(options: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Some options, as they would be written in the call; a composite's name speaks for itself."""
    given = {k: options[k] for k in keys if options.get(k) is not None}
    composite = given.pop("composite", None)
    words = [] if composite is None else [plain(composite)]
    # Bounds of the input belong to the data; they tell nothing apart once a composite has a name.
    hidden = ("low", "high") if composite is not None else ()
    return ", ".join(words + [f"{k}={plain(v)}" for k, v in given.items() if k not in hidden])
