"""Integrated gradients and its paths: hand-worked answers, twins, sums, refinement."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import whence
from reference import averaged as twin
from support_averaged import f, grad, torch_f
from whence.data import digits, digits_model
from whence.errors import OptionError, WhenceError
from whence.methods.averaged import IntegratedGradients
from whence.perturb.blur import blur_matrix
from whence.perturb.guided import advance
from whence.perturb.quadrature import RULES, quadrature

torch = pytest.importorskip("torch")
nn = torch.nn


def smooth_input(samples: int = 3) -> Any:
    rng = np.random.default_rng(3)
    return torch.tensor(rng.normal(size=(samples, 12)))


# ---- quadrature


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64])
def test_gauss_legendre_against_newtons_method(n: int) -> None:
    for found, wanted in zip(quadrature("gauss-legendre", n), twin.gauss_legendre(n), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-13)


def test_gauss_legendre_by_hand_and_its_degree() -> None:
    places, weights = quadrature("gauss-legendre", 2)
    np.testing.assert_allclose(places, [0.5 - 0.5 / np.sqrt(3), 0.5 + 0.5 / np.sqrt(3)])
    np.testing.assert_allclose(weights, [0.5, 0.5])
    assert weights @ places**3 == pytest.approx(1 / 4)
    assert weights @ places**4 != pytest.approx(1 / 5, abs=1e-3)


@pytest.mark.parametrize("rule", RULES)
def test_weights_add_up_to_one(rule: str) -> None:
    places, weights = quadrature(rule, 9)
    assert weights.sum() == pytest.approx(1) and (weights > 0).all()
    assert (places >= 0).all() and (places <= 1).all() and (np.diff(places) > 0).all()


# ---- answers worked out by hand


@pytest.mark.parametrize("steps", [1, 64])
def test_a_product(steps: int) -> None:
    """x0 x1 from (0, 0) to (3, 2): each integral of t x_j dt is half of 6."""
    e = IntegratedGradients(steps=steps)(lambda x: x[:, 0] * x[:, 1], torch.tensor([[3.0, 2.0]]))
    torch.testing.assert_close(e.attribution, torch.tensor([[3.0, 3.0]]))
    assert e.gap[0] < 1e-6 and e.output.tolist() == [6.0]


def test_a_linear_model_is_exact_with_one_step() -> None:
    w = torch.tensor([2.0, -1.0, 0.5])
    x, x0 = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0.5, 0.5, 0.5])
    e = IntegratedGradients(baseline=x0, steps=1)(lambda x: x @ w + 7, x)
    torch.testing.assert_close(e.attribution, w * (x - x0))
    assert e.gap[0] < 1e-6


def test_a_known_kink() -> None:
    """relu(x0 + x1 - 1) at (3, 1): the gradient is (1, 1) from t = 1/4 on."""
    e = IntegratedGradients(quadrature="middle", steps=8)(
        lambda x: torch.relu(x[:, 0] + x[:, 1] - 1), torch.tensor([[3.0, 1.0]])
    )
    torch.testing.assert_close(e.attribution, torch.tensor([[2.25, 0.75]]))
    # Three steps look at t = 1/6, 1/2, 5/6, of which two are beyond the kink.
    e = IntegratedGradients(quadrature="middle", steps=3)(
        lambda x: torch.relu(x[:, 0] + x[:, 1] - 1), torch.tensor([[3.0, 1.0]])
    )
    torch.testing.assert_close(e.attribution, torch.tensor([[2.0, 2 / 3]]))
    np.testing.assert_allclose(e.gap, [1 / 9], rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_twin(rule: str) -> None:
    x = smooth_input()
    x0 = np.linspace(-1, 1, 12)
    e = IntegratedGradients(baseline=x0, steps=6, quadrature=rule)(torch_f, x)
    for i in range(3):
        wanted = twin.integrated_gradients(grad, x[i].numpy(), x0, 6, rule)
        np.testing.assert_allclose(e.attribution[i], wanted, rtol=1e-9, atol=1e-12)


# ---- other paths


def test_idgi_twin() -> None:
    x = smooth_input()
    e = IntegratedGradients(steps=5, idgi=True)(torch_f, x)
    for i in range(3):
        path = [x[i].numpy() * k / 5 for k in range(6)]
        np.testing.assert_allclose(
            e.attribution[i], twin.idgi(f, grad, path), rtol=1e-9, atol=1e-12
        )
    assert e.gap.max() < 1e-12


def test_guided_twin() -> None:
    x = smooth_input()
    x0 = np.full(12, 0.3)
    e = IntegratedGradients(baseline=x0, steps=9, path="guided")(torch_f, x)
    both = IntegratedGradients(baseline=x0, steps=9, path="guided", idgi=True)(torch_f, x)
    for i in range(3):
        wanted, path = twin.guided(grad, x[i].numpy(), x0, 9)
        np.testing.assert_allclose(e.attribution[i], wanted, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(
            both.attribution[i], twin.idgi(f, grad, path), rtol=1e-6, atol=1e-9
        )


def test_guided_moves_small_gradients_first() -> None:
    """Half of the way in two steps: elements 0 and 2, whose gradients are smallest, go there."""
    x0, x = np.zeros((1, 4)), np.ones((1, 4))
    slope = np.array([[0.1, 5.0, -0.2, 9.0]])
    there = advance(x0, slope, x0, x, 0, 2, fraction=0.5, distance=1.0)
    np.testing.assert_allclose(there, [[1, 0, 1, 0]])
    # On a leash of a tenth, those two stop at 0.6 and the others follow at 0.4.
    there = advance(x0, slope, x0, x, 0, 2, fraction=0.5, distance=0.1)
    np.testing.assert_allclose(there, [[0.6, 0.4, 0.6, 0.4]])
    np.testing.assert_allclose(advance(there, slope, x0, x, 1, 2, 0.5, 0.1), x)


def test_blur_twin() -> None:
    x = smooth_input().reshape(3, 1, 4, 3)
    e = IntegratedGradients(path="blur", steps=5, blur=1.5)(torch_f, x)
    for i in range(3):
        picture = x[i, 0].numpy()
        wanted = twin.blur_gradients(grad, picture, 1.5, 5)
        np.testing.assert_allclose(e.attribution[i, 0], wanted, rtol=1e-8, atol=1e-10)
        change = f(picture) - f(twin.gaussian_blur(picture, 1.5))
        wanted_gap = abs(wanted.sum() - change) / abs(change)
        assert e.gap[i] == pytest.approx(wanted_gap, rel=1e-6)


def test_blur_keeps_what_is_even_and_the_sum() -> None:
    for sigma in (0.0, 0.3, 2.0, 30.0):
        matrix = blur_matrix(7, sigma)
        np.testing.assert_allclose(matrix.sum(1), 1)
        np.testing.assert_allclose(matrix.sum(0), 1)
    np.testing.assert_allclose(blur_matrix(7, 30.0), np.full((7, 7), 1 / 7), atol=1e-5)


def test_paths_of_sequences_and_tables() -> None:
    net = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(15, 2))
    e = IntegratedGradients(path="blur", steps=200)(net, torch.randn(2, 2, 7))
    assert e.gap.max() < 1e-3
    with pytest.raises(OptionError, match="needs places next to each other"):
        IntegratedGradients(path="blur")(torch_f, smooth_input())


# ---- sums: measured (refined: test_perturb_refine.py)


def test_a_smooth_net_adds_up_at_default_steps() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 20), nn.GELU(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 3))
    e = IntegratedGradients()(net, torch.randn(4, 6), target=1)
    assert e.gap.max() < 1e-4


def test_slopes() -> None:
    """The error falls as n^-1 or n^-2 for Riemann sums, and faster than any power for Gauss."""
    x = smooth_input(1)
    exact = twin.integrated_gradients(grad, x[0].numpy(), np.zeros(12), 80, "gauss-legendre")

    def error(rule: str, n: int) -> float:
        found = IntegratedGradients(steps=n, quadrature=rule)(torch_f, x).attribution[0].numpy()
        return float(np.abs(found - exact).sum())

    for rule, slope in (("left", -1), ("right", -1), ("middle", -2), ("trapezoid", -2)):
        measured = np.log(error(rule, 512) / error(rule, 128)) / np.log(4)
        assert measured == pytest.approx(slope, abs=0.1), rule
    assert error("gauss-legendre", 24) < 1e-8 < 1e-3 < error("gauss-legendre", 4)


def test_what_is_rounding_is_not_refined() -> None:
    """In half precision the scores themselves are off by more than the tolerance."""
    x = torch.tensor([[3.0, 1.0, -0.7]], dtype=torch.bfloat16)
    w = torch.tensor([1.1, -0.3, 2.3], dtype=torch.bfloat16)
    e = IntegratedGradients(baseline=1.0)(lambda x: x @ w + 100, x)
    assert 1e-3 < e.gap[0] and e.extras["steps"].tolist() == [64] and not e.notes


# ---- baselines


def test_a_set_of_baselines_is_the_mean() -> None:
    x = smooth_input()
    ends = ["zero", 1.0, np.linspace(0, 1, 12)]
    apart = [IntegratedGradients(baseline=b, steps=5)(torch_f, x) for b in ends]
    for path in ("straight", "guided"):
        apart = [IntegratedGradients(baseline=b, steps=5, path=path)(torch_f, x) for b in ends]
        e = IntegratedGradients(baseline=ends, steps=5, path=path)(torch_f, x)
        mean = sum(a.attribution for a in apart) / 3
        torch.testing.assert_close(e.attribution, mean)
    for idgi in (False, True):
        apart = [IntegratedGradients(baseline=b, steps=5, idgi=idgi)(torch_f, x) for b in ends]
        e = IntegratedGradients(baseline=ends, steps=5, idgi=idgi)(torch_f, x)
        torch.testing.assert_close(e.attribution, sum(a.attribution for a in apart) / 3)


def test_a_baseline_that_is_the_input() -> None:
    x = smooth_input(2)
    e = IntegratedGradients(baseline=x[0])(torch_f, x)
    assert e.attribution[0].abs().max() == 0 < e.attribution[1].abs().max()
    assert e.gap[0] == 0
    said = "the baseline equals the input for sample(s) 0: the attribution is zero because of it"
    assert said in e.notes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps is a whole number, 1 or more"),
        ({"steps": 2.5}, "steps is a whole number"),
        ({"steps": 1, "quadrature": "trapezoid"}, "2 or more for 'trapezoid'"),
        ({"quadrature": "simpson"}, "quadrature is one of 'gauss-legendre', 'trapezoid'"),
        ({"path": "curved"}, "path is one of 'straight', 'guided', 'blur'; got 'curved'"),
        ({"path": "guided", "quadrature": "left"}, 'quadrature is for path="straight"'),
        ({"tolerance": 0}, "tolerance is a number above 0"),
        ({"tolerance": -1.0}, "tolerance is a number above 0"),
        ({"tolerance": float("nan")}, "tolerance is a number above 0"),
    ],
)
def test_wrong_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        IntegratedGradients(**options)


def test_wrong_baselines_and_widths() -> None:
    x = smooth_input()
    with pytest.raises(OptionError, match=r"the baseline has shape \(3, 5\)"):
        IntegratedGradients(baseline=np.zeros((3, 5)))(torch_f, x)
    with pytest.raises(WhenceError, match="blakc"):
        IntegratedGradients(baseline="blakc")(torch_f, x)
    with pytest.raises(OptionError, match="blur is a width in elements, above 0; got -1"):
        IntegratedGradients(path="blur", blur=-1)(torch_f, x.reshape(3, 1, 4, 3))


# ---- places and targets


def test_at_a_layer_the_way_is_straight_there() -> None:
    """Behind the layer all is linear, so that one step gives w (h(x) - h(x0)) exactly."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x = torch.randn(2, 4)
    e = IntegratedGradients(steps=1, baseline=0.5)(net, x, target=2, at="1")
    hidden = [net[1](net[0](z)).detach() for z in (x, torch.full_like(x, 0.5))]
    torch.testing.assert_close(e.attribution, net[2].weight[2].detach() * (hidden[0] - hidden[1]))
    assert e.gap.max() < 1e-5 and e.layer == "1"


