"""What may be explained and what may not, asked of the checks themselves."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

import whence
from whence import checks, frameworks
from whence.errors import InputError, NotFinite, TargetError

INF = float("inf")


def check(model, x):
    framework = frameworks.find(model, x)
    checks.check_inputs(framework, model, frameworks.gather(framework, model, x))


def conv():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())


def test_what_suits_is_let_pass():
    check(conv(), torch.rand(2, 3, 8, 8))
    check(conv(), np.random.rand(2, 3, 8, 8))
    check(nn.Linear(3, 2), torch.rand(2, 3))
    check(nn.Linear(3, 2), torch.rand(2, 5, 3))
    check(nn.Embedding(9, 2), torch.tensor([[1, 2, 8]]))


def test_a_first_layer_that_runs_later_is_only_a_hint():
    """Layers are listed as they were made: a model that made its head first is no error."""

    class HeadFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(6, 2, 1)
            self.stem = nn.Conv2d(3, 6, 3)

        def forward(self, x):
            return self.head(self.stem(x)).mean((2, 3))

    class Unsqueezes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x):
            return self.conv(x[:, None]).mean((2, 3))

    for net, x in ((HeadFirst(), torch.rand(2, 3, 5, 5)), (Unsqueezes(), torch.rand(2, 5, 5))):
        check(net, x)
        assert whence.explain(net, x, "lrp").attribution.shape == x.shape


def test_a_fully_convolutional_model_wants_its_batch_axis_too():
    # PyTorch's convolutions take one sample without a batch axis; the rows of its answer are then
    # no samples.
    with pytest.raises(InputError, match="without a batch axis: the model's first layer wants 4"):
        check(nn.Conv2d(3, 4, 3), torch.rand(3, 8, 8))
    with pytest.raises(InputError, match=re.escape("shape (3,), without a batch axis")):
        check(nn.Linear(3, 2), torch.rand(3))


def test_finite_is_asked_of_floats_only():
    framework = frameworks.find(conv())
    checks.check_finite(framework, torch.tensor([1, 2]), "x")
    checks.check_finite(framework, torch.tensor([1.0, 2.0]), "x")
    bad = torch.ones(2, 3)
    bad[1, 2], bad[0, 1] = INF, float("nan")
    text = "x has 2 value(s) that are not finite, the first (nan) at (0, 1); remove or replace"
    with pytest.raises(NotFinite, match=re.escape(text)):
        checks.check_finite(framework, bad, "x")


def test_large_numbers_are_finite():
    framework = frameworks.find(conv())
    checks.check_finite(framework, torch.full((3, 100), 3e38), "x")
    checks.check_finite(framework, torch.full((3, 100), 65504.0).half(), "x")


class Masked(nn.Module):
    def forward(self, x, mask):
        return ((x @ x.transpose(1, 2) + mask).softmax(-1) @ x).mean(1)


def test_minus_infinity_is_a_mask_beside_other_input():
    x, mask = torch.rand(2, 3, 4), torch.zeros(2, 3, 3)
    mask[:, :, 2] = -INF
    check(Masked(), (x, mask))
    for method in ("gradient", "gradient-x-input", "lrp", "saliency"):
        e = whence.explain(Masked(), (x, mask), method, target=0)
        first, second = e.attribution
        assert torch.isfinite(first).all()
        assert torch.isfinite(second).all()
        assert first.abs().max() > 0
    assert (whence.explain(Masked(), (x, mask), "lrp", target=0).ledger.balance < 1e-5).all()
    for wrong in (INF, float("nan")):
        mask[0, 0, 0] = wrong
        with pytest.raises(NotFinite, match="input 'input1' has"):
            check(Masked(), (x, mask))
    mask[0, 0, 0] = 0.5  # an array with positive numbers is no mask
    with pytest.raises(NotFinite, match="input 'input1' has"):
        check(Masked(), (x, mask))


def test_minus_infinity_alone_is_none():
    with pytest.raises(NotFinite, match=re.escape("the input has 1 value(s) that are not finite")):
        check(nn.Linear(2, 2), torch.tensor([[0.0, -INF]]))


@pytest.mark.parametrize("shift", [1e9, INF])
def test_where_it_first_stops_being_finite(shift):
    """NaN, and minus infinity where it was not filled in as a mask."""

    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine, self.log, self.last = nn.Linear(2, 2), Log(), nn.Linear(2, 2)

        def forward(self, x):
            return self.last(self.log(self.fine(x)))

    class Log(nn.Module):
        def forward(self, x):
            return torch.log(x - shift) if shift < INF else torch.log(x.clamp(0, 0))

    net, x = Breaks(), torch.rand(1, 2)
    framework = frameworks.find(net)
    tape = framework.record(net, frameworks.gather(framework, net, x))
    found = checks.first_not_finite(framework, tape)
    assert found == "activation.log at layer log, node 3 of the tape"
    tape.free()
    tape = framework.record(net.fine, frameworks.gather(framework, net.fine, x))
    assert checks.first_not_finite(framework, tape) == ""
    tape.free()


def test_the_batch_is_the_first_axis():
    checks.check_batch((3, 2), 3, "it")
    text = "it has shape (2, 3) for 3 sample(s): its first axis is not the batch"
    with pytest.raises(TargetError, match=re.escape(text)):
        checks.check_batch((2, 3), 3, "it")
    with pytest.raises(TargetError, match=re.escape("it has shape () for 3")):
        checks.check_batch((), 3, "it")


def test_nothing_crosses_to_the_host_but_one_number(monkeypatch):
    """A clean input is judged on its device: the array itself is not copied."""
    framework = frameworks.find(conv())
    sizes = []
    real = type(framework.xp).to_numpy

    def counting(self, array):
        sizes.append(array.numel())
        return real(self, array)

    monkeypatch.setattr(type(framework.xp), "to_numpy", counting)
    checks.check_finite(framework, torch.rand(4, 3, 8, 8), "x")
    assert sizes == [1]
