"""Rectifiers, selections and gates, number by number."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def relu(x: Array, slope: float = 0.0, cap: float = np.inf) -> Array:
    """X where it is positive, slope * x where not, at most cap."""
    return np.minimum(np.where(x > 0, x, slope * x), cap)


def relu_gradient(x: Array, signal: Array, slope: float = 0.0, cap: float = np.inf) -> Array:
    """The chain rule through a rectifier: dR/dx is 1, slope, or 0 above the cap."""
    found = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        if x[place] > 0:
            found[place] = signal[place] if x[place] < cap else 0.0
        else:
            found[place] = slope * signal[place]
    return found


def relu_deconvolution(x: Array, signal: Array) -> Array:
    """Zeiler & Fergus 2014: the signal itself is rectified; what went forward does not matter."""
    return np.array([max(s, 0.0) for s in signal.reshape(-1)]).reshape(signal.shape)


def relu_guided(x: Array, signal: Array, slope: float = 0.0, cap: float = np.inf) -> Array:
    """Springenberg et al. 2015: both masks at once."""
    return relu_gradient(x, relu_deconvolution(x, signal), slope, cap)


def maxpool(
    x: Array, size: Sequence[int], stride: Sequence[int]
) -> tuple[Array, dict[tuple[int, ...], tuple[int, ...]]]:
    """Max pooling of (channels, *size) without padding: values, and where each came from."""
    channels, *shape = x.shape
    places = [(n - k) // s + 1 for n, k, s in zip(shape, size, stride, strict=True)]
    values = np.zeros((channels, *places))
    source = {}
    for c in range(channels):
        for place in itertools.product(*map(range, places)):
            window = [
                (c, *(p * s + k for p, s, k in zip(place, stride, step, strict=True)))
                for step in itertools.product(*map(range, size))
            ]
            winner = max(window, key=lambda at: x[at])
            values[(c, *place)] = x[winner]
            source[(c, *place)] = winner
    return values, source


def winner_takes_all(
    shape: tuple[int, ...],
    source: dict[tuple[int, ...], tuple[int, ...]],
    relevance: Array,
) -> Array:
    """All relevance of a maximum goes to the element that was it."""
    found = np.zeros(shape)
    for place, winner in source.items():
        found[winner] += relevance[place]
    return found
