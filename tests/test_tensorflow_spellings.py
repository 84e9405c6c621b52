"""Plain TensorFlow: functions, modules, loops, branches, own gradients, variables, SavedModels."""

from __future__ import annotations

import pytest
import tensorflow as tf

from support_tensorflow import (
    apart,
    exact,
    kinds,
    record,
    sound,
)  # fmt: skip
from whence.ops import Op

D = tf.float64
W = tf.reshape(tf.linspace(tf.constant(-1.0, D), 1.2, 36), (6, 6))
V = tf.linspace(tf.constant(0.5, D), 1.5, 6)


def normal(*shape, dtype=D):
    return tf.random.stateless_normal(shape, [21, 22], dtype=dtype)


UNARY = {
    "relu": tf.nn.relu, "relu6": tf.nn.relu6, "leaky": tf.nn.leaky_relu, "elu": tf.nn.elu,
    "selu": tf.nn.selu, "sigmoid": tf.sigmoid, "tanh": tf.tanh, "erf": tf.math.erf,
    "exp": tf.exp, "square": tf.square, "softplus": tf.nn.softplus, "sin": tf.sin,
    "pow": lambda x: tf.pow(x, 3.0), "abs": tf.abs, "silu": tf.nn.silu, "gelu": tf.nn.gelu,
    "maximum": lambda x: tf.maximum(x, 0.0), "clip": lambda x: tf.clip_by_value(x, 0.0, 1.0),
    "minimum": lambda x: tf.minimum(x, 0.3), "reciprocal": lambda x: 2.0 / (x * x + 1.0),
    "log": lambda x: tf.math.log(x * x + 1.0), "sqrt": lambda x: tf.sqrt(tf.abs(x) + 1.0),
}  # fmt: skip
RECTIFIERS = {"relu", "relu6", "leaky", "maximum", "clip"}


@pytest.mark.parametrize("name", UNARY)
def test_elementwise(name):
    tape = exact(tf.function(lambda x: UNARY[name](x @ W)), normal(3, 6))
    assert tape.nodes[1].kind is Op.DENSE
    assert tape.nodes[-1].kind is (Op.RELU if name in RECTIFIERS else Op.ACTIVATION)
    slopes = {"relu6": ("cap", 6.0), "leaky": ("slope", pytest.approx(0.2)), "clip": ("cap", 1.0)}
    if name in slopes:
        key, value = slopes[name]
        assert tape.nodes[-1].attrs[key] == value


