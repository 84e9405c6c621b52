"""What the methods that call the model often promise together: costs, ids, baselines, defaults."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import pytest

import whence
from support_nets import FORWARD_ONLY, close, small
from whence.errors import OptionError

torch = pytest.importorskip("torch")
nn = torch.nn

ROWS = {row.name: row for row in whence.methods()}
SEEDED = [n for n, row in ROWS.items() if "seed" in row.make.__dataclass_fields__ and n != "lrp"]


class Counting(nn.Module):
    """A linear model that counts the rows it is called with."""

    def __init__(self, features: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out, self.rows = nn.Linear(features, 3), 0

    def forward(self, x: Any) -> Any:
        self.rows += len(x)
        return self.out(x.flatten(1))


@pytest.mark.parametrize(
    "method", [*FORWARD_ONLY, "integrated-gradients", "expected-gradients", "smoothgrad"]
)
def test_the_catalogues_cost_is_what_is_called(method: str) -> None:
    """At the default options, on an image; besides come f at x and at each baseline."""
    net = Counting(3 * 32 * 32)
    e = whence.explain(net, torch.rand(1, 3, 32, 32), method, target=1)
    assert 0 <= net.rows - int(ROWS[method].cost.split()[0]) <= 5
    assert np.isfinite(e.to_numpy()).all()
    assert ROWS[method].unit == ("forward calls" if method in FORWARD_ONLY else "gradients")


# ---- ids


@pytest.mark.parametrize("method", SEEDED)
def test_a_sample_gets_the_draws_of_its_id(method: str) -> None:
    net = nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 2))
    x = torch.randn(3, 7)
    whole = whence.explain(net, x, method, target=1, sample_ids=["a", 5, "c"], **small(method))
    one = whence.explain(net, x[1:2], method, target=1, sample_ids=[5], **small(method))
    close(one.attribution, whole.attribution[1:2], 1e-5)
    other = whence.explain(net, x[1:2], method, target=1, sample_ids=["b"], **small(method))
    assert (other.attribution - one.attribution).abs().max() > 1e-5 * one.attribution.abs().max()


def test_ids_that_are_none() -> None:
    net, x = nn.Linear(2, 2), torch.rand(2, 2)
    for ids, said in (([1], "1 sample_ids were given for 2 samples"),
                      ([0, 1.5], "a sample id is a whole number, 0 or more, or a string; got 1.5"),
                      ([0, -1], "got -1"), ([0, True], "got True")):  # fmt: skip
        for method in ("gradient", "rise"):
            with pytest.raises(OptionError, match=re.escape(said)):
                whence.explain(net, x, method, sample_ids=ids)


# ---- what needs no gradient


class Counts(nn.Module):
    def forward(self, x: Any) -> Any:
        return (x > 0).long().float()


# Sobol fades what it varies, and half of a positive number is positive still.
@pytest.mark.parametrize("method", [m for m in FORWARD_ONLY if m != "sobol"])
def test_a_model_without_a_gradient_is_explained(method: str) -> None:
    x = torch.tensor([[1.0, -1.0, 2.0], [3.0, 1.0, -0.5]])
    found = whence.explain(Counts(), x, method, target=0, **small(method)).to_numpy()
    assert (found.argmax(1) == 0).all() and (found[:, 0] > 0).all()
    constant = whence.explain(lambda x: 0 * x, x, method, target=0, **small(method))
    assert not constant.to_numpy().any()
    assert any(n.startswith("the attribution is zero everywhere") for n in constant.notes)


# ---- what a baseline means


class Reader(nn.Module):
    """Linear in its tokens' embeddings, which are looked up in one table."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.inner = nn.Embedding(9, 4), nn.Linear(4, 5)
        self.out = nn.Linear(5, 2, bias=False)

    def forward(self, ids: Any) -> Any:
        return self.out(self.inner(self.table(ids)).sum(1))


LINEAR = [whence.IntegratedGradients(steps=1), whence.ExactShapley(), whence.KernelSHAP(20),
          whence.ShapleySampling(2), whence.Occlusion(), whence.LIME(60, alpha=0.0)]  # fmt: skip


def with_baseline(method: Any, baseline: Any) -> Any:
    from dataclasses import replace

    name = "fill" if isinstance(method, whence.Occlusion) else "baseline"
    return replace(method, **{name: baseline})


def by_token(e: Any, method: Any) -> Any:
    """One number a token: elements of a group share its value, or each bears the whole."""
    whole = isinstance(method, (whence.Occlusion, whence.LIME))
    return e.attribution.mean(2) if whole else e.attribution.sum(2)


