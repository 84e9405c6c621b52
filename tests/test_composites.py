"""Every named composite on architectures as they come: the books close, and frameworks agree."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import whence
from support import import_torchvision
from support_nets import FRAMEWORKS, close, conv_twin, installed
from support_tape import lively
from support_twins import blocks, series
from whence.rules import AlphaBeta, Box, Epsilon, Flat, Gamma, WSquare, ZPlus
from whence.rules.composite import NAMES

SIDE = 32
BOUNDS = {"low": -1.0, "high": 1.0}
COMPOSITES = [n for n in NAMES if n != "deep-taylor"]
PLAIN = [n for n in COMPOSITES if n not in ("attn-lrp", "cp-lrp")]
BALANCE = 1e-5

TORCH = {
    "resnet18": ({}, True),
    "vgg11_bn": ({}, True),
    "densenet121": ({}, True),
    "mobilenet_v2": ({}, True),
    "googlenet": ({"aux_logits": False, "init_weights": False}, True),
    "efficientnet_b0": ({}, False),
    "convnext_tiny": ({}, False),
}
"""Options, and whether deep Taylor is derived for the net."""


@cache
def vision(name):
    torch.manual_seed(0)
    net = lively(getattr(import_torchvision().models, name)(weights=None, **TORCH[name][0]))
    return net, torch.rand(2, 3, SIDE, SIDE) * 2 - 1


def options_of(composite):
    return {"composite": composite} | (BOUNDS if composite == "epsilon-gamma-box" else {})


def closed(e, limit=BALANCE):
    """The books close, in units of the seed and of the most that came to any op."""
    books = e.ledger
    assert (books.balance <= limit).all(), books.balance
    seed = np.abs(books.seed)
    np.testing.assert_allclose(books.seed, e.output, rtol=1e-6)
    for row in books:
        limit = 1e-4 * np.maximum(np.abs(row.relevance_in), seed.max())
        assert (np.abs(row.unexplained) <= limit).all(), row
    assert np.isfinite(e.to_numpy()).all()
    assert np.abs(e.to_numpy()).max() > 0


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", TORCH)
def test_the_books_close_in_pytorch(name, composite):
    net, x = vision(name)
    closed(whence.explain(net, x, "lrp", **options_of(composite)))


@pytest.mark.parametrize("name", [n for n, (_, plain) in TORCH.items() if plain])
def test_deep_taylor_in_pytorch(name):
    net, x = vision(name)
    for bounds in ({}, BOUNDS):
        e = whence.explain(net, x, "deep-taylor", **bounds)
        closed(e)
        assert (e.to_numpy() * np.sign(e.output)[:, None, None, None]).min() >= 0
        # Without a bias nothing is lost but by eps and at outputs that their bias alone raised.
        assert set(e.ledger.absorbed()) <= {"epsilon", "empty", "constant"}
        lost = np.abs(e.ledger.absorbed()["empty"]) / np.abs(e.output)
        np.testing.assert_allclose(e.gap, lost, atol=5e-4)
        assert name == "mobilenet_v2" or (e.gap < 3e-4).all()


@pytest.mark.parametrize("name", [n for n, (_, plain) in TORCH.items() if not plain])
def test_deep_taylor_is_refused(name):
    net, x = vision(name)
    op = {
        "efficientnet_b0": "activation.silu at layer features.8.2",
        "convnext_tiny": "norm.layer_norm at layer classifier.0",
    }[name]
    with pytest.raises(whence.errors.OptionError, match=f"this one has {op}, node"):
        whence.explain(net, x, "deep-taylor")


KERAS = {"MobileNetV2": ("epsilon-plus-flat", "deep-taylor")}
LONG = {
    "ResNet50V2": ("epsilon-plus-flat", "epsilon-alpha2-beta1", "gamma", "deep-taylor"),
    "MobileNetV2": ("epsilon", "epsilon-alpha2-beta1", "epsilon-gamma-box", "gamma"),
    "DenseNet121": ("epsilon-plus-flat", "epsilon-alpha2-beta1", "deep-taylor"),
}
"""With TensorFlow's compilation, several seconds each."""


def cases():
    """(name, composite), the long ones marked as slow."""
    for table, marks in ((KERAS, ()), (LONG, (pytest.mark.slow,))):
        for name, composites in table.items():
            yield from (pytest.param(name, c, marks=marks) for c in composites)


@cache
def application(name):
    keras = pytest.importorskip("keras")
    import tensorflow as tf

    from support_tensorflow import lively as enliven

    keras.utils.set_random_seed(0)
    make = getattr(keras.applications, name)
    net = make(weights=None, input_shape=(SIDE, SIDE, 3), classes=10, classifier_activation=None)
    return enliven(net), tf.random.uniform((2, SIDE, SIDE, 3), -1, 1)


@pytest.mark.parametrize(("name", "composite"), list(cases()))
def test_the_books_close_in_keras(name, composite):
    net, x = application(name)
    if composite == "deep-taylor":
        e = whence.explain(net, x, "deep-taylor")
        assert e.to_numpy().min() >= 0
    else:
        e = whence.explain(net, x, "lrp", **options_of(composite))
    closed(e)


