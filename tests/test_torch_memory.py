"""A recording and its walk need about the memory of the framework's own gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from support_tape import lively, record
from whence.frameworks import find, gather
from whence.tape import Value


def peak(call: Callable[[], object]) -> int:
    """The most bytes that were allocated at one time while something ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        call()
    now = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def block(channels: int, *, inplace: bool = True) -> nn.Module:
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=inplace))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(block(8), block(8)) for _ in range(6))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.blocks:
            x = torch.relu(part(x) + x)
        return self.head(x.mean((2, 3)))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 256, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x).mean(1)


CASES = {
    "residual": (Residual, (8, 8, 32, 32), 1.3, 0.7),
    "attention": (Attending, (8, 48, 64), 1.3, 1.0),
}


@pytest.mark.parametrize("name", CASES)
def test_peak_memory(name):
    make, shape, full, lean = CASES[name]
    model, x = lively(make()), torch.randn(shape)
    framework = find(model, x)
    inputs = gather(framework, model, x)

    def plain() -> None:
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)

    def through_the_tape(**options: bool) -> None:
        tape = framework.record(model, inputs, **options)
        seed = torch.zeros_like(tape.output)
        seed[:, 0] = 1
        arrived: dict[Value, torch.Tensor] = {tape.outputs[tape.main]: seed}
        for node in reversed(tape.nodes[1:]):
            here = [arrived.pop(v, None) for v in node.results]
            if any(c is not None for c in here):
                for value, pulled in zip(node.into, node.pull(*here), strict=True):
                    arrived[value] = arrived[value] + pulled if value in arrived else pulled
            node.free()
            for value in node.out:
                value.release()

    through_the_tape()  # whatever is made once
    usual = peak(plain)
    assert peak(lambda: through_the_tape(fold=True)) <= full * usual
    assert peak(lambda: through_the_tape(lean=True)) <= lean * usual


def test_a_dropped_tape_leaves_nothing_behind():
    model, x = lively(Residual()), torch.randn(8, 8, 32, 32)

    def several() -> None:
        for _ in range(4):
            record(model, x)

    record(model, x)
    assert peak(several) <= 1.1 * peak(lambda: record(model, x))
