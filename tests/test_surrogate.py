"""LIME: linear models, scikit-learn's ridge, superpixels."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from support_perturbed import FRAMEWORKS, Formulas, numbers
from whence.errors import MissingFramework
from whence.methods.coalitional import LIME
from whence.perturb import surrogate


@pytest.fixture(params=FRAMEWORKS)
def formulas(request):
    return Formulas(request.param)


def test_lime_of_a_linear_model_returns_its_weights(formulas, rng):
    weights = rng.normal(size=6)
    e = formulas.explain(formulas.weighed(weights), np.ones((2, 6)), LIME(200, alpha=0.0))
    np.testing.assert_allclose(numbers(e), [weights, weights], atol=1e-5)
    np.testing.assert_allclose(e.extras["fit"], 1, atol=1e-6)
    shrunk = numbers(formulas.explain(formulas.weighed(weights), np.ones((2, 6)), LIME(200)))
    assert 0.9 < np.linalg.norm(shrunk[0]) / np.linalg.norm(weights) < 0.995


def test_lime_from_a_baseline_with_groups(formulas, rng):
    x, weights = rng.normal(size=(1, 4)), rng.normal(size=4)
    groups = np.array([[0, 1, 1, -1]])
    method = LIME(100, alpha=0.0, features=groups, baseline=2.0)
    found = numbers(formulas.explain(formulas.weighed(weights), x, method))
    terms = (weights * (x - 2))[0]
    want = [terms[0], terms[1] + terms[2], terms[1] + terms[2], 0]
    np.testing.assert_allclose(found[0], want, atol=1e-4)


@pytest.mark.parametrize(
    "distance, width", [("cosine", None), ("cosine", 0.5), ("euclidean", None)]
)
def test_ridge_like_scikit_learn(distance, width, rng):
    linear = pytest.importorskip("sklearn.linear_model")
    z = rng.integers(0, 2, (60, 5)).astype(float)
    z[0], z[1] = 1, 0
    y = np.tanh(z @ rng.normal(size=5)) + 3
    weights = surrogate.nearness(z, distance, width)
    slopes, level = surrogate.ridge(z, y, weights, 1.5)
    peer = linear.Ridge(alpha=1.5).fit(z, y, sample_weight=weights)
    np.testing.assert_allclose(slopes, peer.coef_, atol=1e-9)
    np.testing.assert_allclose(level, peer.intercept_, atol=1e-9)


def test_nearness_is_the_papers(rng):
    z = rng.integers(0, 2, (20, 7)).astype(float)
    z[0], z[1] = 1, 0
    cosine = [1 - row.sum() / np.sqrt(row.sum() * 7) if row.any() else 1 for row in z]
    want = np.sqrt(np.exp(-(np.array(cosine) ** 2) / 0.25**2))
    np.testing.assert_allclose(surrogate.nearness(z, "cosine", None), want, atol=1e-12)
    apart = np.linalg.norm(1 - z, axis=1)
    want = np.sqrt(np.exp(-(apart**2) / 4))
    np.testing.assert_allclose(surrogate.nearness(z, "euclidean", 2.0), want, atol=1e-12)


def test_lasso_sets_small_slopes_to_zero(formulas):
    pytest.importorskip("sklearn")
    weights = np.array([2.0, 0.001, -1.0, 0.0])
    method = LIME(300, regression="lasso", alpha=0.01, width=1.0)
    found = numbers(formulas.explain(formulas.weighed(weights), np.ones((1, 4)), method))[0]
    assert found[1] == 0 and found[3] == 0
    np.testing.assert_allclose(found[[0, 2]], [2, -1], atol=0.1)


def test_lime_cuts_images_into_superpixels(formulas):
    """A model that reads one pixel: its superpixel gets the slope, all others nothing."""
    pytest.importorskip("skimage")
    x = np.zeros((2, 16, 16, 3))
    x[0, :8], x[1] = 1, 0.5
    first = formulas.name == "torch"
    pixel = (slice(None), 1, 2, 3) if first else (slice(None), 2, 3, 1)
    given = np.moveaxis(x, -1, 1) if first else x
    e = formulas.explain(lambda x: 2 * x[pixel], given, LIME(300, segments=4, alpha=0.0))
    found, segments = numbers(e), e.extras["features"]
    if first:
        found, segments = np.moveaxis(found, 1, -1), np.moveaxis(segments, 1, -1)
    own = np.broadcast_to(segments == segments[:, 2:3, 3:4], x.shape)
    assert 0.1 < own[0].mean() < 0.6
    np.testing.assert_allclose(found[0][own[0]], 2, atol=1e-4)
    np.testing.assert_allclose(found[1][own[1]], 1, atol=1e-4)
    np.testing.assert_allclose(found[~own], 0, atol=1e-4)


def test_lasso_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(MissingFramework, match='pip install "scikit-learn"'):
        surrogate.lasso(np.ones((2, 1)), np.ones(2), np.ones(2), 0.1)
