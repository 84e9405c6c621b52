"""Integrated gradients up to a tolerance: more looks where the sum is off, and only there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import whence
from reference import averaged as twin
from support_averaged import job, kinked, kinked_grad, torch_kinked
from whence.data import digits, digits_model
from whence.methods.averaged import IntegratedGradients
from whence.perturb.chunks import Chunk
from whence.perturb.engine import Engine, Interrupted, Plan
from whence.perturb.quadrature import RULES, quadrature
from whence.perturb.refine import Looks, chosen

torch = pytest.importorskip("torch")


def looks_at(f: Any, slope: Any, t: Any, edges: Any) -> Looks:
    t, edges = np.asarray(t, float), np.asarray(edges, float)
    weight = np.diff(edges)
    return Looks(t, edges, np.array([f(v) for v in t]), np.array([slope(v) for v in t]), weight,
                 f(0.0), f(1.0))  # fmt: skip


def kink(t: float) -> float:
    return max(t - 0.4, 0.0)


def step(t: float) -> float:
    return float(t > 0.4)


# ---- the parts between looks


def test_the_gaps_of_the_parts_by_hand() -> None:
    """relu(t - 0.4), looked at in 1/4 and 3/4: the first says flat up to 1/2, the other steep."""
    looks = looks_at(kink, step, [0.25, 0.75], [0, 0.5, 1])
    np.testing.assert_allclose(looks.gaps(), [0, 0.35 - 0.25, 0], atol=1e-15)
    np.testing.assert_allclose(looks.middles(), [0.125, 0.5, 0.875])
    ((part,),) = chosen([looks])
    assert part == 1
    more, new = looks.split(np.array([1]))
    assert new.tolist() == [1] and np.isnan(more.score[1]) and more.t.tolist() == [0.25, 0.5, 0.75]
    np.testing.assert_allclose(more.edges, [0, 0.375, 0.625, 1])
    np.testing.assert_allclose(more.counted, [0.5, 0.25, 0.5])
    more.score[1], more.slope[1] = 0.1, 1.0
    # Now steep from 0.375 on, where 0.4 would be right.
    np.testing.assert_allclose(more.gaps(), [0, -0.025, 0, 0], atol=1e-15)


@pytest.mark.parametrize("rule", RULES)
def test_the_parts_add_up_to_the_whole(rule: str) -> None:
    """Whatever the rule is and wherever more looks are put."""
    t, weights = quadrature(rule, 5)
    looks = looks_at(lambda t: np.sin(9 * t), lambda t: 9 * np.cos(9 * t), t,
                     np.append(0, np.cumsum(weights)))  # fmt: skip
    for parts in ([], [0, 2, 5], [1, 2, 3, 8]):
        long = np.flatnonzero(looks.splits())
        looks, new = looks.split(np.intersect1d(parts, long).astype(int))
        looks.score[new], looks.slope[new] = np.sin(9 * looks.t[new]), 9 * np.cos(9 * looks.t[new])
        assert (np.diff(looks.t) > 0).all() and looks.edges[[0, -1]].tolist() == [0, 1]
        assert (looks.edges[:-1] <= looks.t + 1e-15).all()
        assert (looks.t <= looks.edges[1:] + 1e-15).all()
        whole = np.sin(9) - looks.weight @ looks.slope
        assert looks.gaps().sum() == pytest.approx(whole, abs=1e-12)


def test_the_largest_parts_are_split_first() -> None:
    """Half of all gaps: 5 of 5 + 2 + 2 + 1; equal ones go together, over several ways too."""

    def ways(*rise: float) -> Looks:
        t = np.arange(1, len(rise)) / len(rise)
        score = np.cumsum(rise)
        middles = (t[1:] + t[:-1]) / 2
        return Looks(t, np.concatenate([[0], middles, [1]]), score[:-1], 0 * t, 0 * t, 0, score[-1])

    assert [p.tolist() for p in chosen([ways(5, -2, 2, 1)])] == [[0]]
    assert [p.tolist() for p in chosen([ways(1, -2, 2, 1)])] == [[1, 2]]
    assert [p.tolist() for p in chosen([ways(1, 1, 4), ways(0.5, -4, 1)])] == [[2], [1]]
    assert [p.tolist() for p in chosen([ways(0, 0, 0)])] == [[]]


# ---- the whole


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("rows", [None, 3])
def test_twin(rule: str, rows: int | None) -> None:
    x = np.random.default_rng(8).normal(size=(4, 12))
    e = IntegratedGradients(steps=6, quadrature=rule, tolerance=1e-3, rows=rows)(
        torch_kinked, torch.tensor(x)
    )
    plain = IntegratedGradients(steps=6, quadrature=rule)(torch_kinked, torch.tensor(x))
    assert e.gap.max() <= 1e-3 < plain.gap.max()
    for i in range(4):
        wanted, looks = twin.refined(kinked, kinked_grad, x[i], [np.zeros(12)], 6, rule, 1e-3)
        np.testing.assert_allclose(e.attribution[i], wanted, rtol=1e-7, atol=1e-10)
        assert e.extras["steps"][i] == looks


def test_twin_of_several_baselines() -> None:
    x = np.random.default_rng(8).normal(size=(3, 12))
    ends = [np.zeros(12), np.ones(12), np.linspace(0, 2, 12)]
    e = IntegratedGradients(steps=5, baseline=ends, tolerance=1e-3)(torch_kinked, torch.tensor(x))
    for i in range(3):
        wanted, looks = twin.refined(kinked, kinked_grad, x[i], ends, 5, "gauss-legendre", 1e-3)
        np.testing.assert_allclose(e.attribution[i], wanted, rtol=1e-7, atol=1e-10)
        assert e.extras["steps"][i] == -(-looks // 3)


def test_gaps_on_the_digits() -> None:
    """A net of ReLUs has hundreds of kinks on the way: 64 steps leave most gaps below 1 %."""
    model, x = digits_model("torch"), digits("test")[0][:12, None]
    gap = IntegratedGradients(steps=64)(model, x).gap
    assert np.median(gap) < 1e-2 and gap.max() < 0.1
    rows = []
    handle = model.register_forward_hook(lambda m, given, out: rows.append(len(out)))
    e = IntegratedGradients()(model, x)  # more looks until it is below 0.1 %
    handle.remove()
    assert e.gap.max() < 1e-3 and not e.notes
    assert (e.options["steps"], e.options["tolerance"]) == (64, 1e-3)
    steps = e.extras["steps"]
    assert (steps[gap <= 1e-3] == 64).all() and (steps[gap > 1e-3] > 64).all()
    # Doubling them for the whole way takes 800 on average.
    assert len(set(steps)) > 2 and sum(rows) / 12 < 300


def test_only_the_samples_above_the_tolerance_are_refined() -> None:
    """The first sample is on a straight stretch; the second crosses a kink at 1."""
    seen: list[float] = []

    def model(x: Any) -> Any:
        seen.extend(x[:, 0].tolist())
        return torch.relu(x[:, 0] - 1) + x[:, 0]

    x = torch.tensor([[0.9], [2.0]])
    e = IntegratedGradients(steps=4, quadrature="left", tolerance=0.02)(model, x)
    plain = IntegratedGradients(steps=4, quadrature="left")(model, x)
    assert e.extras["steps"].tolist()[0] == 4 and e.extras["steps"][1] > 4
    assert e.gap.max() <= 0.02 < plain.gap[1]
    torch.testing.assert_close(e.attribution[0], plain.attribution[0])
    # After both ends of the way and four looks at each sample come those near the kink alone.
    more = seen[2 + 2 + 8 : -2 - 2 - 8]
    assert more and all(0.5 <= t <= 1.5 for t in more)


def test_one_kink_takes_few_looks() -> None:
    """To single precision, each look halves what is left."""
    e = IntegratedGradients(tolerance=1e-6)(
        lambda x: torch.relu(x[:, 0] - 1), torch.tensor([[2.0001]])
    )
    assert e.gap[0] < 2e-6 and e.extras["steps"][0] < 100 and not e.notes


def test_a_tolerance_that_is_never_met_says_so() -> None:
    def ragged(x: Any) -> Any:
        return (x[:, :1] * 5000 * torch.arange(1, 40)).sin().abs().sum(1)

    e = IntegratedGradients(steps=64, tolerance=1e-9)(ragged, torch.tensor([[2.0001]]).double())
    assert 1000 < e.extras["steps"][0] <= 2048
    assert any("above 1e-09 still at" in n and "sample(s) 0" in n for n in e.notes)


def test_a_jump_is_given_up() -> None:
    """No look closes it, so looks are not wasted elsewhere either."""

    def model(x: Any) -> Any:
        return x[:, 0] + (x[:, 0] > 1)

    e = IntegratedGradients()(model, torch.tensor([[2.1]]))
    assert e.gap[0] > 0.3 and e.extras["steps"][0] < 100
    assert any("above 0.001" in n for n in e.notes)


# ---- on other paths, where steps are doubled


def test_steps_are_doubled_along_a_blur() -> None:
    """For the second picture alone: the first is the same everywhere, and so stays as it is."""

    def model(x: Any) -> Any:
        return (3 * x).sin().abs().sum((1, 2, 3))

    x = torch.stack([torch.ones(1, 3, 3), torch.arange(9.0).reshape(1, 3, 3)]).double()
    e = IntegratedGradients(path="blur", steps=8, tolerance=1e-2)(model, x)
    steps = e.extras["steps"].tolist()
    assert steps[0] == 8 < steps[1] and np.log2(steps[1]) % 1 == 0
    assert e.gap[1] <= 1e-2 and not e.notes
    half = IntegratedGradients(path="blur", steps=steps[1] // 2)(model, x)
    assert half.gap[1] > 1e-2
    never = IntegratedGradients(path="blur", steps=1024, tolerance=1e-12)(model, x)
    assert never.extras["steps"].tolist() == [1024, 2048]
    assert [n for n in never.notes if "above 1e-12 still at 2048 steps for sample(s) 1" in n]


# ---- the same numbers everywhere


@pytest.mark.parametrize("options", [{}, {"baseline": ["zero", "mean"], "steps": 8}], ids=str)
def test_chunks_batches_and_frameworks(options: dict[str, Any]) -> None:
    given = {"tolerance": 2e-3, **options}
    images = digits("test")[0][:4]
    model, x = digits_model("torch"), images[:, None]
    whole = IntegratedGradients(**given)(model, x)
    scale = np.abs(whole.attribution).max()
    assert len(set(whole.extras["steps"])) > 1
    few = IntegratedGradients(**given, rows=7)(model, x)
    np.testing.assert_allclose(few.attribution, whole.attribution, atol=2e-6 * scale)
    alone = IntegratedGradients(**given)(model, x[2:3])
    np.testing.assert_allclose(alone.attribution[0], whole.attribution[2], atol=2e-6 * scale)
    assert alone.extras["steps"][0] == whole.extras["steps"][2]
    pytest.importorskip("tensorflow")
    other = IntegratedGradients(**given)(digits_model("tensorflow"), images[..., None])
    np.testing.assert_allclose(
        other.attribution[..., 0], whole.attribution[:, 0], atol=1e-4 * scale
    )


def test_tensorflow_compiles_few_graphs() -> None:
    """Rounds are of all lengths; their graphs are of lengths that are powers of two."""
    tf = pytest.importorskip("tensorflow")
    shapes = []

    @tf.function
    def model(x: Any) -> Any:
        shapes.append(x.shape[0])
        return tf.reduce_sum(tf.abs(tf.sin(x * [[17.0, 23.0, 41.0]])), 1)

    x = tf.constant(np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32))
    e = IntegratedGradients(tolerance=1e-3)(model, x)
    assert len(set(e.extras["steps"])) > 1 and e.gap.max() < 1e-3
    assert {s for s in shapes if s & (s - 1)} == {3, 192} and len(shapes) < 12


def test_a_layer_and_several_inputs() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 60), torch.nn.ReLU(), torch.nn.Linear(60, 60),
                              torch.nn.ReLU(), torch.nn.Linear(60, 1))  # fmt: skip
    e = IntegratedGradients(steps=4, tolerance=1e-4)(net, 3 * torch.randn(2, 4), at="0")
    assert e.gap.max() <= 1.01e-4 and (e.extras["steps"] > 4).all()

    def both(a: Any, b: Any) -> Any:
        return net(torch.cat([a, 2 * b], 1))[:, 0]

    x = {"a": torch.randn(2, 2), "b": torch.randn(2, 2)}
    e = IntegratedGradients(steps=4, tolerance=1e-4)(both, x)
    total = sum(v.sum(1) for v in e.attribution.values())
    want = both(**x) - both(**{k: 0 * v for k, v in x.items()})
    torch.testing.assert_close(total, want.detach(), rtol=2e-4, atol=0)
    assert whence.explain(both, x, "integrated-gradients").gap.max() < 1e-3


# ---- samples with draws of different numbers


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 100])
def test_uneven_lines(rows: int) -> None:
    """Sums over the first 1, 4, 2, 7 draws, and which sample, item and draw each row is of."""
    x = torch.arange(8.0).reshape(4, 2)
    counts, order = np.array([1, 4, 2, 7]), [2, 0, 3, 1]
    engine = Engine(job(lambda z: (z**2).sum(1), x), rows=rows)
    seen = []

    def make(chunk: Chunk) -> dict[str, Any]:
        seen.extend(zip(chunk.item.tolist(), chunk.sample.tolist(), chunk.draw.tolist(),
                        strict=True))  # fmt: skip
        return {"input": chunk.x() + chunk.column(chunk.draw.astype(float), chunk.x())}

    plan = Plan(7, make, samples=order, uneven=counts)
    found = engine.gradient(plan, lambda chunk: chunk.draw + 1.0)["input"]
    for i, (sample, count) in enumerate(zip(order, counts, strict=True)):
        wanted = sum((d + 1) * 2 * (x[sample] + d) for d in range(count))
        torch.testing.assert_close(found[i], wanted)
    assert seen == [(i, s, d) for i, s in enumerate(order) for d in range(counts[i])]


def test_what_was_finished_of_an_uneven_line() -> None:
    calls = []

    def model(z: Any) -> Any:
        calls.append(len(z))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return z.sum(1)

    engine = Engine(job(model, torch.ones(3, 2), target=lambda y: y), rows=2)
    plan = Plan(3, lambda c: {"input": c.x()}, samples=[1, 0, 2], uneven=np.array([1, 3, 2]))
    with pytest.raises(Interrupted) as caught:
        engine.gradient(plan)
    assert caught.value.samples.tolist() == [1, 0]
    assert caught.value.arrays["input"].tolist() == [[1, 1], [3, 3]]
