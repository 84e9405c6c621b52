"""What loading gives, and what a source is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from whence.errors import FileError, ModelError, OptionError
from whence.images import Preprocess

__all__ = ["LoadedModel", "Request", "assumed_preprocess", "framework_of"]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in evaluation mode and what its source knows about it.

    model: what ``whence.explain`` takes. framework: "torch" or "tensorflow". preprocess: images to
    its input, None where it takes no images or nothing is known. classes: the names of its
    outputs in order, None where they are not known. name: short, for titles. spec: what was
    asked. input_shape: of one input without the batch axis, None where it is not known.
    notes: what was done or assumed, a sentence each, for the user to read.
    """

    model: Any
    framework: Literal["torch", "tensorflow"]
    preprocess: Preprocess | None
    classes: tuple[str, ...] | None
    name: str
    spec: str
    input_shape: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()

    def label(self, index: int) -> str:
        """The class name of an output, or its index where names are not known.

        Example:
            >>> LoadedModel(None, "torch", None, ("cat", "dog"), "m", "m").label(1)
            'dog'
        """
        if self.classes is None or not 0 <= index < len(self.classes):
            return str(index)
        return self.classes[index]

    def __repr__(self) -> str:
        known = "?" if self.classes is None else len(self.classes)
        return (
            f"LoadedModel({self.spec!r}, {self.framework}, input {self.input_shape}, "
            f"{known} classes)"
        )


@dataclass(frozen=True)
class Request:
    """What a source is asked for: the parts of a call of ``load``."""

    spec: str
    name: str
    weights: str | Path | None = None
    framework: str | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def random(self) -> bool:
        """Whether random weights were asked for."""
        return self.weights == "random"

    @property
    def file(self) -> Path | None:
        """The local file of weights that was asked for."""
        return None if self.weights is None or self.random else Path(self.weights).expanduser()

    def no_options(self) -> None:
        """OptionError if options were given to a source that takes none."""
        if self.options:
            names = ", ".join(self.options)
            raise OptionError(f"{self.spec} takes no further options; got {names}.")

    def only(self, framework: str) -> None:
        """OptionError if another framework was asked for than the one this source has."""
        if self.framework not in (None, framework):
            raise OptionError(
                f"{self.spec} is a {framework} model; framework={self.framework!r} cannot be had."
            )

    def cannot_fetch(self, error: BaseException) -> FileError:
        """The error where the weights that come with the source cannot be downloaded."""
        reason = str(error).strip().split("\n")[0][:300] or type(error).__name__
        return FileError(
            f"the weights of {self.spec} are not on this machine and cannot be downloaded "
            f"({type(error).__name__}: {reason}). Give a local file with --weights FILE "
            "(weights=FILE in Python), or --weights random to go on without training."
        )

    def bad_options(self, error: BaseException) -> OptionError:
        """The error where the source's own function refuses the options."""
        given = ", ".join(f"{k}={v!r}" for k, v in self.options.items()) or "none"
        return OptionError(f"{self.spec} cannot be built with its options ({given}): {error}")


def assumed_preprocess(
    shape: Sequence[int | None] | None, channels: Literal["first", "last"]
) -> tuple[Preprocess | None, tuple[str, ...]]:
    """Pixels in 0..1 at the model's size, for sources that do not say; and a note that says so.

    shape: of one input without the batch axis. (None, ()) where it is not that of an image.
    """
    if shape is None or len(shape) != 3 or any(not isinstance(s, int) for s in shape):
        return None, ()
    depth, height, width = shape if channels == "first" else (shape[2], *shape[:2])
    if depth not in (1, 3):
        return None, ()
    note = "its source says nothing of preprocessing: pixels in 0..1 are assumed"
    colour: Literal["rgb", "grey"] = "grey" if depth == 1 else "rgb"
    return Preprocess(size=(int(height or 0), int(width or 0)), channels=channels, colour=colour), (
        note,
    )


def framework_of(model: Any, spec: str, asked: str | None = None) -> Literal["torch", "tensorflow"]:
    """Which framework a model belongs to, seen from its classes; nothing is imported.

    asked: what the caller says, which decides for a plain function. Raises ModelError where it is
    not a model, or a plain function of unknown framework.
    """
    roots = {cls.__module__.split(".")[0] for cls in type(model).__mro__}
    if "torch" in roots:
        return "torch"
    if roots & {"keras", "tf_keras"}:
        return _keras_framework(spec)
    if "tensorflow" in roots:
        return "tensorflow"
    if not callable(model):
        raise ModelError(
            f"{spec} gave {type(model).__name__}, which is not a model: an nn.Module, a Keras "
            "model, a tf.Module or a function of tensors is wanted."
        )
    if asked == "torch":
        return "torch"
    if asked == "tensorflow":
        return "tensorflow"
    raise ModelError(
        f"{spec} gave a plain {type(model).__name__}; say what it computes with: "
        "framework='torch' or framework='tensorflow'."
    )


def _keras_framework(spec: str) -> Literal["torch", "tensorflow"]:
    import keras

    backend = keras.backend.backend()
    if backend in ("torch", "tensorflow"):
        return backend
    raise ModelError(
        f"{spec} is a Keras model on the {backend} backend; set KERAS_BACKEND to tensorflow or "
        "torch before Keras is imported."
    )
