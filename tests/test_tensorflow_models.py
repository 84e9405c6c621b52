"""The models of keras.applications: outputs and input gradients by the tape are Keras's own."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import pytest
import tensorflow as tf

from support_tensorflow import exact, kinds, lively, sound
from whence.ops import Op

# Name -> pixels, scale of the input that keeps activations alive.
ZOO = {
    "ResNet50": (32, 1.0),
    "ResNet50V2": (32, 1.0),
    "VGG16": (32, 1.0),
    "MobileNetV2": (32, 1.0),
    "MobileNetV3Small": (32, 60.0),
    "EfficientNetB0": (32, 60.0),
    "EfficientNetV2B0": (32, 60.0),
    "DenseNet121": (32, 1.0),
    "InceptionV3": (75, 1.0),
    "Xception": (71, 1.0),
    "ConvNeXtTiny": (32, 60.0),
    "NASNetMobile": (32, 1.0),
}
SLOW = {
    "DenseNet121",
    "InceptionV3",
    "ConvNeXtTiny",
    "NASNetMobile",
    "EfficientNetV2B0",
    "EfficientNetB0",
}
SAYS_NOTHING_OF_LOGITS = {"DenseNet121", "NASNetMobile"}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    keras.backend.clear_session()


def build(name: str, pixels: int) -> keras.Model:
    keras.utils.set_random_seed(1)
    shape = (pixels, pixels, 3)
    options = {"classifier_activation": None} if name not in SAYS_NOTHING_OF_LOGITS else {}
    make = getattr(keras.applications, name)
    return lively(make(weights=None, input_shape=shape, classes=10, **options))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in ZOO]
)
def test_application(name):
    pixels, scale = ZOO[name]
    model = build(name, pixels)
    x = tf.random.stateless_normal([2, pixels, pixels, 3], seed=[3, 4]) * scale
    tape = exact(model, x)
    assert not [n for n in tape if n.kind is Op.OPAQUE]
    names = {layer.name for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)}
    assert names == {name.partition(".")[0] for name in tape.layers}
    assert {n.layer for n in tape if n.layer} <= set(tape.layers)


def test_resnet_is_convolutions_and_rectifiers_once_folded():
    tape = sound(exact(build("ResNet50", 32), tf.random.stateless_normal([1, 32, 32, 3], [1, 2])))
    found = kinds(tape)
    assert (found.count("conv"), found.count("relu"), found.count("add")) == (53, 49, 16)
    assert "affine" not in found
    assert tape.layers["conv5_block3_1_conv"][0].type == "Conv2D"
    assert tape.layers["conv5_block3_1_conv"][0].parameters == 2048 * 512 + 512


@pytest.mark.slow
def test_float64():
    with_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        model = build("MobileNetV2", 32)
        exact(model, tf.random.stateless_normal([2, 32, 32, 3], [5, 6], dtype=tf.float64))
        model = build("ResNet50V2", 32)
        exact(model, tf.random.stateless_normal([2, 32, 32, 3], [5, 6], dtype=tf.float64))
    finally:
        keras.config.set_dtype_policy(with_policy)
