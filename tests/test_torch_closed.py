"""Backward rules in closed form against autograd's, for every way to call the op."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whence
from whence.frameworks.torch.closed import ClosedPull
from whence.ops import Op


def rand(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


CASES = {
    "plain": (lambda x: F.conv2d(x, rand(5, 4, 3, 3), rand(5)), (2, 4, 7, 6)),
    "stride and padding": (
        lambda x: F.conv2d(x, rand(5, 4, 3, 2), None, (2, 3), (1, 2)), (2, 4, 8, 7)),
    "dilated, grouped": (
        lambda x: F.conv2d(x, rand(6, 2, 3, 3), rand(6), padding=2, dilation=2, groups=2),
        (2, 4, 7, 6)),
    "depthwise": (lambda x: F.conv2d(x, rand(4, 1, 3, 3), groups=4), (1, 4, 5, 5)),
    "valid": (lambda x: F.conv2d(x, rand(5, 4, 3, 3), padding="valid"), (2, 4, 7, 6)),
    "same": (lambda x: F.conv2d(x, rand(5, 4, 3, 5), padding="same"), (2, 4, 7, 6)),
    "no batch axis": (lambda x: F.conv2d(x[0], rand(5, 4, 3, 3)), (1, 4, 7, 6)),
    "1-D": (lambda x: F.conv1d(x, rand(5, 4, 3), rand(5), stride=2), (2, 4, 9)),
    "3-D": (lambda x: F.conv3d(x, rand(2, 3, 2, 2, 2), padding=(1, 0, 1)), (2, 3, 4, 5, 3)),
    "transposed": (
        lambda x: F.conv_transpose2d(x, rand(4, 3, 3, 3), rand(6), stride=2, padding=1,
                                     output_padding=1, groups=2, dilation=1), (2, 4, 5, 4)),
    "transposed 1-D": (lambda x: F.conv_transpose1d(x, rand(4, 3, 3), stride=3), (2, 4, 5)),
    "channels last": (
        lambda x: F.conv2d(x.to(memory_format=torch.channels_last), rand(5, 4, 3, 3)),
        (2, 4, 7, 6)),
    "linear": (lambda x: F.linear(x, rand(3, 5), rand(3)), (2, 5)),
    "linear of tokens": (lambda x: F.linear(x, rand(3, 5)), (2, 4, 6, 5)),
    "linear, the operand as weight": (lambda x: F.linear(rand(4, 5), x), (3, 5)),
    "linear of a vector": (lambda x: F.linear(x, rand(5)), (2, 5)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_autograds(name):
    function, shape = CASES[name]
    x = rand(*shape)
    asks = x.clone().requires_grad_()
    out = function(asks)
    seed = rand(*out.shape)
    (wanted,) = torch.autograd.grad(out, asks, seed)
    tape = whence.record(function, x)
    node = next(n for n in reversed(tape.nodes) if n.kind in (Op.CONV, Op.DENSE))
    assert torch.equal(tape.output, out.detach())
    cotangent = seed
    for each in reversed(tape.nodes):
        if each.kind is not Op.INPUT:
            (cotangent,) = each.pull(cotangent)
    np.testing.assert_allclose(cotangent, wanted, rtol=1e-12, atol=1e-12)
    closed = name not in ("same", "no batch axis", "linear, the operand as weight",
                          "linear of a vector")  # fmt: skip
    assert isinstance(node._pull, ClosedPull) is closed
    if closed:
        assert node.pulls_any_batch
        back = node.pull(seed[:1])[0]
        np.testing.assert_allclose(back, node.pull(seed)[0][:1], rtol=1e-12, atol=1e-12)
    tape.free()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types(dtype):
    """The pull gives the operand's type; under autocast the op keeps a graph of its own."""
    layer = nn.Linear(4, 3).to(dtype)
    tape = whence.record(layer, rand(2, 4, dtype=dtype))
    node = tape.nodes[-1]
    assert isinstance(node._pull, ClosedPull) and node.pull(torch.ones(2, 3))[0].dtype == dtype
    tape.free()
    layer = nn.Linear(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        tape = whence.record(layer, rand(2, 4, dtype=torch.float32))
        node = next(n for n in tape.nodes if n.kind is Op.DENSE)
    assert not isinstance(node._pull, ClosedPull)
    assert node.pull(torch.ones(2, 3, dtype=torch.bfloat16))[0].dtype == torch.float32
    tape.free()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fold", [True, False])
def test_another_run_and_its_way_back(bias, fold):
    """With other weights and bias, also of a pair with batch-norm: as spelled out."""
    conv, norm = nn.Conv2d(3, 4, 3, 2, 1, bias=bias).double(), nn.BatchNorm2d(4).double().eval()
    norm.running_var.uniform_(0.5, 2.0)
    x, weight, shift = rand(2, 3, 5, 5), rand(4, 3, 3, 3), rand(4)
    from whence.frameworks import find, gather

    net = nn.Sequential(conv, norm)
    framework = find(net, x)
    tape = framework.record(net, gather(framework, net, x), fold=fold)
    node = next(n for n in tape.nodes if n.kind is Op.CONV)
    out, pull = node.rerun(x, weight=weight, bias=shift)
    asks = x.clone().requires_grad_()
    wanted = F.conv2d(asks, weight, shift, 2, 1)
    np.testing.assert_allclose(out, wanted.detach(), rtol=1e-12, atol=1e-12)
    seed = rand(*out.shape)
    np.testing.assert_allclose(
        pull(seed)[0], torch.autograd.grad(wanted, asks, seed)[0], rtol=1e-12, atol=1e-12
    )
    again, pull = node.rerun(x)
    np.testing.assert_allclose(again, node.output, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(pull(seed)[0], node.pull(seed)[0], rtol=1e-11, atol=1e-12)
    tape.free()


def test_an_affine_constant_of_the_batchs_length_needs_the_whole_batch():
    """A factor for each sample cannot meet half of them."""
    per_sample, per_channel = rand(4, 1), rand(3)
    for constant, wanted in ((per_sample, False), (per_channel, True), (2.0, True)):
        tape = whence.record(lambda x, c=constant: x * c, rand(4, 3))
        assert tape.nodes[-1].pulls_any_batch is wanted
        tape.free()
    tape = whence.record(lambda x: x + x[:1], rand(4, 3))
    assert tape.nodes[-1].pulls_any_batch is False
    tape.free()
