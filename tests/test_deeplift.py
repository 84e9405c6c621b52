"""DeepLIFT as a method: batches, targets, places, several inputs, sets, books, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import whence
from support_deeplift import Of, random
from whence.errors import MissingRule, OptionError, TargetError, UnknownName
from whence.methods.deeplift import DeepLIFT, DeepSHAP

# A sample is its own, and the class is chosen at x.


def test_a_sample_has_the_same_attribution_in_any_batch():
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4), nn.Softmax(1)).double()
    x = random(4, 5)
    together = DeepLIFT(baseline="noise")(net, x)
    for i in range(4):
        alone = DeepLIFT(baseline="noise")(net, x[i : i + 1])
        assert torch.allclose(alone.attribution[0], together.attribution[i], atol=1e-14)


def test_the_class_is_that_of_the_input_also_at_the_reference():
    net = nn.Linear(2, 2, bias=False)
    net.weight.data.copy_(torch.eye(2))
    e = DeepLIFT(baseline=np.array([0.0, 9.0]))(net, torch.tensor([[2.0, 1.0]]))
    assert e.target.tolist() == [0]
    assert e.attribution.tolist() == [[2, 0]]
    assert e.extras["reference_output"].tolist() == [0]


def test_softmax_along_the_axis_that_the_model_says():
    def mixed(x):  # (batch, 3, 3): as long as the doubled batch of some tests below
        return (torch.softmax(x, 1) * torch.arange(9.0).reshape(3, 3)).flatten(1).sum(1)

    x = random(3, 3, 3, dtype=torch.float32)
    together = DeepLIFT()(Of(mixed), x)
    alone = torch.cat([DeepLIFT()(Of(mixed), x[i : i + 1]).attribution for i in range(3)])
    assert torch.allclose(together.attribution, alone, atol=1e-6)
    assert together.gap.max() < 1e-5


def test_halves_are_found_where_the_batch_is_merged_with_windows():
    """(batch, 4, 3) -> (batch * 2, 2, 3): each sample's windows lie side by side."""
    mix = nn.Linear(3, 3)

    def windows(x):
        n = x.shape[0]
        w = torch.tanh(mix(x.reshape(n * 2, 2, 3)))
        return torch.softmax(w, 1).reshape(n, 4, 3).flatten(1)

    x = random(2, 4, 3, dtype=torch.float32)
    together = DeepLIFT()(Of(windows), x, target=5)
    alone = [DeepLIFT()(Of(windows), x[i : i + 1], target=5).attribution for i in range(2)]
    assert torch.allclose(together.attribution, torch.cat(alone), atol=1e-6)
    assert together.gap.max() < 1e-4


# Targets, places, several inputs, sets.


def small():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize(
    "target",
    [None, 2, [0, 1, 2], whence.difference(0, 2), whence.neuron("2", channel=3), lambda y: y[:, 1]],
)
def test_any_target_adds_up(target):
    net, x = small(), random(3, 5, dtype=torch.float32)
    e = DeepLIFT(baseline=0.5)(net, x, target=target)
    assert e.gap.max() < 1e-4
    assert e.ledger.balance.max() < 1e-5


@pytest.mark.parametrize("rule", ["rescale", "reveal-cancel"])
@pytest.mark.parametrize("layer", ["0", "1", "2"])
def test_at_a_layer_it_adds_up(layer, rule):
    net, x = small(), random(3, 5, dtype=torch.float32)
    e = DeepLIFT(rule=rule)(net, x, at=layer)
    assert e.attribution.shape == (3, 6 if layer == "2" else 8)
    assert e.gap.max() < 1e-4


def test_what_passes_around_a_layer_is_booked():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2, bias=False)
            self.inner.weight.data.fill_(1.0)

        def forward(self, x):
            return torch.relu(x + self.inner(x))

    e = DeepLIFT()(Skip(), torch.tensor([[2.0, 3.0]]), target=0, at="inner")
    assert e.attribution.tolist() == [[5, 0]]
    assert e.ledger.absorbed()["around"].tolist() == [2]
    assert e.ledger.balance.max() < 1e-6


