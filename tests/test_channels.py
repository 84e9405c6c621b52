"""Channels ranked by relevance, and answers taken apart by the channels that they went through."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import whence
from support_nets import FRAMEWORKS, close, conv_twin, installed
from support_tape import lively
from whence.errors import InputError, OptionError, TargetError


@pytest.fixture(params=FRAMEWORKS)
def twin(request):
    return conv_twin(installed(request.param))


def at_layer(twin, **options):
    """Relevance at conv2, channels on axis 1: (batch, 5, 3, 3)."""
    e = whence.explain(twin.model, twin.array(twin.x), "lrp", at="conv2", **options)
    return twin.first(e.to_numpy())


def test_scores_and_order(twin):
    x = twin.array(twin.x)
    maps = at_layer(twin, target=1)
    wanted = {"sum": maps.sum((2, 3)), "abs": np.abs(maps).sum((2, 3)), "max": maps.max((2, 3))}
    for by, scores in wanted.items():
        found = whence.channels(twin.model, x, "conv2", target=1, by=by)
        close(found.scores, scores, 1e-5)
        np.testing.assert_array_equal(found.order, np.argsort(-found.scores, 1, kind="stable"))
        assert found.order.shape == (3, 5)
    short = whence.channels(twin.model, x, "conv2", target=1, top=2)
    whole = whence.channels(twin.model, x, "conv2", target=1)
    np.testing.assert_array_equal(short.order, whole.order[:, :2])
    np.testing.assert_array_equal(whole.top(2).order, short.order)
    assert short.scores.shape == (3, 5)
    mean = whole.mean()
    np.testing.assert_allclose(mean.scores, whole.scores.mean(0, keepdims=True))
    assert mean.order[0, 0] == whole.scores.mean(0).argmax()
    assert (mean.samples, len(mean)) == (3, 1)


def test_frameworks_agree():
    found = [
        whence.channels(t.model, t.array(t.x), "conv2", target=1, composite="gamma")
        for t in map(conv_twin, map(installed, FRAMEWORKS))
    ]
    close(found[1].scores, found[0].scores, 1e-4)
    np.testing.assert_array_equal(found[0].order, found[1].order)


def test_a_data_set_is_gone_through_once_in_batches(twin):
    x, told = twin.x, [2, 0, 1]
    whole = whence.channels(twin.model, twin.array(x), "conv2", target=told)
    seen = []

    def batches():
        for part in (x[:2], x[2:]):
            seen.append(len(part))
            yield twin.array(part)

    streamed = whence.channels(twin.model, batches(), "conv2", target=told)
    assert seen == [2, 1]
    listed = whence.channels(twin.model, [x[:2], x[2:]], "conv2", target=told)
    paired = [(twin.array(x[:2]), twin.array(np.array([0, 1]))), (twin.array(x[2:]), told[:1])]
    for other in (streamed, listed):
        close(other.scores, whole.scores, 1e-5)
        assert other.names == whole.names == ["class 2", "class 0", "class 1"]
    labelled = whence.channels(twin.model, paired[:1], "conv2", target=told[:2])
    close(labelled.scores, whole.scores[:2], 1e-5)
    close(whence.channels(twin.model, x.tolist(), "conv2", target=told).scores, whole.scores, 1e-5)


def test_a_data_loader():
    twin = conv_twin("torch")
    x = torch.as_tensor(twin.x)
    data = torch.utils.data.TensorDataset(x, torch.tensor([0, 1, 2]))
    loader = torch.utils.data.DataLoader(data, batch_size=2)
    close(whence.channels(twin.model, loader, "conv2").scores,
          whence.channels(twin.model, x, "conv2").scores, 1e-5)  # fmt: skip


def test_sequences_and_tables():
    """Channels of a 1-D convolution stand first, features of tokens last, those of a table too."""
    net = lively(nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)))
    x = torch.randn(2, 2, 5)
    maps = whence.explain(net, x, "lrp", at="0")
    assert maps.axes == ("batch", "channel", "length")
    found = whence.channels(net, x, "0")
    close(found.scores, maps.to_numpy().sum(2), 1e-6)
    tokens = lively(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(20, 2)))
    y = torch.randn(2, 5, 3)
    maps = whence.explain(tokens, y, "lrp", at="0").to_numpy()
    close(whence.channels(tokens, y, "0").scores, maps.sum(1), 1e-6)
    flat = whence.explain(net, x, "lrp", at="3", target=1).to_numpy()
    close(whence.channels(net, x, "3", target=1).scores, flat, 1e-6)
    assert (whence.channels(net, x, "3", target=1, by="abs").scores >= 0).all()


def test_other_methods_rank_too(twin):
    x = twin.array(twin.x)
    found = whence.channels(twin.model, x, "conv2", method="gradient", target=0, by="abs")
    e = whence.explain(twin.model, x, "gradient", at="conv2", target=0)
    close(found.scores, np.abs(twin.first(e.to_numpy())).sum((2, 3)), 1e-5)


def test_it_prints():
    scores = np.array([[0.5, 2.0, -1.0], [0.0, 1.0, 3.0]])
    ranking = whence.ChannelRanking("mid", "sum", scores, np.array([[1, 0], [2, 1]]), 1, ["a", "b"])
    assert str(ranking).splitlines() == [
        "channels of mid by relevance (sum)", "  a  1: 2  0: 0.5", "  b  2: 3  1: 1",
    ]  # fmt: skip
    assert str(ranking.mean()).splitlines()[0].endswith(", mean of 2 samples")
    assert ranking.mean().names == ["mean"]


WRONG = {
    "by is one of 'sum', 'abs', 'max'; got 'l2'": {"by": "l2"},
    "top is how many channels to list, from 1; got 0": {"top": 0},
    "top is how many channels to list, from 1 to 5; got 6": {"top": 6},
    "target names 2 classes, one a sample; x holds 3 or more": {"target": [0, 1]},
    "target names 4 classes, one a sample; x holds 3": {"target": [0, 1, 2, 0]},
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_options(text):
    twin = conv_twin("torch")
    with pytest.raises(OptionError) as caught:
        whence.channels(twin.model, twin.array(twin.x), "conv2", **WRONG[text])
    assert text in str(caught.value)


def test_nothing_to_rank_by():
    twin = conv_twin("torch")
    with pytest.raises(InputError, match="x holds no batch"):
        whence.channels(twin.model, iter([]), "conv2")
    with pytest.raises(InputError, match="x is int: give a batch, or an iterable of batches"):
        whence.channels(twin.model, 3, "conv2")


COMPOSITES = ["epsilon", "epsilon-plus-flat", "epsilon-alpha2-beta1", "gamma"]


@pytest.mark.parametrize("composite", COMPOSITES)
def test_parts_of_an_answer_add_up_to_it(twin, composite):
    x, options = twin.array(twin.x), {"composite": composite, "target": [2, 0, 1]}
    whole = whence.explain(twin.model, x, "lrp", keep=["conv2"], **options)
    every = whence.explain(twin.model, x, "lrp", through={"conv2": range(5)}, **options)
    close(every.to_numpy(), whole.to_numpy(), 1e-6)
    assert not np.any(every.ledger.absorbed().get("through", 0.0))
    parts = []
    for channels in ([0], [1, 4], [2, 3]):
        part = whence.explain(twin.model, x, "lrp", through={"conv2": channels}, **options)
        parts.append(part.to_numpy())
        assert (part.ledger.balance < 1e-5).all()
        kept = twin.first(np.asarray(whole.at("conv2")))
        passed = kept[:, channels].sum((1, 2, 3))
        ended = part.ledger.absorbed()["through"]
        np.testing.assert_allclose(ended, kept.sum((1, 2, 3)) - passed, rtol=1e-4, atol=1e-5)
        worst = part.ledger.worst()
        assert worst is None or worst.reason != "through"  # asked for, so no leak
    close(sum(parts), whole.to_numpy(), 1e-5)
    assert np.abs(parts[0] - whole.to_numpy()).max() > 1e-3 * np.abs(whole.to_numpy()).max()


def test_through_two_layers_is_less_than_through_one(twin):
    x, options = twin.array(twin.x), {"target": 1, "composite": "gamma"}
    both = [
        whence.explain(twin.model, x, "lrp", through={"conv1": a, "conv2": [1, 2]}, **options)
        for a in ([0, 1], [2, 3])
    ]
    # Naming conv1 keeps its output on the tape: its batch-norm is an op of its own in each.
    one = whence.explain(
        twin.model, x, "lrp", through={"conv1": range(4), "conv2": [1, 2]}, **options
    )
    close(sum(e.to_numpy() for e in both), one.to_numpy(), 1e-5)


def test_channels_that_are_not_there():
    twin = conv_twin("torch")
    x = twin.array(twin.x)
    for wrong in ([5], [-6], [], [0.5], ["a"]):
        with pytest.raises(OptionError, match="of layer conv2; it has 5, from 0 to 4"):
            whence.explain(twin.model, x, "lrp", through={"conv2": wrong})
    with pytest.raises(TargetError, match="which does not lead to what is explained"):
        whence.explain(
            twin.model, x, "lrp", through={"dense": [0]}, target=whence.neuron("conv2", 0)
        )
