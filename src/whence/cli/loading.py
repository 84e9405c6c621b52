"""What a command works on: the model that was named, and an input for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from whence import checks, frameworks
from whence.arrays import Array
from whence.cli.quiet import import_quietly
from whence.cli.words import UsageError, class_names, shape_of, size_of
from whence.data.installed import FRAMEWORKS, choose_framework
from whence.errors import InputError, WhenceError, unknown
from whence.frameworks.base import Expectation
from whence.images import Images, Preprocess, read
from whence.models import LoadedModel, load

__all__ = [
    "demo_framework", "image_batch", "looked_at", "named_model", "notes_of", "preprocess_of",
]  # fmt: skip

T = TypeVar("T")

_BY_NAME = ("torchvision:", "timm:", "hf:", "keras:")
_TOKENS = 16
_FEW_IDS = 10  # token ids below this are in every vocabulary


def framework_name(text: str | None) -> str | None:
    """The framework that was asked for, or UsageError."""
    if text is not None and text not in FRAMEWORKS:
        raise UsageError(f"--framework: {unknown('framework', text, FRAMEWORKS)}")
    return text


def demo_framework(text: str | None) -> str:
    """The framework that the demo runs in. Raises UsageError, MissingFramework."""
    chosen = choose_framework(framework_name(text), "whence demo")
    import_quietly("demo:digits", chosen)
    return chosen


def named_model(
    spec: str,
    weights: str | None,
    framework: str | None,
    names: str | None = None,
    untrained: bool = False,
) -> LoadedModel:
    """The model of a command line.

    untrained: only its structure matters, so nothing is downloaded for a model known by name.
    """
    import_quietly(spec, framework_name(framework))
    if untrained and weights is None and spec.startswith(_BY_NAME):
        weights = "random"
    return load(spec, weights, framework=framework_name(framework), classes=class_names(names))


def image_batch(loaded: LoadedModel, images: Sequence[str], size: str | None) -> Images:
    """The images as the model takes them. Raises InputError for a model that takes none."""
    return read(list(images), preprocess_of(loaded, size))


def notes_of(loaded: LoadedModel, weights: str | None) -> tuple[str, ...]:
    """What a reader should know of a model, and what had to be assumed."""
    notes = loaded.notes
    if weights == "random":
        notes += ("its weights are random: what it answers means nothing",)
    if loaded.preprocess is None:
        notes += ("its source says nothing of preprocessing: pixels in 0..1 are assumed",)
    return notes


def preprocess_of(loaded: LoadedModel, size: str | None = None) -> Preprocess:
    """How images become a model's input: as its source says, else as its first layer does.

    size: as ``--size`` is written, instead of its own. Raises UsageError for what is no size,
    InputError for a model that takes no pictures.
    """
    found = _assumed(loaded) if loaded.preprocess is None else loaded.preprocess
    return found if size is None else replace(found, size=size_of(size))


def _assumed(loaded: LoadedModel) -> Preprocess:
    """Pixels in 0..1, in the form that the model's first layer wants."""
    framework = frameworks.by_name(loaded.framework)
    wants = framework.expectation(loaded.model)
    if wants.tokens or wants.rank not in (None, 4) or wants.channels not in (None, 1, 3):
        first = f"its first layer {wants.layer}" if wants.layer else "its first layer"
        raise InputError(
            f"{loaded.spec} takes no pictures: {first} wants {_wanted(wants)}. Explain it from "
            "Python: whence.explain(model, x)."
        )
    last = wants.channel_axis == 3 or (wants.channel_axis is None and framework.channels == "last")
    return Preprocess(
        colour="grey" if wants.channels == 1 else "rgb", channels="last" if last else "first"
    )


def _wanted(wants: Expectation) -> str:
    if wants.tokens:
        return "token ids, (batch, tokens)"
    if wants.rank is None:
        return f"{wants.channels} features a sample"
    channels = f", with {wants.channels} channels" if wants.channels else ""
    return f"arrays of {wants.rank} axes, the batch included{channels}"


def looked_at(
    look: Callable[[Any, Array], T],
    loaded: LoadedModel,
    image: str | None,
    size: str | None,
    shape: str | None,
) -> T:
    """``look(model, x)``, x an image or random numbers of the shape asked for or known.

    Raises UsageError for two of these at once, InputError where the shape is not known or wrong.
    """
    asked = {"IMAGE": image, "--size": size, "--shape": shape}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1 and given != ["IMAGE", "--size"]:
        raise UsageError(f"{' and '.join(given)} were given; one of them says what the input is.")
    framework = frameworks.by_name(loaded.framework)
    if image is not None:
        x: Any = image_batch(loaded, [image], size).x
    else:
        wants = framework.expectation(loaded.model)
        x = _random(_shape(loaded, wants, size, shape), wants)
    x = framework.convert(x, loaded.model)
    inputs = frameworks.gather(framework, loaded.model, x)
    checks.check_inputs(framework, loaded.model, inputs)
    try:
        return look(loaded.model, x)
    except WhenceError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise checks.explain_failure(framework, loaded.model, inputs, error) from error


def _shape(
    loaded: LoadedModel, wants: Expectation, size: str | None, shape: str | None
) -> tuple[int, ...]:
    if shape is not None:
        return shape_of(shape)
    if size is not None:
        return (1, *(preprocess_of(loaded, size).shape or ()))
    if loaded.input_shape is not None:
        return (1, *loaded.input_shape)
    if wants.tokens:
        return (1, _TOKENS)
    if wants.rank in (None, 2) and wants.channels is not None:
        return (1, wants.channels)
    raise InputError(
        f"the size of an input of {loaded.spec} is not known: give --size 224x224, "
        "--shape 1,3,64,64, or an image."
    )


def _random(shape: tuple[int, ...], wants: Expectation) -> np.ndarray:
    """Numbers in 0..1, or token ids, the same at each run."""
    draw = np.random.default_rng(0)
    if wants.tokens:
        return draw.integers(0, _FEW_IDS, shape)
    return draw.random(shape, np.float32)