def test_several_inputs_each_with_its_own_baseline():
    def both(a, b):
        return (a * b).sum(1)

    x = (torch.tensor([[3.0]]), torch.tensor([[5.0]]))
    e = DeepLIFT(baseline=(1.0, np.array([1.0])))(Of(both), x)
    assert [a.tolist() for a in e.attribution] == [[[6]], [[8]]]
    e = DeepLIFT(baseline={"input0": 1.0})(Of(both), x)  # the other keeps its own number
    assert [a.tolist() for a in e.attribution] == [[[10]], [[0]]]


def test_a_set_gives_the_mean_over_it_in_any_chunks():
    net, x = small(), random(2, 5, dtype=torch.float32)
    refs = random(5, 5, seed=4, dtype=torch.float32)
    single = [DeepLIFT(baseline=r)(net, x, target=1).attribution for r in refs]
    wanted = torch.stack(single).mean(0)
    for chunk in (None, 1, 2, 5):
        e = DeepSHAP(baseline=refs, chunk=chunk)(net, x, target=1)
        assert torch.allclose(e.attribution, wanted, atol=1e-6)
        assert e.gap.max() < 1e-4
        assert e.ledger.balance.max() < 1e-5
        assert e.extras["references"] == 5
    listed = DeepLIFT(baseline=list(refs))(net, x, target=1)
    assert torch.allclose(listed.attribution, wanted, atol=1e-6)
    assert listed.method == "deeplift"
    per_sample = DeepSHAP(baseline=refs)(net, x, target=[1, 2])
    other = DeepSHAP(baseline=refs)(net, x[1:], target=2)
    assert torch.allclose(per_sample.attribution[1], other.attribution[0], atol=1e-6)


def test_deepshap_of_a_linear_model_is_shapley():
    net = nn.Linear(3, 1, bias=False)
    net.weight.data.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
    refs = torch.tensor([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
    e = DeepSHAP(baseline=refs)(net, torch.tensor([[3.0, 3.0, 3.0]]))
    assert e.attribution.tolist() == [[2, 4, 6]]


def test_token_ids_are_compared_with_token_ids_and_explained_at_the_embedding():
    torch.manual_seed(0)
    table = nn.Embedding(9, 4)
    net = nn.Sequential(table, nn.Flatten(), nn.Linear(12, 3))
    ids = torch.tensor([[1, 2, 0], [3, 4, 5]])
    e = DeepLIFT()(net, ids, target=1)
    assert e.notes == ["the reference is token id 0 at every place"]
    weight = net[2].weight[1].reshape(3, 4)
    wanted = (table(ids) - table(torch.zeros_like(ids))) * weight
    assert torch.allclose(e.attribution, wanted, atol=1e-6)
    assert e.attribution[0, 2].abs().sum() == 0  # that token is the reference's own
    e = DeepLIFT(baseline=np.array([1, 2, 3]))(net, ids, target=1)
    assert e.attribution[0, :2].abs().sum() == 0
    assert e.gap.max() < 1e-4


def test_half_precision_adds_up_to_its_own_rounding():
    net, x = small().to(torch.bfloat16), random(3, 5, dtype=torch.float32).bfloat16()
    e = DeepLIFT()(net, x)
    assert e.gap.max() < 0.1


def test_masked_scores_get_nothing():
    mask = torch.tensor([[0.0, -math.inf], [0.0, 0.0]]).double()

    def masked(x):
        return (torch.softmax(x + mask, -1) * torch.tensor([1.0, 2.0])).flatten(1).sum(1)

    e = DeepLIFT()(Of(masked), random(1, 2, 2))
    assert e.attribution[0, 0].tolist() == [0, 0]
    assert e.attribution[0, 1].abs().min() > 1e-3
    assert e.gap.max() < 1e-9


def test_the_ledger_is_in_units_of_the_answer():
    e = DeepLIFT()(small(), random(2, 5, dtype=torch.float32), target=0)
    difference = e.output - e.extras["reference_output"]
    assert [r.rule for r in e.ledger] == ["linear", "rescale", "linear", "rescale", "linear"]
    for row in e.ledger:
        assert row.relevance_in == pytest.approx(difference, rel=1e-4, abs=1e-6)
        assert row.relevance_out == pytest.approx(difference, rel=1e-4, abs=1e-6)


def test_without_the_ledger_there_are_no_rows():
    e = whence.explain(small(), random(2, 5, dtype=torch.float32), DeepLIFT(), ledger=False)
    assert e.ledger is None or not e.ledger.rows
    assert e.gap.max() < 1e-4


def test_it_prints_as_the_call_that_makes_it():
    assert repr(DeepLIFT()) == "whence.DeepLIFT()"
    assert repr(DeepLIFT(rule="reveal-cancel", baseline="blur")) == (
        "whence.DeepLIFT(rule='reveal-cancel', baseline='blur')"
    )


# Refused.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "reveal"}, "rule is one of 'rescale', 'reveal-cancel'; got 'reveal'"),
        ({"unknown": "zero"}, "unknown is None or \"gradient\"; got 'zero'"),
        ({"chunk": 0}, "chunk is a number of references, 1 or more; got 0"),
    ],
)
def test_wrong_words_are_refused(options, words):
    with pytest.raises(OptionError) as error:
        DeepLIFT(**options)
    assert str(error.value) == words