def test_a_neuron_and_a_difference_add_up() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), nn.Tanh())
    x = torch.randn(2, 4)
    for target in (whence.neuron("2", channel=1), whence.difference(0, 2), lambda y: y[:, 1] ** 2):
        e = IntegratedGradients()(net, x, target=target)
        assert e.gap.max() < 1e-4, target
    e = IntegratedGradients()(net, x, target=whence.neuron("2", channel=1), at="0")
    assert e.attribution.shape == (2, 6) and e.gap.max() < 1e-4


def test_tokens_are_led_from_a_token() -> None:
    torch.manual_seed(0)

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(9, 5), nn.Linear(5, 2, bias=False)

        def forward(self, ids: Any) -> Any:
            return self.out(self.table(ids).sum(1))

    net, ids = Reader(), torch.tensor([[1, 2, 3]])
    e = IntegratedGradients(baseline=4, steps=1)(net, ids, target=1)
    way = net.table(ids) - net.table(torch.tensor([[4, 4, 4]]))
    torch.testing.assert_close(e.attribution, (way * net.out.weight[1]).detach())
    assert e.axes == ("batch", "token", "feature") and e.heatmap().shape == (1, 3)
    # An array of the embeddings' own shape stands for itself.
    zero = IntegratedGradients(baseline=torch.zeros(3, 5), steps=1)(net, ids, target=1)
    torch.testing.assert_close(zero.attribution, (net.table(ids) * net.out.weight[1]).detach())
    assert zero.gap[0] < 1e-5


