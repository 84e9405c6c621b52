"""Max pooling in proportion: against the formula, in both frameworks, and where it cannot be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whence
from support_nets import FRAMEWORKS, close, conv_twin, installed
from whence.errors import OptionError
from whence.rules import ProportionalPool

CASES = {
    "2": {"kernel_size": 2},
    "overlapping": {"kernel_size": 3, "stride": 2},
    "padded": {"kernel_size": 3, "stride": 2, "padding": 1},
    "gaps": {"kernel_size": 2, "stride": 1, "dilation": 2},
    "of two sizes": {"kernel_size": (2, 3), "stride": (1, 2)},
    "rounded up": {"kernel_size": 2, "stride": 2, "ceil_mode": True},
}


def pair(value):
    return (value, value) if isinstance(value, int) else value


def literal(x, R, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    """R_i = x_i R / sum of x over the window, window by window; one map."""
    k, d, p = pair(kernel_size), pair(dilation), pair(padding)
    s = pair(kernel_size if stride is None else stride)
    out = np.zeros_like(x)
    for at in itertools.product(*map(range, R.shape)):
        places = []
        for step in itertools.product(*map(range, k)):
            i = tuple(a * b - c + t * e for a, b, c, t, e in zip(at, s, p, step, d, strict=True))
            if all(0 <= v < n for v, n in zip(i, x.shape, strict=True)):
                places.append(i)
        total = sum(x[i] for i in places)
        for i in places:
            out[i] += x[i] / total * R[at] if total else 0.0
    return out


@pytest.mark.parametrize("name", CASES)
def test_against_the_formula(name):
    options = CASES[name]
    x = F.relu(torch.randn(2, 3, 5, 7, dtype=torch.double)) + 1e-3
    tape = whence.record(lambda t: F.max_pool2d(t, **options), x)
    node = next(n for n in tape if str(n.kind) == "maxpool")
    R = torch.randn(node.output.shape, dtype=torch.double)
    split = ProportionalPool()(node, R)
    for b, c in itertools.product(range(2), range(3)):
        theirs = literal(x[b, c].numpy(), R[b, c].numpy(), **options)
        close(split.parts[0][b, c].detach(), theirs, 1e-3)
    totals = split.absorbed(lambda a, b=None: (a if b is None else a * b).flatten(1).sum(1))
    left = R.flatten(1).sum(1) - split.parts[0].flatten(1).sum(1) - totals["epsilon"]
    assert left.abs().max() < 1e-9


def test_by_hand():
    """(3, 1), (-2, 4), (-1, -5): thirds and quarters of what is above zero; else the winner."""
    x = torch.tensor([[[3.0, 1.0, -2.0, 4.0, -1.0, -5.0]]], dtype=torch.double)
    net = nn.Sequential(nn.MaxPool1d(2), nn.Flatten())
    e = whence.explain(net, x, "lrp", pool="proportional", seed=np.array([[8.0, 6.0, 5.0]]))
    np.testing.assert_allclose(e.to_numpy(), [[[6, 2, 0, 6, 5, 0]]], rtol=1e-5)
    e = whence.explain(net, x, "lrp", seed=np.array([[8.0, 6.0, 5.0]]))
    np.testing.assert_allclose(e.to_numpy(), [[[8, 0, 0, 6, 5, 0]]], rtol=1e-5)


def test_frameworks_agree_and_the_books_close():
    found = []
    for name in FRAMEWORKS:
        twin = conv_twin(installed(name))
        x = twin.array(twin.x)
        e = whence.explain(twin.model, x, "lrp", pool="proportional", target=1)
        winner = whence.explain(twin.model, x, "lrp", target=1)
        assert (e.ledger.balance < 1e-5).all()
        assert np.abs(e.to_numpy() - winner.to_numpy()).max() > 0.01 * np.abs(e.to_numpy()).max()
        rows = {r.kind: r.rule for r in whence.plan(twin.model, x, pool="proportional")}
        assert rows["maxpool"] == "ProportionalPool()"
        found.append(twin.first(e.to_numpy()))
    close(found[1], found[0], 1e-4)


def test_other_selections_keep_their_winner():
    x = torch.randn(2, 3, 4, 4)
    for model in (lambda t: t.amax((2, 3)), lambda t: F.adaptive_max_pool2d(t, 1).flatten(1)):
        same = [whence.explain(model, x, "lrp", pool=p).to_numpy()
                for p in ("winner", "proportional")]  # fmt: skip
        np.testing.assert_array_equal(*same)


def test_another_word():
    with pytest.raises(OptionError, match='pool is "winner" or "proportional"; got \'all\''):
        whence.LRP(pool="all")