@pytest.mark.parametrize("method", LINEAR, ids=lambda m: m.name)
def test_floats_are_embeddings_and_whole_numbers_are_tokens(method: Any) -> None:
    net, ids = Reader(), torch.tensor([[1, 2, 3], [4, 4, 8]])
    weight = (net.out.weight[1] @ net.inner.weight).detach()
    vectors = net.table(ids).detach()
    half = torch.full((3, 4), 0.5)
    for given, start in ((0.0, 0.0), (0.5, 0.5), (0, net.table.weight[0]), ("zero", 0.0),
                         (7, net.table.weight[7]), (half, 0.5), (half.numpy(), 0.5),
                         (torch.tensor([7, 7, 7]), net.table.weight[7]),
                         ("mean", vectors.mean(1, keepdim=True))):  # fmt: skip
        e = with_baseline(method, given)(net, ids, target=1)
        wanted = ((vectors - start) * weight).sum(2).detach()
        torch.testing.assert_close(by_token(e, method), wanted, atol=1e-4, rtol=1e-4)
    default = method(net, ids, target=1)
    close(default.attribution, with_baseline(method, 0.0)(net, ids, target=1).attribution, 1e-6)


def test_a_background_of_embeddings() -> None:
    net, ids = Reader(), torch.tensor([[1, 2, 3]])
    tokens = torch.tensor([[5, 6, 7]])
    found = [whence.ExpectedGradients(b, n=2)(net, ids, target=0).attribution
             for b in (tokens, net.table(tokens).detach())]  # fmt: skip
    torch.testing.assert_close(*found)
    e = whence.ExpectedGradients(n=3)(net, ids, target=0)
    assert "no background was given; compared with zero, the mean and a blur of x" in e.notes


@pytest.mark.parametrize("method", LINEAR, ids=lambda m: m.name)
def test_at_a_layer_a_baseline_is_still_an_input(method: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x = torch.randn(2, 4)
    weight, hidden = net[2].weight[2].detach(), net[:2](x).detach()
    for given, start in ((0.5, net[:2](torch.full((1, 4), 0.5))), (0.0, net[:2](torch.zeros(1, 4))),
                         (torch.full((6,), 0.25), 0.25)):  # fmt: skip
        if isinstance(method, whence.Occlusion):
            start = given  # a fill covers what is there: the layer's numbers
        e = with_baseline(method, given)(net, x, target=2, at="1")
        wanted = (weight * (hidden - start)).detach()
        torch.testing.assert_close(e.attribution, wanted, atol=1e-4, rtol=1e-4)


def test_at_a_layer_behind_tokens() -> None:
    net, ids = Reader(), torch.tensor([[1, 2, 3]])
    inner = net.inner(net.table(ids)).detach()
    for given, start in ((0.0, 0.0), (0, net.inner(net.table.weight[0]))):
        for method in (
            whence.IntegratedGradients(given, steps=1),
            whence.ExactShapley(None, given),
        ):
            e = with_baseline(method, given)(net, ids, target=0, at="inner")
            wanted = ((inner - start) * net.out.weight[0]).sum(2).detach()
            torch.testing.assert_close(e.attribution.sum(2), wanted, atol=1e-5, rtol=1e-4)


class Twice(nn.Module):
    """Two inputs, looked up in one table."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.out = nn.Embedding(9, 4), nn.Linear(4, 2, bias=False)

    def forward(self, a: Any, b: Any) -> Any:
        return self.out((2 * self.table(a) - self.table(b)).sum(1))


@pytest.mark.parametrize("method", ["gradient", "lrp", "integrated-gradients", "occlusion"])
def test_each_look_up_in_a_table_has_its_own_name(method: str) -> None:
    net = Twice()
    ids = (torch.tensor([[1, 2]]), torch.tensor([[3, 4]]))
    e = whence.explain(net, ids, method, target=0, **small(method))
    assert set(e.attribution) == {"table#1", "table#2"}
    if method == "gradient":
        for name, factor in (("table#1", 2), ("table#2", -1)):
            wanted = factor * net.out.weight[0].expand(1, 2, 4)
            torch.testing.assert_close(e.attribution[name], wanted.detach())


# ---- defaults


def test_few_groups_of_large_inputs() -> None:
    for shape, groups in (((1, 2, 20, 30), 9), ((1, 1, 6, 6, 6), 8)):
        net = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 1))
        e = whence.explain(net, torch.rand(shape), "exact-shapley")
        assert e.extras["groups"].shape == (1, groups)
        np.testing.assert_allclose(e.attribution.sum(), e.output - e.extras["reference_output"],
                                   rtol=1e-4)  # fmt: skip
    with pytest.raises(OptionError, match="20 groups would take"):
        whence.explain(nn.Flatten(), torch.rand(1, 20, 1), "exact-shapley")


def test_lime_without_superpixels(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 1))
    tiny = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 1))
    e = whence.explain(tiny, torch.rand(1, 3, 8, 8), "lime", n=80)
    said = "64 pixels are too few for 50 superpixels: a grid of squares is varied instead"
    assert any(n.startswith(said) for n in e.notes) and e.extras["groups"].shape == (1, 64)
    x = torch.rand(1, 3, 24, 24)
    pytest.importorskip("skimage")
    assert not whence.explain(net, x, "lime", n=80).notes
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    e = whence.explain(net, x, "lime", n=80)
    assert any(n.startswith("scikit-image is not installed: a grid of") for n in e.notes)
