"""TensorFlow as a framework: what it accepts, compiles, keeps, leaves alone and lets go of."""

from __future__ import annotations

import gc
import resource
import weakref
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from support_tensorflow import apart, computed, gradients, native, record, seed_for, state
from whence.backward import Row
from whence.errors import ModelError
from whence.frameworks import find, gather
from whence.frameworks.tensorflow import TensorFlow

L = keras.layers


def small(**options):
    keras.utils.set_random_seed(5)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(4, 3, use_bias=False, name="conv"),
            L.BatchNormalization(name="norm"),
            L.ReLU(name="relu"),
            L.GlobalAveragePooling2D(name="pool"),
            L.Dense(5, name="logits", **options),
        ]
    )


def image(batch=2, seed=1):
    return tf.random.stateless_normal([batch, 8, 8, 3], [seed, 9])


def gradient_program(tape):
    return {"gradient": gradients(tape)["input"], "names": list(tape.layers), "size": len(tape)}


def compute(framework, net, x, program=gradient_program, key="gradient", **options):
    return framework.compute(net, gather(framework, net, x), program, key=key, **options)


def test_accepts_models_of_tensorflow_only():
    framework = TensorFlow()
    assert framework.accepts(small()) and framework.accepts(tf.function(lambda x: x))
    assert framework.accepts(tf.Module())
    concrete = tf.function(lambda x: x).get_concrete_function(tf.TensorSpec([1]))
    assert framework.accepts(concrete)
    assert not any(
        map(framework.accepts, [lambda x: x, 3, None, np.ones(3), keras.Sequential, "m"])
    )
    assert framework.owns(tf.ones(1)) and framework.owns(tf.Variable(1.0))
    assert not framework.owns(np.ones(1)) and not framework.owns([1.0])


def test_a_plain_function_is_known_by_its_arrays():
    net = small()

    def probabilities(x):
        return tf.nn.softmax(net(x))

    tape = record(probabilities, image())
    assert list(tape.layers) == ["conv", "norm", "relu", "pool", "logits"]
    assert apart(tape.output, probabilities(image())) < 1e-6


def test_convert_takes_the_models_floating_type():
    framework = TensorFlow()
    net = small()
    assert framework.convert(np.ones((1, 2)), net).dtype == tf.float32
    assert framework.convert(np.ones((1, 2), np.int64), net).dtype == tf.int64
    given = tf.ones(2, tf.float64)
    assert framework.convert(given, net) is given
    half = tf.Module()
    half.weight = tf.Variable(1.0, dtype=tf.float16)
    assert framework.convert(np.ones(2), half).dtype == tf.float16
    wide = keras.Sequential([keras.Input((2,), dtype="float64"), L.Dense(1)])
    assert framework.convert(np.ones((1, 2), np.float32), wide).dtype == tf.float64


def test_call_style():
    framework = TensorFlow()

    class Two(keras.Model):
        def call(self, left, right, training=None):
            return left + right

    class One(keras.Model):
        def call(self, inputs, mask=None):
            return inputs[0]

    pair, named = (1, 2), {"left": 1, "right": 2}
    assert [framework.call_style(Two(), v) for v in (1, pair, named)] == ["one", "args", "kwargs"]
    assert [framework.call_style(One(), v) for v in (1, pair, named)] == ["one", "one", "one"]
    assert framework.call_style(small(), [1, 2]) == "one"
    assert framework.call_style(tf.function(lambda a, b: a), pair) == "args"
    assert framework.call_style(tf.function(lambda a, b: a), {"a": 1, "b": 2}) == "kwargs"


