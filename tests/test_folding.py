"""Batch-norm on the tape is the affine map that it is: every rule sees the folded model."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import whence
from support import import_torchvision
from support_nets import close
from support_tape import lively
from whence.rules import AlphaBeta, Box, Epsilon, Flat, Gamma, WSquare, ZPlus

RULES = [
    Epsilon(), Epsilon(0.1), Gamma(), Gamma(1.0, bias="distribute"), ZPlus(), ZPlus(bias="ignore"),
    ZPlus(bias="distribute"), AlphaBeta(), AlphaBeta(empty="strict"), AlphaBeta(bias="distribute"),
    WSquare(), WSquare(bias=True), Flat(), Box(-3, 3),
]  # fmt: skip
EXACT = 1e-6


def explained(model, x, rule, **options):
    """Relevance of class 1 with one rule for every affine op, and its books."""
    e = whence.explain(model, x, "lrp", composite=rule, target=1, **options)
    assert (e.ledger.balance < 1e-10).all()
    return e.to_numpy()


def same(model, folded, x, rule):
    """Both give the same output, and the same relevance."""
    torch.testing.assert_close(model(x), folded(x))
    close(explained(model, x, rule), explained(folded, x, rule), EXACT)


def head(channels, size):
    return [nn.ReLU(), nn.Flatten(), nn.Linear(channels * size, 3)]


AFTER = {
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1, stride=2), nn.BatchNorm2d, (4, 6, 5), 9),
    "lighter than its output": (lambda: nn.Conv2d(4, 6, 3), nn.BatchNorm2d, (4, 9, 8), 42),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d, (6, 5, 5), 9),
    "grouped": (lambda: nn.Conv2d(4, 6, 2, groups=2), nn.BatchNorm2d, (4, 3, 3), 4),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, dilation=2), nn.BatchNorm1d, (4, 7), 3),
    "conv3d": (lambda: nn.Conv3d(2, 6, 2), nn.BatchNorm3d, (2, 3, 2, 3), 4),
    "dense": (lambda: nn.Linear(5, 6), nn.BatchNorm1d, (5,), 1),
}


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("kind", AFTER)
def test_after_an_affine_op(kind, rule):
    make, norm, shape, size = AFTER[kind]
    first, second = make(), norm(6)
    net = lively(nn.Sequential(first, second, *head(6, size))).double()
    fuse = fuse_linear_bn_eval if kind == "dense" else fuse_conv_bn_eval
    folded = nn.Sequential(fuse(net[0], net[1]), *net[2:]).eval()
    same(net, folded, torch.randn(6, *shape, dtype=torch.double), rule)


def as_dense(pair, shape):
    """An affine map of one sample as one dense layer, found column by column."""
    size = int(np.prod(shape))
    points = np.concatenate([np.zeros((1, size)), np.eye(size)])
    rows = np.asarray(pair(points.reshape(-1, *shape))).reshape(size + 1, -1)
    dense = nn.Linear(size, rows.shape[1]).double()
    with torch.no_grad():
        dense.weight.copy_(torch.as_tensor(rows[1:] - rows[0]).T)
        dense.bias.copy_(torch.as_tensor(rows[0]))
    return dense


BY_WEIGHTS = [
    r for r in RULES if not isinstance(r, Flat) and getattr(r, "bias", "") != "distribute"
]
"""Rules that ask what the weights are. The others ask where there are any: a dense layer has them
everywhere, a convolution in its window.
"""

AHEAD = {
    "conv2d": (lambda: nn.Conv2d(4, 6, 3), nn.BatchNorm2d, (4, 5, 5), 9),
    "padded": (lambda: nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d, (4, 3, 3), 9),
    "grouped": (lambda: nn.Conv2d(4, 6, 2, groups=2), nn.BatchNorm2d, (4, 3, 3), 4),
    "depthwise": (
        lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False, padding=1), nn.BatchNorm2d, (4, 3, 3), 9),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2), nn.BatchNorm2d, (4, 2, 2), 16),
    "transposed, padded": (
        lambda: nn.ConvTranspose2d(4, 6, 3, padding=1, groups=2), nn.BatchNorm2d, (4, 3, 3), 9),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=2, dilation=2), nn.BatchNorm1d, (4, 6), 6),
    "dense": (lambda: nn.Linear(4, 6), nn.BatchNorm1d, (4,), 1),
}  # fmt: skip


def ahead(kind):
    """Batch-norm, an affine op, and a head; and the shape of a sample."""
    make, norm, shape, size = AHEAD[kind]
    op = make()
    channels = op.out_features if kind == "dense" else op.out_channels
    net = lively(nn.Sequential(norm(4), op, *head(channels, size))).double()
    with torch.no_grad():
        net[0].weight[1] *= -1  # a factor below zero exchanges what raises and what lowers
    return net, shape


@pytest.mark.parametrize("rule", BY_WEIGHTS, ids=repr)
@pytest.mark.parametrize("kind", AHEAD)
def test_ahead_of_an_affine_op(kind, rule):
    """Exact at the borders too, where the constant differs from place to place."""
    net, shape = ahead(kind)
    with torch.no_grad():
        dense = as_dense(lambda x: net[:2](torch.as_tensor(x)), shape)
    folded = nn.Sequential(nn.Flatten(), dense, *net[2:]).eval()
    same(net, folded, torch.randn(6, *shape, dtype=torch.double), rule)
    assert "batch_norm+" in whence.plan(net, torch.randn(2, *shape).double())[0].op


@pytest.mark.parametrize("rule", [r for r in RULES if r not in BY_WEIGHTS], ids=repr)
@pytest.mark.parametrize("kind", ["conv2d", "grouped", "dense"])
def test_ahead_by_the_window(kind, rule):
    """Without padding the pair is a plain convolution again."""
    net, shape = ahead(kind)
    op, norm = net[1], net[0]
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    with torch.no_grad():
        spread = shift.reshape(-1, *(1,) * (len(shape) - 1)).expand(1, *shape)
        inner = op(spread).reshape(1, op.weight.shape[0], -1)[0, :, 0]
        rows = scale.reshape(getattr(op, "groups", 1), 1, -1)
        rows = rows.expand(-1, op.weight.shape[0] // len(rows), -1).flatten(0, 1)
        plain = copy.deepcopy(op)
        plain.weight.mul_(rows.reshape(*rows.shape, *(1,) * (op.weight.dim() - 2)))
        plain.bias.copy_(inner)
    same(net, nn.Sequential(plain, *net[2:]).eval(),
         torch.randn(6, *shape, dtype=torch.double), rule)  # fmt: skip


def test_a_normalised_input_does_not_share_by_what_is_left_over():
    """A pixel at the mean is zero behind the norm; its relevance must not be divided by that."""
    net = lively(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Flatten(),
                               nn.Linear(16, 3))).double()  # fmt: skip
    x = net[0].running_mean.reshape(1, 3, 1, 1).expand(1, 3, 4, 4) + 1e-7
    e = whence.explain(net, x, "lrp", target=1)
    assert np.abs(e.to_numpy()).max() < np.abs(e.output[0]) * 2


def test_ahead_of_several_and_never_when_asked_for():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            x = self.norm(x)
            return self.head((self.a(x) + self.b(x)).relu().mean((2, 3)))

    net, x = lively(Fork()).double(), torch.randn(2, 3, 4, 4, dtype=torch.double)
    ops = [row.op for row in whence.plan(net, x)]
    assert [op for op in ops if "conv" in op] == ["batch_norm+conv2d"] * 2
    assert "batch_norm" not in ops
    e = whence.explain(net, x, "lrp", target=1, composite="gamma")
    assert (e.ledger.balance < 1e-10).all()
    kept = whence.explain(net, x, "lrp", target=1, composite="gamma", keep=["norm"])
    assert "batch_norm" in [r.op for r in kept.ledger]
    assert kept.at("norm").shape == x.shape
    assert next(r.op for r in whence.plan(net, x, at="norm")) == "conv2d"


def test_ahead_of_several_in_tensorflow(rng):
    """What one reader is done with, the other still pulls through."""
    keras = pytest.importorskip("keras")
    layers = keras.layers
    entry = layers.Input((4, 4, 3))
    norm = layers.BatchNormalization()(entry)
    both = [layers.Conv2D(4, n, padding="same")(norm) for n in (3, 1)]
    last = layers.Flatten()(layers.ReLU()(layers.Add()(both)))
    net = keras.Model(entry, layers.Dense(3, name="head")(last))
    for weight in net.weights:
        low, high = (0.5, 1.5) if "variance" in weight.name else (-1, 1)
        weight.assign(rng.uniform(low, high, weight.shape))
    x = rng.normal(size=(2, 4, 4, 3)).astype("f")
    ops = [row.op for row in whence.plan(net, x)]
    assert sum(op.startswith("Mul+AddV2+Conv2D") for op in ops) == 2, ops
    e = whence.explain(net, x, "lrp", target=1, composite="gamma")
    assert (e.ledger.balance < 1e-5).all()
    every = whence.explain(net, x, "lrp", target=1, composite="epsilon", keep=["head"])
    assert np.isfinite(every.to_numpy()).all()


class Shortcut(nn.Module):
    """A block whose shortcut is a convolution and batch-norm without a rectifier."""

    def __init__(self, fold=None):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.way, self.way_norm = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)
        if fold is not None:
            self.load_state_dict(fold.state_dict())
            self.double().eval()
            self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()
            self.way, self.way_norm = fuse_conv_bn_eval(self.way, self.way_norm), nn.Identity()

    def forward(self, x):
        x = self.norm(self.conv(x)) + self.way_norm(self.way(x))
        return self.head(x.relu().mean((2, 3)))


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_through_a_shortcut_without_a_rectifier(rule):
    net = lively(Shortcut()).double()
    same(net, Shortcut(net).double().eval(), torch.randn(2, 3, 4, 4, dtype=torch.double), rule)


@pytest.mark.parametrize(
    "composite", ["epsilon-plus-flat", "epsilon-alpha2-beta1", "gamma", "excitation-backprop"]
)
def test_in_a_densenet(composite):
    """Norms behind convolutions fold; those ahead of a rectifier stay, in both models."""
    models = import_torchvision().models
    torch.manual_seed(1)
    net = lively(models.DenseNet(4, (2, 2), 8, num_classes=3)).double()
    folded = models.DenseNet(4, (2, 2), 8, num_classes=3).double().eval()
    folded.load_state_dict(net.state_dict())
    for module in folded.modules():
        for first, second in (("conv0", "norm0"), ("conv1", "norm2")):
            if hasattr(module, first) and hasattr(module, second):
                pair = getattr(module, first), getattr(module, second)
                setattr(module, first, fuse_conv_bn_eval(*pair))
                setattr(module, second, nn.Identity())
    same(net, folded, torch.randn(2, 3, 32, 32, dtype=torch.double), composite)


@pytest.mark.parametrize("rule", [Epsilon(), Gamma(), ZPlus(), AlphaBeta(), WSquare()], ids=repr)
@pytest.mark.parametrize("where", ["after", "ahead"])
@pytest.mark.parametrize(
    "kind", ["Conv2D", "DepthwiseConv2D", "Conv2DTranspose", "Conv1D", "Dense"]
)
def test_in_tensorflow(kind, where, rule, rng):
    keras = pytest.importorskip("keras")
    tf = pytest.importorskip("tensorflow")
    layers, wide = keras.layers, {"dtype": "float64"}
    shape = {"Conv1D": (6, 3), "Dense": (3,)}.get(kind, (4, 4, 3))
    size = {"Dense": {"units": 3}, "DepthwiseConv2D": {"kernel_size": 3, "padding": "same"}}
    options = size.get(kind, {"filters": 3, "kernel_size": 3, "padding": "same"})
    op, norm = getattr(layers, kind)(**options, **wide), layers.BatchNormalization(**wide)
    pair = [op, norm] if where == "after" else [norm, op]
    net = keras.Sequential([layers.Input(shape, **wide), *pair, layers.ReLU(**wide),
                            layers.Flatten(**wide), layers.Dense(3, **wide)])  # fmt: skip
    for weight in net.weights:
        low, high = (0.5, 1.5) if "variance" in weight.name else (-1, 1)
        weight.assign(rng.uniform(low, high, weight.shape))
    dense = as_dense(lambda x: net.layers[1](net.layers[0](x)).numpy(), shape)
    last = nn.Linear(dense.out_features, 3).double()
    kernel, bias = net.layers[-1].get_weights()
    with torch.no_grad():
        last.weight.copy_(torch.as_tensor(kernel.T))
        last.bias.copy_(torch.as_tensor(bias))
    folded = nn.Sequential(nn.Flatten(), dense, nn.ReLU(), last).eval()
    x = rng.normal(size=(2, *shape))
    np.testing.assert_allclose(folded(torch.as_tensor(x)).detach(), net(x), rtol=1e-9)
    close(explained(net, tf.constant(x), rule), explained(folded, torch.as_tensor(x), rule), EXACT)
