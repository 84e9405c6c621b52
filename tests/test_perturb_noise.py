"""SmoothGrad and expected gradients: quadratics by hand, twins, slopes, independence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import whence
from reference import averaged as twin
from support_averaged import grad, job, torch_f
from whence.data import digits, digits_model
from whence.errors import OptionError
from whence.methods.averaged import ExpectedGradients, IntegratedGradients
from whence.methods.smoothed import SmoothGrad
from whence.perturb.engine import Engine
from whence.perturb.noise import noisy
from whence.perturb.seeds import Seeds

torch = pytest.importorskip("torch")
nn = torch.nn

Q = torch.tensor([[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 1.0]])


def quadratic(x: Any) -> Any:
    """Half of x Q x, whose gradient is Q x."""
    return ((x @ Q) * x).sum(1) / 2


def drawn(sample: int, n: int, shape: Any, seed: int = 0) -> list[np.ndarray]:
    seeds = Seeds(seed, None, sample + 1)
    return [seeds.generator(sample, d).standard_normal(shape, dtype=np.float32) for d in range(n)]


# ---- smoothgrad


def test_a_quadratic() -> None:
    """Noise that cancels leaves Q x; what does not cancel adds Q times its mean."""
    x = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.5, 1.5]])
    paired = SmoothGrad(n=10, antithetic=True)(quadratic, x)
    torch.testing.assert_close(paired.attribution, x @ Q)
    free = SmoothGrad(n=10, sigma=0.2)(quadratic, x).attribution
    for i, spread in enumerate((5.0, 1.0)):
        mean = torch.tensor(np.mean(drawn(i, 10, 3), axis=0))
        torch.testing.assert_close(free[i], (x[i] + 0.2 * spread * mean) @ Q)
    torch.testing.assert_close(SmoothGrad(sigma=0.0, n=3)(quadratic, x).attribution, x @ Q)


def test_the_variance_of_a_quadratic() -> None:
    """Var(Q e) is sigma^2 times the squared rows' sums, as n grows."""
    x = torch.tensor([[0.0, 1.0, 0.5]])
    e = SmoothGrad(n=4000, sigma=0.3, kind="variance")(quadratic, x)
    np.testing.assert_allclose(e.attribution[0], 0.09 * (Q**2).sum(0), rtol=0.1)
    assert not e.signed


@pytest.mark.parametrize("kind", ["mean", "squared", "variance"])
def test_twin(kind: str) -> None:
    x = torch.tensor(np.random.default_rng(3).normal(size=(3, 12)))
    e = SmoothGrad(n=7, sigma=0.1, kind=kind, seed=4)(torch_f, x)
    for i in range(3):
        noise = drawn(i, 7, 12, seed=4)
        wanted = twin.smoothgrad(grad, x[i].numpy(), noise, 0.1, kind)
        np.testing.assert_allclose(e.attribution[i], wanted, rtol=1e-9, atol=1e-12)


def test_the_error_falls_as_one_over_the_root() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 30), nn.Tanh(), nn.Linear(30, 1))
    x = torch.randn(1, 6)
    exact = SmoothGrad(n=60_000, antithetic=True, seed=99)(net, x).attribution

    def error(n: int) -> float:
        off = [SmoothGrad(n=n, seed=s)(net, x).attribution - exact for s in range(24)]
        return float(torch.stack(off).square().mean().sqrt())

    slope = np.log(error(256) / error(16)) / np.log(16)
    assert slope == pytest.approx(-0.5, abs=0.1)


