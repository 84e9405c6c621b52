"""Relevance through recurrent cells: the gate is held constant and the signal takes all."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import whence
from support_tape import lively


class Last(nn.Module):
    """A recurrent net, the last state of which goes to a head."""

    def __init__(self, kind, **options):
        super().__init__()
        self.cell = kind(3, 4, batch_first=True, **options)
        self.head = nn.Linear(8 if options.get("bidirectional") else 4, 2)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_the_books_balance_in_torch(kind, options):
    e = whence.explain(lively(Last(kind, **options)), torch.randn(2, 5, 3), "lrp", target=1)
    check(e)
    assert e.to_numpy().any(axis=2).all()  # every step has its part


@pytest.mark.parametrize("name", ["LSTM", "GRU", "GRU, reset before"])
def test_the_books_balance_in_keras(name):
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(1)
    kind, _, before = name.partition(", ")
    options = {"reset_after": False} if before else {}
    given = keras.Input((5, 3))
    cell = getattr(keras.layers, kind)(4, bias_initializer="random_uniform", **options)
    net = keras.Model(given, keras.layers.Dense(2)(cell(given)))
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    check(whence.explain(net, x, "lrp", target=1))


def check(e):
    assert (e.ledger.balance <= 1e-5).all(), e.ledger.balance
    products = [row for row in e.ledger if row.kind == "mul"]
    assert products
    assert {row.rule for row in products} == {"signal"}
    for row in products:
        np.testing.assert_allclose(row.relevance_in, row.relevance_out, rtol=1e-5, atol=1e-6)


# One step from a state of zero, one unit, x = 1. Only the candidate sees x, with weight 1 and bias
# 0.5; all gates are sigmoid(0) = 1/2.
#
# LSTM: c = 1/2 tanh(1.5), h = 1/2 tanh(c). Relevance h goes to tanh(c), to c, to its summand
# i * g (the other, f * c0, is 0), there to g alone, to its argument 1.5 = 1 + 0.5; x has 1/1.5.
LSTM = 0.5 * math.tanh(0.5 * math.tanh(1.5))
# GRU: n = tanh(1.5), h = (1 - z) n + z h0 = 1/2 n; again 1/1.5 of it is x's.
GRU = 0.5 * math.tanh(1.5)


@pytest.mark.parametrize(("kind", "value", "slot"), [(nn.LSTM, LSTM, 2), (nn.GRU, GRU, 2)])
def test_one_step_by_hand_in_torch(kind, value, slot):
    cell = kind(1, 1, batch_first=True)
    for parameter in cell.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        cell.weight_ih_l0[slot], cell.bias_ih_l0[slot] = 1.0, 0.5

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell

        def forward(self, x):
            return self.cell(x)[0][:, -1]

    e = whence.explain(Net(), torch.ones(1, 1, 1), "lrp", target=0)
    np.testing.assert_allclose(e.output, [value], rtol=1e-6)
    np.testing.assert_allclose(e.to_numpy().ravel(), [value / 1.5], rtol=1e-5)
    np.testing.assert_allclose(e.ledger.absorbed()["bias"], [value - value / 1.5], rtol=1e-4)


@pytest.mark.parametrize(("kind", "value", "slot"), [("LSTM", LSTM, 2), ("GRU", GRU, 2)])
def test_one_step_by_hand_in_keras(kind, value, slot):
    keras = pytest.importorskip("keras")
    given = keras.Input((1, 1))
    options = {"unit_forget_bias": False} if kind == "LSTM" else {}
    cell = getattr(keras.layers, kind)(1, **options)
    net = keras.Model(given, cell(given))
    kernel, recurrent, bias = (np.zeros_like(w) for w in cell.get_weights())
    kernel[0, slot] = 1.0
    bias[..., slot] = [0.5, 0.0] if bias.ndim == 2 else 0.5
    cell.set_weights([kernel, recurrent, bias])
    e = whence.explain(net, np.ones((1, 1, 1), np.float32), "lrp", target=0)
    np.testing.assert_allclose(e.output, [value], rtol=1e-6)
    np.testing.assert_allclose(e.to_numpy().ravel(), [value / 1.5], rtol=1e-5)


def test_a_gate_gets_nothing_where_a_product_of_two_shares():
    """The same product outside a recurrent layer: half each, or all to the signal by cp-lrp."""

    def gated(x):
        return (x[:, :1] * torch.sigmoid(x[:, 1:]))[:, 0]

    x = torch.tensor([[4.0, 0.0]])
    half = whence.explain(gated, x, whence.LRP(composite="epsilon"))
    np.testing.assert_allclose(half.to_numpy(), [[1, 1]], rtol=1e-6)
    whole = whence.explain(gated, x, whence.LRP(composite="cp-lrp"))
    np.testing.assert_allclose(whole.to_numpy(), [[2, 0]], rtol=1e-6)
