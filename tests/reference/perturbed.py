"""Perturbation methods, one call and one element at a time, from the papers.

``f`` takes one sample without a batch axis and returns a number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray
Game = Callable[[frozenset[int]], float]


def occlusion(
    f: Callable[[Array], float], x: Array, x0: Array, axes: Sequence[int],
    size: Sequence[int], stride: Sequence[int],
) -> Array:  # fmt: skip
    """Each place gets the mean of f(x) - f(covered) over the windows that hold it."""
    total, times = np.zeros(x.shape), np.zeros(x.shape)
    lines = []
    for axis, length, step in zip(axes, size, stride, strict=True):
        starts = [0]
        while starts[-1] + length < x.shape[axis]:
            starts.append(starts[-1] + step)
        lines.append(starts)
    for corner in itertools.product(*lines):
        hole = np.zeros(x.shape, bool)
        for place in np.ndindex(*x.shape):
            hole[place] = all(
                c <= place[a] < c + s for a, c, s in zip(axes, corner, size, strict=True)
            )
        total[hole] += f(x) - f(np.where(hole, x0, x))
        times[hole] += 1
    return total / times


def painted(x: Array, top: int, bottom: int, left: int, right: int) -> Array:
    """A window of a picture (height, width) filled from the four nearest places straight ahead."""
    found = x.copy()
    for r in range(top, bottom):
        for c in range(left, right):
            around = [(r, left - 1, c - left + 1), (r, right, right - c),
                      (top - 1, c, r - top + 1), (bottom, c, bottom - r)]  # fmt: skip
            rows, columns = x.shape
            inside = [(i, j, d) for i, j, d in around if 0 <= i < rows and 0 <= j < columns]
            weights = sum(1 / d for _, _, d in inside)
            found[r, c] = sum(x[i, j] / d for i, j, d in inside) / weights
    return found


def smooth_mask(
    bits: Array, shift: Sequence[int], steps: Sequence[int], sides: Sequence[int]
) -> Array:
    """A mask (height, width) between the bits of a lattice, one place after another."""
    found = np.zeros(sides)
    for r in range(sides[0]):
        for c in range(sides[1]):
            y, x = (r + shift[0]) / steps[0], (c + shift[1]) / steps[1]
            i, j = int(y), int(x)
            a, b = y - i, x - j
            found[r, c] = (
                (1 - a) * (1 - b) * bits[i, j] + a * (1 - b) * bits[i + 1, j]
                + (1 - a) * b * bits[i, j + 1] + a * b * bits[i + 1, j + 1]
            )  # fmt: skip
    return found


def shapley(v: Game, k: int) -> Array:
    """The mean over all k! orders of what each player adds on entering."""
    found = np.zeros(k)
    for order in itertools.permutations(range(k)):
        before: frozenset[int] = frozenset()
        for player in order:
            after = before | {player}
            found[player] += v(after) - v(before)
            before = after
    return found / math.factorial(k)


def kernel_shap(v: Game, k: int, kept: Array, weights: Array) -> Array:
    """Weighted least squares over given coalitions, the last value eliminated by efficiency."""
    everyone, nobody = v(frozenset(range(k))), v(frozenset())
    rows, right = [], []
    for line in kept:
        inside = frozenset(np.flatnonzero(line).tolist())
        z = line.astype(float)
        right.append(v(inside) - nobody - z[-1] * (everyone - nobody))
        rows.append(z[:-1] - z[-1])
    root = np.sqrt(weights)
    found = np.linalg.lstsq(np.array(rows) * root[:, None], np.array(right) * root, rcond=None)[0]
    return np.append(found, everyone - nobody - found.sum())


def jansen(f: Callable[[Array], float], a: Array, b: Array) -> Array:
    """Total indices: half the mean of (f(A) - f(A with column i of B))^2, over the variance."""
    n, k = a.shape
    both = [f(row) for row in np.concatenate([a, b])]
    found = np.zeros(k)
    for i in range(k):
        for j in range(n):
            mixed = a[j].copy()
            mixed[i] = b[j, i]
            found[i] += (both[j] - f(mixed)) ** 2 / (2 * n)
    return found / np.var(both)


def hsic(kept: Array, y: Array) -> Array:
    """Trace of K H L H over (n - 1)^2, with matrices written out."""
    n, k = kept.shape
    width = np.median([abs(y[i] - y[j]) for i in range(n) for j in range(i + 1, n)])
    kernel = np.array([[math.exp(-((p - q) ** 2) / (2 * width**2)) for q in y] for p in y])
    centre = np.eye(n) - np.ones((n, n)) / n
    found = np.zeros(k)
    for i in range(k):
        same = np.array([[float(p == q) for q in kept[:, i]] for p in kept[:, i]])
        found[i] = np.trace(same @ centre @ kernel @ centre) / (n - 1) ** 2
    return found
