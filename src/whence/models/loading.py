"""``load``: from what a user writes to the source that knows it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from whence.data.installed import FRAMEWORKS
from whence.errors import ModelError, OptionError, UnknownName, unknown
from whence.models import demo, files, huggingface, keras_sources, torch_sources
from whence.models.loaded import LoadedModel, Request

__all__ = ["SOURCES", "load"]

SOURCES: Mapping[str, Callable[[Request], LoadedModel]] = {
    "demo": demo.load_demo,
    "torchvision": torch_sources.load_torchvision,
    "timm": torch_sources.load_timm,
    "hf": huggingface.load_hf,
    "keras": keras_sources.load_keras,
}
"""What may stand before the colon, and what loads it."""

FORMS = (
    "demo:digits, torchvision:resnet18, timm:NAME, hf:NAME, keras:ResNet50, a .keras or .h5 file, "
    "a SavedModel folder, a .pt2 program, or path/to/file.py:function"
)


def load(
    spec: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    *,
    framework: str | None = None,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    **options: Any,
) -> LoadedModel:
    """Load a model by name or path, in evaluation mode.

    spec: ``demo:digits``; ``torchvision:NAME``; ``timm:NAME``; ``hf:NAME`` (a name at Hugging
    Face, or a local folder); ``keras:NAME`` (of keras.applications; logits rather than
    probabilities unless ``classifier_activation`` says otherwise); a ``.keras`` or ``.h5`` file;
    a SavedModel folder; a ``.pt2`` program of ``torch.export``; or ``path/to/file.py:function``,
    which **runs that file** and calls the function for a model; ``preprocess`` (a ``Preprocess``)
    and ``classes`` (names) defined in the file come along.
    weights: a local file, opened by loaders that run no code (safetensors, ``torch.load`` with
    weights_only, npz, Keras weights); "random" for untrained weights, drawn from ``seed``; None
    for those that come with the source, which are downloaded where the source does so.
    framework: where there is a choice (demo:digits, a plain function): "torch" or "tensorflow".
    classes: names of the outputs, instead of the source's. options: handed to the source
    (``num_classes=10``).

    Raises UnknownName (nearest listed), FileError (missing; cannot be downloaded), FileFormatError
    (damaged, or weights that do not fit: which ones), ModelError (not a model; the user's own
    code failed), MissingFramework (with the install line), OptionError.

    Example:
        >>> loaded = load("demo:digits", framework="torch")
        >>> loaded.classes[3], loaded.input_shape
        ('3', (1, 8, 8))
    """
    if not isinstance(spec, str | os.PathLike):
        raise ModelError(
            f"a model to load is named by text; got {type(spec).__name__}. A model that is in "
            f"memory needs no loading. Forms: {FORMS}."
        )
    if framework is not None and framework not in FRAMEWORKS:
        raise OptionError(f"framework={framework!r}: it is 'torch' or 'tensorflow'.")
    text = os.fspath(spec)
    source, name = _source(text)
    asked = None if weights is None else os.fspath(weights)
    loaded = source(Request(text, name, asked, framework, seed, options))
    return loaded if classes is None else replace(loaded, classes=tuple(map(str, classes)))


def _source(spec: str) -> tuple[Callable[[Request], LoadedModel], str]:
    """Which function loads a spec, and the name it is given."""
    if not spec:
        raise UnknownName(f"no model was named. A model is one of: {FORMS}.")
    prefix, colon, name = spec.partition(":")
    if colon and prefix in SOURCES:
        return SOURCES[prefix], name
    if re.search(r"\.py(:[^/\\]*)?$", spec):
        return files.load_function, spec
    path = Path(spec).expanduser()
    if path.exists() or path.suffix in files.KINDS or (path.suffix and not colon) or "/" in spec:
        return files.load_file, str(path)
    if colon and len(prefix) > 1:
        raise unknown("model source", prefix, SOURCES, f"A model is one of: {FORMS}.")
    raise UnknownName(
        f"no model named {spec!r}: there is no such file, and a name needs its source before it, "
        f"such as 'torchvision:{spec}' or 'keras:{spec}'. A model is one of: {FORMS}."
    )
