"""Tensors that share memory: one is written to, and another is read."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from support_tape import Cases, exact

Tensor = torch.Tensor
W = torch.linspace(-1.0, 1.2, 16, dtype=torch.float64).reshape(4, 4)

case = Cases()


@case
def a_view_then_the_base(x):
    y = x @ W
    v = y[:, 1:3]
    v.mul_(3)
    return y.sin()


@case
def the_base_then_an_older_view(x):
    y = x @ W
    v = y[:, 1:3]
    y.mul_(x)
    return v.sin()


@case
def one_view_then_another(x):
    y = x @ W
    row, column = y[1], y[:, 2]
    row.add_(x[0])
    return column * column


@case
def a_chain_of_views(x):
    y = x @ W
    deep = y.view(2, 8)[1].view(2, 4)[0][1:3]
    deep.copy_(x[0, :2].exp())
    y[2].mul_(2)
    return y.sin() * deep.sum()


@case
def transposed_views(x):
    y = x @ W
    t = y.t()
    t[0] = x[2]
    y[1, 1] = 3.0
    t.transpose(0, 1)[3].mul_(x[0])
    return y * t


@case
def a_permuted_and_reshaped_view(x):
    y = (x @ W).view(2, 2, 4)
    p = y.permute(2, 0, 1)
    p[1].mul_(x[:2, :2])
    return p.flatten() * y.flatten()


@case
def a_reshape_that_copies(x):
    y = x @ W
    copied = y.t().reshape(-1)
    copied.mul_(2)
    return y.flatten() * copied


def _chunks(x):
    a, b = (x @ W).chunk(2, 1)
    a = a * b
    b = b + a
    return torch.cat([a, b], 1).sin() + torch.cat([b, a], 1)


@case.like(_chunks)
def chunk_views(x):
    y = x @ W
    a, b = y.chunk(2, 1)
    a.mul_(b)
    b += a
    return y.sin() + torch.cat([b, a], 1)


def _rows(x):
    y = x @ W
    first = y[0].sigmoid()
    return torch.stack([first, y[1], y[2] * first, y[3]]) * x


@case.like(_rows)
def split_and_unbind_views(x):
    y = x @ W
    first, *_ = y.split([1, 2, 1], 0)
    first.sigmoid_()
    rows = y.unbind(0)
    rows[2].mul_(rows[0])
    return y * x


@case
def squeeze_and_transpose_in_place(x):
    y = (x @ W).unsqueeze(0)
    y.squeeze_(0).t_()
    y[0] *= 2
    return y * x


@case
def a_view_of_a_constant_before_it_is_written(x):
    c = torch.zeros(4, 4, dtype=x.dtype)
    row = c[1]
    before = row * 1
    c.copy_(x.sin())
    return row * x[0] + before


@case
def a_constant_view_written(x):
    c = torch.ones(4, 4, dtype=x.dtype)
    row = c[1]
    row.mul_(x[0])
    row[2:].add_(x[1, :2])
    return c @ x


@case
def under_no_grad(x):
    y = x @ W
    kept = y * 1
    with torch.no_grad():
        y.clamp_(-0.5, 0.5)
        y[1].mul_(2)
        view = x[0]
    return y * x + kept * view


@case
def through_data(x):
    y = x @ W
    y.data.clamp_(-0.5, 0.5)
    z = x.sin()
    z.data = torch.ones_like(z) * 2
    return y * x.cos() + z.sin()


@case
def shared_through_detach(x):
    y = x @ W
    d = y.detach()
    y.add_(x)
    return y * d.clone()


@case
def dropout_alias_then_write(x):
    y = x @ W
    z = F.dropout(y, 0.5, training=False).contiguous().to(y.dtype)
    z += 1
    return y.sin() * z


@case
def a_view_that_is_an_alias(x):
    y = x @ W
    z = y.view_as(y)[:]
    z.mul_(x)
    return y.sin()


@case
def diagonal_written(x):
    y = x @ W
    y.diagonal().mul_(x[0])
    y.fill_diagonal_(0.5)
    y.narrow(0, 0, 2).select(1, 1).exp_()
    return y * x


@case
def unfold_view_read_after_a_write(x):
    y = (x @ W).flatten()
    windows = y.unfold(0, 4, 2)
    y[:8].mul_(2)
    return windows.sin()


@pytest.mark.parametrize("name", case)
def test_a_write_is_seen_through_every_other_name(name):
    x = torch.randn(4, 4, dtype=torch.float64)
    kept = x.clone()
    model, reference = case[name]
    exact(model, x, like=reference)
    assert torch.equal(x, kept), "the caller's input was written to"