def test_one_graph_per_signature():
    framework, net = TensorFlow(), small()
    first = compute(framework, net, image())
    traces = framework.traces
    for seed in range(3):
        again = compute(framework, net, image(seed=seed))
    assert framework.traces == traces
    assert again["names"] == first["names"] and again["size"] == first["size"]
    compute(framework, net, image(batch=3))
    assert framework.traces == traces + 2  # the model and the program, for another batch size
    compute(framework, net, image(), key="another")
    assert framework.traces == traces + 3
    compute(framework, net, image(), fold=True)
    assert framework.traces == traces + 4
    compute(framework, net, image(), fold=True, keep=["conv"])
    assert framework.traces == traces + 5
    score = lambda outputs: (outputs["output"][:, 0], {})  # noqa: E731
    for _ in range(2):
        framework.gradient(net, gather(framework, net, image()), score, key="first")
        framework.predict(net, gather(framework, net, image()))
    assert framework.traces == traces + 6


def test_trained_weights_count_at_once():
    framework, net, x = find(small()), small(), image()
    seed = seed_for(np.zeros((2, 5)))
    before = computed(net, x, seed, fold=True)
    traces = framework.traces
    net.set_weights([w * 1.5 + 0.1 for w in net.get_weights()])
    after = computed(net, x, seed, fold=True)
    output, theirs = native(net, x, seed)
    assert framework.traces == traces
    assert apart(after["output"], output) < 1e-5
    assert apart(after["gradients"]["input"], theirs["input"]) < 1e-5
    assert apart(before["output"], output) > 0.01


class Pair(NamedTuple):
    first: tf.Tensor
    second: str


def test_results_of_any_shape_come_back():
    def program(tape, factor):
        y = tape.output
        row = Row(3, "layer", "op", "kind", "rule", y[:, 0], y[:, 1], {"bias": y[:, 2]})
        return {"rows": [row, None], "pair": Pair(y * factor, "two"), "deep": (1, {"y": (y,)})}

    framework, net = TensorFlow(), small()
    expected = net(image())
    for factor in (2.0, 3.0):
        arguments = {"factor": tf.constant(factor)}
        found = compute(framework, net, image(), program, "any", arguments=arguments)
        assert apart(found["pair"].first, factor * expected) < 1e-6
    assert found["pair"].second == "two" and found["rows"][1] is None and found["deep"][0] == 1
    assert isinstance(found["rows"][0], Row) and found["rows"][0].layer == "layer"
    assert apart(found["rows"][0].absorbed["bias"], expected[:, 2]) < 1e-6
    assert apart(found["deep"][1]["y"][0], expected) < 1e-6