TWINS = {"conv": conv_twin, "blocks": blocks, "series": series}
RULES = [
    Epsilon(), Epsilon(0.1), Gamma(), Gamma(1.0, bias="distribute"), Gamma(bias="ignore"), ZPlus(),
    ZPlus(bias="distribute"), AlphaBeta(), AlphaBeta(empty="strict"), AlphaBeta(bias="ignore"),
    WSquare(), WSquare(bias=True), Flat(),
]  # fmt: skip


def both(twin, **options):
    """The same explanation in both frameworks: relevance agrees, books close and agree."""
    found = {}
    for name in FRAMEWORKS:
        net = TWINS[twin](installed(name))
        e = whence.explain(net.model, net.array(net.x), "lrp", target=[0, 2, 1], **options)
        closed(e)
        found[name] = net.first(e.to_numpy()), e
    (ours, one), (theirs, other) = found.values()
    np.testing.assert_allclose(other.output, one.output, rtol=1e-4)
    for a, b in zip(theirs, ours, strict=True):
        close(a, b, 1e-4)
    a, b = one.ledger.absorbed(), other.ledger.absorbed()
    scale = np.abs(one.ledger.seed).max()
    for reason in {*a, *b}:
        np.testing.assert_allclose(a.get(reason, 0), b.get(reason, 0), atol=2e-4 * scale)


@pytest.mark.parametrize("composite", COMPOSITES)
def test_frameworks_agree_on_every_composite(composite):
    for twin in ("blocks", "series") if composite in PLAIN else ("series",):
        both(twin, **options_of(composite))


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_frameworks_agree_on_every_rule(rule):
    both("blocks", composite=rule)


def test_frameworks_agree_on_rules_by_pattern():
    rules = {"first": Box(-4.0, 4.0), "mix": WSquare(), "u*": AlphaBeta(3, 2), "dense": ZPlus()}
    both("blocks", rules=rules)
    both("conv", rules={"conv2": Gamma(), "conv": ZPlus(), "*": Epsilon(0.01)})


def test_frameworks_agree_on_deep_taylor():
    found = []
    for name in FRAMEWORKS:
        twin = blocks(installed(name))
        e = whence.explain(twin.model, twin.array(twin.x), "deep-taylor", low=-4, high=4)
        closed(e)
        found.append(twin.first(e.to_numpy()))
    for a, b in zip(*found, strict=True):
        close(b, a, 1e-4)


def test_the_ledger_names_the_same_rules_in_both():
    rows = []
    for name in FRAMEWORKS:
        twin = blocks(installed(name))
        table = whence.plan(twin.model, twin.array(twin.x), composite="epsilon-plus-flat")
        rows.append([(r.kind, r.rule) for r in table if r.kind not in ("shape",)])
    assert rows[0] == rows[1]


BIASED = [
    (Gamma(bias="distribute"), Gamma()),
    (ZPlus(bias="distribute"), ZPlus()),
    (AlphaBeta(bias="distribute"), AlphaBeta()),
]


@pytest.mark.parametrize("pair", BIASED, ids=lambda p: type(p[0]).__name__)
def test_distributing_the_bias_leaves_what_eps_takes(pair):
    net, x = vision("resnet18")
    spread, absorbing = (whence.explain(net, x, "lrp", composite=rule) for rule in pair)
    # A sum a + b near zero is rounded, and R (a + b - z) / z with it: nothing above dampens that.
    closed(spread, 2 * BALANCE)
    books = {r: np.abs(v) / np.abs(spread.output) for r, v in spread.ledger.absorbed().items()}
    assert not np.any(books.pop("bias", 0))
    assert (books["epsilon"] < 0.02).all()
    assert (spread.gap < 0.02).all()
    kept = np.abs(absorbing.ledger.absorbed()["bias"]) / np.abs(absorbing.output)
    assert (kept > 0.1).all()
    assert (absorbing.gap > 0.1).all()


def test_one_is_a_special_case_of_another():
    net, x = vision("resnet18")

    def by(rule):
        return whence.explain(net, x, "lrp", composite=rule, target=3).to_numpy()

    close(by(AlphaBeta(1, 0)), by(ZPlus()), 1e-6)
    close(by(Gamma(0)), by(Epsilon()), 1e-3)
    excitation = whence.explain(net, x, "lrp", composite="excitation-backprop", target=3)
    close(excitation.to_numpy(), by(ZPlus()), 1e-6)


def test_large_gamma_approaches_z_plus():
    """Relevance arrives at positive outputs only, if the answer is positive and ReLUs follow."""
    twin = conv_twin("torch", 0.0)

    def by(rule):
        e = whence.explain(twin.model, twin.array(twin.x), "lrp", composite=rule)
        return e.to_numpy()[e.output > 0]

    wanted, off = by(ZPlus()), []
    assert len(wanted) > 1
    for gamma in (1.0, 100.0, 1e4):
        off.append(np.abs(by(Gamma(gamma)) - wanted).max() / np.abs(wanted).max())
    assert off[0] > off[1] > off[2]
    assert off[2] < 1e-3
