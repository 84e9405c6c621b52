"""Shapley values: games worked by hand, literal twins, efficiency, convergence; shared groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reference import perturbed as twin
from support_perturbed import FRAMEWORKS, Formulas, numbers
from whence.errors import OptionError
from whence.methods.coalitional import LIME, ExactShapley, KernelSHAP, ShapleySampling
from whence.perturb.coalitions import Exact, KernelShap, Permutations
from whence.perturb.designs import _lines


@pytest.fixture(params=FRAMEWORKS)
def formulas(request):
    return Formulas(request.param)


SHAPLEY = (ExactShapley(), KernelSHAP(400), ShapleySampling(400))


def game_of(model, x, x0):
    """A function of one sample as a game among its columns."""
    return lambda inside: model(np.where([i in inside for i in range(len(x))], x, x0))


def played(design, v):
    """A design's answer for a game, no model in between."""
    k = design.units
    scores = [
        v(frozenset(np.flatnonzero(c > 0.5).tolist()))
        for c in design.coefficients(np.arange(design.rows))
    ]
    return design.answer(np.array(scores), v(frozenset(range(k))))


def curved(x):
    """A game with interactions of all orders."""
    return float(np.tanh(x.sum()) + x[0] * x[1] - 2 * x[1] * x[2] * x[3])


def glove(inside):
    """Players 0 and 1 hold a left glove each, player 2 the right one."""
    return float(min(len(inside & {0, 1}), len(inside & {2})))


def test_max_of_two(formulas):
    """At (3, 2) from (0, 0): v(0) = 3, v(1) = 2, v(both) = 3."""
    for method in SHAPLEY[:2]:
        e = formulas.explain(
            lambda x: formulas.larger(x[:, 0], x[:, 1]), np.array([[3.0, 2.0]]), method
        )
        np.testing.assert_allclose(numbers(e), [[2, 1]], atol=1e-5)


def test_the_glove_game():
    want = [1 / 6, 1 / 6, 4 / 6]
    np.testing.assert_allclose(played(Exact(3), glove).values, want, atol=1e-12)
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(played(KernelShap(3, 6, rng), glove).values, want, atol=1e-12)
    drawn = played(Permutations(3, 6000, rng), glove)
    np.testing.assert_allclose(drawn.values, want, atol=0.02)
    assert (np.abs(drawn.values - want) < 4 * drawn.report["error"]).all()
    # The right glove adds 1 in two orders of three, else 0.
    np.testing.assert_allclose(drawn.report["error"][2], np.sqrt(2 / 9 / 6000), rtol=0.05)