def test_no_leak_over_two_hundred_calls():
    framework, net = TensorFlow(), small()
    inputs = [gather(framework, net, image(seed=i)) for i in range(4)]
    score = lambda outputs: (outputs["output"][:, 0], {})  # noqa: E731

    def once(i):
        framework.compute(net, inputs[i % 4], gradient_program, key="gradient", fold=True)
        framework.gradient(net, inputs[i % 4], score, key="first")
        framework.predict(net, inputs[i % 4])

    for i in range(10):
        once(i)
    gc.collect()
    objects, memory = len(gc.get_objects()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(200):
        once(i)
    gc.collect()
    assert len(gc.get_objects()) - objects < 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 20_000  # kilobytes


def test_recording_does_not_leak_either():
    framework, net = TensorFlow(), small()
    inputs = gather(framework, net, image())
    for _ in range(3):
        framework.record(net, inputs, fold=True)
    gc.collect()
    objects = len(gc.get_objects())
    for _ in range(20):
        gradients(framework.record(net, inputs, fold=True))
    gc.collect()
    assert len(gc.get_objects()) - objects < 200


def test_graphs_go_with_their_model():
    framework, net = TensorFlow(), small()
    compute(framework, net, image())
    record(net, image())
    framework.gradient(
        net, gather(framework, net, image()), lambda o: (o["output"][:, 0], {}), key="g"
    )
    gone = weakref.ref(net)
    del net
    keras.backend.clear_session()
    gc.collect()
    assert gone() is None
    assert not framework.graphs.kept and not framework.sources.kept


def test_new_heads_push_old_graphs_out():
    framework, net = TensorFlow(), small()
    limit = framework.graphs.limit
    for i in range(limit + 3):
        compute(framework, net, image(1), head=lambda y, i=i: y[:, i % 5])
    assert len(framework.graphs.kept[id(net)]) == limit
    assert len(framework.sources.kept[id(net)]) <= limit


@pytest.mark.parametrize("fold", [False, True])
def test_the_model_is_left_as_it_was(fold):
    framework, net = TensorFlow(), small()
    net.layers[0].trainable = False
    same = state(net)
    global_seed = tf.random.uniform  # the function itself: nothing is patched for good
    record(net, image(), fold=fold)
    compute(framework, net, image(), fold=fold)
    framework.predict(net, gather(framework, net, image()))
    assert same() and tf.random.uniform is global_seed


def test_random_numbers_outside_are_not_moved_on():
    net = keras.Sequential([keras.Input((4,)), L.Dropout(0.5), L.GaussianNoise(1.0), L.Dense(2)])
    x = tf.ones((2, 4))
    record(net, x)
    tf.random.set_seed(3)
    expected = tf.random.normal([3])
    tf.random.set_seed(3)
    record(net, x)
    computed(net, x, seed_for(np.zeros((2, 2))))
    assert apart(tf.random.normal([3]), expected) == 0


class Broken(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.broken = L.Dense(3, name="first"), True
        self.norm = L.BatchNormalization()

    def call(self, x, training=None):
        x = self.norm(self.first(x), training=training)
        if self.broken:
            raise ValueError("half-way")
        return x


def test_an_exception_half_way_leaves_everything_usable():
    net = Broken()
    net.broken = False
    net(tf.ones((2, 3)))
    same, framework = state(net), TensorFlow()
    net.broken = True
    with pytest.raises(ValueError, match="half-way"):
        compute(framework, net, tf.ones((2, 3)))
    assert same()
    net.broken = False

    def failing(tape):
        gradients(tape)
        raise RuntimeError("in the rule")

    with pytest.raises(RuntimeError, match="in the rule"):
        compute(framework, net, tf.ones((2, 3)), failing, "failing")
    assert same()
    found = compute(framework, net, tf.ones((2, 3)))
    assert apart(found["gradient"], native(net, tf.ones((2, 3)), None)[1]["input"]) < 1e-6


def test_expectation_and_summary():
    framework = TensorFlow()
    expected = framework.expectation(small())
    assert (expected.rank, expected.channels, expected.channel_axis, expected.layer) == (
        4,
        3,
        3,
        "conv",
    )
    words = keras.Sequential([keras.Input((7,), dtype="int32"), L.Embedding(9, 4, name="words")])
    assert framework.expectation(words).tokens and framework.expectation(words).layer == "words"
    dense = keras.Sequential([keras.Input((6,)), L.Dense(2, name="d")])
    assert framework.expectation(dense).channels == 6 and framework.expectation(dense).rank == 2
    nested = keras.Sequential([keras.Input((8, 8, 3)), small()])
    assert framework.expectation(nested).layer == "conv"
    assert framework.expectation(tf.function(lambda x: x)).rank is None
    net = small()
    assert (
        framework.summary(net)
        == f"{net.name} (Sequential), {net.count_params():,} parameters, float32"
    )
    assert framework.version() == tf.__version__


def test_layers_of_a_model_used_with_a_head():
    tape = record(small(), image(), head=lambda y: tf.nn.softmax(y)[:, 0])
    assert list(tape.layers) == ["conv", "norm", "relu", "pool", "logits"]
    assert tape.output.shape == (2,)


def test_an_operation_unknown_to_raw_ops_is_named(monkeypatch):
    from whence.frameworks.tensorflow import calls

    calls.raw.cache_clear()
    monkeypatch.delattr(tf.raw_ops, "Tanh")
    try:
        with pytest.raises(ModelError, match=r"'Tanh'.*not in tf\.raw_ops"):
            record(tf.function(tf.tanh), tf.ones((1, 2)))
    finally:
        calls.raw.cache_clear()
