"""The array functions in PyTorch that are written otherwise than by the function of that name."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from whence.frameworks.torch.functions import TorchFunctions

xp = TorchFunctions()
NAN, INF = math.nan, math.inf


def odd_numbers(size: int, dtype: torch.dtype) -> torch.Tensor:
    """Numbers of both signs, and those that arithmetic would spoil."""
    found = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype)
    found[:6] = torch.tensor([0.0, -0.0, INF, -INF, NAN, 1e-30]).to(dtype)
    return found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [8, 5000])
def test_where_chooses_bit_for_bit(dtype, size):
    """Also where what is not chosen is infinite or NaN, and of a zero's sign."""
    a, b = odd_numbers(size, dtype), odd_numbers(size, dtype).flip(0)
    condition = torch.arange(size) % 3 == 0
    for one, other in ((a, b), (a, 0.5), (-2.0, b), (a, b[:1])):
        found = xp.where(condition, one, other)
        wanted = torch.where(condition, one, other)
        assert found.dtype == dtype
        np.testing.assert_array_equal(xp.to_numpy(found), xp.to_numpy(wanted))
        assert torch.equal(torch.signbit(found), torch.signbit(wanted))
    rows = condition[:, None].expand(-1, 3)  # the condition is the widest, and not contiguous
    np.testing.assert_array_equal(
        xp.to_numpy(xp.where(rows, a[:, None], b[:, None])),
        xp.to_numpy(torch.where(rows, a[:, None], b[:, None])),
    )


def test_where_of_whole_numbers_mixed_types_and_gradients():
    condition = torch.arange(5000) % 2 == 0
    whole = torch.arange(5000)
    assert torch.equal(xp.where(condition, whole, -whole), torch.where(condition, whole, -whole))
    mixed = xp.where(condition, whole.float(), whole.double())
    assert mixed.dtype == torch.float64 and torch.equal(mixed, whole.double())
    asks = torch.ones(5000, requires_grad=True)
    xp.where(condition, asks, 0.0).sum().backward()
    assert torch.equal(asks.grad, condition.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gated(dtype):
    array, by = torch.tensor([1.0, 2, 3, NAN]).to(dtype), torch.tensor([0.0, -1, 2, -3]).to(dtype)
    assert xp.gated(array, by).tolist() == [0.0, 0.0, 3.0, 0.0]
    assert xp.gated(array[:3], by[:3].double()).tolist() == [0.0, 0.0, 3.0]


def test_raised_leaves_its_operand():
    array = torch.tensor([2.0, -2.0, 0.0])
    assert xp.raised(array, 0.25).tolist() == [2.5, -2.0, 0.0]
    assert array.tolist() == [2.0, -2.0, 0.0]


def test_what_is_known_of_an_array():
    tiny = torch.tensor([0.0, 1e-44, 0.0])
    assert xp.known_zero(torch.zeros(3)) and xp.known_zero(torch.zeros(0))
    assert not xp.known_zero(tiny) and not xp.known_zero(-tiny)
    assert not xp.known_zero(torch.tensor([0.0, NAN]))
    assert xp.known_one_sided(torch.tensor([1e-30, 2.0]))
    assert xp.known_one_sided(torch.tensor([-1.0, -2.0]))
    for array in ([0.0, 1.0], [-1.0, 0.0], [1.0, -1.0], [1.0, NAN], []):
        assert not xp.known_one_sided(torch.tensor(array))


def test_inner_keeps_the_digits_of_a_long_sum():
    """The books balance to 1e-6 of what they hold."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 3, 400, 500, generator=generator), torch.rand(3, 1, 500)
    wanted = (a.double() * b.double()).sum((1, 2, 3))
    np.testing.assert_allclose(xp.inner(a, b).double(), wanted, rtol=3e-7)
    full = torch.rand(2, 3, 400, 500, generator=generator)
    wanted = (a.double() * full.double()).sum((1, 2, 3))
    np.testing.assert_allclose(xp.inner(a, full).double(), wanted, rtol=3e-7)


def test_shares_take_zero_for_positive():
    z = torch.tensor([0.0, 1.0, -1.0])
    found = xp.shares(torch.tensor([1e-3, 1.0, 1.0]), z, 1e-3)
    np.testing.assert_allclose(found, [1.0, 1 / 1.001, -1 / 1.001], rtol=1e-6)