def test_several_inputs() -> None:
    x = {"a": torch.tensor([[3.0]]), "b": torch.tensor([[2.0]])}

    def model(a: Any, b: Any) -> Any:
        return (a * b)[:, 0]

    e = IntegratedGradients()(model, x)
    assert [round(float(v), 5) for v in e.attribution.values()] == [3, 3]
    e = IntegratedGradients(baseline={"a": 1.0})(model, x)
    assert [round(float(v), 5) for v in e.attribution.values()] == [4, 0]
    assert e.gap[0] < 1e-6


def test_a_mask_of_minus_infinity_stays() -> None:
    def model(x: Any, mask: Any) -> Any:
        return (torch.softmax(x + mask, 1) * x).sum(1)

    x = (torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 0.0, -torch.inf]]))
    e = IntegratedGradients()(model, x)
    assert torch.isfinite(e.attribution[0]).all() and e.attribution[0][0, 2] == 0
    assert e.gap[0] < 1e-5


# ---- the same numbers everywhere

CASES = [
    {}, {"idgi": True}, {"path": "guided"}, {"path": "blur"}, {"tolerance": 1e-2},
    {"baseline": ["zero", "noise"]},
]  # fmt: skip


@pytest.mark.parametrize("options", CASES, ids=str)
def test_chunks_batches_and_frameworks(options: dict[str, Any]) -> None:
    images = digits("test")[0][:4]
    model, x = digits_model("torch"), images[:, None]
    whole = IntegratedGradients(**options, steps=8)(model, x).attribution
    scale = np.abs(whole).max()
    few = IntegratedGradients(**options, steps=8, rows=3)(model, x).attribution
    np.testing.assert_allclose(few, whole, atol=2e-6 * scale)
    alone = IntegratedGradients(**options, steps=8)(model, x[2:3]).attribution
    np.testing.assert_allclose(alone[0], whole[2], atol=2e-6 * scale)
    pytest.importorskip("tensorflow")
    twin_model = digits_model("tensorflow")
    other = IntegratedGradients(**options, steps=8)(twin_model, images[..., None]).attribution
    np.testing.assert_allclose(other[..., 0], whole[:, 0], atol=1e-4 * scale)


def test_tensorflow_at_a_layer_and_inside() -> None:
    pytest.importorskip("tensorflow")
    images = digits("test")[0][:2]
    nets = digits_model("torch"), digits_model("tensorflow")
    for target, at in (
        (None, "conv2"), (whence.neuron("conv5", channel=3), "conv2"),
        (whence.neuron("conv4", channel=3), None),
    ):  # fmt: skip
        a, b = (
            IntegratedGradients(steps=4)(n, x, target=target, at=at)
            for n, x in zip(nets, (images[:, None], images[..., None]), strict=True)
        )
        moved = np.moveaxis(a.attribution, 1, -1)
        np.testing.assert_allclose(b.attribution, moved, atol=1e-4 * np.abs(moved).max())
        np.testing.assert_allclose(b.gap, a.gap, rtol=1e-2)
