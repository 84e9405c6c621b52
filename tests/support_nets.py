"""Small networks with known weights, the same in PyTorch and Keras, and ways to reach one op.

Frameworks are imported when a network is asked for, so that a test of one does not load the other.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest

import whence
from whence.backward import Rule, Split
from whence.tape import Node

FRAMEWORKS = ("torch", "tensorflow")
PLAIN_ONLY = ("deep-taylor",)
"""Methods that refuse any net but one of affine ops, ReLUs and pooling."""
FORWARD_ONLY = (
    "occlusion", "rise", "sobol", "hsic", "lime", "kernel-shap", "shapley-sampling",
    "exact-shapley",
)  # fmt: skip
"""Methods that look at the explained number alone: they need no gradient, and have none to miss."""
UNSIGNED = ("saliency", "sensitivity-analysis", "sobol", "hsic")
_SMALL: dict[str, dict[str, Any]] = {
    "integrated-gradients": {"steps": 6},
    "expected-gradients": {"n": 6},
    "smoothgrad": {"n": 4},
    "rise": {"n": 24, "cells": 3},
    "sobol": {"n": 4, "cells": 2},
    "hsic": {"n": 32, "cells": 3},
    "lime": {"n": 40},
    "kernel-shap": {"n": 100},
    "shapley-sampling": {"n": 2},
}


def small(method: str) -> dict[str, Any]:
    """Options by which a method that calls the model often is quick; none for the others."""
    return _SMALL.get(method, {})


@dataclass(frozen=True)
class Twin:
    """One network in one framework. Maps are kept in the framework's own channel order."""

    framework: str
    model: Any
    x: np.ndarray
    """In the framework's channel order."""
    array: Callable[[np.ndarray], Any]
    """A NumPy array as the framework's."""
    first: Callable[[np.ndarray], np.ndarray]
    """An attribution with channels brought to axis 1, to be compared between frameworks."""
    layers: dict[str, str] = field(default_factory=dict)
    """Names that both networks know: ``conv2`` -> the framework's own layer name."""


