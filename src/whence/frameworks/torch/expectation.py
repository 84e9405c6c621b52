"""What a model's first layer says about the input that it wants."""

from __future__ import annotations

from torch import nn

from ..base import Expectation

__all__ = ["of"]


def of(modules: list[tuple[str, nn.Module]]) -> Expectation:
    """Read the first convolution, embedding or linear layer in order of registration.

    A hint for error messages only: registration order need not be execution order.
    """
    for name, module in modules:
        if isinstance(module, nn.modules.conv._ConvNd):
            dims = len(module.kernel_size)
            return Expectation(dims + 2, module.in_channels, 1, name)
        if isinstance(module, nn.Embedding):
            held = module.num_embeddings
            return Expectation(2, None, None, name, tokens=True, vocabulary=held)
        if isinstance(module, nn.Linear):
            return Expectation(None, module.in_features, -1, name)
    return Expectation()
