"""What the tests of DeepLIFT share: a model of one function, and one sample's attribution."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from whence.methods.deeplift import DeepLIFT


class Of(nn.Module):
    """A model of one function, (batch, n) -> (batch,) or (batch, classes)."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def given(function, x, x0, **options):
    """The attribution of one sample, as a list."""
    e = DeepLIFT(baseline=np.asarray(x0, np.float64), **options)(
        Of(function), torch.tensor([x], dtype=torch.float64)
    )
    assert e.gap.max() < 1e-9
    assert e.ledger.balance.max() < 1e-9
    return e.attribution[0].tolist()


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