def test_deepshap_wants_a_set():
    x = torch.arange(5.0)[None]
    e = DeepSHAP()(small(), x)
    torch.testing.assert_close(e.attribution, DeepLIFT()(small(), x).attribution)
    assert "no set of references was given; compared with zero" in e.notes
    with pytest.raises(OptionError, match="a set of references is wanted"):
        DeepSHAP(baseline=0.5)(small(), torch.ones(1, 5))


def test_an_op_without_a_rule_is_named_and_may_go_by_its_gradient():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.cumprod(x, 1)[:, 1]

    x = torch.tensor([[3.0, 5.0]])
    with pytest.raises(MissingRule, match=r"no rule for opaque\.cumprod.*unknown=\"gradient\""):
        DeepLIFT()(Odd(), x)
    e = DeepLIFT(unknown="gradient")(Odd(), x)
    assert e.notes[0].startswith('unknown="gradient": no rule for cumprod at (top)')
    assert e.attribution.tolist() == [[7.5, 7.5]]  # a product of two: its mean gradient is exact
    assert e.ledger.absorbed()["unknown"].tolist() == [0]


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (lambda x: torch.softmax(x, 1)[:, 0], "softmax.softmax"),
        (lambda x: x[:, 0] * x[:, 1], "mul.mul"),
        (lambda x: nn.functional.layer_norm(x, (2,))[:, 0], "norm.layer_norm"),
    ],
)
def test_reveal_cancel_names_the_op_where_it_is_not_defined(function, op):
    with pytest.raises(MissingRule, match=op) as error:
        DeepLIFT(rule="reveal-cancel")(Of(function), torch.tensor([[3.0, 5.0]]))
    assert "The reveal-cancel rule is defined for linear ops" in str(error.value)


def test_statistics_over_the_batch_are_refused():
    net = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 2))
    with pytest.raises(MissingRule, match="takes its statistics over the samples of the batch"):
        DeepLIFT()(net, torch.randn(4, 3))


def test_a_target_that_mixes_samples_is_refused():
    with pytest.raises(TargetError, match="input and reference together"):
        DeepLIFT()(small(), torch.ones(2, 5), target=lambda y: y[torch.arange(2), 1])


def test_a_baseline_of_the_wrong_shape_or_name_is_refused():
    with pytest.raises(OptionError) as error:
        DeepLIFT(baseline=np.zeros(4))(small(), torch.ones(2, 5))
    assert str(error.value) == (
        "the baseline has shape (4,), the input (2, 5): give a number, an array of shape (5,) for "
        "all samples, or (2, 5), one each."
    )
    with pytest.raises(UnknownName, match="blurr"):
        DeepLIFT(baseline="blurr")(small(), torch.ones(2, 5))


def test_only_one_half_goes_back_through_convolutions_and_dense_ops(monkeypatch):
    """The multipliers of input and reference are the same; carrying both would double the work."""
    from whence.frameworks.torch.closed import ClosedPull

    lengths = []
    original = ClosedPull.__call__

    def counted(self, cotangent):
        lengths.append(len(cotangent))
        return original(self, cotangent)

    monkeypatch.setattr(ClosedPull, "__call__", counted)
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv1d(2, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(12, 2)
    )
    e = whence.explain(net, torch.randn(3, 2, 6), "deeplift", target=0)
    assert lengths == [3, 3]
    assert float(np.abs(e.gap).max()) < 1e-6
