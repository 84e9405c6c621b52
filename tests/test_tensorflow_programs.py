"""TensorFlow programs: loops, branches, variables that are written, modules, SavedModels."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from support_tensorflow import (
    apart,
    computed,
    exact,
    gradients,
    kinds,
    native,
    record,
    seed_for,
    state,
)
from whence.errors import ModelError
from whence.frameworks import find, gather
from whence.ops import Op

D = tf.float64
W = tf.reshape(tf.linspace(tf.constant(-1.0, D), 1.2, 36), (6, 6))
V = tf.linspace(tf.constant(0.5, D), 1.5, 6)


def normal(*shape, dtype=D):
    return tf.random.stateless_normal(shape, [21, 22], dtype=dtype)


class Linear(tf.Module):
    def __init__(self, width, name=None):
        super().__init__(name)
        self.weight, self.bias = tf.Variable(W[:, :width]), tf.Variable(V[:width])

    @tf.Module.with_name_scope
    def __call__(self, x):
        return x @ self.weight + self.bias


class Pair(tf.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Linear(6, "first"), Linear(3, "second")

    def __call__(self, x, training=True):
        if training:
            raise AssertionError("run as if in training")
        return self.second(tf.nn.relu(self.first(x)))


def test_a_module_is_layered_by_its_name_scopes():
    tape = record(Pair(), normal(2, 6))
    assert [n.layer for n in tape if n.kind is Op.DENSE] == ["first", "second"]
    assert list(tape.layers) == ["first", "second"]
    assert tape.at("first").shape == (2, 6) and kinds(tape) == ["dense", "relu", "dense"]
    assert apart(tape.output, Pair()(normal(2, 6), training=False)) < 1e-14


def test_loops_and_branches_that_depend_on_numbers_are_opaque():
    weight = tf.Variable(W)

    @tf.function
    def function(x):
        while tf.reduce_sum(tf.abs(x)) < 500.0:
            x = tf.tanh(x @ weight) + x * 1.5
        if tf.reduce_sum(x) > 0:
            x = x * 2.0
        else:
            x = x**2
        return x

    tape = exact(function, normal(2, 6))
    assert kinds(tape) == ["opaque", "opaque"]
    exact(function, -normal(2, 6))


def test_loops_of_fixed_length_are_unrolled():
    @tf.function
    def function(x):
        entries = tf.TensorArray(D, size=4)
        for i in tf.range(4):
            x = tf.sin(x) * tf.cast(i + 1, D)
            entries = entries.write(i, x)
        return tf.reduce_sum(entries.stack(), 0)

    tape = exact(function, normal(2, 6))
    assert kinds(tape).count("activation") == 4 and "opaque" not in kinds(tape)


def test_lists_in_loops_of_unknown_length():
    @tf.function
    def function(x):
        n = tf.cast(tf.reduce_sum(tf.abs(x)) * 0 + 3, tf.int32)
        entries = tf.TensorArray(D, size=n)
        for i in tf.range(n):
            entries = entries.write(i, x * tf.cast(i, D) + x * x)
        return tf.reduce_sum(entries.stack(), 0)

    assert "opaque" in kinds(exact(function, normal(2, 6)))


def test_python_branches_on_tensors_are_converted():
    def function(x):
        if tf.reduce_sum(x) > 0:
            return x * 2.0
        return x * x

    for x in (tf.abs(normal(2, 6)), -tf.abs(normal(2, 6))):
        exact(function, x, compiled=False)


def test_variables_are_read_when_the_graph_runs():
    module, x = Pair(), normal(2, 6)
    framework, seed = find(module), seed_for(np.zeros((2, 3)))
    before = computed(module, x, seed, fold=True)
    traces = framework.traces
    module.first.weight.assign(2.0 * W)
    module.second.bias.assign_add([1.0, 2.0, 3.0])
    after = computed(module, x, seed, fold=True)
    assert framework.traces == traces
    output, theirs = native(lambda x: module(x, training=False), x, seed)
    assert apart(after["output"], output) < 1e-12
    assert apart(after["gradients"]["input"], theirs["input"]) < 1e-12
    assert apart(after["output"], before["output"]) > 0.1
    assert apart(framework.predict(module, gather(framework, module, x))["output"], output) < 1e-12


def test_a_model_that_writes_its_variables_keeps_them():
    class Counts(tf.Module):
        def __init__(self):
            super().__init__()
            self.calls, self.random = tf.Variable(1.0, dtype=D), tf.random.Generator.from_seed(3)

        def __call__(self, x):
            self.calls.assign_add(2.0)
            return x * self.calls * self.random.normal((6,), dtype=D)

    counts, x = Counts(), normal(2, 6)
    same = state(counts)
    framework, inputs = find(counts), gather(find(counts), counts, x)
    outputs = [record(counts, x).output, framework.predict(counts, inputs)["output"]]
    outputs.append(computed(counts, x, seed_for(x))["output"])
    gradient, _, _ = framework.gradient(
        counts, inputs, lambda o: (tf.reduce_sum(o["output"], 1), {}), key="sum"
    )
    assert same()
    assert apart(gradient["input"], gradients(record(counts, x))["input"]) < 1e-12
    expected = counts(x)
    assert not same()
    assert all(apart(o, expected) < 1e-14 for o in outputs)


def test_a_stateful_recurrent_layer_keeps_its_state():
    net = keras.Sequential([keras.Input((4, 3), batch_size=2), keras.layers.LSTM(3, stateful=True)])
    x = normal(2, 4, 3, dtype=tf.float32)
    net(x)
    same = state(net)
    tape = record(net, x)
    computed(net, x, seed_for(tape.output))
    find(net).predict(net, gather(find(net), net, x))
    assert same()
    assert apart(tape.output, net(x)) < 1e-6


def test_a_saved_model_is_recorded_as_the_model_it_was(tmp_path):
    net = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(3, 3, activation="silu"),
            keras.layers.LayerNormalization(),
        ]
    )
    x = normal(2, 6, 6, 2, dtype=tf.float32)
    net.export(tmp_path / "exported", verbose=False)
    tf.saved_model.save(Pair(), str(tmp_path / "empty"))
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    tape = record(loaded, x)
    assert kinds(tape) == ["conv", "activation", "norm"]
    assert apart(tape.output, net(x)) < 1e-6
    _, theirs = native(net, x, np.ones(tape.output.shape))
    assert apart(gradients(tape)["input"], theirs["input"]) < 1e-5
    with pytest.raises(ModelError, match="neither __call__ nor signatures"):
        record(tf.saved_model.load(str(tmp_path / "empty")), normal(2, 6))


def test_a_concrete_function_and_a_head():
    function = tf.function(lambda x: tf.nn.gelu(x @ W, approximate=True)).get_concrete_function(
        tf.TensorSpec([None, 6], D)
    )
    assert kinds(exact(function, normal(2, 6))) == ["dense", "activation"]
    tape = record(function, normal(2, 6), head=lambda y: tf.reduce_sum(y**2, 1))
    assert tape.main == "output" and tape.output.shape == (2,)


def test_the_authors_gradient_also_where_nothing_is_written_down():
    @tf.custom_gradient
    def steep(x):
        return tf.identity(x), lambda g: 7.0 * g

    @tf.function
    def looped(x):
        while tf.reduce_sum(tf.abs(x)) < 50.0:
            x = 2.0 * steep(x)
        return x

    assert kinds(exact(looped, normal(2, 6))) == ["opaque"]
    node = record(tf.function(lambda x: steep(x)), normal(2, 6)).nodes[-1]
    again, pull = node.rerun(2.0 * normal(2, 6))
    assert apart(again, 2.0 * normal(2, 6)) == 0
    assert apart(pull(tf.ones_like(again))[0], 7.0 * tf.ones_like(again)) == 0


def test_nothing_to_explain_is_an_error():
    with pytest.raises(ModelError, match="returned no array"):
        record(tf.function(lambda x: None), normal(2, 6))
