"""Handwritten digits, 8 x 8 grey pixels, and the net trained on them, in either framework."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from whence.data.installed import choose_framework, need
from whence.errors import OptionError

__all__ = ["CLASSES", "Mistakes", "digits", "digits_model", "digits_weights", "mistakes"]

CLASSES = tuple("0123456789")
"""The class names of the digits net, in the order of its logits."""

WEIGHTS = Path(__file__).with_name("digits.safetensors")
_SPLIT_SEED = 7  # which images are held out; the shipped weights have never seen those
_HELD_OUT = 450


class Mistakes(NamedTuple):
    """The images of a split that the digits net reads wrongly.

    indices: their places in the split. labels: what they are. predictions: what it reads instead.
    All int64 (mistake,).
    """

    indices: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray


def digits(split: str = "test") -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of scikit-learn's handwritten digits.

    split: "train" (1347), "test" (450, held out from training the shipped net), or "all" (1797,
    in scikit-learn's order). The split is fixed.
    Returns images, float32 (image, 8, 8), ink 1 and paper 0; labels, int64 (image,), 0..9.
    Raises MissingFramework without scikit-learn, OptionError for another split.

    Example:
        >>> images, labels = digits("test")
        >>> images.shape, labels[:3].tolist()
        ((450, 8, 8), [2, 0, 7])
    """
    if split not in ("train", "test", "all"):
        raise OptionError(f"split={split!r}: it is 'train', 'test' or 'all'.")
    datasets = need("sklearn.datasets", "the handwritten digits", '"whence[demo]"')
    bunch = datasets.load_digits()
    images = (bunch.images / 16).astype(np.float32)
    labels = bunch.target.astype(np.int64)
    if split == "all":
        return images, labels
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(images))
    chosen = order[:_HELD_OUT] if split == "test" else order[_HELD_OUT:]
    return images[chosen], labels[chosen]


def digits_weights() -> dict[str, np.ndarray]:
    """The shipped weights by PyTorch name and in PyTorch layout, float32.

    Raises MissingFramework without safetensors.

    Example:
        >>> digits_weights()["dense.weight"].shape
        (10, 64)
    """
    loader = need("safetensors.numpy", "the weights of the digits net", "safetensors")
    return dict(loader.load_file(WEIGHTS))


def digits_model(framework: str | None = None, *, trained: bool = True, seed: int = 0) -> Any:
    """The digits net, in evaluation mode: pixels in 0..1 to ten logits (no softmax).

    framework: "torch" (an ``nn.Module``, takes (batch, 1, 8, 8)) or "tensorflow" (a Keras
    functional model, takes (batch, 8, 8, 1)); None takes the first that is installed.
    trained: False leaves random weights, drawn from ``seed``.
    Raises OptionError, MissingFramework.

    Example:
        >>> model = digits_model("torch")
        >>> type(model).__name__, model.training
        ('DigitsNet', False)
    """
    weights = digits_weights() if trained else None
    if choose_framework(framework, "the digits net") == "torch":
        from whence.data.digits_torch import build

        return build(weights, seed=seed)
    from whence.data.digits_keras import build as build_keras

    return build_keras(weights, seed=seed)


def mistakes(split: str = "test", framework: str | None = None) -> Mistakes:
    """Which images of a split the shipped net reads wrongly, found by running it.

    split, framework: as for ``digits`` and ``digits_model``; both frameworks give the same.

    Example:
        >>> wrong = mistakes()
        >>> bool((wrong.labels != wrong.predictions).all())
        True
    """
    framework = choose_framework(framework, "the digits net")
    images, labels = digits(split)
    model = digits_model(framework)
    if framework == "torch":
        from whence.data.digits_torch import logits
    else:
        from whence.data.digits_keras import logits
    predictions = logits(model, images).argmax(axis=1)
    indices = np.flatnonzero(predictions != labels)
    return Mistakes(indices, labels[indices], predictions[indices])