def test_the_glove_game_by_a_model(formulas):
    e = formulas.explain(
        lambda x: formulas.smaller(x[:, 0] + x[:, 1], x[:, 2]), np.ones((2, 3)), ExactShapley()
    )
    np.testing.assert_allclose(numbers(e), [[1 / 6, 1 / 6, 4 / 6]] * 2, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_exact_like_the_twin(k, rng):
    x, x0 = rng.normal(size=5), rng.normal(size=5)
    whole = game_of(curved, x, x0)
    v = lambda inside: whole(frozenset(inside) | set(range(k, 5)))  # noqa: E731
    np.testing.assert_allclose(played(Exact(k), v).values, twin.shapley(v, k), atol=1e-12)


@pytest.mark.parametrize("n", [8, 11, 20, 26, 29])
def test_kernel_shap_like_the_twin(n, rng):
    v = game_of(curved, rng.normal(size=5), rng.normal(size=5))
    design = KernelShap(5, n, rng)
    assert len(design.kept) <= n
    np.testing.assert_allclose(design.weights.sum(), 1, atol=1e-12)
    want = twin.kernel_shap(v, 5, design.kept, design.weights)
    np.testing.assert_allclose(played(design, v).values, want, atol=1e-8)


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_kernel_shap_with_every_coalition_is_exact(k, rng):
    x, x0 = rng.normal(size=6), rng.normal(size=6)
    whole = game_of(curved, x, x0)
    v = lambda inside: whole(frozenset(inside) | set(range(k, 6)))  # noqa: E731
    design = KernelShap(k, max(2**k - 2, 2), rng)
    assert len(design.kept) == 2**k - 2
    np.testing.assert_allclose(played(design, v).values, twin.shapley(v, k), atol=1e-9)


def test_kernel_shap_draws_in_pairs_what_it_cannot_enumerate(rng):
    design = KernelShap(12, 100, rng)
    sizes = design.kept.sum(1)
    assert sorted(sizes[:24]) == [1] * 12 + [11] * 12
    rest = design.kept[24:]
    assert len(rest) == 76 and (rest[::2] == ~rest[1::2]).all()
    assert set(rest.sum(1)) <= set(range(2, 11))
    masses = {s: 11 / (s * (12 - s)) for s in range(1, 12)}
    np.testing.assert_allclose(design.weights[0], masses[1] / sum(masses.values()) / 12)


def test_random_sizes_come_as_often_as_they_weigh(rng):
    rest = KernelShap(30, 20000, rng)
    sizes = rest.kept.sum(1)
    assert (sizes == 2).sum() == 435 and (sizes == 1).sum() == 30
    drawn = np.bincount(sizes, minlength=31)
    masses = np.array([0] + [29 / (s * (30 - s)) for s in range(1, 30)])
    open_ = list(range(4, 27))
    share = drawn[open_] / drawn[open_].sum()
    np.testing.assert_allclose(share, masses[open_] / masses[open_].sum(), atol=0.01)


@pytest.mark.parametrize("antithetic", [False, True])
def test_permutations_walk_along_their_orders(antithetic, rng):
    v = game_of(curved, rng.normal(size=4), rng.normal(size=4))
    design = Permutations(4, 6, rng, antithetic=antithetic)
    want = np.zeros(4)
    for order in design.order:
        inside = frozenset()
        for player in order:
            want[player] += (v(inside | {player}) - v(inside)) / 6
            inside = inside | {player}
    np.testing.assert_allclose(played(design, v).values, want, atol=1e-12)
    assert design.rows == 1 + 6 * 3
    if antithetic:
        np.testing.assert_array_equal(design.order[1::2], design.order[::2, ::-1])


@pytest.mark.parametrize("method", SHAPLEY, ids=repr)
def test_a_linear_model_with_groups(formulas, rng, method):
    x, weights = rng.normal(size=(2, 6)), rng.normal(size=6)
    groups = np.array([[0, 0, 1, 2, 1, 1]])
    method = type(method)(features=groups, baseline=0.5)
    e = formulas.explain(formulas.weighed(weights), x, method)
    terms = weights * (x - 0.5)
    by_group = np.stack([terms[:, groups[0] == g].sum(1) for g in range(3)], 1)
    np.testing.assert_allclose(e.extras["groups"], by_group, atol=1e-5)
    want = by_group[:, groups[0]] / np.bincount(groups[0])[groups[0]]
    np.testing.assert_allclose(numbers(e), want, atol=1e-5)
    np.testing.assert_array_equal(e.extras["features"], groups)


FEW = (
    KernelSHAP(20),
    KernelSHAP(3),
    ShapleySampling(1),
    ShapleySampling(5, antithetic=True),
    ExactShapley(),
)


@pytest.mark.parametrize("method", FEW, ids=repr)
def test_efficiency(formulas, rng, method):
    shape = (3, 8, 8, 2) if formulas.name == "tensorflow" else (3, 2, 8, 8)
    x, weights = rng.uniform(0.5, 1, size=shape), rng.uniform(0, 0.1, size=shape[1:])
    inner = formulas.weighed(weights)
    e = formulas.explain(lambda x: formulas.tanh(inner(x)) + inner(x * x) + 3, x, method)
    assert e.gap.shape == (3,) and e.gap.max() < 1e-6
    off = 3.0
    np.testing.assert_allclose(e.extras["groups"].sum(1), e.output - off, rtol=1e-9)


def slope(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def test_sampled_values_converge():
    """Samples with draws of their own tell the error; KernelSHAP's is smaller at equal calls."""
    f, k = Formulas("torch"), 10
    weights = np.linspace(-1, 1, k)
    inner = f.weighed(weights)

    def model(x):
        return f.tanh(3 * inner(x)) + x[:, 0] * x[:, 1] * x[:, 2]

    x = np.ones((32, k))
    truth = numbers(f.explain(model, x[:1], ExactShapley()))
    found = {}
    for name, make, sizes in (
        ("orders", lambda n: ShapleySampling(n // 9), [36, 144, 576]),
        ("kernel", KernelSHAP, [36, 80, 144]),
    ):
        errors = []
        for n in sizes:
            off = numbers(f.explain(model, x, make(n))) - truth
            errors.append(np.sqrt((off**2).mean()))
            assert np.abs(off.mean(0)).max() < 5 * errors[-1] / np.sqrt(32)
        found[name] = slope(sizes, errors), errors
    assert -0.62 < found["orders"][0] < -0.38
    assert found["kernel"][0] < -0.45
    assert found["kernel"][1][2] < 0.7 * found["orders"][1][1]


def test_more_than_16_groups_are_refused_with_ways_out(formulas):
    with pytest.raises(OptionError, match=r"17 groups .*shapley-sampling") as caught:
        formulas.explain(lambda x: x[:, 0], np.ones((1, 17)), ExactShapley())
    assert "kernel-shap" in str(caught.value) and "features=" in str(caught.value)
    e = formulas.explain(
        lambda x: x[:, 0], np.ones((1, 17)), ExactShapley(np.arange(17)[None] // 2)
    )
    np.testing.assert_allclose(numbers(e)[0, :2], 0.5, atol=1e-6)


METHODS = (
    LIME(60, alpha=0.1), KernelSHAP(60), ShapleySampling(4), ExactShapley(),
)  # fmt: skip


def per_sample_groups():
    """Four samples with 3, 9, 4 and 8 groups: two designs are near enough to share a line."""
    rows = np.zeros((4, 9), int)
    rows[0] = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    rows[1] = np.arange(9) * 7
    rows[2] = [5, 5, 1, 1, 2, 2, 9, 9, -1]
    rows[3] = np.arange(9) // 8 + np.arange(9) % 8
    return rows


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_any_chunk_and_batch_gives_the_same(formulas, rng, method):
    x, weights = rng.normal(size=(4, 9)), rng.normal(size=9) / 2
    groups = per_sample_groups()
    inner = formulas.weighed(weights)
    model = lambda x: formulas.tanh(inner(x))  # noqa: E731
    whole = formulas.explain(model, x, replace(method, features=groups))
    again = formulas.explain(model, x, replace(method, features=groups, rows=7))
    np.testing.assert_allclose(numbers(again), numbers(whole), atol=1e-6)
    alone = formulas.explain(model, x[:1], replace(method, features=groups[:1]))
    np.testing.assert_allclose(numbers(alone), numbers(whole)[:1], atol=1e-6)
    if isinstance(method, ExactShapley | KernelSHAP | ShapleySampling):
        np.testing.assert_allclose(whole.extras["groups"].sum(1), numbers(whole).sum(1), atol=1e-5)
    if not isinstance(method, LIME):  # the last sample's last two places are groups of their own
        exact = formulas.explain(model, x[3:], ExactShapley(features=groups[3:]))
        limit = {ExactShapley: 1e-5, KernelSHAP: 0.1, ShapleySampling: 0.5}[type(method)]
        np.testing.assert_allclose(numbers(whole)[3:], numbers(exact), atol=limit)
    assert numbers(whole)[2, 8] == 0 and whole.extras["groups"].shape == (4, 9)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_frameworks_agree(rng, method):
    x, weights = rng.normal(size=(2, 8, 3)), rng.normal(size=(8, 3)) / 3
    found = []
    for f in map(Formulas, ("torch", "tensorflow")):
        inner = f.weighed(weights)
        found.append(numbers(f.explain(lambda x, f=f, i=inner: f.tanh(i(x)), x, method)))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_designs_of_like_length_share_a_line():
    assert _lines([10, 100, 95, 9, 50]) == [[1, 2], [4], [0, 3]]
    assert _lines([5, 5, 5]) == [[0, 1, 2]]


def test_several_inputs_are_players_in_one_game(formulas):
    e = formulas.explain(
        lambda a, b: a[:, 0] * b[:, 1], (np.full((1, 2), 3.0), np.full((1, 2), 2.0)), ExactShapley()
    )
    np.testing.assert_allclose(numbers(e)[0], [[3, 0]], atol=1e-6)
    np.testing.assert_allclose(numbers(e)[1], [[0, 3]], atol=1e-6)
    only = ExactShapley(features={"input1": np.array([[0, 1]])})
    e = formulas.explain(
        lambda a, b: a[:, 0] * b[:, 1], (np.full((1, 2), 3.0), np.full((1, 2), 2.0)), only
    )
    assert not numbers(e)[0].any()
    np.testing.assert_allclose(numbers(e)[1], [[0, 6]], atol=1e-6)


def test_groups_of_one_input_beside_the_defaults_of_another(formulas):
    """The columns that came without groups are players besides the pair, not of it."""
    pair = ExactShapley(features={"input0": np.array([[1, 1]]), "input1": None})
    a, b = np.array([[3.0, 1.0]]), np.array([[2.0, 5.0]])
    e = formulas.explain(lambda a, b: a[:, 0] * b[:, 1] + a[:, 1] + b[:, 0], (a, b), pair)
    np.testing.assert_allclose(e.extras["groups"], [[8.5, 2, 7.5]], atol=1e-5)
    np.testing.assert_allclose(numbers(e)[0], [[4.25, 4.25]], atol=1e-5)
    np.testing.assert_allclose(numbers(e)[1], [[2, 7.5]], atol=1e-5)


def test_a_baseline_equal_to_the_input_is_said(formulas):
    e = formulas.explain(
        lambda x: x[:, 0] + 1, np.array([[1.0, 1.0], [2.0, 1.0]]), KernelSHAP(baseline=1.0)
    )
    assert any("the baseline is the input itself for sample(s) 0" in n for n in e.notes)
    np.testing.assert_allclose(numbers(e), [[0, 0], [1, 0]], atol=1e-6)


@pytest.mark.parametrize(
    "kind, options, words",
    [
        (LIME, {"n": 0}, "n is a whole number, 2 or more"),
        (LIME, {"segments": 0}, "segments is a whole number"),
        (LIME, {"distance": "l1"}, 'distance is "cosine" or "euclidean"; got \'l1\''),
        (LIME, {"regression": "tree"}, 'regression is "ridge" or "lasso"'),
        (LIME, {"width": 0.0}, "width is a distance, more than 0"),
        (LIME, {"alpha": -1.0}, "alpha is a penalty, 0 or more"),
        (KernelSHAP, {"n": 1}, "n is a whole number, 2 or more; got 1"),
        (ShapleySampling, {"n": 0}, "n is a whole number, 1 or more; got 0"),
        (ShapleySampling, {"n": True}, "n is a whole number"),
    ],
)
def test_refused(kind, options, words):
    with pytest.raises(OptionError, match=words):
        kind(**options)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_features_of_a_wrong_shape(method):
    for features, words in (
        (np.zeros((1, 4), int), r"features have shape \(1, 4\), the input \(1, 3\)"),
        (np.zeros((2, 3), int), r"features have shape \(2, 3\)"),
        (np.zeros(3), "whole numbers"),
    ):
        with pytest.raises(OptionError, match=words):
            Formulas("torch").explain(
                lambda x: x[:, 0], np.ones((1, 3)), replace(method, features=features)
            )
    with pytest.raises(ValueError, match="all negative"):
        nothing = replace(method, features=np.full((1, 3), -1))
        Formulas("torch").explain(lambda x: x[:, 0], np.ones((1, 3)), nothing)


def test_methods_asked_at_once_share_the_answer_at_x():
    f, seen = Formulas("torch"), []

    def model(x):
        seen.append(len(x))
        return x[:, 0]

    f.explain(model, np.ones((2, 3)), [ExactShapley(), ShapleySampling(2), LIME(5)])
    assert sum(seen) == 2 + 2 * (7 + 5 + 5)
