"""Products, softmax and normalisation after AttnLRP (Achtibat et al. 2024), number by number."""

from __future__ import annotations

import numpy as np

from .affine import gathered, stabilised

Array = np.ndarray


def halves(a: Array, b: Array, relevance: Array) -> tuple[Array, Array]:
    """Proposition 3.3 for an elementwise product: each factor takes half."""
    return gathered(relevance / 2, a.shape), gathered(relevance / 2, b.shape)


def product(a: Array, b: Array, relevance: Array, eps: float) -> tuple[Array, Array]:
    """Proposition 3.3 for O = A B of one matrix pair.

    R(A_ji) = sum_p A_ji B_ip R_jp / (2 O_jp + eps), and the same for B.
    """
    rows, inner = a.shape
    columns = b.shape[1]
    of_a, of_b = np.zeros(a.shape), np.zeros(b.shape)
    for j in range(rows):
        for p in range(columns):
            o = sum(a[j, i] * b[i, p] for i in range(inner))
            for i in range(inner):
                share = a[j, i] * b[i, p] / (2 * stabilised(o, eps)) * relevance[j, p]
                of_a[j, i] += share
                of_b[i, p] += share
    return of_a, of_b


def softmax(x: Array) -> Array:
    """Exp x_i / sum_j exp x_j of one row."""
    e = [np.exp(v - max(x)) for v in x]
    return np.array([v / sum(e) for v in e])


def softmax_rule(x: Array, relevance: Array) -> Array:
    """Proposition 3.1 for one row: R_i = x_i (R_i - s_i sum_j R_j)."""
    s = softmax(x)
    found = np.zeros_like(x)
    for i in range(len(x)):
        if np.isfinite(x[i]):
            found[i] = x[i] * (relevance[i] - s[i] * sum(relevance))
    return found


def softmax_rule_by_taylor(x: Array, relevance: Array, eps: float = 0.0) -> Array:
    """The same from the definition: R_i = sum_j J_ji x_i R_j / s_j, with J of the softmax."""
    s = softmax(x)
    found = np.zeros_like(x)
    for i in range(len(x)):
        for j in range(len(x)):
            slope = s[j] * ((1.0 if i == j else 0.0) - s[i])
            found[i] += slope * x[i] * relevance[j] / stabilised(s[j], eps)
    return found


def log_softmax_rule(x: Array, relevance: Array, eps: float) -> Array:
    """R_i = sum_j J_ji x_i R_j / z_j with z_j = log s_j and J_ji = [i = j] - s_i."""
    s = softmax(x)
    found = np.zeros_like(x)
    for i in range(len(x)):
        for j in range(len(x)):
            slope = (1.0 if i == j else 0.0) - s[i]
            found[i] += slope * x[i] * relevance[j] / stabilised(float(np.log(s[j])), eps)
    return found


def norm_rule(
    x: Array, scale: Array, shift: Array, relevance: Array, floor: float, eps: float
) -> Array:
    """One group of numbers that is centred and divided by its spread, the spread held constant.

    z_j = scale_j (x_j - mean x) / spread + shift_j is then linear, with the matrix
    W_ji = scale_j ([i = j] - 1/n) / spread, and the epsilon rule does the rest.
    """
    n = len(x)
    mean = sum(x) / n
    spread = np.sqrt(sum((v - mean) ** 2 for v in x) / n + floor)
    found = np.zeros(n)
    for j in range(n):
        z = scale[j] * (x[j] - mean) / spread + shift[j]
        for i in range(n):
            weight = scale[j] * ((1.0 if i == j else 0.0) - 1 / n) / spread
            found[i] += x[i] * weight / stabilised(z, eps) * relevance[j]
    return found
