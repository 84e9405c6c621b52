"""Averages of gradients, one sample and one step at a time, from the papers.

``f`` and ``grad`` take one sample without a batch axis; ``grad`` returns an array of its shape.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray
Number = Callable[[Array], float]
Slope = Callable[[Array], Array]


def gauss_legendre(n: int) -> tuple[Array, Array]:
    """Nodes and weights on 0..1: the roots of the n-th Legendre polynomial, by Newton's method."""
    nodes, weights = [], []
    for i in range(n):
        z = math.cos(math.pi * (i + 0.75) / (n + 0.5))
        for _ in range(100):
            before, now = 0.0, 1.0
            for k in range(1, n + 1):
                before, now = now, ((2 * k - 1) * z * now - (k - 1) * before) / k
            slope = n * (z * now - before) / (z * z - 1)
            z -= now / slope
        nodes.append((1 - z) / 2)
        weights.append(1 / ((1 - z * z) * slope * slope))
    return np.array(nodes), np.array(weights)


def integrated_gradients(grad: Slope, x: Array, x0: Array, steps: int, rule: str) -> Array:
    """Equation 1 of Sundararajan 2017 by a rule of summation."""
    total = np.zeros_like(x)
    for t, w in zip(*summation(rule, steps), strict=True):
        total += w * grad(x0 + t * (x - x0))
    return (x - x0) * total


def summation(rule: str, steps: int) -> tuple[Array, Array]:
    """Places and weights of a rule of summation."""
    if rule == "gauss-legendre":
        return gauss_legendre(steps)
    if rule == "trapezoid":
        places = np.array([k / (steps - 1) for k in range(steps)])
        ends = [(0.5 if k in (0, steps - 1) else 1) / (steps - 1) for k in range(steps)]
        return places, np.array(ends)
    off = {"left": 0, "middle": 0.5, "right": 1}[rule]
    return np.array([(k + off) / steps for k in range(steps)]), np.ones(steps) / steps


def refined(
    f: Number, grad: Slope, x: Array, starts: Sequence[Array], steps: int, rule: str, gap: float
) -> tuple[Array, int]:
    """Integrated gradients from one baseline or the mean over several, with looks added.

    Looks are added until |sum - (f(x) - f(x0))| is small enough: each round halves the parts
    between looks where f changes most against what the looks on both sides say, half of all such
    differences taken together, and those that are as large to a thousandth. Returns the attribution
    and how many looks it is of.
    """
    places, weights = summation(rule, steps)
    # A look: where it is, and from where to where it counts.
    stops = np.cumsum(weights)
    ways = [[[t, b - w, b] for t, w, b in zip(places, weights, stops, strict=True)] for _ in starts]
    change = f(x) - sum(f(x0) for x0 in starts) / len(starts)
    while True:
        parts = []
        for number, (x0, looks) in enumerate(zip(starts, ways, strict=True)):
            slopes = [(grad(x0 + t * (x - x0)) * (x - x0)).sum() for t, _, _ in looks]
            for k in range(len(looks) + 1):
                here = looks[k - 1][0] if k > 0 else 0.0
                there = looks[k][0] if k < len(looks) else 1.0
                wanted = f(x0 + there * (x - x0)) - f(x0 + here * (x - x0))
                if k > 0:
                    wanted -= slopes[k - 1] * (looks[k - 1][2] - here)
                if k < len(looks):
                    wanted -= slopes[k] * (there - looks[k][1])
                parts.append((wanted, number, (here + there) / 2))
        if abs(sum(p[0] for p in parts)) / len(starts) <= gap * abs(change):
            break
        parts.sort(key=lambda p: -abs(p[0]))
        enough, so_far, last = sum(abs(p[0]) for p in parts) / 2, 0.0, np.inf
        for off, number, middle in parts:
            if so_far >= enough and abs(off) < 0.999 * last:
                break
            if so_far < enough:
                last = abs(off)
            so_far += abs(off)
            looks = ways[number]
            k = sum(t < middle for t, _, _ in looks)
            if k > 0:
                looks[k - 1][2] = (looks[k - 1][0] + middle) / 2
            if k < len(looks):
                looks[k][1] = (middle + looks[k][0]) / 2
            left = looks[k - 1][2] if k > 0 else 0.0
            looks.insert(k, [middle, left, looks[k][1] if k < len(looks) else 1.0])
    total = np.zeros_like(x)
    for x0, looks in zip(starts, ways, strict=True):
        for t, left, right in looks:
            total += (right - left) * grad(x0 + t * (x - x0)) * (x - x0)
    return total / len(starts), sum(len(looks) for looks in ways)


