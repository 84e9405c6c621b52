"""Designs that keep some units whole and take the rest away: Shapley values four ways.

A coalition is the set of units that are kept; v(S) is f with the units of S from x and all others
from x0. Every design here promises efficiency: its values add up to f(x) - f(x0).
"""

from __future__ import annotations

from itertools import combinations
from math import comb, factorial

import numpy as np

from ..errors import OptionError
from .designs import Answer, Design, count

__all__ = ["MOST_EXACT", "Exact", "KernelShap", "Permutations"]

MOST_EXACT = 16
"""Most units for which every coalition is tried."""


class Exact(Design):
    """Every coalition: the Shapley values themselves, 2^units calls [shapley1953].

    Raises OptionError for more than 16 units.
    """

    def __init__(self, units: int) -> None:
        if units > MOST_EXACT:
            raise OptionError(
                f"exact Shapley values of {units} groups would take 2^{units} model calls; "
                f'{MOST_EXACT} groups are the most. "kernel-shap" and "shapley-sampling" estimate '
                "them with as many calls as wanted, or join groups with features="
            )
        self.units = units
        self.rows = 2**units - 1  # the last, with all units, is x itself

    def coefficients(self, draws: np.ndarray) -> np.ndarray:
        """Call number s keeps the units whose bits are set in s."""
        return ((draws[:, None] >> np.arange(self.units)) & 1).astype(float)

    def answer(self, scores: np.ndarray, on: float) -> Answer:
        """The mean marginal contribution over all orders."""
        v = np.append(scores, on)
        k = self.units
        members = self.coefficients(np.arange(2**k))
        size = members.sum(1).astype(int)
        before = np.array([factorial(s) * factorial(k - s - 1) / factorial(k) for s in range(k)])
        joined = np.where(size > 0, before[np.maximum(size - 1, 0)], 0)
        left_out = np.where(size < k, before[np.minimum(size, k - 1)], 0)
        weights = members * (joined + left_out)[:, None] - left_out[:, None]
        return Answer(weights.T @ v, off=float(v[0]))


class Permutations(Design):
    """The mean marginal contribution over random orders [castro2009].

    n: how many orders; (units - 1) calls each, and one for x0. antithetic: every second order is
    the one before it reversed.
    """

    def __init__(
        self, units: int, n: int, rng: np.random.Generator, *, antithetic: bool = False
    ) -> None:
        self.units = units
        drawn = rng.random((n, units))
        if antithetic:
            drawn[1::2] = -drawn[: n // 2 * 2 : 2]
        self.order = np.argsort(drawn, axis=1)
        """Which unit comes at each step, (n, units)."""
        self.rank = np.argsort(self.order, axis=1)
        self.rows = 1 + n * (units - 1)
        self.antithetic = antithetic

    def coefficients(self, draws: np.ndarray) -> np.ndarray:
        """Call 0 keeps nothing; then the first 1, 2, ... units of each order in turn."""
        steps = max(self.units - 1, 1)
        which, step = (draws - 1) // steps, (draws - 1) % steps
        kept = self.rank[which] <= step[:, None]
        return np.where(draws[:, None] == 0, 0.0, kept)

    def answer(self, scores: np.ndarray, on: float) -> Answer:
        """Means, and their standard errors as ``error``."""
        n, k = self.order.shape
        path = np.concatenate(
            [np.full((n, 1), scores[0]), scores[1:].reshape(n, k - 1), np.full((n, 1), on)], 1
        )
        gains = np.take_along_axis(np.diff(path, axis=1), self.rank, 1)
        free = gains
        if self.antithetic and n > 1:
            free = (gains[0 : n // 2 * 2 : 2] + gains[1::2]) / 2  # only pairs are independent
        error = free.std(0, ddof=1) / np.sqrt(len(free)) if len(free) > 1 else np.full(k, np.nan)
        return Answer(gains.mean(0), off=float(scores[0]), report={"error": np.nan_to_num(error)})


class KernelShap(Design):
    """Shapley values as weighted least squares over coalitions [lundberg2017].

    Coalitions of one size weigh (k - 1) / (size * (k - size)) together. Beginning with the smallest
    and the largest, sizes are tried whole while the budget has room for them; what is left of it is
    drawn at random from the others, in pairs of a coalition and what it leaves out [covert2021].
    With n >= 2^units - 2 nothing is left to chance and the values are exact.

    n: how many coalitions, at most; one call each, and one for x0.
    """

    def __init__(self, units: int, n: int, rng: np.random.Generator) -> None:
        self.units = units
        self.kept, self.weights = _coalitions(units, count(n, 2), rng)
        self.calls = np.concatenate([np.zeros((1, units), bool), self.kept])
        self.rows = len(self.calls)

    def coefficients(self, draws: np.ndarray) -> np.ndarray:
        """Call 0 keeps nothing; then the coalitions."""
        return self.calls[draws].astype(float)

    def answer(self, scores: np.ndarray, on: float) -> Answer:
        """The least squares solution among those that add up to f(x) - f(x0)."""
        off, k = float(scores[0]), self.units
        share = (on - off) / k
        z, w = self.kept.astype(float), self.weights[:, None]
        centre = np.eye(k) - 1 / k  # takes a vector to the nearest that adds up to 0
        normal = centre @ (z.T @ (w * z)) @ centre
        right = centre @ (z.T @ (self.weights * (scores[1:] - off - z.sum(1) * share)))
        # Too few coalitions leave directions open; the pseudo-inverse puts 0 there.
        free = np.linalg.pinv(normal, rcond=1e-10, hermitian=True) @ right
        return Answer(share + free - free.mean(), off=off)


def _coalitions(k: int, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The coalitions, (n at most, k), and their weights, which add up to 1."""
    mass = {s: (k - 1) / (s * (k - s)) for s in range(1, k)}
    total = sum(mass.values())
    kept: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    room = n
    for size in range(1, k // 2 + 1):
        pair = {size, k - size}
        here = sum(comb(k, s) for s in pair)
        share = sum(mass[s] for s in pair) / sum(mass.values())
        if room * share < here - 1e-9:
            break
        for s in pair:
            kept.append(_subsets(k, s))
            weights.append(np.full(comb(k, s), mass.pop(s) / total / comb(k, s)))
        room -= here
    if mass and room > 1:
        sizes = np.array(sorted(s for s in mass if s <= k - s))
        chance = np.array([mass[s] + (mass[k - s] if k != 2 * s else 0) for s in sizes])
        pairs = room // 2
        drawn = rng.choice(sizes, size=pairs, p=chance / chance.sum())
        rank = np.argsort(np.argsort(rng.random((pairs, k)), axis=1), axis=1)
        half = rank < drawn[:, None]
        kept.append(np.stack([half, ~half], 1).reshape(2 * pairs, k))
        weights.append(np.full(2 * pairs, sum(mass.values()) / total / (2 * pairs)))
    if not kept:
        return np.zeros((0, k), bool), np.zeros(0)
    return np.concatenate(kept), np.concatenate(weights)


def _subsets(k: int, size: int) -> np.ndarray:
    """All subsets of that size, (how many, k)."""
    found = np.zeros((comb(k, size), k), bool)
    places = np.array(list(combinations(range(k), size)))
    np.put_along_axis(found, places, True, 1)
    return found
