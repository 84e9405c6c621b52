"""Deep Taylor: a max network by hand, root points by the operand's domain, and what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whence
from reference import matrix as twin
from support_nets import FRAMEWORKS, close, installed
from whence.errors import OptionError
from whence.rules import Box, WSquare, ZPlus
from whence.rules.domain import Domain, Raised

D = torch.double


def dense(weight, bias=None):
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def max_network():
    """max(a, b) = ReLU(a - b) / 2 + ReLU(b - a) / 2 + (a + b) / 2 for a, b >= 0, as a ReLU net."""
    return nn.Sequential(
        dense([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]), nn.ReLU(), dense([[0.5, 0.5, 0.5]])
    )


def test_a_max_network_by_hand():
    """X = (1, 3): hidden (0, 2, 4), f = 0 + 1 + 2 = 3 = max.

    The head is z+: R_hidden = (0, 1, 2). The input has no bounds, w^2: each hidden unit gives both
    inputs half. R = (1.5, 1.5). Between 0 and 5 it is z^B: unit 2 (b - a) has xW - lW+ - hW- =
    (-1 + 5, 3), so it gives 4/7 and 3/7; unit 3 (a + b) gives 1/4 and 3/4 of 2.
    """
    net, x = max_network(), torch.tensor([[1.0, 3.0]], dtype=D)
    e = whence.explain(net, x, "deep-taylor", target=0, keep=["1"])
    np.testing.assert_allclose(e.output, [3])
    np.testing.assert_allclose(e.at("1"), [[0, 1, 2]], atol=1e-5)
    np.testing.assert_allclose(e.to_numpy(), [[1.5, 1.5]], rtol=1e-5)
    e = whence.explain(net, x, "deep-taylor", target=0, low=0.0, high=5.0)
    np.testing.assert_allclose(e.to_numpy(), [[4 / 7 + 0.5, 3 / 7 + 1.5]], rtol=1e-5)
    assert (e.gap < 1e-5).all()
    table = whence.plan(net, x, "deep-taylor")
    assert [r.rule for r in table] == ["WSquare(bias=False)", "Pass()", "ZPlus(bias='ignore')"]


def test_a_max_network_of_four_by_max_pooling():
    """Max of (2, 1, 0, 3) by a pool: all relevance goes to the winner, whatever the first rule."""
    net = nn.Sequential(nn.MaxPool1d(4), nn.Flatten(), dense([[2.0]]))
    x = torch.tensor([[[2.0, 1.0, 0.0, 3.0]]], dtype=D)
    e = whence.explain(net, x, "deep-taylor", target=0, low=0, high=4)
    np.testing.assert_allclose(e.to_numpy(), [[[0, 0, 0, 6]]], rtol=1e-5)


def torch_mlp(w):
    def net(x):
        for i, (weight, bias) in enumerate(w):
            x = F.linear(x, torch.as_tensor(weight), torch.as_tensor(bias))
            x = torch.relu(x) if i < len(w) - 1 else x
        return x

    return net, torch.as_tensor


def tensorflow_mlp(w):
    import tensorflow as tf

    def net(x):
        for i, (weight, bias) in enumerate(w):
            x = tf.matmul(x, weight.T) + bias
            x = tf.nn.relu(x) if i < len(w) - 1 else x
        return x

    return net, tf.convert_to_tensor


@pytest.mark.parametrize("bounds", [None, (-2.0, 2.0)])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_against_the_rules_written_out(framework, bounds, rng):
    w = [(rng.normal(size=(5, 4)), rng.normal(0, 0.2, 5)),
         (rng.normal(size=(5, 5)), rng.normal(0, 0.2, 5)),
         (np.abs(rng.normal(size=(2, 5))), np.zeros(2))]  # fmt: skip
    x = rng.uniform(-2, 2, (3, 4))
    net, array = (torch_mlp if installed(framework) == "torch" else tensorflow_mlp)(w)
    options = {} if bounds is None else {"low": bounds[0], "high": bounds[1]}
    e = whence.explain(net, array(x), "deep-taylor", target=[0, 1, 0], **options)
    for i, target in enumerate((0, 1, 0)):
        h = [x[i]]
        for weight, bias in w[:-1]:
            h.append(np.maximum(weight @ h[-1] + bias, 0))
        R = np.zeros(2)
        R[target] = w[-1][0][target] @ h[-1]
        for (weight, bias), below in zip(w[:0:-1], h[:0:-1], strict=True):
            R = twin.z_plus(weight, bias, below, R, "ignore")
        weight, bias = w[0]
        R = (twin.w_square(weight, bias, R) if bounds is None
             else twin.box(weight, x[i], R, *(np.full(4, b) for b in bounds)))  # fmt: skip
        close(e.to_numpy()[i], R, 1e-9)
        assert (e.to_numpy()[i] >= 0).all()


def residual(sign=1):
    conv = nn.Conv2d(2, 2, 3, padding=1).double()

    def net(x):
        x = F.relu(x)
        return F.relu(x + sign * conv(x)).mean((2, 3))

    return net


@pytest.mark.parametrize("sign", [1, -1])
def test_residual_sums_keep_the_sign(sign):
    net, x = residual(sign), torch.randn(4, 2, 5, 5, dtype=D)
    e = whence.explain(net, x, "deep-taylor", target=0)
    assert (e.output > 0).all()
    assert e.to_numpy().min() >= 0
    assert e.to_numpy().max() > 0
    assert (e.ledger.balance < 1e-10).all()
    lrp = whence.explain(net, x, "lrp", composite="excitation-backprop", target=0)
    assert lrp.to_numpy().min() < 0  # where sums share in proportion, terms below zero take less


def node_of(kind, *tensors, model):
    tape = whence.record(model, tensors if len(tensors) > 1 else tensors[0])
    return next(n for n in tape if str(n.kind) == kind), tape


def test_raised_by_hand():
    a, b = torch.tensor([[2.0, -1.0, -1.0]], dtype=D), torch.tensor([[6.0, 4.0, -3.0]], dtype=D)
    node, _tape = node_of("add", a, b, model=lambda x, y: x + y)
    R = torch.tensor([[8.0, 3.0, 5.0]], dtype=D)
    first, second = (p.numpy() for p in Raised()(node, R).parts)
    np.testing.assert_allclose(first, [[2, 0, 2.5]], rtol=1e-5)
    np.testing.assert_allclose(second, [[6, 3, 2.5]], rtol=1e-5)
    node, _tape = node_of("add", a, b, model=lambda x, y: x - y)
    first, second = (p.numpy() for p in Raised()(node, R).parts)
    np.testing.assert_allclose(first, [[8, 1.5, 0]], rtol=1e-5)
    np.testing.assert_allclose(second, [[0, 1.5, 5]], rtol=1e-5)
    node, _tape = node_of("avgpool", a, model=lambda x: x.mean(1))
    (part,) = Raised()(node, torch.tensor([6.0], dtype=D)).parts
    np.testing.assert_allclose(part, [[6, 0, 0]], rtol=1e-5)
    node, _tape = node_of("avgpool", -a.abs(), model=lambda x: x.mean(1))
    (part,) = Raised()(node, torch.tensor([6.0], dtype=D)).parts
    np.testing.assert_allclose(part, [[2, 2, 2]], rtol=1e-5)


def test_raised_is_a_rule():
    whence.testing.check_rule(Raised(), ("add",))


DOMAINS = {
    "rectified": (lambda x, f: f(F.relu(x)), ZPlus("ignore")),
    "pooled": (
        lambda x, f: f(F.max_pool1d(F.relu(x).reshape(-1, 1, 4), 1).flatten(1)),
        ZPlus("ignore"),
    ),
    "joined": (lambda x, f: f(torch.cat([F.relu(x[:, :2]), F.relu(x[:, 2:])], 1)), ZPlus("ignore")),
    "joined by a constant": (
        lambda x, f: f(torch.cat([F.relu(x[:, :2]), -torch.ones(2, 2)], 1)),
        WSquare(),
    ),
    "the input": (lambda x, f: f(x), Box(0, 1)),
    "the input, moved": (lambda x, f: f(x.reshape(-1, 2, 2).flatten(1)), Box(0, 1)),
    "any number": (lambda x, f: f(f(x)), WSquare()),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_the_rule_follows_the_operand_s_domain(name):
    model, rule = DOMAINS[name]
    layer = nn.Linear(4, 4)
    tape = whence.record(lambda x: model(x, layer), torch.randn(2, 4))
    node = [n for n in tape if str(n.kind) == "dense"][-1]
    assert Domain(0, 1).for_node(node) == rule
    if name.startswith("the input"):
        assert Domain().for_node(node) == WSquare()
    tape.free()


REFUSED = {
    "activation.sigmoid at layer 1": nn.Sigmoid(),
    "relu.leaky_relu at layer 1": nn.LeakyReLU(),
    "relu.prelu at layer 1": nn.PReLU(),
    "activation.elu at layer 1": nn.ELU(),
    "activation.gelu at layer 1": nn.GELU(),
    "activation.hardtanh at layer 1": nn.Hardtanh(-1, 1),
    "softmax.softmax at layer 1": nn.Softmax(1),
    "norm.layer_norm at layer 1": nn.LayerNorm(2),
}


@pytest.mark.parametrize("text", REFUSED)
@pytest.mark.parametrize("composite", [False, True])
def test_other_nets_are_refused_and_the_op_is_named(text, composite):
    net = nn.Sequential(nn.Linear(2, 2), REFUSED[text], nn.Linear(2, 2))
    method = whence.LRP("deep-taylor") if composite else whence.DeepTaylor()
    for run in (whence.explain, whence.plan):
        with pytest.raises(OptionError, match=re.escape(f"this one has {text}, node 2. Use lrp")):
            run(net, torch.ones(1, 2), method)


def test_in_keras_the_op_is_named_too():
    keras = pytest.importorskip("keras")
    layers = keras.layers
    net = keras.Sequential(
        [layers.Input((3,)), layers.Dense(2, "sigmoid", name="hidden"), layers.Dense(2)]
    )
    with pytest.raises(OptionError, match=r"this one has activation\.Sigmoid at layer hidden"):
        whence.explain(net, np.ones((1, 3), "f"), "deep-taylor")


def test_only_what_lies_between_counts():
    """A softmax behind what is explained is not walked through."""
    first, second = dense([[1.0, 2.0], [0.5, -1.0]]), dense([[1.0, 1.0], [2.0, 0.0]])
    net = nn.Sequential(first, nn.ReLU(), second, nn.Softmax(1))
    x = torch.ones(1, 2, dtype=D)
    with pytest.raises(OptionError, match=r"softmax\.softmax"):
        whence.explain(net, x, "deep-taylor")
    e = whence.explain(net, x, "deep-taylor", target=whence.logit(1))
    np.testing.assert_allclose(e.to_numpy().sum(), 6.0, rtol=1e-5)
    assert whence.explain(net, x, "deep-taylor", target=whence.neuron("0", 0)).output[0] == 3
    # A rule of one's own for the op lifts the demand there.
    rules = {"softmax": lambda node, r: (r,)}
    e = whence.explain(net, x, whence.LRP("deep-taylor", rules=rules), target=1)
    assert (e.to_numpy() >= 0).all()


@pytest.mark.parametrize("given", [{"low": 0.0}, {"high": 1.0}])
def test_one_bound_alone(given):
    for make in (whence.DeepTaylor, lambda **o: whence.LRP("deep-taylor", **o)):
        with pytest.raises(OptionError, match="both bounds of the input, low and high, or neither"):
            make(**given)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_bounds_come_from_preprocessing(framework):
    """The bounds of a loaded model's images go straight into Box and deep Taylor."""
    pytest.importorskip("sklearn")
    loaded = whence.load_model("demo:digits", framework=installed(framework))
    low, high = loaded.preprocess.bounds
    images, labels = whence.data.digits("test")
    axis = 1 if framework == "torch" else -1
    x = np.expand_dims(images[:8], axis)
    assert (x >= low).all()
    assert (x <= high).all()
    e = whence.explain(loaded.model, x, "deep-taylor", low=low, high=high)
    assert (e.output > 0).all()
    assert (e.gap < 1e-4).all()
    assert e.to_numpy().min() >= 0
    box = whence.explain(
        loaded.model, x, "lrp", composite="epsilon-gamma-box", low=low, high=high,
        target=labels[:8],
    )  # fmt: skip
    assert (box.ledger.balance < 1e-5).all()
    number = whence.explain(loaded.model, x, "deep-taylor", low=0.0, high=1.0)
    close(number.to_numpy(), e.to_numpy(), 1e-6)


def test_bounds_of_images_that_were_read(tmp_path):
    pil = pytest.importorskip("PIL.Image")
    from whence.images import Preprocess

    rng = np.random.default_rng(0)
    for i in range(2):
        pil.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(tmp_path / f"{i}.png")
    prepare = Preprocess(size=(8, 8), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    images = whence.images.read(str(tmp_path), prepare)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    with torch.no_grad():
        net[3].weight.abs_()
        net[3].bias.zero_()
    low, high = images.bounds
    e = whence.explain(net, images.x, "deep-taylor", low=low, high=high, target=0)
    assert (e.gap < 1e-4).all()
    assert e.to_numpy().min() >= 0
    with pytest.raises(OptionError, match=r"bound has shape .* does not fit the operand"):
        whence.explain(net, images.x, "deep-taylor", low=low[:2], high=high[:2])
