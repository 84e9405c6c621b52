"""Affine ops as explicit matrices, and every relevance rule as loops over one: slow and literal.

Written from the papers: W[j, i] is the weight from input element i to output element j, b[j] the
bias, x the flattened operand, R the relevance at each output.
"""

from __future__ import annotations

import itertools

import numpy as np

__all__ = [
    "alpha_beta", "box", "conv_matrix", "dense_matrix", "epsilon", "flat", "gamma", "w_square",
    "z_plus",
]  # fmt: skip

EPS = 1e-6


def _pair(value, dims):
    return (value,) * dims if isinstance(value, int) else tuple(value)


def dense_matrix(weight, bias=None):
    """A dense layer's weight is the matrix already."""
    return np.array(weight, float), np.zeros(len(weight)) if bias is None else np.array(bias, float)


def conv_matrix(weight, shape, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """The matrix of a convolution on one sample of ``shape`` = (channels, *space), by definition.

    out[o, p] = sum over c, k of
    weight[o, c, k] * in[group(o) + c, p * stride + k * dilation - padding].
    """
    weight = np.asarray(weight, float)
    dims = weight.ndim - 2
    stride, padding, dilation = (_pair(v, dims) for v in (stride, padding, dilation))
    space, kernel = shape[1:], weight.shape[2:]
    out_space = tuple(
        (s + 2 * p - d * (k - 1) - 1) // st + 1
        for s, p, d, k, st in zip(space, padding, dilation, kernel, stride, strict=True)
    )
    per_group, outs = weight.shape[1], weight.shape[0]
    matrix = np.zeros((outs, *out_space, *shape))
    for o in range(outs):
        first = (o // (outs // groups)) * per_group
        for place in itertools.product(*map(range, out_space)):
            for c in range(per_group):
                for tap in itertools.product(*map(range, kernel)):
                    at = tuple(
                        p * s + t * d - q
                        for p, s, t, d, q in zip(place, stride, tap, dilation, padding, strict=True)
                    )
                    if all(0 <= a < n for a, n in zip(at, space, strict=True)):
                        matrix[(o, *place, first + c, *at)] += weight[(o, c, *tap)]
    rows = outs * int(np.prod(out_space))
    biases = np.zeros(outs) if bias is None else np.asarray(bias, float)
    spread = np.repeat(biases, int(np.prod(out_space)))
    return matrix.reshape(rows, -1), spread, (outs, *out_space)


def _s(z, eps=EPS):
    return z + (eps if z >= 0 else -eps)


def _shared(terms, bias, relevance, mode="absorb", contributing=None):
    """Relevance of one output, shared over its terms: term / s(sum of terms + bias)."""
    z = sum(terms) + (0.0 if mode == "ignore" else bias)
    parts = [t / _s(z) * relevance for t in terms]
    if mode == "distribute":
        count = sum(contributing)
        for i, c in enumerate(contributing):
            if c:
                parts[i] += bias / count / _s(z) * relevance
    return parts


def epsilon(W, b, x, R, eps=EPS):
    out = np.zeros(len(x))
    for j in range(len(R)):
        z = sum(W[j, i] * x[i] for i in range(len(x))) + b[j]
        for i in range(len(x)):
            out[i] += x[i] * W[j, i] / _s(z, eps) * R[j]
    return out


def z_plus(W, b, x, R, mode="absorb"):
    return _signed(W, b, x, R, +1, mode)


def _signed(W, b, x, R, sign, mode):
    """Only the products of one sign take part: x+ W+ + x- W- (or x+ W- + x- W+)."""
    keep = (lambda v: max(v, 0.0)) if sign > 0 else (lambda v: min(v, 0.0))
    out = np.zeros(len(x))
    for j in range(len(R)):
        terms = [keep(W[j, i] * x[i]) for i in range(len(x))]
        out += _shared(terms, keep(b[j]), R[j], mode, [w != 0 for w in W[j]])
    return out


def alpha_beta(W, b, x, R, alpha=2.0, beta=1.0, empty="conserve", mode="absorb"):
    out = np.zeros(len(x))
    for j in range(len(R)):
        up = sum(max(W[j, i] * x[i], 0) for i in range(len(x))) + (
            max(b[j], 0) if mode != "ignore" else 0
        )
        down = sum(min(W[j, i] * x[i], 0) for i in range(len(x))) + (
            min(b[j], 0) if mode != "ignore" else 0
        )
        a, c = alpha, -beta
        if empty == "conserve" and beta:
            a, c = (1.0 if down == 0 else a), (1.0 if up == 0 else c)
        a, c = (0.0 if up == 0 else a), (0.0 if down == 0 else c)
        row, one = W[j : j + 1], R[j : j + 1]
        out += a * _signed(row, b[j : j + 1], x, one, +1, mode) + c * _signed(
            row, b[j : j + 1], x, one, -1, mode
        )
    return out


def gamma(W, b, x, R, g=0.25, mode="absorb"):
    out = np.zeros(len(x))
    for j in range(len(R)):
        z = sum(W[j, i] * x[i] for i in range(len(x))) + b[j]
        if z == 0:
            continue
        favour = (lambda v: v + g * max(v, 0)) if z > 0 else (lambda v: v + g * min(v, 0))
        # x+ (W + gW+) + x- (W + gW-) favours products of the output's sign: w*x + g*[w*x]+ for
        # z > 0.
        terms = [favour(W[j, i] * x[i]) for i in range(len(x))]
        out += _shared(terms, favour(b[j]), R[j], mode, [w != 0 for w in W[j]])
    return out


def box(W, x, R, low, high):
    out = np.zeros(len(x))
    for j in range(len(R)):
        terms = [
            W[j, i] * x[i] - max(W[j, i], 0) * low[i] - min(W[j, i], 0) * high[i]
            for i in range(len(x))
        ]
        out += _shared(terms, 0.0, R[j])
    return out


def w_square(W, b, R, bias=False):
    out = np.zeros(W.shape[1])
    for j in range(len(R)):
        out += _shared([w * w for w in W[j]], b[j] ** 2 if bias else 0.0, R[j])
    return out


def flat(connected, R):
    """connected[j, i] is 1 where output j sees input i."""
    out = np.zeros(connected.shape[1])
    for j in range(len(R)):
        out += _shared(list(connected[j].astype(float)), 0.0, R[j])
    return out
