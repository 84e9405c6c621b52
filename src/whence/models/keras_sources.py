"""``keras:NAME``: the models of keras.applications."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from whence.data.installed import need
from whence.errors import unknown
from whence.images import Preprocess
from whence.models.imagenet import imagenet_classes
from whence.models.loaded import LoadedModel, Request, framework_of
from whence.models.weights import fit_keras

__all__ = ["import_keras", "load_keras", "seeded"]

# What the reference evaluations of these families do; keras.applications itself stops at pixels.
_CROP = 0.875


def import_keras(spec: str) -> Any:
    """Keras, with a working backend; MissingFramework otherwise."""
    need("keras", spec, '"whence[tensorflow]"')
    import os

    if "keras" not in sys.modules and os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
        need("tensorflow", spec, '"whence[tensorflow]"')
    return need("keras", spec, '"whence[tensorflow]"')


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's random state, from which Keras seeds its initialisers, set and given back."""
    before = random.getstate()
    try:
        random.seed(seed)
        yield
    finally:
        random.setstate(before)


def load_keras(request: Request) -> LoadedModel:
    """A model of keras.applications, with its family's preprocessing; its outputs are logits."""
    keras = import_keras(request.spec)
    known = {
        name: value
        for name, value in vars(keras.applications).items()
        if name[:1].isupper() and callable(value)
    }
    if request.name not in known:
        raise unknown("keras model", request.name, known)
    builder = known[request.name]
    options = {"classifier_activation": None, **request.options}
    trained = request.weights is None
    try:
        with seeded(request.seed):
            model = builder(weights=None, **options)
    except (TypeError, ValueError) as error:
        raise request.bad_options(error) from error
    if request.file is not None:
        fit_keras(model, request.file, request.spec)
    elif trained:
        try:
            model = builder(weights="imagenet", **options)
        except Exception as error:
            raise request.cannot_fetch(error) from error
    framework = framework_of(model, request.spec)
    request.only(framework)
    preprocess = _preprocess(model, builder, keras.config.image_data_format())
    headless = options.get("include_top", True) is False
    classes = None if headless else imagenet_classes(int(model.output_shape[-1]))
    return LoadedModel(
        model=model,
        framework=framework,
        preprocess=preprocess,
        classes=classes,
        name=request.name,
        spec=request.spec,
        input_shape=preprocess.shape,
        notes=("its outputs are logits",) if options["classifier_activation"] is None else (),
    )


def _preprocess(model: Any, builder: Any, data_format: str) -> Preprocess:
    """What the family's own ``preprocess_input`` does, found by trying it on black and colours.

    It is affine per channel in every family: (value - mean) / std on 0..255, perhaps in the order
    blue, green, red. Asking the function itself cannot go out of date.
    """
    own = sys.modules[builder.__module__].preprocess_input
    probes = np.zeros((1, 4, 1, 3), np.float32)  # black, red, green, blue
    for channel in range(3):
        probes[0, channel + 1, 0, channel] = 255
    out = np.asarray(own(probes.copy(), data_format="channels_last"), np.float64)[0, :, 0]
    black, change = out[0], out[1:] - out[0]
    order = np.argmax(np.abs(change), axis=0)  # for each channel of the model, its colour
    gain = change[order, np.arange(3)] / 255
    channels: Literal["first", "last"] = "first" if data_format == "channels_first" else "last"
    shape = model.input_shape[1:]
    height, width = shape[1:] if channels == "first" else shape[:2]
    size = (height or 224, width or 224)
    return Preprocess(
        size=size,
        crop=_CROP,
        mean=tuple(round(float(v), 3) + 0.0 for v in -black / gain),
        std=tuple(round(float(v), 3) for v in 1 / gain),
        scale=255.0,
        channels=channels,
        colour="bgr" if order[0] == 2 else "rgb",
    )
