"""DeepLIFT's rules against examples by hand and a literal twin (PyTorch)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import whence
from reference import deeplift as twin
from whence.errors import MissingRule, OptionError, TargetError, UnknownName
from whence.methods.deeplift import DeepLIFT, DeepSHAP

Tensor = torch.Tensor


class Of(nn.Module):
    """A model of one function, (batch, n) -> (batch,) or (batch, classes)."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def given(function, x, x0, **options):
    """The attribution of one sample, as a list."""
    e = DeepLIFT(baseline=np.asarray(x0, np.float64), **options)(
        Of(function), torch.tensor([x], dtype=torch.float64)
    )
    assert e.gap.max() < 1e-9
    assert e.ledger.balance.max() < 1e-9
    return e.attribution[0].tolist()


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# By hand.


def test_a_linear_function_gets_weight_times_difference():
    assert given(lambda x: x @ torch.tensor([2.0, -3.0]).double(), [4, 5], [1, 1]) == [6, -12]


def test_min_by_the_rescale_rule_gives_all_to_one_operand():
    assert given(lambda x: x[:, 0] - torch.relu(x[:, 0] - x[:, 1]), [5, 3], [0, 0]) == [0, 3]


def test_min_by_reveal_cancel_gives_half_to_each_operand():
    weight = torch.tensor([[1.0, -1.0]]).double()

    def smallest(x):
        return x[:, 0] - torch.relu(nn.functional.linear(x, weight))[:, 0]

    found = given(smallest, [5, 3], [0, 0], rule="reveal-cancel")
    assert found == pytest.approx([1.5, 1.5])


@pytest.mark.parametrize("rule", ["rescale", "reveal-cancel"])
def test_and_gives_half_to_each_operand(rule):
    weight, bias = torch.ones(1, 2).double(), torch.tensor([-1.0]).double()

    def both(x):
        return torch.relu(nn.functional.linear(x, weight, bias))[:, 0]

    assert given(both, [1, 1], [0, 0], rule=rule) == pytest.approx([0.5, 0.5])


def test_a_maximum_that_rose_owes_it_to_the_winner_in_x_and_one_that_fell_to_that_in_x0():
    def largest(x):
        return x.max(1).values

    assert given(largest, [3, 1], [0, 2]) == [1, 0]
    assert given(largest, [0, 1], [5, 2]) == [-4, 0]


def test_a_minimum_owes_its_rise_to_the_winner_in_x0():
    assert given(lambda x: x.amin(1), [3, 9], [5, 2]) == [0, 1]
    assert given(lambda x: torch.minimum(x[:, 0], x[:, 1]), [3, 9], [5, 2]) == [0, 1]
    assert given(lambda x: x.amin(1), [1, 9], [5, 2]) == [-1, 0]


def test_aminmax_tells_its_results_apart():
    def width(x):
        low, high = torch.aminmax(x, dim=1)
        return high - low

    assert given(width, [3, 9], [5, 2]) == [0, 3]


def test_a_rectifier_next_to_a_max_pool():
    def pooled(x):
        return nn.functional.max_pool1d(torch.relu(x)[:, None], 2).flatten(1).sum(1)

    assert given(pooled, [3, 1], [-1, 2]) == [1, 0]
    assert given(pooled, [-1, 2], [3, 1]) == [-1, 0]


def test_overlapping_windows_of_a_max_pool():
    def pooled(x):
        return nn.functional.max_pool1d(x[:, None], 2, 1).flatten(1).sum(1)

    assert given(pooled, [1, 4, 2], [0, 0, 3]) == [0, 5, 0]


def test_a_maximum_of_two_operands():
    assert given(lambda x: torch.maximum(x[:, 0], 2 * x[:, 1]), [1, 4], [3, 1]) == [0, 5]


def test_softmax_of_log_1_log_2_log_4_against_zeros():
    x = [math.log(1), math.log(2), math.log(4)]
    found = given(lambda x: torch.softmax(x, 1)[:, 0], x, [0, 0, 0])
    assert found == pytest.approx([0, -1 / 21, -3 / 21])


def test_softmax_does_not_change_where_all_inputs_rise_alike():
    found = given(lambda x: torch.softmax(x, 1)[:, :1].sum(1) + x[:, 0], [203, 201], [3, 1])
    assert found[0] == pytest.approx(200 + 200 * 0.8807970779778823 * (1 - 0.8807970779778823))


