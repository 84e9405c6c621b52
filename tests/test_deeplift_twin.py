"""DeepLIFT's rules against a literal twin in NumPy (PyTorch)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from reference import deeplift as twin
from support_deeplift import Of, random
from whence.methods.deeplift import DeepLIFT


def dense(rows, columns, seed):
    layer = nn.Linear(columns, rows).double()
    with torch.no_grad():
        layer.weight.copy_(random(rows, columns, seed=seed))
        layer.bias.copy_(random(rows, seed=seed + 100))
    return layer, twin.Linear(layer.weight.detach().numpy(), layer.bias.detach().numpy())


def bent(name):
    functions = {
        "relu": (nn.ReLU(), lambda v: max(v, 0.0), lambda v: float(v > 0)),
        "tanh": (nn.Tanh(), math.tanh, lambda v: 1 - math.tanh(v) ** 2),
        "sigmoid": (nn.Sigmoid(), lambda v: 1 / (1 + math.exp(-v)), None),
        "gelu": (nn.GELU(), lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2))), None),
        "silu": (nn.SiLU(), lambda v: v / (1 + math.exp(-v)), None),
        "leaky": (nn.LeakyReLU(0.2), lambda v: v if v > 0 else 0.2 * v, None),
        "relu6": (nn.ReLU6(), lambda v: min(max(v, 0.0), 6.0), None),
        "elu": (nn.ELU(), lambda v: v if v > 0 else math.expm1(v), None),
    }
    module, function, slope = functions[name]
    return module, twin.Elementwise(function, slope)


@pytest.mark.parametrize(
    "name", ["relu", "tanh", "sigmoid", "gelu", "silu", "leaky", "relu6", "elu"]
)
def test_rescale_equals_the_twin(name):
    first, one = dense(7, 5, 1)
    second, two = dense(6, 7, 2)
    last, three = dense(3, 6, 3)
    (act, bend), (again, bend2) = bent(name), bent(name)
    net = nn.Sequential(first, act, second, again, last)
    same(net, [one, bend, two, bend2, three], 5)


def same(net, layers, width, scale=2.0):
    """Each of four samples, against a reference of its own, is the twin's."""
    x, x0 = random(4, width, seed=8) * scale, random(4, width, seed=9)
    e = DeepLIFT(baseline=x0)(net, x, target=[0, 1, 2, 0])
    for i, target in enumerate([0, 1, 2, 0]):
        wanted = twin.attribution(layers, x[i].numpy(), x0[i].numpy(), target)
        assert e.attribution[i].numpy() == pytest.approx(wanted, rel=1e-9, abs=1e-10)
    assert e.gap.max() < 1e-9


def test_max_pool_equals_the_twin():
    first, one = dense(9, 5, 1)
    last, three = dense(3, 4, 3)
    windows = [range(3), range(2, 5), range(4, 7), range(6, 9)]
    pool = nn.Sequential(nn.Unflatten(1, (1, 9)), nn.MaxPool1d(3, 2), nn.Flatten())
    same(nn.Sequential(first, pool, last), [one, twin.Largest(windows), three], 5)


def test_softmax_equals_the_twin():
    first, one = dense(4, 5, 1)
    last, two = dense(3, 4, 2)
    same(nn.Sequential(first, nn.Softmax(1), last), [one, twin.Softmax(), two], 5)


def test_log_softmax_equals_the_twin():
    first, one = dense(4, 5, 1)
    last, two = dense(3, 4, 2)
    log = twin.Elementwise(math.log, lambda v: 1 / v)
    same(nn.Sequential(first, nn.LogSoftmax(1), last), [one, twin.Softmax(), log, two], 5)


@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("logarithm", [False, True])
def test_softmax_of_small_differences_equals_the_twin(logarithm, size):
    """There, quotients of differences give way to their series."""
    last, two = dense(3, 4, 2)
    x0 = random(2, 4, seed=9)
    x = x0 + size * random(2, 4, seed=8)
    net = nn.Sequential(nn.LogSoftmax(1) if logarithm else nn.Softmax(1), last)
    log = [twin.Elementwise(math.log, lambda v: 1 / v)] if logarithm else []
    e = DeepLIFT(baseline=x0)(net, x, target=1)
    for i in range(2):
        wanted = twin.attribution([twin.Softmax(), *log, two], x[i].numpy(), x0[i].numpy(), 1)
        assert e.attribution[i].numpy() == pytest.approx(wanted, rel=1e-6, abs=1e-9 * size)


@pytest.mark.parametrize("centre", [True, False])
def test_norms_equal_the_twin(centre):
    first, one = dense(6, 5, 1)
    last, two = dense(3, 6, 2)
    norm = nn.LayerNorm(6, eps=1e-3) if centre else nn.RMSNorm(6, eps=1e-3)
    with torch.no_grad():
        norm.weight.copy_(random(6, seed=5))
    scale = twin.Linear(np.diag(norm.weight.detach().numpy()), np.zeros(6))
    layers = [one, twin.Spread(1e-3, centre), scale, two]
    same(nn.Sequential(first, norm.double(), last), layers, 5)


def test_rms_norm_spelled_out_equals_the_norm():
    first, one = dense(6, 5, 1)
    last, two = dense(3, 6, 2)
    spelled = Of(lambda h: h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-3))
    same(nn.Sequential(first, spelled, last), [one, twin.Spread(1e-3, False), two], 5)
    divided = Of(lambda h: h / torch.sqrt(h.pow(2).mean(-1, keepdim=True) + 1e-3))
    same(nn.Sequential(first, divided, last), [one, twin.Spread(1e-3, False), two], 5)


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_reveal_cancel_equals_the_twin(name):
    layers = [dense(7, 5, 1)[0], dense(6, 7, 2)[0], dense(3, 6, 3)[0]]
    net = nn.Sequential(layers[0], bent(name)[0], layers[1], bent(name)[0], layers[2])
    weights = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in layers]
    x, x0 = random(3, 5, seed=8), random(3, 5, seed=9)
    e = DeepLIFT(rule="reveal-cancel", baseline=x0)(net, x, target=1)
    for i in range(3):
        wanted = twin.reveal_cancel(weights, bent(name)[1].function, x[i].numpy(), x0[i].numpy(), 1)
        assert e.attribution[i].numpy() == pytest.approx(wanted, rel=1e-9, abs=1e-10)
    assert e.gap.max() < 1e-9
    plain = DeepLIFT(baseline=x0)(net, x, target=1)
    assert (plain.attribution - e.attribution).abs().max() > 1e-3


def test_reveal_cancel_sees_through_folding_and_moves_of_data():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.weight.data.copy_(torch.tensor([1.0, -2.0, 0.5, -0.1]))
    norm.running_mean.normal_()
    conv = nn.Conv2d(2, 4, 3, padding=1)
    tail = [nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)]
    folded = nn.Sequential(conv, norm, *tail).double().eval()
    # A move of data between them keeps batch-norm from being folded.
    turned = Of(lambda x: norm(conv(x).transpose(2, 3)).transpose(2, 3))
    apart = nn.Sequential(turned, *tail).double().eval()
    x = random(2, 2, 4, 4)
    method = DeepLIFT(rule="reveal-cancel", baseline="mean")
    one, other = method(folded, x, target=0), method(apart, x, target=0)
    assert torch.allclose(one.attribution, other.attribution, rtol=1e-9, atol=1e-12)
    assert one.gap.max() < 1e-9
