"""The models that are measured on, with random weights, biases and non-trivial batch-norm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

__all__ = ["TENSORFLOW", "TEXT", "TORCH", "bert", "keras_net", "picture", "torch_net"]

TORCH = ("resnet50", "vgg16", "vit_b_16")
TEXT = ("bert_base",)
TENSORFLOW = ("ResNet50",)


def picture(batch: int, channels: str, size: int = 224) -> np.ndarray:
    """Seeded noise in the range of a preprocessed photograph."""
    shape = (batch, 3, size, size) if channels == "first" else (batch, size, size, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def torch_net(name: str) -> Any:
    """A torchvision model in evaluation mode."""
    import torch

    from support import import_torchvision

    models = import_torchvision().models
    torch.manual_seed(0)
    model = getattr(models, name)(weights=None).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2.0)
            module.running_mean.normal_(0.0, 0.3)
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.normal_(module.bias, 0.0, 0.1)
    if name.startswith("vgg"):  # its biases start at zero, and then no rule for them would show
        for module in model.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                torch.nn.init.normal_(module.bias, 0.0, 0.05)
    if name.startswith("vit"):  # its head starts at zero, so its gradient would be zero
        torch.nn.init.normal_(model.heads.head.weight, 0, 0.02)
    return model


def bert(batch: int, tokens: int = 128) -> tuple[Any, Any]:
    """BERT-base with a head for two classes, and a batch of token ids."""
    import torch

    from support import import_torchvision

    import_torchvision()  # which transformers reads, and which needs help to load here
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_labels=2)).eval()
    return model, torch.randint(1000, 30000, (batch, tokens))


def keras_net(name: str) -> Any:
    """A keras.applications model that returns logits."""
    import keras

    keras.utils.set_random_seed(0)
    return getattr(keras.applications, name)(weights=None, classifier_activation=None)
