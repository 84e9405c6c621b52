"""DeepLIFT's rules against examples by hand (PyTorch)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from reference import deeplift as twin
from support_deeplift import Of, given
from whence.methods.deeplift import DeepLIFT


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
