"""DeepLIFT in NumPy, written down from the paper, one number after the other [shrikumar2017].

Vectors of one sample in float64. A net is a list of layers; each layer knows its function and how
it turns multipliers of its result into multipliers of its operand. No array is ever doubled here,
and nothing is shared with the library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Vector = np.ndarray


@dataclass
class Linear:
    """t = W x + b: m_x = sum over t of w m_t (section 3.5.1)."""

    weight: np.ndarray
    bias: np.ndarray

    def run(self, x: Vector) -> Vector:
        return self.weight @ x + self.bias

    def back(self, m: Vector, x: Vector, x0: Vector) -> Vector:
        return np.array([
            sum(self.weight[t, i] * m[t] for t in range(len(m))) for i in range(len(x))
        ])  # fmt: skip


@dataclass
class Elementwise:
    """y = f(x): m_x = m_y (y - y0) / (x - x0) (section 3.5.2)."""

    function: Callable[[float], float]
    slope: Callable[[float], float]

    def run(self, x: Vector) -> Vector:
        return np.array([self.function(v) for v in x])

    def back(self, m: Vector, x: Vector, x0: Vector) -> Vector:
        found = []
        for mi, a, b in zip(m, x, x0, strict=True):
            if abs(a - b) < 1e-7:
                found.append(mi * self.slope((a + b) / 2))
            else:
                found.append(mi * (self.function(a) - self.function(b)) / (a - b))
        return np.array(found)


@dataclass
class Largest:
    """Max over windows: what y changed goes to the winner in x if it rose, in x0 if it fell."""

    windows: Sequence[Sequence[int]]

    def run(self, x: Vector) -> Vector:
        return np.array([max(x[i] for i in w) for w in self.windows])

    def back(self, m: Vector, x: Vector, x0: Vector) -> Vector:
        share = np.zeros(len(x))
        for mk, window in zip(m, self.windows, strict=True):
            change = max(x[i] for i in window) - max(x0[i] for i in window)
            winner = max(window, key=lambda i: x[i] if change >= 0 else x0[i])
            share[winner] += mk * change
        moved = x != x0
        return np.where(moved, share / np.where(moved, x - x0, 1), 0)


@dataclass
class Softmax:
    """y_i = exp(x_i - L), L = log S, S = sum exp x_j: one elementary step after the other."""

    def run(self, x: Vector) -> Vector:
        return np.exp(x) / np.exp(x).sum()

    def back(self, m: Vector, x: Vector, x0: Vector) -> Vector:
        exp = Elementwise(np.exp, np.exp)
        log = Elementwise(np.log, lambda v: 1 / v)
        s, s0 = np.array([np.exp(x).sum()]), np.array([np.exp(x0).sum()])
        depth, depth0 = x - np.log(s), x0 - np.log(s0)
        m_depth = exp.back(m, depth, depth0)
        m_level = -m_depth.sum()
        m_sum = log.back(np.array([m_level]), s, s0)[0]
        return m_depth + exp.back(np.full(len(x), m_sum), x, x0)


@dataclass
class Spread:
    """Layer norm: c = x - mean, v = mean c^2, r = sqrt(v + eps), y = c / r; RMS without the mean.

    The quotient from c = y r by the midpoint: dy = (dc - ymean dr) / rmean.
    """

    eps: float
    centre: bool = True

    def run(self, x: Vector) -> Vector:
        c = x - x.mean() if self.centre else x
        return c / np.sqrt((c**2).mean() + self.eps)

    def back(self, m: Vector, x: Vector, x0: Vector) -> Vector:
        c, c0 = (v - v.mean() if self.centre else v for v in (x, x0))
        v, v0 = (c**2).mean() + self.eps, (c0**2).mean() + self.eps
        r, r0 = np.sqrt(v), np.sqrt(v0)
        middle = (r + r0) / 2
        m_c = m / middle
        m_r = -sum(mi * (a / r + b / r0) / 2 for mi, a, b in zip(m, c, c0, strict=True)) / middle
        m_v = m_r * ((r - r0) / (v - v0) if v != v0 else 0.5 / r)
        m_c = m_c + np.array([m_v * (a + b) / len(x) for a, b in zip(c, c0, strict=True)])
        return m_c - m_c.mean() if self.centre else m_c


def attribution(
    layers: Sequence[Linear | Elementwise | Largest | Softmax | Spread],
    x: Vector,
    x0: Vector,
    target: int,
) -> Vector:
    """C = m (x - x0), with m carried back from 1 at the target (the chain rule for multipliers)."""
    states = [(x, x0)]
    for layer in layers:
        states.append((layer.run(states[-1][0]), layer.run(states[-1][1])))
    m = np.eye(len(states[-1][0]))[target]
    for layer, (a, b) in zip(reversed(layers), reversed(states[:-1]), strict=True):
        m = layer.back(m, a, b)
    return m * (x - x0)


def reveal_cancel(
    weights: Sequence[tuple[np.ndarray, np.ndarray]],
    function: Callable[[float], float],
    x: Vector,
    x0: Vector,
    target: int,
) -> Vector:
    """Dense layers with one elementwise function between them, by the reveal-cancel rule.

    Section 3.5.3 for the function, 3.5.1 (by the sign of the contribution) for the layers.
    """
    deltas, befores = [x - x0], []
    starts = [x0]
    parts = []
    for place, (w, b) in enumerate(weights):
        delta = deltas[-1]
        up = np.array([sum(max(wi * d, 0) for wi, d in zip(row, delta, strict=True)) for row in w])
        down = np.array(
            [sum(min(wi * d, 0) for wi, d in zip(row, delta, strict=True)) for row in w]
        )
        start = w @ starts[-1] + b
        befores.append((start, up, down))
        if place == len(weights) - 1:
            break
        grown = [_signed_change(function, *z) for z in zip(start, up, down, strict=True)]
        parts.append(grown)
        deltas.append(np.array([p + n for p, n in grown]))
        starts.append(np.array([function(v) for v in start]))
    m_up = m_down = np.eye(len(weights[-1][1]))[target]
    for place in range(len(weights) - 1, -1, -1):
        w, _ = weights[place]
        m = np.zeros(w.shape[1])
        for i, d in enumerate(deltas[place]):
            for t in range(w.shape[0]):
                share = w[t, i] * d
                by = m_up[t] if share > 0 else m_down[t] if share < 0 else (m_up[t] + m_down[t]) / 2
                m[i] += w[t, i] * by
        if place:
            _, up, down = befores[place - 1]
            pairs = zip(m, parts[place - 1], up, down, strict=True)
            both = [(_over(mi * p, u), _over(mi * n, d)) for mi, (p, n), u, d in pairs]
            m_up, m_down = np.array([u for u, _ in both]), np.array([d for _, d in both])
    return m * (x - x0)


def _signed_change(
    f: Callable[[float], float], start: float, up: float, down: float
) -> tuple[float, float]:
    """The positive and negative part of the change of f: each alone, and after the other."""
    rise = ((f(start + up) - f(start)) + (f(start + down + up) - f(start + down))) / 2
    fall = ((f(start + down) - f(start)) + (f(start + up + down) - f(start + up))) / 2
    return rise, fall


def _over(a: float, b: float) -> float:
    return a / b if b else 0.0
