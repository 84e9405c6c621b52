"""Keras layers in every arrangement: functional, nested, subclassed, recurrent, attention."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from support_tensorflow import apart, exact, gradients, kinds, lively, native, record, sound
from whence.frameworks import find, gather
from whence.ops import Op

L = keras.layers
D = tf.float64


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


def normal(*shape, dtype=D):
    return tf.random.stateless_normal(shape, [11, 12], dtype=dtype)


def model(shape, call):
    x = keras.Input(shape)
    return keras.Model(x, call(x))


CASES = {
    "dense": ((6,), lambda x: L.Dense(3)(L.Dense(5, activation="relu")(x))),
    "dense on a sequence": ((4, 6), lambda x: L.Dense(3, activation="tanh")(x)),
    "einsum dense": (
        (4, 6),
        lambda x: L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de")(x),
    ),
    "conv1d": ((9, 3), lambda x: L.Conv1D(4, 3, padding="causal", dilation_rate=2)(x)),
    "conv1d stride": ((9, 3), lambda x: L.BatchNormalization()(L.Conv1D(4, 3, strides=2)(x))),
    "conv2d": ((7, 7, 3), lambda x: L.Conv2D(4, 3, dilation_rate=2)(x)),
    "conv2d no bias": (
        (7, 7, 3),
        lambda x: L.BatchNormalization()(L.Conv2D(4, 3, use_bias=False)(x)),
    ),
    "conv2d grouped": ((6, 6, 4), lambda x: L.BatchNormalization()(L.Conv2D(6, 3, groups=2)(x))),
    "conv3d": ((5, 5, 5, 2), lambda x: L.BatchNormalization()(L.Conv3D(3, 3)(x))),
    "depthwise": (
        (6, 6, 3),
        lambda x: L.BatchNormalization()(L.DepthwiseConv2D(3, depth_multiplier=2)(x)),
    ),
    "depthwise 1d": ((9, 3), lambda x: L.DepthwiseConv1D(3)(x)),
    "separable": ((6, 6, 3), lambda x: L.SeparableConv2D(4, 3)(x)),
    "separable 1d": ((9, 3), lambda x: L.SeparableConv1D(4, 3)(x)),
    "transposed 1d": ((5, 3), lambda x: L.Conv1DTranspose(4, 3, strides=2)(x)),
    "transposed 2d": (
        (5, 5, 3),
        lambda x: L.BatchNormalization()(L.Conv2DTranspose(4, 3, strides=2)(x)),
    ),
    "transposed 3d": ((3, 3, 3, 2), lambda x: L.BatchNormalization()(L.Conv3DTranspose(3, 2)(x))),
    "layer norm": (
        (4, 6),
        lambda x: L.LayerNormalization()(L.LayerNormalization(center=False, scale=False)(x)),
    ),
    "group norm": ((5, 5, 4), lambda x: L.GroupNormalization(2)(x)),
    "instance norm": ((5, 5, 4), lambda x: L.GroupNormalization(-1)(x)),
    "rms norm": ((4, 6), lambda x: L.RMSNormalization()(x)),
    "unit norm": ((4, 6), lambda x: L.UnitNormalization()(x)),
    "batch norm first": ((5, 5, 3), lambda x: L.Conv2D(4, 3)(L.ReLU()(L.BatchNormalization()(x)))),
    "prelu": ((6,), lambda x: L.PReLU(alpha_initializer="uniform")(L.Dense(5)(x))),
    "relu with all options": ((6,), lambda x: L.ReLU(3.0, 0.1, 0.2)(L.LeakyReLU()(L.ELU()(x)))),
    "max pool": ((6, 6, 2), lambda x: L.GlobalMaxPooling2D()(L.MaxPooling2D(3, 2)(x))),
    "average pool": (
        (6, 6, 2),
        lambda x: L.GlobalAveragePooling2D()(L.AveragePooling2D(3, 2, "same")(x)),
    ),
    "pools 1d": ((8, 2), lambda x: L.AveragePooling1D(2)(L.MaxPooling1D(2)(x))),
    "up": ((4, 4, 2), lambda x: L.UpSampling2D(interpolation="bilinear")(L.UpSampling2D()(x))),
    "pad and crop": ((6, 6, 2), lambda x: L.Cropping2D(1)(L.ZeroPadding2D(2)(x)) * 2.0),
    "reshapes": ((4, 6), lambda x: L.Flatten()(L.Permute((2, 1))(L.Reshape((6, 4))(x)))),
    "repeat": ((6,), lambda x: L.RepeatVector(3)(x) * x[:, None, :]),
    "merge": (
        (6,),
        lambda x: L.Average()(
            [x, L.Maximum()([x, 2 * x]), L.Minimum()([x, -x]), L.Subtract()([x, x * x])]
        ),
    ),
    "multiply": (
        (6,),
        lambda x: L.Multiply()([L.Dense(6)(x), L.Dense(6, activation="sigmoid")(x)]),
    ),
    "dot": ((4, 6), lambda x: L.Dot(2)([x, L.Dense(6)(x)])),
    "concatenate": ((6,), lambda x: L.Concatenate()([x, L.Dense(2)(x), x])),
    "attention": ((5, 6), lambda x: L.Attention(use_scale=True)([x, L.Dense(6)(x)])),
    "additive attention": ((5, 6), lambda x: L.AdditiveAttention()([x, x])),
    "multi-head attention": ((5, 6), lambda x: L.MultiHeadAttention(2, 3)(x, x)),
    "causal attention": ((5, 6), lambda x: L.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True)),
    "grouped-query attention": ((5, 8), lambda x: L.GroupQueryAttention(4, 4, 2)(x, x)),
    "lstm": ((5, 4), lambda x: L.Dense(2)(L.LSTM(3)(x))),
    "lstm sequence backwards": (
        (5, 4),
        lambda x: L.LSTM(3, return_sequences=True, go_backwards=True)(x),
    ),
    "lstm unrolled": ((5, 4), lambda x: L.LSTM(3, unroll=True)(x)),
    "lstm masked": ((5, 4), lambda x: L.LSTM(3)(L.Masking()(x))),
    "gru": ((5, 4), lambda x: L.GRU(3)(x)),
    "gru reset before": ((5, 4), lambda x: L.GRU(3, reset_after=False)(x)),
    "simple rnn": ((5, 4), lambda x: L.SimpleRNN(3)(x)),
    "stacked cells": ((5, 4), lambda x: L.RNN([L.LSTMCell(3), L.GRUCell(2)])(x)),
    "bidirectional": ((5, 4), lambda x: L.Bidirectional(L.LSTM(3, return_sequences=True))(x)),
    "time distributed": ((3, 4), lambda x: L.TimeDistributed(L.Dense(2))(x)),
    "convolutional lstm": ((3, 5, 5, 2), lambda x: L.ConvLSTM2D(2, 3)(x)),
    "glu": ((6,), lambda x: keras.activations.glu(L.Dense(8)(x))),
    "inference noise": ((6,), lambda x: L.Dense(2)(L.GaussianNoise(1.0)(L.Dropout(0.5)(x)))),
    "rescaling": ((6,), lambda x: L.Rescaling(0.1, -3.0)(x)),
}


@pytest.mark.parametrize("name", CASES)
def test_layer(name):
    shape, call = CASES[name]
    sound(exact(lively(model(shape, call)), normal(2, *shape)), 1e-12)


@pytest.mark.parametrize(
    "name, found",
    [
        ("conv1d", ["shape", "conv"]),
        ("conv1d stride", ["conv"]),
        ("conv2d", ["conv"]),
        ("conv2d no bias", ["conv"]),
        ("conv2d grouped", ["conv"]),
        ("conv3d", ["conv"]),
        ("depthwise", ["conv"]),
        ("transposed 2d", ["conv"]),
        ("dense on a sequence", ["dense", "activation"]),
        ("einsum dense", ["dense"]),
        ("layer norm", ["norm", "norm"]),
        ("group norm", ["shape", "norm", "shape"]),
        ("rms norm", ["norm", "affine"]),
        ("average pool", ["avgpool", "avgpool"]),
        ("rescaling", ["affine"]),
        (
            "multi-head attention",
            "dense dense dense matmul affine softmax matmul shape dense".split(),
        ),
    ],
)
def test_what_keras_spells_out_is_seen_for_what_it_is(name, found):
    shape, call = CASES[name]
    tape = record(lively(model(shape, call)), normal(2, *shape), fold=True)
    assert sorted(kinds(tape)) == sorted(found)


def test_attributes_that_rules_read():
    tape = record(model((7, 7, 3), lambda x: L.Conv2D(4, 3, strides=2)(x)), normal(2, 7, 7, 3))
    attrs = tape.nodes[-1].attrs
    assert (attrs["channel_axis"], attrs["dims"], attrs["groups"], attrs["transposed"]) == (
        3,
        2,
        1,
        False,
    )
    assert (attrs["padding"], attrs["data_format"], attrs["strides"][1]) == ("VALID", "NHWC", 2)
    assert tape.nodes[-1].offset.shape == (4,)
    shape, call = CASES["conv1d stride"]
    conv = record(model(shape, call), normal(2, *shape), fold=True).nodes[-1]
    assert (conv.attrs["channel_axis"], conv.attrs["dims"]) == (2, 1)
    norm = record(
        model((4, 6), lambda x: L.LayerNormalization(epsilon=0.01)(x)), normal(2, 4, 6)
    ).nodes[-1]
    assert norm.attrs == {"axes": (2,), "epsilon": pytest.approx(0.01), "centre": True}
    rms = record(model((4, 6), CASES["rms norm"][1]), normal(2, 4, 6)).nodes[1]
    assert rms.kind is Op.NORM and rms.attrs["centre"] is False
    moved = record(model((4, 6), CASES["reshapes"][1]), normal(2, 4, 6))
    assert [n.attrs["move"] for n in moved if n.into] == [
        "reshape",
        ("transpose", (0, 2, 1)),
        "reshape",
    ]
    joined = record(model((6,), CASES["concatenate"][1]), normal(2, 6)).nodes[-1]
    assert joined.attrs["move"] == ("concat", 1)


def test_a_folded_norm_is_the_model_with_folded_weights():
    net = lively(model((7, 7, 3), CASES["conv2d no bias"][1]))
    x = normal(2, 7, 7, 3)
    conv, norm = net.layers[1], net.layers[2]
    factor = norm.gamma / tf.sqrt(norm.moving_variance + norm.epsilon)
    node = record(net, x, fold=True).nodes[-1]
    assert node.layer == "conv2d" or node.layer == conv.name
    assert apart(node.params["weight"], conv.kernel * factor) < 1e-12
    assert apart(node.params["bias"], norm.beta - norm.moving_mean * factor) < 1e-12
    kept = record(net, x, fold=True, keep=[conv.name])
    assert kinds(kept) == ["conv", "affine"]
    assert apart(kept.at(conv.name).array, conv(x)) < 1e-12


def test_a_shared_convolution_is_not_folded():
    def call(x):
        y = L.Conv2D(3, 1, name="shared")(x)
        return L.Concatenate()([y, L.BatchNormalization()(y)])

    tape = exact(lively(model((4, 4, 2), call)), normal(2, 4, 4, 2))
    assert sorted(kinds(tape)) == ["affine", "conv", "shape"]


class Block(keras.layers.Layer):
    def __init__(self):
        super().__init__(name="block")
        self.first, self.second = L.Dense(8, name="first"), L.Dense(8, name="second")

    def call(self, x):
        return tf.nn.relu(self.second(tf.nn.relu(self.first(x)))) + x


class Net(keras.Model):
    """Functional calls, a block used twice, a flag that must be off, a branch on the shape."""

    def __init__(self):
        super().__init__()
        self.block, self.out = Block(), L.Dense(3, name="out")
        self.drop = L.Dropout(0.5, name="dropout")

    def call(self, x, training=True):
        for _ in range(2):
            x = self.block(x)
        x = self.drop(x, training=training)
        if x.shape[-1] == 8:
            p, q = tf.split(x, 2, -1)
            x = tf.concat([p * q, p - q], -1)
        return self.out(x)


def test_subclassed_model_with_functional_calls():
    net = Net()
    net(normal(2, 8))
    tape = exact(net, normal(2, 8))
    assert list(tape.layers) == ["block", "block.first", "block.second", "dropout", "out"]
    assert {k: len(v) for k, v in tape.layers.items() if len(v) > 1} == {
        "block": 2, "block.first": 2, "block.second": 2,
    }  # fmt: skip
    assert tape.at("block#1") is tape.layers["block"][0].values[0]
    assert tape.at("block") is tape.at("dropout")
    assert [n.layer for n in tape if n.kind is Op.RELU] == ["block"] * 4
    assert tape.layers["block"][0].parameters == 2 * (8 * 8 + 8)


def test_nested_models_and_a_model_used_twice():
    inner = keras.Sequential(
        [L.Dense(6, activation="relu", name="a"), L.Dense(6, name="b")], name="inner"
    )
    x = keras.Input((6,))
    net = keras.Model(x, keras.Sequential([L.Dense(2, name="c")], name="head")(inner(inner(x))))
    tape = exact(net, normal(2, 6))
    assert list(tape.layers) == ["inner", "inner.a", "inner.b", "head", "head.c"]
    assert len(tape.layers["inner.a"]) == 2 and len(tape.layers["head.c"]) == 1


def test_layers_whose_names_look_like_repeated_calls():
    dense, other = L.Dense(4, name="dense"), L.Dense(4, name="dense_1")
    tape = record(model((4,), lambda x: dense(other(dense(x)))), normal(2, 4))
    assert [n.layer for n in tape if n.into] == ["dense", "dense_1", "dense"]


def test_several_inputs_and_outputs():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    joined = L.Concatenate()([L.Dense(4)(a), b])
    listed = keras.Model([a, b], [L.Dense(2)(joined), joined])
    tape = exact(listed, (normal(2, 4), normal(2, 3)))
    assert list(tape.inputs) == ["input0", "input1"] and list(tape.outputs) == [
        "output0",
        "output1",
    ]
    named = keras.Model({"a": a, "b": b}, {"y": L.Dense(2)(joined), "z": joined})
    tape = exact(named, {"a": normal(2, 4), "b": normal(2, 3)})
    assert list(tape.inputs) == ["a", "b"] and list(tape.outputs) == ["y", "z"]

    class Two(keras.Model):
        def call(self, left, right=None):
            return left * 2.0 + right

    tape = exact(Two(), {"left": normal(2, 3), "right": normal(2, 3)})
    assert list(tape.inputs) == ["left", "right"]
    exact(Two(), (normal(2, 3), normal(2, 3)))


def test_outputs_go_back_into_their_structure():
    x = keras.Input((4,))
    net = keras.Model(x, {"p": x * 2.0, "q": [x, L.Dense(2)(x)]})
    tape = record(net, normal(1, 4))
    assert list(tape.outputs) == ["p", "q.0", "q.1"]
    arrays = {k: v.array for k, v in tape.outputs.items()}
    assert tape.structure(arrays)["q"][1] is arrays["q.1"]


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_tokens_start_at_the_embedding(dtype):
    x = keras.Input((5,), dtype=dtype)
    table = L.Embedding(9, 4, mask_zero=True, name="words")
    net = keras.Model(x, L.Dense(2)(L.LSTM(3)(table(x))))
    tokens = tf.constant([[1, 2, 0, 8, 0], [3, 3, 3, 0, 0]], dtype)
    tape = record(net, tokens)
    node = next(n for n in tape if n.kind is Op.EMBEDDING)
    assert node.into == () and node.layer == "words" and node.out[0] in tape.sources
    assert apart(node.params["weight"], table.embeddings) == 0
    # The gradient at the rows is that of the table, summed over the places of each word.
    value = tape.outputs["output"]
    from support_tensorflow import walk

    found = walk(tape, {value: tf.ones_like(value.array)})[node.out[0]]
    with tf.GradientTape() as t:
        y = tf.reduce_sum(net(tokens))
    theirs = tf.convert_to_tensor(t.gradient(y, table.embeddings.value))
    rows = tf.tensor_scatter_nd_add(
        tf.zeros_like(theirs), tf.cast(tokens, tf.int32)[..., None], found
    )
    assert apart(rows, theirs) < 1e-12


def test_half_precision():
    net = keras.Sequential(
        [
            keras.Input((6, 6, 3), dtype="float32"),
            L.Conv2D(4, 3, activation="silu", dtype="float16"),
            L.BatchNormalization(dtype="mixed_float16"),
            L.Flatten(dtype="float16"),
            L.Dense(3, dtype="mixed_float16"),
        ]
    )
    tape = exact(net, normal(2, 6, 6, 3, dtype=tf.float32))
    assert tape.output.dtype == tf.float16 and tape.inputs["input"].dtype == "float32"


def test_a_model_of_dynamic_batch_and_length():
    net = keras.Sequential([keras.Input((None, 4)), L.LSTM(3, return_sequences=True), L.Dense(2)])
    for batch, length in ((1, 3), (4, 5)):
        assert record(net, normal(batch, length, 4)).output.shape == (batch, length, 2)
        exact(net, normal(batch, length, 4))


def test_pooling_in_three_dimensions():
    # TensorFlow has no double precision for it.
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")
    net = model((6, 6, 6, 2), lambda x: L.AveragePooling3D(2, 1)(L.MaxPooling3D(2)(L.Dense(3)(x))))
    assert kinds(exact(net, normal(2, 6, 6, 6, 2, dtype=tf.float32))) == [
        "dense",
        "maxpool",
        "avgpool",
    ]


def test_gradient_is_the_frameworks_own():
    net = model((6,), lambda x: L.Dense(3)(L.Dense(5, activation="tanh")(x)))
    x, framework = normal(4, 6), find(net)

    def score(outputs, weights):
        return tf.reduce_sum(outputs["output"] * weights, -1), {"twice": 2 * outputs["output"]}

    weights = tf.constant(np.eye(3)[[0, 1, 2, 1]])
    found, scores, extras = framework.gradient(
        net, gather(framework, net, x), score, key="w", arguments={"weights": weights}
    )
    output, theirs = native(net, x, weights.numpy())
    assert apart(found["input"], theirs["input"]) < 1e-12
    assert apart(scores, tf.reduce_sum(output * weights, -1)) < 1e-12
    assert apart(extras["twice"], 2 * output) < 1e-12
    assert apart(framework.predict(net, gather(framework, net, x))["output"], output) < 1e-12
    headed, _, _ = framework.gradient(
        net, gather(framework, net, x), lambda outputs: (outputs["output"], {}), key="h",
        head=lambda y: y[:, 1] ** 2,
    )  # fmt: skip
    tape = framework.record(net, gather(framework, net, x), head=lambda y: y[:, 1] ** 2)
    assert apart(headed["input"], gradients(tape)["input"]) < 1e-12