@pytest.mark.parametrize(
    "method",
    ["gradient", "saliency", "gradient-x-input", "lrp", whence.SensitivityAnalysis(),
     IntegratedGradients(steps=4), IntegratedGradients],
    ids=str,
)  # fmt: skip
def test_around_any_method(method: Any) -> None:
    """The mean of what the method itself says about each noisy copy."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(2, 4)
    e = SmoothGrad(method=method, n=5, sigma=0.1)(net, x, target=1)
    spread = x.max(1).values - x.min(1).values
    inner = SmoothGrad(method=method).inner()
    for i in range(2):
        copies = torch.stack([x[i] + 0.1 * spread[i] * torch.tensor(z) for z in drawn(i, 5, 4)])
        wanted = inner(net, copies, target=1).attribution.mean(0)
        torch.testing.assert_close(e.attribution[i], wanted, atol=1e-6, rtol=1e-5)


def test_the_class_of_x_is_explained_for_every_copy() -> None:
    net = nn.Linear(2, 2, bias=False)
    net.weight.data = torch.eye(2)
    e = SmoothGrad(n=20, sigma=50.0, method="lrp")(net, torch.tensor([[2.0, 1.0]]))
    assert e.attribution[0, 1] == 0 and e.target.tolist() == [0]
    e = SmoothGrad(n=20, sigma=50.0)(net, torch.tensor([[2.0, 1.0]]))
    assert e.attribution.tolist() == [[1.0, 0.0]]


def test_read_at_a_layer_with_noise_on_the_input() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    x = torch.randn(1, 3)
    e = SmoothGrad(n=6)(net, x, target=1, at="0")
    copies = x + 0.15 * (x.max() - x.min()) * torch.tensor(np.stack(drawn(0, 6, 3)))
    wanted = whence.explain(net, copies, "gradient", target=1, at="0").attribution.mean(0)
    torch.testing.assert_close(e.attribution[0], wanted)


def test_tokens_get_noise_on_their_embeddings() -> None:
    torch.manual_seed(0)

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, ids: Any) -> Any:
            return self.out(torch.tanh(self.table(ids)).sum(1))

    net, ids = Reader(), torch.tensor([[1, 2, 3]])
    e = SmoothGrad(n=3)(net, ids, target=1)
    held = net.table(ids).detach()
    # Drawn feature by feature, as maps are channel by channel.
    noise = np.stack([z.T for z in drawn(0, 3, (4, 3))])
    z = (held + 0.15 * (held.max() - held.min()) * torch.tensor(noise)).requires_grad_()
    y = net.out(torch.tanh(z).sum(1))[:, 1]
    torch.testing.assert_close(e.attribution[0], torch.autograd.grad(y.sum(), z)[0].mean(0))
    assert SmoothGrad(n=2, method="lrp")(net, ids).attribution.shape == (1, 3, 4)


def test_channels_first_and_last_get_the_same_noise() -> None:
    tf = pytest.importorskip("tensorflow")
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    first, last = [], []
    a = Engine(job(lambda z: first.append(z) or z.sum((1, 2, 3)), torch.tensor(x)), rows=10)
    a.forward(noisy(a, 2, 0.5))

    def model(z: Any) -> Any:
        return tf.reduce_sum(z * np.arange(60).reshape(4, 5, 3), (1, 2, 3))

    moved = np.moveaxis(x, 1, -1)
    b = Engine(job(model, tf.constant(moved)), rows=10)
    last = b.forward(noisy(b, 2, 0.5))
    weights = torch.tensor(np.moveaxis(np.arange(60).reshape(4, 5, 3), -1, 0))
    np.testing.assert_allclose(last.reshape(-1), (first[-1] * weights).sum((1, 2, 3)), rtol=1e-4)


def test_a_flat_sample_says_so() -> None:
    e = SmoothGrad(n=2)(quadratic, torch.ones(1, 3))
    assert any("the same number everywhere: no noise" in n for n in e.notes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sigma": -0.1}, "sigma is the noise in parts of the input's range, 0 or more; got -0.1"),
        ({"sigma": float("nan")}, "sigma is the noise"),
        ({"n": 0}, "n is a whole number of draws, 1 or more; got 0"),
        ({"n": 2.5}, "n is a whole number"),
        ({"n": 1, "kind": "variance"}, "2 or more; got 1"),
        ({"n": 5, "antithetic": True}, "n must be even; got 5"),
        ({"kind": "median"}, "kind is one of 'mean', 'squared', 'variance'; got 'median'"),
        ({"method": "magic"}, "goes around 'gradient'"),
    ],
)
def test_wrong_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        SmoothGrad(**options)


# ---- expected gradients


def test_expected_gradients_of_a_quadratic() -> None:
    """With one reference, (x - x') Q times x' + mean(t) (x - x')."""
    x, other = torch.tensor([[1.0, -2.0, 3.0]]), torch.tensor([[0.5, 0.0, 1.0]])
    e = ExpectedGradients(background=other, n=11)(quadratic, x)
    t = np.mean([Seeds(0, None, 1).generator(0, d).random(2)[1] for d in range(11)])
    torch.testing.assert_close(e.attribution, (x - other) * ((other + float(t) * (x - other)) @ Q))


def test_expected_gradients_twin_and_limit() -> None:
    rng = np.random.default_rng(3)
    x, background = torch.tensor(rng.normal(size=(2, 12))), rng.normal(size=(3, 12))
    e = ExpectedGradients(background=background, n=9)(torch_f, x)
    for i in range(2):
        draws = [Seeds(0, None, 2).generator(i, d).random(2) for d in range(9)]
        wanted = twin.expected_gradients(grad, x[i].numpy(), list(background), draws)
        np.testing.assert_allclose(e.attribution[i], wanted, rtol=1e-6, atol=1e-9)
    many = ExpectedGradients(background=background, n=20_000)(torch_f, x)
    exact = IntegratedGradients(baseline=list(background))(torch_f, x)
    scale = exact.attribution.abs().max()
    assert (many.attribution - exact.attribution).abs().max() < 0.05 * scale
    assert many.gap.max() < 0.1


def test_expected_gradients_slope() -> None:
    rng = np.random.default_rng(3)
    x, background = torch.tensor(rng.normal(size=(1, 12))), rng.normal(size=(3, 12))
    exact = IntegratedGradients(baseline=list(background))(torch_f, x).attribution

    def error(n: int) -> float:
        off = [ExpectedGradients(background=background, n=n, seed=s)(torch_f, x).attribution - exact
               for s in range(24)]  # fmt: skip
        return float(torch.stack(off).square().mean().sqrt())

    assert np.log(error(512) / error(32)) / np.log(16) == pytest.approx(-0.5, abs=0.1)


def test_backgrounds_that_do_not_fit() -> None:
    x = torch.ones(2, 3)
    for background, said in (
        (np.ones((4, 5)), r"shape \(4, 5\); references of the input's kind are wanted"),
        (np.ones(3), "references of the input's kind"),
        (np.full((2, 3), np.nan), "NaN or infinity"),
        ({"pixels": np.ones((2, 3))}, "no input named 'pixels'"),
        ((np.ones((2, 3)), np.ones((2, 3))), "a background for each of the inputs"),
    ):
        with pytest.raises(whence.WhenceError, match=said):
            ExpectedGradients(background=background)(quadratic, x)


def test_expected_gradients_of_tokens() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(9, 4)

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = table, nn.Linear(4, 2, bias=False)

        def forward(self, ids: Any) -> Any:
            return self.out(self.table(ids).sum(1))

    net, ids = Reader(), torch.tensor([[1, 2, 3], [3, 2, 1]])
    e = ExpectedGradients(background=torch.tensor([[5, 6, 7]]), n=2)(net, ids, target=0)
    way = table(ids) - table(torch.tensor([[5, 6, 7]]))
    torch.testing.assert_close(e.attribution, (way * net.out.weight[0]).detach())
    assert e.gap.max() < 1e-5


# ---- the same numbers everywhere

CASES: list[tuple[Any, dict[str, Any]]] = [
    (SmoothGrad, {"n": 6}),
    (SmoothGrad, {"n": 6, "kind": "squared", "antithetic": True}),
    (SmoothGrad, {"n": 6, "kind": "variance"}),
    (SmoothGrad, {"n": 6, "method": "lrp"}),
    (SmoothGrad, {"n": 3, "method": IntegratedGradients(steps=4)}),
    (ExpectedGradients, {"n": 6, "background": 3}),
]


@pytest.mark.parametrize(("make", "options"), CASES, ids=str)
def test_chunks_batches_and_frameworks(make: Any, options: dict[str, Any]) -> None:
    images, rest = digits("test")[0][:4], digits("test")[0][4:7]

    def run(model: Any, shape: Any, x: np.ndarray, **more: Any) -> np.ndarray:
        given = dict(options)
        if "background" in given:
            given["background"] = rest.reshape(-1, *shape)
        return make(**given, **more)(model, x.reshape(-1, *shape)).attribution.reshape(-1, 8, 8)

    model = digits_model("torch")
    whole = run(model, (1, 8, 8), images)
    scale = np.abs(whole).max()
    few = run(model, (1, 8, 8), images, rows=5)
    np.testing.assert_allclose(few, whole, atol=2e-6 * scale)
    alone = run(model, (1, 8, 8), images[:1])
    np.testing.assert_allclose(alone[0], whole[0], atol=2e-6 * scale)
    if "background" not in options:
        other = run(model, (1, 8, 8), images, seed=1)
        assert np.abs(other - whole).max() > 1e-2 * scale
    pytest.importorskip("tensorflow")
    keras = run(digits_model("tensorflow"), (8, 8, 1), images)
    np.testing.assert_allclose(keras, whole, atol=1e-4 * scale)


def test_printing_gives_the_call() -> None:
    assert repr(SmoothGrad(n=4, kind="squared")) == "whence.SmoothGrad(n=4, kind='squared')"
    assert SmoothGrad(n=4).options["sigma"] == 0.15
    assert repr(IntegratedGradients(path="blur")) == "whence.IntegratedGradients(path='blur')"
