"""LIME's design: a weighted linear model of f near x, over units kept or not [ribeiro2016]."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import MissingFramework
from .designs import Answer, Design

__all__ = ["Lime", "lasso", "nearness", "ridge"]


class Lime(Design):
    """Each unit is present with probability 1/2; near calls weigh more; the slopes are the values.

    n: how many calls besides x itself. distance: "cosine" or "euclidean", of the presences from all
    ones. width: of the exponential kernel, in units of the distance. model: "ridge" or "lasso".
    alpha: its penalty, as ``ridge`` and scikit-learn's ``Lasso`` have it.
    """

    def __init__(
        self, units: int, n: int, rng: np.random.Generator, *, distance: str, width: float | None,
        model: str, alpha: float,
    ) -> None:  # fmt: skip
        self.units, self.rows = units, n
        self.kept = rng.random((n, units)) < 0.5
        self.distance, self.width, self.model, self.alpha = distance, width, model, alpha

    def coefficients(self, draws: np.ndarray) -> np.ndarray:
        """The presences of some calls."""
        return self.kept[draws].astype(float)

    def answer(self, scores: np.ndarray, on: float) -> Answer:
        """The slopes; ``fit``, the weighted R^2 of the linear model, says how good they are."""
        z = np.concatenate([np.ones((1, self.units)), self.kept])
        y = np.append(on, scores)
        weights = nearness(z, self.distance, self.width)
        solve = ridge if self.model == "ridge" else lasso
        slopes, level = solve(z, y, weights, self.alpha)
        mean = weights @ y / weights.sum()
        spread = weights @ (y - mean) ** 2
        left = weights @ (y - level - z @ slopes) ** 2
        return Answer(slopes, report={"fit": 1 - left / spread if spread > 0 else 1.0})


def nearness(z: np.ndarray, distance: str, width: float | None) -> np.ndarray:
    """The weight of each row of presences, (rows, units) -> (rows,): sqrt(exp(-(d / width)^2)).

    width: None takes 0.25 for the cosine distance, 0.75 sqrt(units) for the Euclidean.
    """
    share = z.mean(1)
    if distance == "cosine":
        # Against all ones the cosine is sqrt(share); nothing at all is as far as can be.
        d, usual = 1 - np.sqrt(share), 0.25
    else:
        d, usual = np.sqrt((1 - share) * z.shape[1]), 0.75 * np.sqrt(z.shape[1])
    return np.sqrt(np.exp(-((d / (usual if width is None else width)) ** 2)))


def ridge(
    z: np.ndarray, y: np.ndarray, weights: np.ndarray, alpha: float
) -> tuple[np.ndarray, float]:
    """Slopes and level that minimise sum w (y - level - z slopes)^2 + alpha |slopes|^2."""
    mean_z, mean_y = weights @ z / weights.sum(), weights @ y / weights.sum()
    zc, yc = z - mean_z, y - mean_y
    normal = zc.T @ (weights[:, None] * zc) + alpha * np.eye(z.shape[1])
    right = zc.T @ (weights * yc)
    slopes = np.linalg.pinv(normal, rcond=1e-12, hermitian=True) @ right
    return slopes, float(mean_y - mean_z @ slopes)


def lasso(
    z: np.ndarray, y: np.ndarray, weights: np.ndarray, alpha: float
) -> tuple[np.ndarray, float]:
    """Slopes and level by scikit-learn's lasso, which sets the smallest slopes to exactly 0.

    Raises MissingFramework without scikit-learn.
    """
    try:
        from sklearn.linear_model import Lasso
    except ImportError as error:
        raise MissingFramework(
            'model="lasso" needs scikit-learn, which is not installed: pip install '
            '"scikit-learn"; model="ridge" needs nothing'
        ) from error
    fitted: Any = Lasso(alpha=alpha, max_iter=10_000).fit(z, y, sample_weight=weights)
    return np.asarray(fitted.coef_), float(fitted.intercept_)
