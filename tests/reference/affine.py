"""Ops that are linear, as explicit matrices, and the relevance rules for them, number by number.

A convolution of any kind is a matrix that is filled by walking over every output place, every
kernel place and every channel. With z_j = sum_i W_ji x_i + b_j a rule is a line of the paper.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def stabilised(z: float, eps: float) -> float:
    """Z + eps sign(z), with sign(0) = +1 [bach2015, eq. 58]."""
    return z + eps if z >= 0 else z - eps


def epsilon(x: Array, weight: Array, bias: Array, relevance: Array, eps: float) -> Array:
    """R_i = sum_j x_i W_ji / (z_j + eps sign z_j) R_j for one sample; x, bias, relevance flat."""
    outputs, inputs = weight.shape
    found = np.zeros(inputs)
    for j in range(outputs):
        z = sum(weight[j, i] * x[i] for i in range(inputs)) + bias[j]
        for i in range(inputs):
            if weight[j, i] != 0:
                found[i] += x[i] * weight[j, i] / stabilised(z, eps) * relevance[j]
    return found


def absorbed(
    x: Array, weight: Array, bias: Array, relevance: Array, eps: float
) -> dict[str, float]:
    """What the biases and the stabiliser keep of one sample's relevance."""
    z = weight @ x + bias
    kept = {"bias": 0.0, "epsilon": 0.0}
    for j in range(len(z)):
        kept["bias"] += bias[j] / stabilised(z[j], eps) * relevance[j]
        kept["epsilon"] += (1 - z[j] / stabilised(z[j], eps)) * relevance[j]
    return kept


def convolution(
    shape: Sequence[int],
    kernel: Array,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> tuple[Array, tuple[int, ...]]:
    """The matrix of a convolution of one sample, and its output's shape.

    shape: (channels, *size) of the input. kernel: (out, in / groups, *size). z[o, p] is the sum
    over c and k of kernel[o, c, k] * x[c, p * stride - padding + k * dilation], zero outside.
    """
    channels, *size = shape
    out, inside, *reach = kernel.shape
    places = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(size, padding, dilation, reach, stride, strict=True)
    ]
    rows, columns = (out, *places), (channels, *size)
    matrix = np.zeros((int(np.prod(rows)), int(np.prod(columns))))
    for o in range(out):
        group = o // (out // groups)
        for place in itertools.product(*map(range, places)):
            for c in range(inside):
                for k in itertools.product(*map(range, reach)):
                    at = [
                        p * s - pad + kk * d
                        for p, s, pad, kk, d in zip(
                            place, stride, padding, k, dilation, strict=True
                        )
                    ]
                    if all(0 <= a < n for a, n in zip(at, size, strict=True)):
                        row = np.ravel_multi_index((o, *place), rows)
                        column = np.ravel_multi_index((group * inside + c, *at), columns)
                        matrix[row, column] += kernel[(o, c, *k)]
    return matrix, rows


def transposed(
    shape: Sequence[int],
    kernel: Array,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    groups: int = 1,
) -> tuple[Array, tuple[int, ...]]:
    """The matrix of a transposed convolution: each input place paints the kernel into the output.

    kernel: (in, out / groups, *size). x[c, p] * kernel[c, o, k] is added at
    z[o, p * stride - padding + k * dilation].
    """
    channels, *size = shape
    _, inside, *reach = kernel.shape
    places = [
        (n - 1) * s - 2 * p + d * (k - 1) + more + 1
        for n, s, p, d, k, more in zip(
            size, stride, padding, dilation, reach, output_padding, strict=True
        )
    ]
    rows, columns = (inside * groups, *places), (channels, *size)
    matrix = np.zeros((int(np.prod(rows)), int(np.prod(columns))))
    for c in range(channels):
        group = c // (channels // groups)
        for place in itertools.product(*map(range, size)):
            for o in range(inside):
                for k in itertools.product(*map(range, reach)):
                    at = [
                        p * s - pad + kk * d
                        for p, s, pad, kk, d in zip(
                            place, stride, padding, k, dilation, strict=True
                        )
                    ]
                    if all(0 <= a < n for a, n in zip(at, places, strict=True)):
                        row = np.ravel_multi_index((group * inside + o, *at), rows)
                        column = np.ravel_multi_index((c, *place), columns)
                        matrix[row, column] += kernel[(c, o, *k)]
    return matrix, rows


def pooling(
    shape: Sequence[int], size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[Array, tuple[int, ...]]:
    """The matrix of average pooling over windows, padded zeros counted."""
    channels = shape[0]
    kernel = np.zeros((channels, 1, *size))
    kernel[:] = 1 / np.prod(size)
    ones = [1] * len(size)
    return convolution(
        shape, kernel, stride=stride, padding=padding, dilation=ones, groups=channels
    )


def added(
    parts: Sequence[Array], signs: Sequence[float], relevance: Array, eps: float
) -> list[Array]:
    """A sum of arrays shares relevance in proportion: R_k = s_k x_k R / s(sum), element by element.

    A part that was stretched to the others' shape gathers over all its copies.
    """
    full = [np.broadcast_to(p, relevance.shape) for p in parts]
    shares = [np.zeros(relevance.shape) for _ in parts]
    for place in np.ndindex(relevance.shape):
        z = sum(s * p[place] for s, p in zip(signs, full, strict=True))
        for share, s, p in zip(shares, signs, full, strict=True):
            share[place] = s * p[place] / stabilised(z, eps) * relevance[place]
    return [gathered(share, part.shape) for share, part in zip(shares, parts, strict=True)]


def gathered(array: Array, shape: tuple[int, ...]) -> Array:
    """Sums over the places that one element of ``shape`` was stretched to."""
    found = np.zeros(shape)
    lead = array.ndim - len(shape)
    for place in np.ndindex(array.shape):
        home = tuple(0 if n == 1 else p for p, n in zip(place[lead:], shape, strict=True))
        found[home] += array[place]
    return found
