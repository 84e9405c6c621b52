"""A small network of explicit matrices: forwards once, then back with any of the rules.

conv -> rectifier -> max pooling -> conv -> rectifier -> add a skip -> dense, one sample at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import affine, flow

Array = np.ndarray


@dataclass(frozen=True)
class Weights:
    """Kernels (out, in, k) of two convolutions of one dimension, and a dense layer."""

    first: Array
    first_bias: Array
    second: Array
    second_bias: Array
    dense: Array
    dense_bias: Array


class Network:
    """x (channels, length) -> scores (classes,). Everything that was computed is kept."""

    def __init__(self, weights: Weights, x: Array) -> None:
        w = weights
        one, line = [1], w.first.shape[2] // 2
        self.x = x
        self.m1, s1 = affine.convolution(x.shape, w.first, stride=one, padding=[line], dilation=one)
        self.b1 = np.repeat(w.first_bias, s1[1])
        self.z1 = (self.m1 @ x.reshape(-1) + self.b1).reshape(s1)
        self.a1 = flow.relu(self.z1)
        self.pooled, self.source = flow.maxpool(self.a1, [2], [2])
        self.m2, s2 = affine.convolution(
            self.pooled.shape, w.second, stride=one, padding=[line], dilation=one
        )
        self.b2 = np.repeat(w.second_bias, s2[1])
        self.z2 = (self.m2 @ self.pooled.reshape(-1) + self.b2).reshape(s2)
        self.a2 = flow.relu(self.z2)
        self.sum = self.a2 + self.pooled
        self.m3, self.b3 = w.dense, w.dense_bias
        self.scores = self.m3 @ self.sum.reshape(-1) + self.b3

    def pulled(self, target: int, rectify: str) -> Array:
        """The gradient, or deconvolution, or guided backpropagation, of one score."""
        rule = {
            "gradient": flow.relu_gradient,
            "deconvolution": flow.relu_deconvolution,
            "guided-backpropagation": flow.relu_guided,
        }[rectify]
        signal = self.m3[target].reshape(self.sum.shape)
        inner = rule(self.z2, signal)
        at_pool = (self.m2.T @ inner.reshape(-1)).reshape(self.pooled.shape) + signal
        at_a1 = flow.winner_takes_all(self.a1.shape, self.source, at_pool)
        at_z1 = rule(self.z1, at_a1)
        return (self.m1.T @ at_z1.reshape(-1)).reshape(self.x.shape)

    def epsilon(self, target: int, eps: float) -> Array:
        """LRP-epsilon of one score; rectifiers hand relevance on, the maximum keeps it."""
        seed = np.zeros_like(self.scores)
        seed[target] = self.scores[target]
        at_sum = affine.epsilon(self.sum.reshape(-1), self.m3, self.b3, seed, eps)
        branch, skip = affine.added(
            [self.a2, self.pooled], [1, 1], at_sum.reshape(self.sum.shape), eps
        )
        at_pool = skip.reshape(-1) + affine.epsilon(
            self.pooled.reshape(-1), self.m2, self.b2, branch.reshape(-1), eps
        )
        at_a1 = flow.winner_takes_all(
            self.a1.shape, self.source, at_pool.reshape(self.pooled.shape)
        )
        return affine.epsilon(self.x.reshape(-1), self.m1, self.b1, at_a1.reshape(-1), eps).reshape(
            self.x.shape
        )


def simple_taylor(weights: Weights, x: Array, target: int, root: Array) -> tuple[Array, float]:
    """R_i = (x_i - root_i) df/dx_i at the root, and the remainder f(x) - f(root) - sum R."""
    there = Network(weights, root)
    slope = there.pulled(target, "gradient")
    found = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        found[place] = (x[place] - root[place]) * slope[place]
    here = Network(weights, x).scores[target]
    return found, here - there.scores[target] - found.sum()


def sensitivity(weights: Weights, x: Array, target: int) -> Array:
    """R_i = (df/dx_i)^2 (Montavon et al. 2018)."""
    slope = Network(weights, x).pulled(target, "gradient")
    return np.array([s * s for s in slope.reshape(-1)]).reshape(x.shape)