MOVES = {
    "slice": lambda x: x[:, 1:5:2],
    "newaxis": lambda x: x[:, None, ::-1],
    "roll": lambda x: tf.roll(x, 1, 1),
    "gather": lambda x: tf.gather(x, [0, 2, 2], axis=1),
    "gather_nd": lambda x: tf.gather_nd(x, [[0, 1], [1, 0]]),
    "split": lambda x: tf.concat(tf.split(x, 3, 1)[::-1], 1),
    "unstack": lambda x: tf.stack(tf.unstack(x, axis=1)[1:], 1),
    "tile": lambda x: tf.tile(x, [1, 2]),
    "broadcast": lambda x: tf.broadcast_to(x, [4, 2, 6]),
    "pad": lambda x: tf.pad(x, [[0, 0], [1, 2]], constant_values=3.0),
    "mirror": lambda x: tf.pad(x, [[0, 0], [1, 2]], "REFLECT"),
    "where": lambda x: tf.where(x > 0, x, 0.1 * x),
    "masked": lambda x: tf.where([True, False] * 3, x, -1e9),
    "boolean_mask": lambda x: tf.boolean_mask(x, x > 0)[None] * 2.0,
    "transpose": lambda x: tf.transpose(x),
    "scatter": lambda x: tf.tensor_scatter_nd_update(x, [[0, 1]], [7.0]),
    "depth": lambda x: tf.nn.depth_to_space(tf.reshape(x, (1, 1, 3, 4)), 2),
    "reverse": lambda x: tf.reverse(x, [1]),
    "band": lambda x: tf.linalg.band_part(x, 1, 1),
    "squeeze": lambda x: tf.squeeze(x[:, None]),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves(name):
    tape = exact(tf.function(lambda x: MOVES[name](x * V)), normal(2, 6))
    found = {n.kind for n in tape if n.into}
    assert found <= {Op.SHAPE, Op.AFFINE, Op.DENSE}
    assert all("move" in n.attrs for n in tape if n.kind is Op.SHAPE)


SUMS = {
    "mean": (lambda x: tf.reduce_mean(x, 1), "avgpool"),
    "sum": (lambda x: tf.reduce_sum(x, 0), "avgpool"),
    "sum times a number": (lambda x: tf.reduce_sum(x, 1) / 6.0, "avgpool"),
    "cumsum": (lambda x: tf.cumsum(x, 1), "avgpool"),
    "max": (lambda x: tf.reduce_max(x, 1), "maxpool"),
    "min": (lambda x: tf.reduce_min(x, 1), "maxpool"),
    "top_k": (lambda x: tf.math.top_k(x, 3).values, "maxpool"),
    "maximum of two": (lambda x: tf.maximum(x[:, :3], x[:, 3:]), "maxpool"),
    "softmax": (lambda x: tf.nn.softmax(x), "softmax"),
    "log softmax": (lambda x: tf.nn.log_softmax(x), "softmax"),
    "softmax spelled out": (lambda x: tf.exp(x) / tf.reduce_sum(tf.exp(x), 1, keepdims=True), None),
    "stable softmax": (lambda x: tf.nn.softmax(x, 0), None),
    "prod": (lambda x: tf.reduce_prod(x, 1), "opaque"),
    "logsumexp": (lambda x: tf.reduce_logsumexp(x, 1), None),
    "norm": (lambda x: tf.linalg.norm(x, axis=1), None),
    "normalise": (lambda x: tf.math.l2_normalize(x, 1), None),
    "std": (lambda x: x / tf.math.reduce_std(x, 1, keepdims=True), None),
    "add_n": (lambda x: tf.add_n([x, x, x]), "add"),
    "same twice": (lambda x: x + x, "add"),
    "itself": (lambda x: x * x, "mul"),
    "quotient": (lambda x: x / (x * x + 2.0), "mul"),
    "squared difference": (lambda x: tf.math.squared_difference(x, x[::-1]), "activation"),
    "einsum": (lambda x: tf.einsum("bi,ij->bj", x, W), "dense"),
    "einsum of two": (lambda x: tf.einsum("bi,cj->bcij", x, x), "matmul"),
    "matmul": (lambda x: tf.matmul(x, x, transpose_b=True), "matmul"),
    "weights on the left": (lambda x: W @ tf.transpose(x), "dense"),
    "transposed weights": (lambda x: tf.matmul(x, W, transpose_b=True) + V, "dense"),
    "fft": (lambda x: tf.abs(tf.signal.rfft(tf.cast(x, tf.float32))), "opaque"),
    "cholesky": (
        lambda x: tf.linalg.cholesky(tf.transpose(x) @ x + 6.0 * tf.eye(6, dtype=D)),
        "opaque",
    ),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_products_selections(name):
    function, kind = SUMS[name]
    tape = sound(exact(tf.function(function), normal(2, 6)), 1e-5)
    if kind:
        assert kinds(tape)[-1] == kind
    if name == "quotient":
        assert tape.nodes[-1].attrs["divide"] is True


def test_a_sum_times_a_number_is_one_average():
    spelled = record(tf.function(SUMS["sum times a number"][0]), normal(2, 6))
    assert kinds(spelled) == ["avgpool"]
    assert apart(spelled.output, tf.reduce_mean(normal(2, 6), 1)) < 1e-14


def test_signs_and_offsets():
    tape = record(tf.function(lambda x: x - tf.sin(x)), normal(2, 6))
    assert tape.nodes[-1].attrs["signs"] == (1, -1)
    tape = record(tf.function(lambda x: 3.0 - 2.0 * x / 4.0), normal(2, 6))
    assert kinds(tape) == ["affine"]
    node = sound(tape).nodes[-1]
    assert float(node.params["scale"]) == -0.5 and float(node.params["shift"]) == 3.0
    assert float(node.offset) == 3.0


def test_a_spelled_softmax_is_one_node():
    def stable(x):
        e = tf.exp(x - tf.reduce_max(x, 1, keepdims=True))
        return e / tf.reduce_sum(e, 1, keepdims=True)

    def stopped(x):
        e = tf.exp(x - tf.stop_gradient(tf.reduce_max(x, 1, keepdims=True)))
        return e / tf.reduce_sum(e, 1, keepdims=True)

    def plain(x):
        e = tf.exp(x)
        return e / tf.reduce_sum(e, 1, keepdims=True)

    for spelling in (stable, stopped, plain):
        tape = sound(exact(tf.function(spelling), normal(2, 6)))
        assert kinds(tape) == ["softmax"]
        assert tape.nodes[-1].attrs == {"axis": 1, "log": False}


def test_a_spelled_norm_is_one_node():
    def naive(x):
        d = x - tf.reduce_mean(x, -1, keepdims=True)
        return d / tf.sqrt(tf.reduce_mean(tf.square(d), -1, keepdims=True) + 0.1)

    def moments(x):
        mean, variance = tf.nn.moments(x, [1], keepdims=True)
        return tf.nn.batch_normalization(x, mean, variance, V, V, 0.1)

    tape = sound(exact(tf.function(naive), normal(2, 6)))
    assert kinds(tape) == ["norm"] and tape.nodes[-1].attrs["centre"]
    exact(tf.function(moments), normal(2, 6))


def test_a_residual_of_a_rectifier_stays_a_sum():
    tape = exact(tf.function(lambda x: x + tf.nn.relu(x)), normal(2, 6))
    assert kinds(tape) == ["relu", "add"]


def test_what_is_read_elsewhere_is_not_swallowed():
    def function(x):
        gate = tf.sigmoid(x)
        return x * gate + tf.reduce_sum(gate)

    assert "mul" in kinds(exact(tf.function(function), normal(2, 6)))


def test_batch_norm_of_older_models():
    def function(x, training=False):
        x = tf.nn.conv2d(x, tf.ones((3, 3, 2, 2)), 1, "SAME")
        args = [1.0, 2.0], [0.1, 0.2]
        fixed = tf.compat.v1.nn.fused_batch_norm(
            x, *args, [0.3, 0.4], [1.0, 2.0], is_training=False
        )[0]
        return fixed + tf.compat.v1.nn.fused_batch_norm(x, *args, is_training=True)[0]

    tape = sound(exact(tf.function(function), normal(2, 5, 5, 2, dtype=tf.float32)), 1e-4)
    assert sorted(kinds(tape)) == ["add", "affine", "conv", "norm"]


def test_channels_first_in_a_compiled_function():
    weight, bias = normal(3, 3, 2, 4, dtype=tf.float32), normal(4, dtype=tf.float32)

    def function(x):
        y = tf.nn.conv2d(x, weight, 1, "VALID", data_format="NCHW")
        return tf.nn.relu(y + bias[:, None, None])

    tape = sound(
        exact(tf.function(function, jit_compile=True), normal(2, 2, 5, 5, dtype=tf.float32))
    )
    assert kinds(tape) == ["conv", "relu"]
    assert tape.nodes[1].attrs["channel_axis"] == 1


def test_gradients_of_the_authors_own():
    @tf.custom_gradient
    def reversed_gradient(x):
        return tf.identity(x), lambda g: -0.5 * g

    @tf.custom_gradient
    def two(x, y):
        return x * y, lambda g: (g * y * 2.0, g * x + 1.0)

    @tf.custom_gradient
    def rounded(x):
        return tf.round(x), lambda g: g

    @tf.function
    def inner(x):
        return reversed_gradient(tf.sin(x))

    tape = exact(
        tf.function(lambda x: two(inner(x), reversed_gradient(x * x)) + rounded(3.0 * x)),
        normal(2, 6),
    )
    assert [n.op for n in tape if n.kind is Op.OPAQUE] == ["CustomGradient"]
    node = next(n for n in tape if n.kind is Op.OPAQUE)
    assert apart(node.call(*(2.0 * x for x in node.inputs)), 4.0 * node.output) < 1e-14
    exact(tf.function(lambda x: x + tf.stop_gradient(tf.round(x) - x)), normal(2, 6))
    exact(tf.function(lambda x: tf.stop_gradient(x) * x), normal(2, 6))


def test_where_the_gradient_stops_nothing_is_tracked():
    tape = record(
        tf.function(lambda x: {"a": tf.stop_gradient(x) * 2.0, "b": tf.argmax(x, 1), "c": x}),
        normal(2, 6),
    )
    assert not hasattr(tape.outputs["a"], "tracked") and tf.is_tensor(tape.outputs["b"])
    assert tape.outputs["c"] is tape.inputs["input"]


def test_parameters_are_replaced_or_left_out():
    def function(x):
        return tf.matmul(tf.nn.relu(tf.matmul(x, W) + V), W) * 2.0 + 1.0

    first, second = (n for n in record(tf.function(function), normal(2, 6), fold=True) if n.params)
    (x,) = first.inputs
    assert apart(first.call(x, weight=2.0 * W, bias=None), 2.0 * x @ W) < 1e-14
    assert apart(first.call(x, bias=0.0 * V), x @ W) < 1e-14
    assert apart(second.params["weight"], 2.0 * W) == 0 and float(second.params["bias"]) == 1.0
    assert apart(second.call(x, weight=W, bias=None), x @ W) < 1e-14
    assert [p.kind for p in second.parts][-1] is Op.AFFINE and second.parts[0].kind is Op.DENSE
    bare = record(tf.function(lambda x: x @ W), normal(2, 6)).nodes[-1]
    assert apart(bare.call(x, bias=None), x @ W) == 0
    with pytest.raises(TypeError, match="no parameter 'scale'"):
        bare.call(x, scale=W)
