"""Whole methods against a network of explicit matrices, in both frameworks."""

from __future__ import annotations

import numpy as np
import pytest

import whence
from reference import network
from support_nets import FRAMEWORKS, close, installed

CHANNELS, LENGTH, CLASSES = 2, 6, 3


def weights(rng, biased=True):
    bias = 0.3 if biased else 0.0
    return network.Weights(
        rng.normal(0, 0.5, (3, CHANNELS, 3)), rng.normal(0, 1, 3) * bias,
        rng.normal(0, 0.5, (3, 3, 3)), rng.normal(0, 1, 3) * bias,
        rng.normal(0, 0.5, (CLASSES, 9)), rng.normal(0, 1, CLASSES) * bias,
    )  # fmt: skip


def torch_net(w):
    import torch
    import torch.nn.functional as F

    t = {k: torch.as_tensor(v) for k, v in vars(w).items()}

    def net(x):
        x = F.max_pool1d(torch.relu(F.conv1d(x, t["first"], t["first_bias"], padding=1)), 2)
        x = x + torch.relu(F.conv1d(x, t["second"], t["second_bias"], padding=1))
        return F.linear(x.flatten(1), t["dense"], t["dense_bias"])

    return net, torch.as_tensor, lambda a: a


def keras_net(w):
    import keras
    import tensorflow as tf

    layers = keras.layers
    entry = layers.Input((LENGTH, CHANNELS), dtype="float64")
    conv = {"padding": "same", "activation": "relu", "dtype": "float64"}
    first, second = layers.Conv1D(3, 3, **conv), layers.Conv1D(3, 3, **conv)
    dense = layers.Dense(CLASSES, dtype="float64")
    pooled = layers.MaxPooling1D(2, dtype="float64")(first(entry))
    summed = layers.Add(dtype="float64")([pooled, second(pooled)])
    net = keras.Model(entry, dense(layers.Flatten(dtype="float64")(summed)))
    first.set_weights([w.first.transpose(2, 1, 0), w.first_bias])
    second.set_weights([w.second.transpose(2, 1, 0), w.second_bias])
    columns = w.dense.reshape(CLASSES, 3, 3).transpose(2, 1, 0).reshape(9, CLASSES)
    dense.set_weights([columns, w.dense_bias])
    return net, lambda a: tf.convert_to_tensor(np.swapaxes(a, 1, 2)), lambda a: np.swapaxes(a, 1, 2)


@pytest.fixture(params=FRAMEWORKS)
def case(request):
    """(weights, explain(method, targets, **options) -> attribution with channels first, x)."""
    rng = np.random.default_rng(5)
    w, x = weights(rng), rng.normal(0, 1, (2, CHANNELS, LENGTH))
    make = torch_net if installed(request.param) == "torch" else keras_net
    net, array, first = make(w)

    def explain(method, **options):
        e = whence.explain(net, array(x), method, target=[0, 2], **options)
        theirs = [network.Network(w, x[0]).scores[0], network.Network(w, x[1]).scores[2]]
        np.testing.assert_allclose(e.output, theirs, rtol=1e-10)
        return first(e.to_numpy()), e

    return w, x, explain, first


@pytest.mark.parametrize("method", ["gradient", "deconvolution", "guided-backpropagation"])
def test_signals(case, method):
    w, x, explain, _ = case
    got, _ = explain(method)
    for i, target in enumerate((0, 2)):
        close(got[i], network.Network(w, x[i]).pulled(target, method), 1e-10)


def test_functions_of_the_gradient(case):
    w, x, explain, _ = case
    slopes = np.stack([network.Network(w, x[i]).pulled(t, "gradient") for i, t in ((0, 0), (1, 2))])
    close(explain("saliency")[0], np.abs(slopes), 1e-10)
    close(explain("gradient-x-input")[0], slopes * x, 1e-10)
    squares = [network.sensitivity(w, x[i], t) for i, t in ((0, 0), (1, 2))]
    close(explain("sensitivity-analysis")[0], squares, 1e-10)


@pytest.mark.parametrize("eps", [1e-6, 0.1])
def test_epsilon(case, eps):
    w, x, explain, _ = case
    got, e = explain("lrp", composite="epsilon", eps=eps)
    for i, target in enumerate((0, 2)):
        close(got[i], network.Network(w, x[i]).epsilon(target, eps), 1e-9)
    assert (e.ledger.balance < 1e-10).all()


def test_taylor_about_the_origin(case):
    w, x, explain, _ = case
    got, e = explain("simple-taylor")
    for i, target in enumerate((0, 2)):
        there = network.Network(w, np.zeros_like(x[i])).scores[target]
        here = network.Network(w, x[i])
        # The slope is the one at x: the limit of roots that approach the origin from x's own piece.
        theirs = x[i] * here.pulled(target, "gradient")
        close(got[i], theirs, 1e-10)
        remainder = here.scores[target] - there - theirs.sum()
        assert e.extras["remainder"][i] == pytest.approx(remainder, abs=1e-10)


def test_taylor_about_a_given_root(case):
    w, x, explain, first = case
    root = np.random.default_rng(3).normal(0, 1, (CHANNELS, LENGTH))
    got, e = explain("simple-taylor", root=first(root[None]))
    for i, target in enumerate((0, 2)):
        theirs, remainder = network.simple_taylor(w, x[i], target, root)
        close(got[i], theirs, 1e-10)
        assert e.extras["remainder"][i] == pytest.approx(remainder, abs=1e-10)
        scores = network.Network(w, x[i]).scores[target], network.Network(w, root).scores[target]
        gap = abs(theirs.sum() - (scores[0] - scores[1])) / abs(scores[0] - scores[1])
        assert e.gap[i] == pytest.approx(gap)


def test_taylor_about_the_nearest_root(case):
    w, x, explain, first = case
    got, e = explain("simple-taylor", root="nearest", steps=40)
    roots = first(np.asarray(e.extras["root"]))
    for i, target in enumerate((0, 2)):
        here = network.Network(w, x[i])
        slope = here.pulled(target, "gradient")
        if here.scores[target] <= 0:
            np.testing.assert_array_equal(roots[i], x[i])
            assert not got[i].any()
            continue
        # On the line from x against its gradient, as near as f = 0 is.
        step = (x[i] - roots[i]).reshape(-1)
        cosine = step @ slope.reshape(-1) / np.linalg.norm(step) / np.linalg.norm(slope)
        assert cosine == pytest.approx(1.0)
        assert abs(network.Network(w, roots[i]).scores[target]) < 1e-8
        theirs, _ = network.simple_taylor(w, x[i], target, roots[i])
        close(got[i], theirs, 1e-8)


def test_without_biases_gradient_times_input_and_epsilon_add_up():
    """For bias-free rectifier networks LRP-0, gradient x input and Taylor at zero are one."""
    rng = np.random.default_rng(11)
    w, x = weights(rng, biased=False), rng.normal(0, 1, (2, CHANNELS, LENGTH))
    net, array, _ = torch_net(w)
    found = {m: whence.explain(net, array(x), m, target=1)
             for m in ("gradient-x-input", "simple-taylor", whence.LRP("epsilon"))}  # fmt: skip
    for e in found.values():
        assert (e.gap < 1e-4).all()
        close(e.to_numpy(), found["gradient-x-input"].to_numpy(), 1e-4)
        np.testing.assert_allclose(e.to_numpy().sum((1, 2)), e.output, rtol=1e-4)
