"""The digits net as a Keras functional model; ``digits_torch.py`` is its twin, line by line."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

__all__ = ["build", "logits"]

# Keras' own defaults differ from PyTorch's, and the twins share their weights.
_NORM = {"epsilon": 1e-5, "momentum": 0.9}
_CONV = {"kernel_size": 3, "padding": "same"}
_PARTS = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def _net() -> Any:
    """Pixels (batch, 8, 8, 1) in 0..1 to logits (batch, 10)."""
    start = keras.Input((8, 8, 1), name="pixels")
    x = layers.Conv2D(16, **_CONV, use_bias=False, name="conv1")(start)
    x = ops.relu(layers.BatchNormalization(**_NORM, name="bn1")(x))
    x = layers.Conv2D(32, **_CONV, use_bias=False, name="conv2")(x)
    x = ops.relu(layers.BatchNormalization(**_NORM, name="bn2")(x))
    x = layers.MaxPooling2D(2, name="pool")(x)
    y = layers.Conv2D(32, **_CONV, use_bias=False, name="conv3")(x)
    y = keras.activations.relu(layers.BatchNormalization(**_NORM, name="bn3")(y))
    y = layers.Conv2D(32, **_CONV, use_bias=False, name="conv4")(y)
    y = layers.BatchNormalization(**_NORM, name="bn4")(y)
    x = ops.relu(x + y)
    x = ops.relu(layers.Conv2D(64, **_CONV, name="conv5")(x))
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(start, layers.Dense(10, name="dense")(x), name="digits")


def build(weights: Mapping[str, np.ndarray] | None, seed: int = 0) -> Any:
    """The net; with ``weights`` None, random ones drawn from ``seed``.

    weights: by PyTorch name and in PyTorch layout. Python's random state, from which Keras draws
    the seeds of its initialisers, is left as it was.
    """
    before = random.getstate()
    try:
        random.seed(seed)
        model = _net()
    finally:
        random.setstate(before)
    for name, array in (weights or {}).items():
        layer_name, part = name.split(".")
        layer = model.get_layer(layer_name)
        if layer_name.startswith("bn"):
            getattr(layer, _PARTS[part]).assign(array)
        elif part == "bias":
            layer.bias.assign(array)
        else:
            # (out, in, row, column) to (row, column, in, out); (out, in) to (in, out).
            layer.kernel.assign(np.moveaxis(array, (0, 1), (-1, -2)))
    return model


def logits(model: Any, images: np.ndarray) -> np.ndarray:
    """Images (image, 8, 8) in 0..1 to logits (image, 10)."""
    return np.asarray(ops.convert_to_numpy(model(images[..., None], training=False)))
