"""Where relevance starts, where it is read, and what a result says that it lost."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

import whence
from support_nets import FRAMEWORKS, close, conv_twin, installed
from support_tape import lively
from whence.errors import OptionError, UnknownName
from whence.ledger import Entry, Ledger
from whence.rules import Epsilon, ZPlus


@pytest.fixture(params=FRAMEWORKS)
def twin(request):
    return conv_twin(installed(request.param))


def scores_of(twin):
    return np.asarray(whence.explain(twin.model, twin.array(twin.x), "gradient",
                                     target=whence.neuron("dense")).output)  # fmt: skip


@pytest.mark.parametrize("layer", ["conv2", "conv1", "norm"])
@pytest.mark.parametrize("method", ["lrp", "deep-taylor"])
def test_a_kept_layer_is_what_reading_there_gives(layer, method):
    for framework in FRAMEWORKS:
        net = conv_twin(installed(framework), 0.0)
        x = net.array(net.x)
        kept = whence.explain(net.model, x, method, target=[0, 2, 1], keep=[layer])
        there = whence.explain(net.model, x, method, target=[0, 2, 1], at=layer)
        close(np.asarray(kept.at(layer)), there.to_numpy(), 1e-6)
        assert there.layer == layer
        # A name alone will do.
        single = whence.explain(net.model, x, method, target=[0, 2, 1], keep=layer)
        close(np.asarray(single.at(layer)), there.to_numpy(), 1e-6)


def test_several_layers_are_kept_and_others_are_not(twin):
    x = twin.array(twin.x)
    e = whence.explain(twin.model, x, "lrp", keep=["conv2", "dense"])
    assert set(e.kept) == {"conv2", "dense"}
    np.testing.assert_allclose(np.asarray(e.at("dense")).sum(1), e.output, rtol=1e-6)
    with pytest.raises(UnknownName, match=r"Ask for it beforehand: keep=\['conv1'\]"):
        e.at("conv1")
    with pytest.raises(UnknownName, match="no layer on the tape named 'conv3'; did you mean"):
        whence.explain(twin.model, x, "lrp", keep=["conv3"])


@pytest.mark.parametrize("composite", ["epsilon", "epsilon-plus-flat", "gamma"])
def test_seeds_scale_the_relevance(twin, composite):
    """Every rule is linear in the relevance, so a seed per sample scales a sample."""
    x, options = twin.array(twin.x), {"composite": composite, "target": [2, 0, 1]}
    whole = whence.explain(twin.model, x, "lrp", **options)
    one = whence.explain(twin.model, x, "lrp", seed="one", **options)
    per_sample = whole.output[:, None, None, None]
    close(one.to_numpy() * per_sample, whole.to_numpy(), 1e-5)
    np.testing.assert_allclose(one.ledger.seed, [1, 1, 1])
    given = np.array([2.0, -1.0, 0.5], "f")
    some = whence.explain(twin.model, x, "lrp", seed=given, **options)
    close(some.to_numpy(), one.to_numpy() * given[:, None, None, None], 1e-5)
    np.testing.assert_allclose(some.ledger.seed, given)
    assert (some.ledger.balance < 1e-5).all()


def test_a_seed_of_the_output_s_shape(twin):
    x = twin.array(twin.x)
    seed = np.array([[1, 0, -2], [0, 3, 0], [0.5, 0.5, 0.5]], "f")
    e = whence.explain(twin.model, x, "lrp", composite="gamma", seed=seed)
    parts = [
        whence.explain(twin.model, x, "lrp", composite="gamma", seed="one", target=c).to_numpy()
        for c in range(3)
    ]
    mixed = sum(part * seed[:, c, None, None, None] for c, part in enumerate(parts))
    close(e.to_numpy(), mixed, 1e-5)
    np.testing.assert_allclose(e.ledger.seed, seed.sum(1), atol=1e-6)
    other = whence.explain(twin.model, x, "lrp", composite="gamma", seed=-seed)
    close(other.to_numpy(), -mixed, 1e-5)  # arrays of one shape share a graph, not the numbers


def test_contrastive(twin):
    """+1 for the target and -1/(classes - 1) for the others."""
    x = twin.array(twin.x)
    e = whence.explain(twin.model, x, "lrp", seed="contrastive", target=[1, 0, 2])
    seed = np.full((3, 3), -0.5, "f")
    seed[range(3), [1, 0, 2]] = 1
    same = whence.explain(twin.model, x, "lrp", seed=seed)
    close(e.to_numpy(), same.to_numpy(), 1e-6)
    np.testing.assert_allclose(e.ledger.seed, 0, atol=1e-6)


def test_seeds_of_a_neuron_s_shape(twin):
    x = twin.array(twin.x)
    shape = np.asarray(whence.explain(twin.model, x, "lrp", at="conv2").attribution).shape
    seed = np.random.default_rng(0).normal(size=shape).astype("f")
    e = whence.explain(twin.model, x, "lrp", target=whence.neuron("conv2"), seed=seed)
    np.testing.assert_allclose(e.ledger.seed, seed.sum((1, 2, 3)), rtol=1e-4, atol=1e-5)


def test_wrong_seeds():
    net = conv_twin("torch")
    x = net.array(net.x)

    def refused(text, seed, **options):
        with pytest.raises(OptionError, match=re.escape(text)):
            whence.explain(net.model, x, "lrp", seed=seed, **options)

    text = "give one number a sample, (3,), or the shape of what is explained, (3, 3)"
    refused("the seed has shape (2,); " + text, np.ones(2, "f"))
    refused("the seed has shape (3, 2); " + text, np.ones((3, 2), "f"))
    refused("the seed has shape (); " + text, 2.0)
    refused("seed is one of 'output', 'one', 'contrastive', or an array; got 'two'", "two")
    refused('seed="contrastive" needs one output a class; this target has shape (3, 5, 3, 3)',
            "contrastive", target=whence.neuron("conv2", 1))  # fmt: skip


def entry(layer, went, **absorbed):
    numbers = {k: np.array(v, float) for k, v in absorbed.items()}
    came = np.array(went, float) + sum(numbers.values())
    return Entry(0, layer, "linear", "dense", "Rule()", came, np.array(went, float), numbers)


BOOKS = Ledger(
    [entry("a", [9, 9, -1], bias=[1, 0, 0]), entry("b", [8, 9, -0.5], epsilon=[1, 0, -0.5]),
     entry("c", [0, 0, 0], through=[8, 9, -0.5])],
    np.array([10.0, 9.0, -1.0]), np.zeros(3),
)  # fmt: skip


def test_the_worst_loss_of_each_sample():
    worst = [BOOKS.worst(i) for i in range(3)]
    assert [(w.entry.layer, w.reason, w.share) for w in worst] == [
        ("a", "bias", 0.1), ("a", "bias", 0.0), ("b", "epsilon", 0.5),
    ]  # fmt: skip
    assert BOOKS.worst().sample == 2
    assert str(BOOKS.worst()) == "sample 2 loses 50% at b (linear, Rule()): epsilon"
    alone = Ledger([entry("a", [9], bias=[1])], np.array([10.0]), np.array([9.0]))
    assert str(alone.worst()) == "loses 10% at a (linear, Rule()): bias"


def leaking(bias):
    """Two samples; the bias absorbs a share of the second only."""
    net = nn.Linear(2, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 1.0]]))
        net.bias.fill_(bias)
    x = torch.tensor([[50.0, 50.0], [0.5, 0.5]])
    return whence.explain(net, x, "lrp", composite=Epsilon(), target=0)


def test_a_result_says_in_one_line_what_it_lost():
    text = repr(leaking(0.25))
    assert text.count("loses") == 1
    assert "  sample 1 loses 20% at linear (linear, Epsilon(eps=1e-06)): bias" in text.splitlines()
    assert "loses" not in repr(leaking(0.04))
    assert "loses" in repr(leaking(0.06))
    assert "loses" not in repr(whence.explain(nn.Linear(2, 1), torch.ones(1, 2), "gradient"))


def test_what_was_asked_for_is_no_loss(twin):
    x = twin.array(twin.x)
    e = whence.explain(twin.model, x, "lrp", composite=ZPlus("ignore"), through={"conv2": [0]})
    assert np.abs(e.ledger.absorbed()["through"]).max() > 0.05 * np.abs(e.output).max()
    assert "through" not in repr(e)


def test_the_ledger_shows_itself(twin):
    figure = pytest.importorskip("matplotlib.figure").Figure
    e = whence.explain(twin.model, twin.array(twin.x), "lrp")
    drawn = e.ledger.show(sample=1, title="here")
    assert isinstance(drawn, figure)
    texts = [t.get_text() for t in drawn.findobj(lambda o: hasattr(o, "get_text"))]
    assert "here" in texts
    assert any("output" in t for t in texts)
    plain = e.ledger.show(sample="mean")
    texts = [t.get_text() for t in plain.findobj(lambda o: hasattr(o, "get_text"))]
    assert "Where relevance went" in texts


def test_by_layer_and_frames_of_a_real_walk(twin):
    e = whence.explain(twin.model, twin.array(twin.x), "lrp", composite="gamma")
    books, merged = e.ledger, e.ledger.by_layer()
    np.testing.assert_allclose(merged.balance, books.balance, atol=1e-6)
    for reason, amount in books.absorbed().items():
        np.testing.assert_allclose(merged.absorbed()[reason], amount, rtol=1e-6)
    assert len({row.layer for row in merged}) == len(merged) <= len(books)
    rows = books.to_dicts(sample=2)
    assert rows[0]["in"] == pytest.approx(e.output[2], rel=1e-6)
    assert {r["rule"] for r in rows} >= {"Gamma(gamma=0.25, bias='absorb')", "Pass()"}
    pandas = pytest.importorskip("pandas")
    frame = books.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["in"].iloc[0] == pytest.approx(e.output.sum(), rel=1e-5)
    left = frame["in"] - frame["out"] - frame[list(books.absorbed())].sum(axis=1)
    assert left.abs().max() < 1e-4 * frame["in"].abs().max()


def test_relevance_of_a_neuron_adds_up_to_it():
    net = lively(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3, bias=False)))
    with torch.no_grad():
        net[0].bias.zero_()
    x = torch.randn(2, 2, 6, 6)
    e = whence.explain(net, x, "lrp", composite="epsilon", target=whence.neuron("2", 1, (0, 1)))
    np.testing.assert_allclose(e.to_numpy().sum((1, 2, 3)), e.output, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(e.output, net(x).detach()[:, 1, 0, 1], rtol=1e-5)
