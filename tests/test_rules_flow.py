"""Rectifiers, selections and moves of data against their twins, and small networks by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whence
from reference import flow as twin
from support_nets import applied, close, nodes_of
from whence.rules.flow import passed, proportional, transported
from whence.rules.gradient import GRADIENT, gradient
from whence.rules.rectified import DECONVOLUTION, GUIDED, deconvolution, guided

RECTIFIERS = {
    "relu": (torch.relu, {}),
    "leaky": (lambda x: F.leaky_relu(x, 0.2), {"slope": 0.2}),
    "relu6": (F.relu6, {"cap": 6.0}),
    "clamp": (lambda x: x.clamp(0, 2), {"cap": 2.0}),
    "hardtanh": (lambda x: F.hardtanh(x, 0.0, 3.0), {"cap": 3.0}),
    "prelu": (lambda x: F.prelu(x, torch.tensor([0.3], dtype=torch.float64)), {"slope": 0.3}),
    "maximum": (lambda x: torch.maximum(x, torch.zeros(())), {}),
}


def sample(batch=2):
    """Numbers of both signs, zeros among them, some above every cap."""
    x = torch.randn(batch, 5, 8, dtype=torch.float64) * 3
    x[0, 0, 0], x[-1, 2, 3], x[0, 1, 1] = 0.0, 0.0, 8.0
    return x, torch.randn(batch, 5, 8, dtype=torch.float64)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", RECTIFIERS)
def test_rectifiers(name, batch):
    op, options = RECTIFIERS[name]
    x, signal = sample(batch)
    with nodes_of(op, x, "relu") as nodes, torch.no_grad():
        (node,) = nodes
        found = {
            r: applied(r, node, signal, batch)[0][0] for r in (gradient, deconvolution, guided)
        }
        (kept,), _ = applied(passed, node, signal, batch)
        forward = node.output.detach().numpy()
    at, back = x.numpy(), signal.numpy()
    close(forward, twin.relu(at, **options), 1e-12)
    smooth = at != 0  # at 0 itself the frameworks choose a slope; relevance does not depend on it
    for rule, theirs in (
        (gradient, twin.relu_gradient(at, back, **options)),
        (guided, twin.relu_guided(at, back, **options)),
    ):
        close(np.where(smooth, found[rule], 0), np.where(smooth, theirs, 0), 1e-12)
    close(found[deconvolution], twin.relu_deconvolution(at, back), 1e-12)
    close(kept, back, 1e-15)


def test_the_tables_differ_at_rectifiers_only():
    for table, rule in ((DECONVOLUTION, deconvolution), (GUIDED, guided)):
        assert {k for k in table if table[k] is not GRADIENT[k]} == {whence.Op.RELU}
        assert table[whence.Op.RELU] is rule


def test_deconvolution_and_guided_by_hand():
    # One unit a = relu(x1 - x2), one b = relu(x2 - 3 x1), f = a - b at x = (2, 1): a = 1, b = 0.
    # The signal that comes back is (+1, -1); b is off.
    #   gradient:       a's +1 passes, b is off        -> (1, -1)
    #   deconvolution:  max(+1, 0) to a, max(-1, 0) = 0 to b -> (1, -1)
    # With f = b - a: the signal is (-1 to a, +1 to b).
    #   gradient:       (-1, 1);  guided: nothing passes, since a's signal is negative and b is off
    #   deconvolution:  0 to a, +1 to b whether it is on or off -> (-3, 1)
    first = nn.Linear(2, 2, bias=False)
    last = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, -1.0], [-3.0, 1.0]]))
        last.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    net, x = nn.Sequential(first, nn.ReLU(), last), torch.tensor([[2.0, 1.0]])
    expected = {
        (0, "gradient"): [1, -1], (0, "deconvolution"): [1, -1],
        (0, "guided-backpropagation"): [1, -1], (1, "gradient"): [-1, 1],
        (1, "deconvolution"): [-3, 1], (1, "guided-backpropagation"): [0, 0],
    }  # fmt: skip
    for (target, method), numbers in expected.items():
        e = whence.explain(net, x, method, target=target)
        np.testing.assert_array_equal(e.attribution.numpy(), [numbers])


def test_maximum_takes_all():
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    x[0, 0] = -1.0
    x[0, 0, 1, 1] = -0.5  # negative winners win too
    with nodes_of(lambda t: F.max_pool2d(t, (2, 3), (2, 1)), x, "maxpool") as nodes:
        relevance = torch.randn(nodes[0].output.shape, dtype=torch.float64)
        (got,), _ = applied(transported, nodes[0], relevance, 2)
        values = nodes[0].output.detach().numpy()
    for i in range(2):
        theirs, source = twin.maxpool(x[i].numpy(), (2, 3), (2, 1))
        close(values[i], theirs, 1e-15)
        shape, back = tuple(x.shape[1:]), relevance[i].numpy()
        # In the plane of equal numbers either of them may win: compare what arrives in total.
        close(got[i].sum((1, 2)), back.sum((1, 2)), 1e-12)
        theirs = twin.winner_takes_all(shape, source, back)
        close(got[i, 1:], theirs[1:], 1e-12)


def test_minimum_by_two_rectifiers_by_hand():
    # min(a, b) = a - relu(a - b); at (5, 3): relu(2) = 2, f = 3. LRP: ADD shares 3 in proportion
    # 5 : -2 -> R_a = 5, R_relu = -2; the difference a - b = 2 shares -2 as 5 : -3 -> (-5, 3).
    # In all a gets 5 - 5 = 0 and b, which is the minimum, gets 3.
    def minimum(x):
        a, b = x[:, 0], x[:, 1]
        return a - torch.relu(a - b)

    e = whence.explain(minimum, torch.tensor([[5.0, 3.0]]), whence.LRP("epsilon", eps=0))
    np.testing.assert_allclose(e.attribution.numpy(), [[0.0, 3.0]], atol=1e-6)


def test_and_by_hand():
    # and(a, b) = relu(a + b - 1) at (1, 1): z = 2 - 1 = 1. The bias -1 takes -1/1 * 1 = -1 and each
    # input 1/1 * 1 = 1: together 1 + 1 - 1 = 1.
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.fill_(-1.0)
    net = nn.Sequential(layer, nn.ReLU())
    e = whence.explain(net, torch.tensor([[1.0, 1.0]]), whence.LRP("epsilon", eps=0))
    np.testing.assert_allclose(e.attribution.numpy(), [[1.0, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(e.ledger.absorbed()["bias"], [-1.0], rtol=1e-6)


MOVES = {
    "transpose": lambda x: x.transpose(1, 2),
    "slice": lambda x: x[:, 1:, ::2],
    "pad": lambda x: F.pad(x, (1, 2), value=7.0),
    "gather": lambda x: x[:, [2, 0, 0]],
    "flip": lambda x: x.flip(1),
    "repeat": lambda x: x.repeat(1, 1, 2),
    "cat with a constant": lambda x: torch.cat([x, torch.ones(2, 1, 4, dtype=x.dtype)], 1),
    "stack": lambda x: torch.stack([x, x], 1),
    "where": lambda x: torch.where(torch.arange(4) > 1, x, 0.5),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_carry_relevance_to_where_the_numbers_came_from(name):
    """Number the elements, move them, and send each result's relevance back to its number."""
    x = torch.arange(24, dtype=torch.float64).reshape(2, 3, 4) + 1000
    with nodes_of(MOVES[name], x, "shape") as nodes, torch.no_grad():
        node = nodes[-1]
        moved = node.output
        relevance = torch.randn(moved.shape, dtype=torch.float64)
        parts, books = applied(transported, node, relevance, 2)
    got = sum(parts) if len(parts) > 1 else parts[0]
    theirs = np.zeros(24)
    lost = np.zeros(2)
    for place in np.ndindex(tuple(moved.shape)):
        number = moved[place].item()
        if number >= 1000:
            theirs[int(number) - 1000] += relevance[place].item()
        else:
            lost[place[0]] += relevance[place].item()
    close(got.reshape(-1), theirs, 1e-12)
    if lost.any():
        close(books["constant"], lost, 1e-12)


def test_unknown_ops_by_the_users_choice():
    """X J^T (R / s(z)): for the cumulative product z = (a, ab), J = ((1, 0), (b, a))."""
    x = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    with nodes_of(lambda t: torch.cumprod(t, 1), x, "opaque") as nodes, torch.no_grad():
        relevance = torch.tensor([[1.0, 12.0]], dtype=torch.float64)
        (got,), _ = applied(proportional, nodes[0], relevance, 1)
    # R / z = (1/2, 12/6 = 2); a: 2 (1/2 + 3 * 2) = 13, b: 3 (2 * 2) = 12.
    np.testing.assert_allclose(got, [[13.0, 12.0]], rtol=1e-5)