def test_a_product_goes_by_its_midpoint():
    assert given(lambda x: x[:, 0] * x[:, 1], [3, 5], [1, 1]) == [2 * 3, 4 * 2]


def test_a_quotient_goes_by_the_midpoint_of_its_inverse():
    # y = 2, y0 = 1: dy = (da - 1.5 db) / 2.5
    found = given(lambda x: x[:, 0] / x[:, 1], [6, 3], [2, 2])
    assert found == pytest.approx([4 / 2.5, -1.5 / 2.5])


def test_a_quotient_whose_divisor_changes_sign_is_exact_too():
    # u = 1 / b: 1/2 and -1; y = a u by the midpoint.
    found = given(lambda x: x[:, 0] / x[:, 1], [4, 2], [1, -1])
    assert found == pytest.approx([3 * -0.25, 2.5 * 1.5])


def test_where_nothing_changed_the_gradient_is_taken():
    assert given(lambda x: torch.tanh(x[:, 0] + x[:, 1]) + 0, [1, -1], [0, 0]) == [1, -1]
    found = given(lambda x: torch.relu(x[:, 0] + x[:, 1] + 1), [1, -1], [0, 0])
    assert found == [1, -1]


def test_a_reused_rectifier_and_a_residual_sum():
    relu = nn.ReLU()

    def block(x):
        return (x + relu(2 * relu(x) - 3)).sum(1)

    # 4: 8 - 3 = 5 against -3: 5 / 8 * 2 * 4 + 4; -1: no rise.
    assert given(block, [4, -1], [0, 0]) == [4 + 5, -1]


@pytest.mark.parametrize(
    "spelled",
    [
        lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
        lambda x: x * (x > 0),
        lambda x: x.masked_fill(x < 0, 0.0),
        lambda x: torch.where(x > 0, x, 0 * x),
        lambda x: x.clamp(min=0),
        lambda x: (x + x.abs()) / 2,
    ],
)
def test_a_rectifier_is_one_however_it_is_spelled(spelled):
    found = given(lambda x: (spelled(x) * 3).sum(1), [4, -1, 2], [-2, 3, 1])
    assert found == pytest.approx([12, -9, 3])


def test_what_a_detached_number_does_is_booked_and_not_given_to_its_neighbour():
    e = DeepLIFT()(Of(lambda x: (x * x.detach()).sum(1)), torch.tensor([[3.0, 1.0]]))
    # Within the two slopes, so it counts as a switch between branches.
    assert e.attribution.tolist() == [[9, 1]]
    e = DeepLIFT()(
        Of(lambda x: (x - x.detach().max(1, keepdim=True).values)[:, 0]), torch.tensor([[3.0, 7.0]])
    )
    assert e.attribution.tolist() == [[3, 0]]
    assert float(e.ledger.absorbed()["constant"][0]) == pytest.approx(-7)


def test_sorted_values_book_what_a_change_of_rank_did():
    e = DeepLIFT(baseline=np.array([0.0, 1.0, 2.0]))(
        Of(lambda x: x.sort(1).values[:, 1]), torch.tensor([[5.0, 1.0, 2.0]])
    )
    assert e.ledger.balance.max() < 1e-6
    assert float(e.ledger.absorbed()["selection"][0]) == pytest.approx(1)


def test_attention_of_two_tokens():
    """One query at the first token, values by hand: the weights' softmax, then the midpoint."""

    def attend(x):
        q, k, v = x[:, :1], x, x
        return nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0, 0]

    x, x0 = [[1.0], [2.0]], [[0.0], [1.0]]
    e = DeepLIFT(baseline=np.array(x0))(Of(attend), torch.tensor([x], dtype=torch.float64))
    soft, mean = twin.Softmax(), lambda a, b: (a + b) / 2
    scores, scores0 = np.array([1.0, 2.0]), np.array([0.0, 0.0])
    a, a0 = soft.run(scores), soft.run(scores0)
    m_a = mean(np.array([1.0, 2.0]), np.array([0.0, 1.0]))
    m_s = soft.back(m_a, scores, scores0)
    own = mean(a, a0) + m_s * 0.5  # values; and keys times the query's mean of 0.5
    own[0] += (m_s * m_a).sum()  # the query, by the keys' means
    assert e.attribution[0, :, 0].numpy() == pytest.approx(own)
    assert e.gap.max() < 1e-12


# Against the twin.


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
    with pytest.raises(OptionError, match="deepshap compares with a set of references"):
        DeepSHAP()(small(), torch.ones(1, 5))
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