def idgi(f: Number, grad: Slope, path: Sequence[Array]) -> Array:
    """Yang 2023: the change of f over each step, by the squared gradient where the step begins."""
    total = np.zeros_like(path[0])
    for here, there in itertools.pairwise(path):
        g = grad(here)
        if (g * g).sum() > 0:
            total += g * g / (g * g).sum() * (f(there) - f(here))
    return total


def guided(
    grad: Slope, x: Array, x0: Array, steps: int, fraction: float = 0.25, distance: float = 0.02
) -> tuple[Array, list[Array]]:
    """Algorithm 1 of Kapishnikov 2021 for one flat sample; also the points of the path."""
    here, attribution, path = x0.astype(float).copy(), np.zeros(len(x)), [x0.astype(float).copy()]
    for step in range(steps):
        g = grad(here)
        left = np.abs(g)
        low = max((step + 1) / steps - distance, 0)
        high = min((step + 1) / steps + distance, 1)
        begin = here.copy()
        for i in range(len(x)):
            if x[i] != x0[i] and (here[i] - x0[i]) / (x[i] - x0[i]) < low:
                here[i] = x0[i] + low * (x[i] - x0[i])
            if abs(here[i] - (x0[i] + high * (x[i] - x0[i]))) <= 1e-12 * abs(x[i] - x0[i]):
                left[i] = np.inf
        wanted = np.abs(x - x0).sum() * (1 - (step + 1) / steps)
        while np.abs(here - x).sum() - wanted > 1e-9 * np.abs(x - x0).sum():
            free = sorted(left)
            threshold = free[int(fraction * (len(x) - 1))]
            if threshold == np.inf:
                threshold = free[0]
            if threshold == np.inf:
                break
            chosen = [i for i in range(len(x)) if left[i] <= threshold]
            ceiling = x0 + high * (x - x0)
            room = sum(abs(ceiling[i] - here[i]) for i in chosen)
            part = (np.abs(here - x).sum() - wanted) / room if room > 0 else 1.0
            for i in chosen:
                here[i] += min(part, 1.0) * (ceiling[i] - here[i])
                left[i] = np.inf
            if part < 1:
                break
        if step == steps - 1:
            here = x.astype(float).copy()
        attribution += g * (here - begin)
        path.append(here.copy())
    return attribution, path


def gaussian_blur(x: Array, sigma: float) -> Array:
    """A map (height, width), blurred along both axes; mirrored beyond its edges."""
    if sigma == 0:
        return x.copy()
    reach = math.ceil(4 * sigma)
    kernel = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-reach, reach + 1)]
    for axis in (0, 1):
        rows = np.moveaxis(x, axis, 0)
        size, out = len(rows), np.zeros_like(rows)
        for i in range(size):
            for k, weight in zip(range(-reach, reach + 1), kernel, strict=True):
                place = (i + k) % (2 * size)
                out[i] += weight / sum(kernel) * rows[min(place, 2 * size - 1 - place)]
        x = np.moveaxis(out, 0, axis)
    return x


def blur_gradients(grad: Slope, x: Array, sigma: float, steps: int) -> Array:
    """Xu 2020: the gradient along a path of ever less blur, in the middle of each step."""
    total = np.zeros_like(x)
    for k in range(steps):
        before, middle, after = (
            gaussian_blur(x, sigma * (1 - (k + off) / steps)) for off in (0, 0.5, 1)
        )
        total += grad(middle) * (after - before)
    return total


def smoothgrad(grad: Slope, x: Array, noise: Sequence[Array], sigma: float, kind: str) -> Array:
    """Smilkov 2017, and the second moments of Hooker 2019 and Adebayo 2018."""
    scale = sigma * (x.max() - x.min())
    found = [grad(x + scale * e) for e in noise]
    n = len(found)
    mean = sum(found) / n
    if kind == "mean":
        return mean
    if kind == "squared":
        return sum(g * g for g in found) / n
    return sum((g - mean) ** 2 for g in found) / (n - 1)


def expected_gradients(
    grad: Slope, x: Array, background: Sequence[Array], draws: Sequence[tuple[float, float]]
) -> Array:
    """Erion 2021, for draws of (which reference, how far along), each a number in 0..1."""
    total = np.zeros_like(x)
    for which, t in draws:
        other = background[int(which * len(background))]
        total += (x - other) * grad(other + t * (x - other))
    return total / len(draws)