def conv_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two 3x3 convolutions (2 -> 4 -> 5 channels), batch-norm between, and 45 -> 3 classes."""
    return {
        "w1": rng.normal(0, 0.4, (4, 2, 3, 3)),
        "b1": rng.normal(0, 0.3, 4),
        "scale": rng.uniform(0.5, 1.5, 4),
        "shift": rng.normal(0, 0.3, 4),
        "mean": rng.normal(0, 0.3, 4),
        "var": rng.uniform(0.5, 1.5, 4),
        "w2": rng.normal(0, 0.3, (5, 4, 3, 3)),
        "b2": rng.normal(0, 0.3, 5),
        "w3": rng.normal(0, 0.3, (3, 5, 3, 3)),
        "b3": rng.normal(0, 0.3, 3),
    }


@cache
def conv_twin(framework: str, slope: float = 0.1) -> Twin:
    """conv, batch-norm, ReLU, max pooling, conv, leaky ReLU, dense; 6 x 6 maps of two channels.

    slope: of the leaky ReLU; 0 makes it a plain one.

    One for all tests of a process, for TensorFlow compiles its graphs once a model.
    """
    rng = np.random.default_rng(0)
    weights = {k: v.astype(np.float32) for k, v in conv_weights(rng).items()}
    x = rng.normal(0, 1, (3, 2, 6, 6)).astype(np.float32)
    make = torch_conv_twin if framework == "torch" else keras_conv_twin
    return make(weights, x, slope)


def fitting(framework: str, method: str) -> Twin:
    """The twin that a method can explain: some are derived for plain ReLUs only."""
    return conv_twin(installed(framework), 0.0 if method in PLAIN_ONLY else 0.1)


def torch_conv_twin(w: dict[str, np.ndarray], x: np.ndarray, slope: float) -> Twin:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)
            self.conv2 = nn.Conv2d(4, 5, 3, padding=1)
            self.dense = nn.Linear(45, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.norm(self.conv1(x)))
            x = nn.functional.max_pool2d(x, 2)
            x = self.conv2(x)
            x = nn.functional.leaky_relu(x, slope) if slope else torch.relu(x)
            return self.dense(x.flatten(1))

    net = Net()
    given = {
        "conv1.weight": w["w1"], "conv1.bias": w["b1"], "norm.weight": w["scale"],
        "norm.bias": w["shift"], "norm.running_mean": w["mean"], "norm.running_var": w["var"],
        "norm.num_batches_tracked": np.int64(0), "conv2.weight": w["w2"], "conv2.bias": w["b2"],
        "dense.weight": w["w3"].reshape(3, -1), "dense.bias": w["b3"],
    }  # fmt: skip
    net.load_state_dict({k: torch.as_tensor(v) for k, v in given.items()})
    names = {n: n for n in ("conv1", "norm", "conv2", "dense")}
    return Twin("torch", net.eval(), x, torch.as_tensor, lambda a: a, names)


def keras_conv_twin(w: dict[str, np.ndarray], x: np.ndarray, slope: float) -> Twin:
    import keras
    import tensorflow as tf

    layers = keras.layers
    net = keras.Sequential([
        layers.Input((6, 6, 2)),
        layers.Conv2D(4, 3, padding="same", name="conv1"),
        layers.BatchNormalization(epsilon=1e-5, name="norm"),
        layers.ReLU(),
        layers.MaxPooling2D(2),
        layers.Conv2D(5, 3, padding="same", name="conv2"),
        layers.LeakyReLU(negative_slope=slope) if slope else layers.ReLU(),
        layers.Flatten(),
        layers.Dense(3, name="dense"),
    ])  # fmt: skip
    kernel = (2, 3, 1, 0)
    net.get_layer("conv1").set_weights([w["w1"].transpose(kernel), w["b1"]])
    net.get_layer("norm").set_weights([w["scale"], w["shift"], w["mean"], w["var"]])
    net.get_layer("conv2").set_weights([w["w2"].transpose(kernel), w["b2"]])
    net.get_layer("dense").set_weights([w["w3"].transpose(2, 3, 1, 0).reshape(45, 3), w["b3"]])
    names = {n: n for n in ("conv1", "norm", "conv2", "dense")}
    return Twin(
        "tensorflow", net, x.transpose(0, 2, 3, 1).copy(), tf.convert_to_tensor,
        lambda a: np.moveaxis(a, -1, 1), names,
    )  # fmt: skip


@pytest.fixture(params=FRAMEWORKS)
def twin(request: pytest.FixtureRequest) -> Twin:
    """The small convolutional network, in each framework that is installed."""
    return conv_twin(installed(request.param))


def installed(framework: str) -> str:
    """The name itself; skips the test where the framework is missing."""
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    return framework


@contextmanager
def nodes_of(model: Any, x: Any, kind: str) -> Iterator[list[Node]]:
    """The nodes of a kind on the tape of a call, in order."""
    tape = whence.record(model, x)
    try:
        yield [n for n in tape.nodes if str(n.kind) == kind]
    finally:
        tape.free()


def applied(
    rule: Rule, node: Node, relevance: Any, samples: int
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """What a rule gives each operand, and what it says that it absorbed, per sample."""
    xp: Any = node.xp
    found = rule(node, relevance)
    split = found if isinstance(found, Split) else Split(found, lambda total: {})

    def total(a: Any, b: Any = None) -> Any:
        a = xp.to_numpy(a)
        b = 1.0 if b is None else xp.to_numpy(b)
        return (a * b).reshape(samples, -1).sum(1)

    books = {k: np.asarray(v) for k, v in split.absorbed(total).items()}
    return [xp.to_numpy(p) for p in split.parts], books


def close(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    """Largest difference over largest number; fails where shapes differ or all is zero."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    scale = np.abs(theirs).max()
    assert scale > 0, "nothing but zeros shows nothing"
    off = np.abs(ours - theirs).max() / scale
    assert off <= tolerance, f"off by {off:.3g} of the largest, {tolerance} allowed"
