"""Keras's activations, whole and spelled out: exact, and one node where they are one function."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from support_tensorflow import exact, kinds

L = keras.layers


@pytest.fixture(autouse=True)
def _wide():
    """Double precision, so that 1e-12 can be asked for."""
    before = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    keras.utils.set_random_seed(3)
    yield
    keras.config.set_dtype_policy(before[0])
    keras.config.set_floatx(before[1])


def normal(*shape):
    return tf.random.stateless_normal(shape, [11, 12], dtype=tf.float64)


def model(shape, call):
    x = keras.Input(shape)
    return keras.Model(x, call(x))


ACTIVATIONS = (
    "relu relu6 leaky_relu elu selu celu gelu silu hard_silu hard_sigmoid softplus softsign tanh "
    "sigmoid mish hard_tanh hard_shrink soft_shrink tanh_shrink squareplus sparse_plus exponential "
    "log_sigmoid softmax log_softmax sparsemax"
).split()
ONE_NODE = "elu selu gelu silu hard_silu softplus softsign tanh sigmoid mish exponential".split()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    tape = exact(model((6,), lambda x: L.Activation(name)(L.Dense(5)(x))), normal(3, 6))
    if name in ONE_NODE:
        assert kinds(tape) == ["dense", "activation"]
    if name in ("relu", "relu6", "leaky_relu"):
        assert kinds(tape) == ["dense", "relu"]
    if name in ("softmax", "log_softmax"):
        assert kinds(tape) == ["dense", "softmax"]
        assert tape.nodes[-1].attrs == {"axis": 1, "log": name == "log_softmax"}


def test_approximate_gelu_is_one_node():
    tape = exact(model((6,), lambda x: keras.activations.gelu(L.Dense(5)(x), True)), normal(3, 6))
    assert kinds(tape) == ["dense", "activation"]
