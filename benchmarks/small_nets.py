"""Small networks, each with one property that decides whether two tools can agree on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["Copy", "Ordered", "Rectified", "copied_before_pooling", "one_sided", "plain", "pooled"]


def _drawn(model: nn.Module) -> nn.Module:
    """Seeded weights of the right size for ReLUs, and biases, in evaluation mode."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, 0.0, 0.1)
    return model.eval()


def _conv(inside: int, outside: int) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, padding=1)


def plain() -> nn.Module:
    """Like a small VGG for 32 x 32: convolutions, ReLUs of their own, average pooling, dense."""
    layers: list[nn.Module] = []
    inside = 3
    for width in (16, 32, 64):
        layers += [_conv(inside, width), nn.ReLU(), _conv(width, width), nn.ReLU(), nn.AvgPool2d(2)]
        inside = width
    head = [nn.Flatten(), nn.Linear(64 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10)]
    return _drawn(nn.Sequential(*layers, *head))


class Copy(nn.Module):
    """The same numbers in an array of their own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


def pooled(before: Sequence[nn.Module], window: int = 2) -> nn.Module:
    """Two convolutions, max pooling with stride 2, dense.

    before: what stands between the second convolution and the pooling.
    """
    pool = nn.MaxPool2d(window, 2, window // 2 if window % 2 else 0)
    layers = [_conv(3, 16), nn.ReLU(), _conv(16, 16), *before, pool]
    return _drawn(nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 16 * 16, 10)))


def copied_before_pooling(model: nn.Module) -> nn.Module:
    """Every max pooling of a model gets an array that no other module has seen. In place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MaxPool2d):
                setattr(parent, name, nn.Sequential(Copy(), child))
    return model


class Rectified(nn.Module):
    """Two convolutions with ReLUs that are modules of their own, one module reused, or a function.

    softmax: whether it returns probabilities.
    """

    def __init__(self, spelling: str = "own", softmax: bool = False) -> None:
        super().__init__()
        self.first, self.second = _conv(3, 16), _conv(16, 32)
        self.relu, self.other = nn.ReLU(), nn.ReLU()
        self.pool, self.head = nn.AvgPool2d(4), nn.Linear(32 * 8 * 8, 10)
        self.last = nn.Softmax(1) if softmax else nn.Identity()
        self.spelling = spelling
        _drawn(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = {
            "own": (self.relu, self.other),
            "reused": (self.relu, self.relu),
            "function": (torch.relu, torch.relu),
        }[self.spelling]
        x = two(self.second(one(self.first(x))))
        return self.last(self.head(self.pool(x).flatten(1)))


class Ordered(nn.Module):
    """Modules that run in another order than that in which they were assigned."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32 * 4 * 4, 10)
        self.second, self.first = _conv(16, 32), _conv(3, 16)
        self.one, self.two, self.pool = nn.ReLU(), nn.ReLU(), nn.AvgPool2d(8)
        _drawn(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.two(self.second(self.one(self.first(x))))
        return self.head(self.pool(x).flatten(1))


def one_sided() -> nn.Module:
    """A quarter of the second convolution's channels have no negative weight and no negative bias.

    Their input is not negative, so nothing pushes these outputs down.
    """
    model = Rectified()
    with torch.no_grad():
        model.second.weight[:8].abs_()
        model.second.bias[:8].abs_()
    return model
