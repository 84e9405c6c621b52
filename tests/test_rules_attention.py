"""Products, softmax and normalisation against their twins, and attention of two tokens by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whence
from reference import attention as twin
from support_nets import applied, close, nodes_of
from whence.rules.attention import halves, norm, product, softmax

EPS = 1e-6  # these rules have it fixed


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 1, 4), (2, 3, 1)])
def test_elementwise_products(shape):
    a, b = doubles(2, 3, 4), doubles(*shape)
    with nodes_of(lambda a, b: a * b, (a, b), "mul") as nodes, torch.no_grad():
        relevance = doubles(2, 3, 4)
        got, _ = applied(halves, nodes[0], relevance, 2)
    for ours, theirs in zip(got, twin.halves(a.numpy(), b.numpy(), relevance.numpy()), strict=True):
        close(ours, theirs, 1e-12)
    assert sum(g.sum() for g in got) == pytest.approx(relevance.sum().item())


def test_a_quotient_is_its_numerators():
    a, b = doubles(2, 3, 4), doubles(2, 3, 1).abs() + 1
    with nodes_of(lambda a, b: a / b, (a, b), "mul") as nodes, torch.no_grad():
        relevance = doubles(2, 3, 4)
        (up, down), _ = applied(halves, nodes[0], relevance, 2)
    close(up, relevance.numpy(), 1e-15)
    assert not down.any()


@pytest.mark.parametrize("batch", [1, 2])
def test_matrix_products(batch):
    a, b = doubles(batch, 3, 4), doubles(batch, 4, 5)
    with nodes_of(torch.matmul, (a, b), "matmul") as nodes, torch.no_grad():
        relevance = doubles(batch, 3, 5)
        (of_a, of_b), books = applied(product, nodes[0], relevance, batch)
    for i in range(batch):
        first, second = twin.product(a[i].numpy(), b[i].numpy(), relevance[i].numpy(), EPS)
        close(of_a[i], first, 1e-10)
        close(of_b[i], second, 1e-10)
        left = relevance[i].sum() - of_a[i].sum() - of_b[i].sum()
        assert books["epsilon"][i] == pytest.approx(left.item(), abs=1e-9)


@pytest.mark.parametrize("axis", [1, -1])
def test_softmax_along_its_own_axis(axis):
    x, relevance = doubles(2, 4, 3), doubles(2, 4, 3)
    with nodes_of(lambda t: t.softmax(axis), x, "softmax") as nodes, torch.no_grad():
        (got,), books = applied(softmax, nodes[0], relevance, 2)
    rows = np.moveaxis(x.numpy(), axis, -1).reshape(-1, x.shape[axis])
    back = np.moveaxis(relevance.numpy(), axis, -1).reshape(rows.shape)
    ours = np.moveaxis(got, axis, -1).reshape(rows.shape)
    for i, (row, r) in enumerate(zip(rows, back, strict=True)):
        close(ours[i], twin.softmax_rule(row, r), 1e-10)
        close(ours[i], twin.softmax_rule_by_taylor(row, r), 1e-10)
    kept = relevance.numpy().reshape(2, -1).sum(1) - got.reshape(2, -1).sum(1)
    np.testing.assert_allclose(books["softmax"], kept, atol=1e-10)


def test_log_softmax():
    x, relevance = doubles(2, 4), doubles(2, 4)
    with nodes_of(lambda t: t.log_softmax(1), x, "softmax") as nodes, torch.no_grad():
        (got,), books = applied(softmax, nodes[0], relevance, 2)
    for i in range(2):
        close(got[i], twin.log_softmax_rule(x[i].numpy(), relevance[i].numpy(), EPS), 1e-6)
    np.testing.assert_allclose(books["softmax"], relevance.sum(1).numpy() - got.sum(1), atol=1e-9)


def test_softmax_by_hand():
    # x = (log 1, log 2, log 4) gives s = (1, 2, 4) / 7. With all relevance R = 1 at the third:
    # R_i = x_i (R_i - s_i): 0 (0 - 1/7) = 0;  log 2 (0 - 2/7) = -0.198042;
    # log 4 (1 - 4/7) = 0.594126. The constant term keeps 1 - 0.396084.
    x = torch.tensor([[math.log(1), math.log(2), math.log(4)]], dtype=torch.float64)
    with nodes_of(lambda t: t.softmax(1), x, "softmax") as nodes, torch.no_grad():
        relevance = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
        (got,), books = applied(softmax, nodes[0], relevance, 1)
    np.testing.assert_allclose(got, [[0.0, -0.198042, 0.594126]], atol=1e-6)
    np.testing.assert_allclose(books["softmax"], [1 - 0.396084], atol=1e-6)


def test_masked_places_get_nothing():
    mask = torch.tensor([[0.0, -math.inf, 0.0]], dtype=torch.float64)
    x = doubles(2, 3)

    def f(t):
        return (t + mask).softmax(1)

    e = whence.explain(f, x, "lrp", target=0)
    assert (e.attribution[:, 1] == 0).all()
    assert e.attribution[:, 0].all()
    assert (e.ledger.balance < 1e-6).all()
    with nodes_of(f, x, "softmax") as nodes, torch.no_grad():
        relevance = doubles(2, 3)
        (got,), _ = applied(softmax, nodes[0], relevance, 2)
    for i in range(2):
        row = (x[i] + mask[0]).numpy()
        close(got[i], twin.softmax_rule(row, relevance[i].numpy()), 1e-10)


def norms():
    layer = nn.LayerNorm(4).double()
    group, instance = nn.GroupNorm(2, 4).double(), nn.InstanceNorm1d(4, affine=True).double()
    for module in (layer, group, instance):
        nn.init.uniform_(module.weight, 0.5, 1.5)
        nn.init.uniform_(module.bias, -0.5, 0.5)
    return {"layer": layer, "group": group, "instance": instance}


@pytest.mark.parametrize("name", ["layer", "group", "instance"])
def test_norms_share_within_each_group(name):
    module = norms()[name]
    x = doubles(2, 3, 4) if name == "layer" else doubles(2, 4, 3)
    relevance = torch.randn_like(x)
    with nodes_of(module, x, "norm") as nodes, torch.no_grad():
        (got,), books = applied(norm, nodes[0], relevance, 2)
    scale, shift = module.weight.detach().numpy(), module.bias.detach().numpy()
    # Which elements share one mean and spread, and which scale each has.
    for i in range(2):
        for g in range({"layer": 3, "group": 2, "instance": 4}[name]):
            if name == "layer":
                where, channel = np.s_[i, g, :], np.arange(4)
            elif name == "group":
                where, channel = np.s_[i, 2 * g : 2 * g + 2, :], np.repeat([2 * g, 2 * g + 1], 3)
            else:
                where, channel = np.s_[i, g, :], np.full(3, g)
            theirs = twin.norm_rule(
                x.numpy()[where].reshape(-1), scale[channel], shift[channel],
                relevance.numpy()[where].reshape(-1), module.eps, EPS,
            )  # fmt: skip
            close(got[where].reshape(-1), theirs, 1e-8)
    kept = books["epsilon"] + books["bias"]
    np.testing.assert_allclose(
        kept, relevance.numpy().reshape(2, -1).sum(1) - got.reshape(2, -1).sum(1), atol=1e-8
    )


def test_a_norm_that_does_not_centre_hands_relevance_on():
    x, relevance = doubles(2, 3, 4), doubles(2, 3, 4)
    with nodes_of(lambda t: F.rms_norm(t, (4,)), x, "norm") as nodes, torch.no_grad():
        (got,), _ = applied(norm, nodes[0], relevance, 2)
    close(got, relevance.numpy(), 1e-15)


def test_attention_of_two_tokens_by_hand():
    # Tokens x1 = 1, x2 = 3 of one feature; q = k = 0 for both, v = x. Each looks at both alike:
    # s = 1/2, o = (1/2) 1 + (1/2) 3 = 2. Explain o of the first token, R = 2.
    # The product gives half, in proportion, to A and to V: R_A = (1/2) x_j / (2 * 2) * 2 / ...
    #   share of pair (s_j, x_j): s_j x_j / (2 o) * R = (0.25, 0.75) for j = 1, 2, to each factor.
    # V: R_x1 = 0.25, R_x2 = 0.75. A: softmax scores are 0, so x_i (...) = 0 and its constant
    # term keeps 0.25 + 0.75 = 1. In all the input holds 1 of 2.
    def attend(x):
        query = x * 0.0
        return F.scaled_dot_product_attention(query, query, x)[:, 0]

    x = torch.tensor([[[1.0], [3.0]]])
    e = whence.explain(attend, x, "lrp", target=0)
    np.testing.assert_allclose(e.output, [2.0])
    np.testing.assert_allclose(e.attribution.numpy(), [[[0.25], [0.75]]], rtol=1e-5)
    np.testing.assert_allclose(e.ledger.absorbed()["softmax"], [1.0], rtol=1e-5)


def test_attention_with_scores_by_hand():
    # q = 1 (constant), k = x, v = x at x = (log 1, log 3): scores = x, s = (1/4, 3/4),
    # o = 3/4 log 3 = 0.823959. R = o. A V gives to V: s_j x_j / (2 o) R = (0, o / 2) and the same
    # (0, o / 2) to A. Softmax: R_1 = 0, R_2 = log 3 (o/2 - 3/4 * o/2) = log 3 * o / 8 = 0.113151.
    # Scores = q k with q constant: all of it goes on to x. x_2: o / 2 + 0.113151 = 0.525131.
    def attend(x):
        scores = x.transpose(1, 2) * torch.ones(1, 1, 1)
        return (scores.softmax(-1) @ x)[:, 0]

    x = torch.tensor([[[0.0], [math.log(3)]]], dtype=torch.float64)
    e = whence.explain(attend, x, "lrp", target=0)
    np.testing.assert_allclose(e.output, [0.823959], atol=1e-6)
    np.testing.assert_allclose(e.attribution.numpy(), [[[0.0], [0.525131]]], atol=1e-5)


def test_a_gate_by_hand():
    # f = a * sigmoid(b) at a = 4, b = 0: f = 2. Half each: R_a = 1; sigmoid hands 1 on to b.
    def gated(x):
        return (x[:, :1] * torch.sigmoid(x[:, 1:]))[:, 0]

    e = whence.explain(gated, torch.tensor([[4.0, 0.0]]), "lrp")
    np.testing.assert_allclose(e.attribution.numpy(), [[1.0, 1.0]], rtol=1e-6)
