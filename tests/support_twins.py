"""Two further small networks with the same weights in PyTorch and Keras, for rules and composites.

``blocks``: a strided convolution, batch-norms after and ahead of affine ops, a depthwise
convolution, a residual sum, a transposed convolution, average and overlapping max pooling.
``series``: dilated 1-D convolutions with a gate, and batch-norm on the input.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from support_nets import Twin, installed

_SHAPES = {
    "stem": (4, 2, 3, 3), "deep": (4, 1, 3, 3), "mix": (4, 4, 1, 1), "up": (4, 3, 2, 2),
    "head": (3, 3),
    "a": (4, 3, 3), "b": (4, 4, 2), "gate": (4, 4, 1), "out": (3, 4),
}  # fmt: skip
_NORMS = {"stem_norm": 4, "mix_norm": 4, "ahead": 4, "entry": 3}


@cache
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    found: dict[str, np.ndarray] = {}
    for name, shape in _SHAPES.items():
        spread = (2 / np.prod(shape[1:])) ** 0.5
        found[name] = rng.normal(0, spread, shape)
        outs = shape[1] if name == "up" else shape[0]
        found[name + "_bias"] = rng.normal(0, 0.2, outs)
    for name in ("head", "out"):  # each class has something that speaks for it
        found[name] = found[name] + np.eye(*_SHAPES[name])
    for name, size in _NORMS.items():
        found[name] = np.stack([
            rng.uniform(0.5, 1.5, size), rng.normal(0, 0.3, size), rng.normal(0, 0.3, size),
            rng.uniform(0.5, 1.5, size),
        ])  # fmt: skip
    return {k: v.astype(np.float32) for k, v in found.items()}


@cache
def blocks(framework: str) -> Twin:
    """9 x 9 maps of two channels to three classes; affine ops, ReLUs and pooling only."""
    x = np.random.default_rng(4).normal(0, 1, (3, 2, 9, 9)).astype(np.float32)
    if installed(framework) == "torch":
        import torch

        return Twin("torch", _torch_blocks(), x, torch.as_tensor, lambda a: a)
    import tensorflow as tf

    moved = x.transpose(0, 2, 3, 1).copy()
    return Twin("tensorflow", _keras_blocks(), moved, tf.convert_to_tensor,
                lambda a: np.moveaxis(a, -1, 1))  # fmt: skip


@cache
def series(framework: str) -> Twin:
    """Sequences of 12 steps with three channels to three classes, with a sigmoid gate."""
    x = np.random.default_rng(5).normal(0, 1, (3, 3, 12)).astype(np.float32)
    if installed(framework) == "torch":
        import torch

        return Twin("torch", _torch_series(), x, torch.as_tensor, lambda a: a)
    import tensorflow as tf

    moved = x.transpose(0, 2, 1).copy()
    return Twin("tensorflow", _keras_series(), moved, tf.convert_to_tensor,
                lambda a: np.moveaxis(a, -1, 1))  # fmt: skip


def _torch_norm(name: str, rank: int) -> Any:
    import torch
    from torch import nn

    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[rank](_NORMS[name])
    kept = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    with torch.no_grad():
        for place, row in zip(kept, weights()[name], strict=True):
            place.copy_(torch.as_tensor(row))
    return norm


def _torch_filled(module: Any, name: str) -> Any:
    import torch

    w = weights()
    with torch.no_grad():
        module.weight.copy_(torch.as_tensor(w[name]))
        module.bias.copy_(torch.as_tensor(w[name + "_bias"]))
    return module


def _torch_blocks() -> Any:
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = _torch_filled(nn.Conv2d(2, 4, 3, stride=2), "stem")
            self.stem_norm = _torch_norm("stem_norm", 2)
            self.deep = _torch_filled(nn.Conv2d(4, 4, 3, padding=1, groups=4), "deep")
            self.mix = _torch_filled(nn.Conv2d(4, 4, 1), "mix")
            self.mix_norm = _torch_norm("mix_norm", 2)
            self.ahead = _torch_norm("ahead", 2)
            self.up = _torch_filled(nn.ConvTranspose2d(4, 3, 2, stride=2), "up")
            self.head = _torch_filled(nn.Linear(3, 3), "head")

        def forward(self, x: Any) -> Any:
            x = F.relu6(self.stem_norm(self.stem(x)))
            y = F.relu(self.deep(x))
            x = F.relu(x + self.mix_norm(self.mix(y)))
            x = F.max_pool2d(x, 3, 1)
            x = F.relu(self.up(self.ahead(x)))
            return self.head(x.mean((2, 3)))

    torch.manual_seed(0)
    return Blocks().eval()


def _keras_blocks() -> Any:
    import keras

    layers = keras.layers
    w = weights()
    entry = layers.Input((9, 9, 2))
    stem = layers.Conv2D(4, 3, strides=2, name="stem")
    deep = layers.DepthwiseConv2D(3, padding="same", name="deep")
    mix = layers.Conv2D(4, 1, name="mix")
    up = layers.Conv2DTranspose(3, 2, strides=2, name="up")
    head = layers.Dense(3, name="head")
    norms = {n: layers.BatchNormalization(epsilon=1e-5, name=n) for n in list(_NORMS)[:3]}
    x = layers.ReLU(max_value=6.0)(norms["stem_norm"](stem(entry)))
    y = layers.ReLU()(deep(x))
    x = layers.ReLU()(layers.Add()([x, norms["mix_norm"](mix(y))]))
    x = layers.MaxPooling2D(3, 1)(x)
    x = layers.ReLU()(up(norms["ahead"](x)))
    net = keras.Model(entry, head(layers.GlobalAveragePooling2D()(x)))
    kernel = (2, 3, 1, 0)
    for layer, order in ((stem, kernel), (deep, (2, 3, 0, 1)), (mix, kernel), (up, kernel)):
        layer.set_weights([w[layer.name].transpose(order), w[layer.name + "_bias"]])
    head.set_weights([w["head"].T, w["head_bias"]])
    for name, norm in norms.items():
        norm.set_weights(list(w[name]))
    return net


def _torch_series() -> Any:
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Series(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.entry = _torch_norm("entry", 1)
            self.a = _torch_filled(nn.Conv1d(3, 4, 3, padding=1), "a")
            self.b = _torch_filled(nn.Conv1d(4, 4, 2, dilation=2), "b")
            self.gate = _torch_filled(nn.Conv1d(4, 4, 1), "gate")
            self.out = _torch_filled(nn.Linear(4, 3), "out")

        def forward(self, x: Any) -> Any:
            x = F.gelu(self.b(F.relu(self.a(self.entry(x)))))
            x = F.max_pool1d(x * torch.sigmoid(self.gate(x)), 2)
            return self.out(x.mean(2))

    return Series().eval()


def _keras_series() -> Any:
    import keras

    layers = keras.layers
    w = weights()
    start = layers.Input((12, 3))
    norm = layers.BatchNormalization(epsilon=1e-5, name="entry")
    convs = {
        "a": layers.Conv1D(4, 3, padding="same", activation="relu", name="a"),
        "b": layers.Conv1D(4, 2, dilation_rate=2, activation="gelu", name="b"),
        "gate": layers.Conv1D(4, 1, activation="sigmoid", name="gate"),
    }
    out = layers.Dense(3, name="out")
    x = convs["b"](convs["a"](norm(start)))
    x = layers.MaxPooling1D(2)(layers.Multiply()([x, convs["gate"](x)]))
    net = keras.Model(start, out(layers.GlobalAveragePooling1D()(x)))
    norm.set_weights(list(w["entry"]))
    for name, layer in convs.items():
        layer.set_weights([w[name].transpose(2, 1, 0), w[name + "_bias"]])
    out.set_weights([w["out"].T, w["out_bias"]])
    return net
