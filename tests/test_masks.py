"""RISE, Sobol indices and HSIC: hand-worked answers, literal twins, unbiasedness, convergence."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from reference import perturbed as twin
from support_perturbed import FRAMEWORKS, Formulas, numbers
from whence.errors import MissingFramework, OptionError
from whence.methods.masked import HSIC, RISE, Sobol
from whence.perturb import masks
from whence.perturb.masks import Lattice


@pytest.fixture(params=FRAMEWORKS)
def formulas(request):
    return Formulas(request.param)


def test_a_lattice_mask_like_the_twin(rng):
    lattice = Lattice((7, 10), 3, 0.5)
    assert lattice.steps == (3, 4)
    bits, shifts = lattice.draw(20, rng)
    for own, shift in zip(bits, shifts, strict=True):
        want = twin.smooth_mask(own, shift, lattice.steps, lattice.sides)
        found = lattice.tables[0][shift[0]] @ own @ lattice.tables[1][shift[1]].T
        np.testing.assert_allclose(found, want, atol=1e-12)
    assert {tuple(s) for s in shifts} <= {(a, b) for a in range(3) for b in range(4)}


def test_total_is_the_sum_of_score_times_mask(rng):
    for sides in ((7,), (7, 10), (4, 5, 6)):
        lattice = Lattice(sides, 3, 0.5)
        bits, shifts = lattice.draw(30, rng)
        scores = rng.normal(size=30)
        want = np.zeros(sides)
        for own, shift, score in zip(bits, shifts, scores, strict=True):
            mask = own.astype(float)
            for axis, table in enumerate(lattice.tables):
                mask = np.moveaxis(np.tensordot(table[shift[axis]], mask, (1, axis)), 0, axis)
            want += score * mask
        np.testing.assert_allclose(lattice.total(bits, shifts, scores), want, atol=1e-12)


def test_every_place_is_shown_equally_often(rng):
    lattice = Lattice((11, 9), 4, 0.3)
    n = 20000
    bits, shifts = lattice.draw(n, rng)
    mean = lattice.total(bits, shifts, np.ones(n)) / n
    np.testing.assert_allclose(mean, 0.3, atol=0.015)


def test_as_many_cells_as_places_are_independent_bits(rng):
    lattice = Lattice((5,), 8, 0.5)
    assert lattice.steps == (1,)
    bits, shifts = lattice.draw(4, rng)
    np.testing.assert_array_equal(lattice.tables[0][0] @ bits[0], bits[0][:5])
    assert not shifts.any()


def one_pixel(f, where):
    """A model that reads one place, scaled by 3."""
    return (lambda x: 3 * x[:, where[0], where[1], 0]) if f.name == "tensorflow" else (
        lambda x: 3 * x[:, 0, where[0], where[1]]
    )  # fmt: skip


def ones(f, batch, height, width):
    shape = (batch, height, width, 2) if f.name == "tensorflow" else (batch, 2, height, width)
    return np.ones(shape)


def test_rise_of_a_model_that_reads_one_pixel(formulas):
    """There it is E[m^2] / keep, far away E[m]: with all m in between on the way."""
    e = formulas.explain(
        one_pixel(formulas, (5, 8)), ones(formulas, 1, 12, 12), RISE(8000, cells=4)
    )
    found = numbers(e)
    assert found.shape == ones(formulas, 1, 12, 12).shape
    found = found[0].mean(0 if formulas.name == "torch" else -1)
    lattice = Lattice((12, 12), 4, 0.5)
    # Over all shifts: the share of each knot, squared and summed, along both axes.
    squared = np.prod([(t**2).sum(2).mean(0)[6] for t in lattice.tables])
    at_pixel = 3 * (0.25 + 0.25 * squared) / 0.5
    assert abs(found[5, 8] - at_pixel) < 0.06
    assert np.unravel_index(found.argmax(), found.shape) == (5, 8)
    np.testing.assert_allclose(found[:, :2], 1.5, atol=0.12)
    assert found[5, 8] > found[5, 7] > found[5, 6] > found[5, 4]


def test_rise_of_a_table(formulas):
    """Columns are kept independently: what is read gets x, what is not gets keep times x."""
    x = np.array([[2.0, 1.0, 5.0], [4.0, 1.0, 5.0]])
    e = formulas.explain(lambda x: x[:, 0], x, RISE(20000, keep=0.25, cells=2))
    want = [[2, 0.5, 0.5], [4, 1, 1]]
    np.testing.assert_allclose(numbers(e), want, rtol=0.06)


def test_rise_of_groups_equals_rise_of_columns_of_their_sums(formulas):
    x = np.array([[2.0, 1.0, 5.0, 1.0]])
    groups = np.array([[0, 1, 2, 1]])
    e = formulas.explain(lambda x: x[:, 1] + x[:, 3], x, RISE(20000, features=groups))
    np.testing.assert_allclose(numbers(e), [[1, 2, 1, 2]], rtol=0.05)
    assert e.extras["groups"].shape == (1, 3)


def test_rise_over_several_inputs_and_sequences(formulas):
    a, b = np.ones((1, 3)), np.ones((1, 16, 2))
    e = formulas.explain(lambda a, b: a[:, 1] + 4 * b[:, 9, 0], (a, b), RISE(8000, cells=4))
    table, sequence = numbers(e)
    np.testing.assert_allclose(table, [[2.5, 3, 2.5]], atol=0.12)
    assert sequence[0, :, 0].argmax() == 9
    np.testing.assert_array_equal(sequence[..., 0], sequence[..., 1])


def test_rise_background_is_the_baseline(formulas):
    x = np.full((1, 3), 2.0)
    e = formulas.explain(lambda x: x[:, 0], x, RISE(64, baseline=2.0))
    np.testing.assert_allclose(numbers(e).mean(), 2.0, rtol=0.2)
    e = formulas.explain(lambda x: x[:, 0] - 2, x, RISE(64, baseline=2.0))
    assert not numbers(e).any()


def slope(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def test_rise_converges_as_one_over_the_root_of_n():
    f, x = Formulas("torch"), np.ones((48, 2))
    sizes, errors = [32, 128, 512, 2048], []
    for n in sizes:
        found = numbers(f.explain(lambda x: x[:, 0], x, RISE(n)))
        errors.append(np.sqrt(((found - [[1, 0.5]]) ** 2).mean()))
        bias = (found - [[1, 0.5]]).mean(0)
        assert np.abs(bias).max() < 4 * errors[-1] / np.sqrt(48)
    assert -0.6 < slope(sizes, errors) < -0.4


def ishigami(f):
    return lambda x: f.sin(x[:, 0]) + 7 * f.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * f.sin(x[:, 0])


def test_sobol_of_ishigami(formulas):
    x = np.full((1, 3), np.pi)
    e = formulas.explain(ishigami(formulas), x, Sobol(2048, baseline=-np.pi))
    np.testing.assert_allclose(numbers(e), [[0.558, 0.442, 0.244]], atol=0.01)
    np.testing.assert_allclose(e.extras["variance"], 13.84, rtol=0.02)
    assert not e.signed


def test_sobol_like_the_twin(rng):
    design = masks.Sobol(3, 16, rng)

    def f(m):
        return float(np.sin(3 * m[0]) + m[1] * m[2])

    scores = np.array([f(m) for m in design.coefficients(np.arange(design.rows))])
    want = twin.jansen(f, design.a, design.b)
    np.testing.assert_allclose(design.answer(scores, 0.0).values, want, atol=1e-12)


def test_sobol_counts_what_acts_together_for_both(formulas):
    """x0 x1 with both uniform: each has 4/7 of the variance in all. x2 has none."""
    x = np.ones((1, 3))
    e = formulas.explain(lambda x: x[:, 0] * x[:, 1], x, Sobol(1024))
    np.testing.assert_allclose(numbers(e), [[4 / 7, 4 / 7, 0]], atol=0.01)
    still = formulas.explain(lambda x: 0 * x[:, 0] + 5, x, Sobol(8))
    assert not numbers(still).any()


def test_hsic_like_the_twin(rng):
    design = masks.Hsic(4, 27, rng)  # not a power of two, so that presences are not balanced
    kept = design.coefficients(np.arange(27))
    assert set(np.unique(kept)) == {0, 1} and 0 < abs(kept.mean() - 0.5) < 0.1
    y = np.tanh(kept @ [1.0, -2, 0, 0.3]) + kept[:, 2] * kept[:, 3]
    np.testing.assert_allclose(design.answer(y, 0.0).values, twin.hsic(kept, y), atol=1e-12)


def test_hsic_sees_what_the_answer_depends_on(formulas):
    x = np.ones((1, 4))
    e = formulas.explain(lambda x: 3 * x[:, 0] + x[:, 1] * x[:, 1], x, HSIC(512))
    found = numbers(e)[0]
    assert found[0] > 3 * found[1] > 9 * found[2:].max()
    assert found.min() > -1e-9
    still = formulas.explain(lambda x: 0 * x[:, 0] + 5, x, HSIC(8))
    assert not numbers(still).any()


def test_hsic_with_mostly_equal_answers(formulas):
    """A rare event: the median distance is 0, and the map must not vanish for it."""
    x = np.ones((1, 6))
    model = lambda x: x[:, 0] * x[:, 1] * x[:, 2] * x[:, 3]  # noqa: E731
    found = numbers(formulas.explain(model, x, HSIC(256)))[0]
    assert found[:4].min() > 3 * found[4:].max()


def test_images_are_cut_into_a_grid(formulas):
    x = ones(formulas, 2, 8, 8)
    for method in (Sobol(64, cells=2), HSIC(256, cells=2)):
        e = formulas.explain(one_pixel(formulas, (1, 6)), x, method)
        found = numbers(e)[0]
        found = found if formulas.name == "tensorflow" else np.moveaxis(found, 0, -1)
        assert e.extras["groups"].shape == (2, 4)
        np.testing.assert_array_equal(found[:4, 4:], found[0, 4, 0])
        assert found[0, 4, 0] > 5 * found[4:].max() and found[0, 4, 0] > 5 * found[:4, :4].max()


METHODS = (RISE(40, cells=3), RISE(40, cells=3, keep=0.8), Sobol(8, cells=2), HSIC(50, cells=3))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_any_chunk_and_batch_gives_the_same(formulas, rng, method):
    shape = (3, 6, 5, 2) if formulas.name == "tensorflow" else (3, 2, 6, 5)
    x, weights = rng.normal(size=shape), rng.normal(size=shape[1:]) / 4
    inner = formulas.weighed(weights)
    model = lambda x: formulas.tanh(inner(x))  # noqa: E731
    whole = numbers(formulas.explain(model, x, method))
    cut = numbers(formulas.explain(model, x, replace(method, rows=7)))
    np.testing.assert_allclose(cut, whole, atol=1e-6)
    alone = numbers(formulas.explain(model, x[:1], method))
    np.testing.assert_allclose(alone, whole[:1], atol=1e-6)
    same = numbers(formulas.explain(model, np.concatenate([x[:1], x[:1]]), method))
    assert not np.allclose(same[0], same[1], atol=1e-4)  # samples have draws of their own


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_frameworks_agree_and_seeds_matter(rng, method):
    x, weights = rng.normal(size=(2, 5, 3)), rng.normal(size=(5, 3))
    found = []
    for f in map(Formulas, ("torch", "tensorflow")):
        inner = f.weighed(weights)
        for seed in (0, 1):
            e = f.explain(lambda x, f=f, i=inner: f.tanh(i(x)), x, replace(method, seed=seed))
            found.append(numbers(e))
    np.testing.assert_allclose(found[0], found[2], rtol=1e-4, atol=1e-5)
    assert not np.allclose(found[0], found[1], atol=1e-4)


def test_global_random_state_is_left_alone():
    before = np.random.get_state()[1].tolist()
    for method in METHODS:
        Formulas("torch").explain(lambda x: x[:, 0], np.ones((1, 3)), method)
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize(
    "kind, options, words",
    [
        (RISE, {"n": 0}, "n is a whole number, 1 or more; got 0"),
        (RISE, {"n": 2.5}, "n is a whole number, 1 or more; got 2.5"),
        (RISE, {"cells": 0}, "cells is a whole number, 1 or more"),
        (RISE, {"keep": 1.0}, "between 0 and 1; got 1.0"),
        (Sobol, {"n": 1}, "n is a whole number, 2 or more"),
        (HSIC, {"n": 1}, "n is a whole number, 2 or more"),
        (HSIC, {"cells": -1}, "cells is a whole number"),
    ],
)
def test_refused(kind, options, words):
    with pytest.raises(OptionError, match=words):
        kind(**options)


def test_refused_with_the_input():
    f, x = Formulas("torch"), np.ones((1, 3))
    with pytest.raises(OptionError, match="features have shape"):
        f.explain(lambda x: x[:, 0], x, RISE(4, features=np.zeros((1, 4), int)))
    with pytest.raises(OptionError, match="21201 are the most; use fewer groups"):
        masks.points(4, 30000, np.random.default_rng(0))
    with pytest.raises(OptionError, match="one baseline is wanted here; got a set of 2"):
        f.explain(lambda x: x[:, 0], x, RISE(4, baseline=["zero", "noise"]))


def test_quasi_random_masks_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats.qmc", None)
    with pytest.raises(MissingFramework, match='pip install "scipy"'):
        masks.points(4, 3, np.random.default_rng(0))
