"""What the tests of the shell share: a command run in this process, small models and pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whence.cli import main

NETS = '''
"""Models for the tests of the shell."""

import os, time
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


class After(nn.Module):
    """Net, and a function of what it returns."""

    def __init__(self, function):
        super().__init__()
        self.net, self.function = Net(), function

    def forward(self, x):
        return self.function(self.net(x))


def build():
    torch.manual_seed(0)
    return Net()


def vector():
    return nn.Sequential(nn.Linear(5, 2))


def two():
    return After(lambda y: {"a": y, "b": 2 * y})


def overflows():
    net = Net()
    net.fc.weight.data[:] = float("inf")
    return net


def detached():
    return After(lambda y: y.detach() * 1)


def opaque():
    return After(lambda y: torch.cumprod(y, 1))


def no_model():
    return "resnet"


def fails():
    raise RuntimeError("no\\nweights today")


class Slow(nn.Module):
    """Says that it is being run by making a file, and then takes its time."""

    def forward(self, x):
        open(os.environ["STARTED"], "w").close()
        time.sleep(60)
        return x


def slow():
    return Slow()
'''


@dataclass(frozen=True)
class Ran:
    """What a command gave."""

    status: int
    out: str
    err: str


Run = Callable[..., Ran]


def runner(capsys) -> Run:
    """A function that runs one command line in this process."""

    def run(*words: object) -> Ran:
        status = main([str(word) for word in words])
        caught = capsys.readouterr()
        return Ran(status, caught.out, caught.err)

    return run


def picture(path: Path, size: tuple[int, int] = (12, 16), seed: int = 0) -> Path:
    """A colour picture of random pixels, (height, width)."""
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def digit(path: Path, index: int) -> Path:
    """One of the held-out digits as a picture, light ink on black."""
    from PIL import Image

    from whence.data import digits

    Image.fromarray((digits("test")[0][index] * 255).astype(np.uint8)).save(path)
    return path
