"""Each array function against NumPy, on eager arrays and inside a traced graph."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from whence.frameworks.tensorflow.functions import TensorFlowFunctions

xp = TensorFlowFunctions()
A = np.array([[1.0, -2.0, 0.0], [3.5, 0.5, -1.0]])
B = np.array([[2.0, -3.0, 1.0], [-1.0, 0.25, 4.0]])

CASES = {
    "asarray": (lambda a, b: xp.asarray(a), A),
    "cast": (lambda a, b: xp.cast(a, "int32"), A.astype(np.int32)),
    "zeros_like": (lambda a, b: xp.zeros_like(a), np.zeros_like(A)),
    "ones_like": (lambda a, b: xp.ones_like(a), np.ones_like(A)),
    "where": (lambda a, b: xp.where(a > b, a, b), np.where(A > B, A, B)),
    "where number": (lambda a, b: xp.where(a > 0, a, -1.0), np.where(A > 0, A, -1.0)),
    "where numbers first": (lambda a, b: xp.where(a > 0, 0.5, a), np.where(A > 0, 0.5, A)),
    "abs": (lambda a, b: xp.abs(a), np.abs(A)),
    "sqrt": (lambda a, b: xp.sqrt(xp.abs(a)), np.sqrt(np.abs(A))),
    "exp": (lambda a, b: xp.exp(a), np.exp(A)),
    "maximum": (lambda a, b: xp.maximum(a, b), np.maximum(A, B)),
    "maximum number": (lambda a, b: xp.maximum(a, 0.0), np.maximum(A, 0)),
    "minimum": (lambda a, b: xp.minimum(a, 0.0), np.minimum(A, 0)),
    "isfinite": (lambda a, b: xp.isfinite(b / xp.abs(a)), np.isfinite(A != 0) & (A != 0)),
    "sum": (lambda a, b: xp.sum(a), A.sum()),
    "sum axis": (lambda a, b: xp.sum(a, axis=1, keepdims=True), A.sum(1, keepdims=True)),
    "sum axes": (lambda a, b: xp.sum(a, axis=(0, 1)), A.sum()),
    "mean": (lambda a, b: xp.mean(a, axis=0), A.mean(0)),
    "max": (lambda a, b: xp.max(a, axis=(1,), keepdims=True), A.max(1, keepdims=True)),
    "argmax": (lambda a, b: xp.argmax(a, 1), A.argmax(1)),
    "one_hot": (lambda a, b: xp.one_hot(xp.argmax(a, 1), 3, a), np.eye(3)[A.argmax(1)]),
    "reshape": (lambda a, b: xp.reshape(a, (3, -1)), A.reshape(3, 2)),
    "transpose": (lambda a, b: xp.transpose(a, (1, 0)), A.T),
    "broadcast_to": (lambda a, b: xp.broadcast_to(a, (2, 2, 3)), np.broadcast_to(A, (2, 2, 3))),
    "concat": (lambda a, b: xp.concat([a, b], 1), np.concatenate([A, B], 1)),
    "take": (lambda a, b: xp.take(a, tf.constant([2, 0]), 1), A[:, [2, 0]]),
    "matmul": (lambda a, b: xp.matmul(a, xp.transpose(b, (1, 0))), A @ B.T),
    "inner": (lambda a, b: xp.inner(a, b), (A * B).sum(1)),
    "inner broadcast": (lambda a, b: xp.inner(a, b[0]), (A * B[0]).sum(1)),
    "gated": (lambda a, b: xp.gated(a, b), np.where(B > 0, A, 0)),
    "gated across types": (lambda a, b: xp.gated(a, xp.cast(b, "float32")), np.where(B > 0, A, 0)),
    "raised": (lambda a, b: xp.raised(a, 0.25), A + 0.25 * np.maximum(A, 0)),
    "operators": (lambda a, b: 2.0 * a - b / 2 + a**2, 2 * A - B / 2 + A**2),
    "slices": (lambda a, b: a[:, 1:], A[:, 1:]),
}


@pytest.mark.parametrize("name", CASES)
def test_function(name):
    function, expected = CASES[name]
    eager = function(tf.constant(A), tf.constant(B))
    traced = tf.function(function)(tf.constant(A), tf.constant(B))
    for found in (eager, traced):
        assert found.shape == expected.shape
        np.testing.assert_allclose(xp.to_numpy(found), expected, rtol=1e-14, atol=1e-14)


def test_what_is_said_of_an_array():
    a = tf.ones((2, 3), tf.bfloat16)
    assert (xp.shape(a), xp.dtype(a), xp.is_floating(a)) == ((2, 3), "bfloat16", True)
    assert not xp.is_floating(tf.constant([1])) and xp.to_numpy(a).dtype == np.float32
    assert xp.asarray([1, 2], like=a).dtype == tf.bfloat16
    assert xp.asarray(np.float32(2.0), like=tf.constant(1.0, tf.float64)).dtype == tf.float64
    assert bool(tf.reduce_all(xp.isfinite(tf.constant([1, 2]))))
    assert xp.known_zero(tf.zeros(3)) and not xp.known_zero(tf.constant([0.0, 1.0]))
    assert xp.known_one_sided(tf.constant([0.5, 1.0])) and xp.known_one_sided(tf.constant([-1.0]))
    assert not xp.known_one_sided(tf.constant([0.0, 1.0]))
    assert not xp.known_one_sided(tf.constant([-1.0, 1.0]))
    symbolic = []
    tf.function(lambda x: symbolic.append(xp.known_zero(x)))(tf.zeros(3))
    tf.function(lambda x: symbolic.append(xp.known_one_sided(x)))(tf.ones(3))
    assert symbolic == [False, False]


def test_inner_of_half_precision_sums_in_single():
    a = tf.fill((1, 5000), tf.constant(1.0, tf.float16))
    found = xp.inner(a, a)
    assert found.dtype == tf.float32 and float(found[0]) == 5000.0


def test_the_way_back_can_be_gone_twice():
    output, pull = xp.vjp(lambda a, b: a * b, [tf.constant(A), tf.constant(B)])
    np.testing.assert_allclose(output, A * B)
    for factor in (1.0, 3.0):
        left, right = pull(factor * tf.ones_like(output))
        np.testing.assert_allclose(left, factor * B)
        np.testing.assert_allclose(right, factor * A)
    _, nowhere = xp.vjp(lambda a: tf.stop_gradient(a), [tf.constant(A)])
    np.testing.assert_array_equal(nowhere(tf.ones_like(output))[0], np.zeros_like(A))


def test_what_comes_after_waits():
    @tf.function
    def traced(x, y):
        with xp.after((x,)):
            inside = tf.exp(y, name="inside")
        return tf.exp(inside, name="outside")

    graph = traced.get_concrete_function(tf.ones(2), tf.ones(2)).graph
    waits_for = {
        name: [op.name for op in graph.get_operation_by_name(name).control_inputs]
        for name in ("inside", "outside")
    }
    assert waits_for == {"inside": ["x"], "outside": []}
