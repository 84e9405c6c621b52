"""Writing in place: to results, views, slices, constants and buffers, in every order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from support_tape import Cases, changed, exact, record, state_of

Tensor = torch.Tensor
W = torch.linspace(-1.0, 1.2, 16, dtype=torch.float64).reshape(4, 4)

case = Cases()


@case
def relu_of_a_result(x):
    y = x @ W
    y.relu_()
    return y * y


@case
def plus_equals(x):
    y = x @ W
    y += x.sin()
    y -= 0.5
    y *= x
    y /= 2 + x.cos()
    return y


@case
def plus_equals_itself(x):
    y = x @ W
    y += y
    return y.sin()


@case
def the_old_value_in_the_new(x):
    y = x @ W
    z = y.tanh()
    y.mul_(z)
    return y + z


@case
def power_and_matmul_equals(x):
    y = x.sin()
    y **= 3
    y @= W
    return y


@case
def the_input_itself(x):
    x.mul_(2).add_(1)
    return x * x


@case.like(lambda x: F.hardtanh(F.elu(F.leaky_relu(F.relu6(x @ W) - 0.2, 0.1)), -0.5, 0.5) * x)
def inplace_functionals(x):
    y = F.relu6(x @ W, True)
    y = F.leaky_relu(y - 0.2, 0.1, inplace=True)
    y = F.dropout(y, 0.5, False, True)
    F.hardtanh(F.elu(y, 1.0, True), -0.5, 0.5, True)
    return y * x


@case
def inplace_modules(x):
    y = nn.ReLU(inplace=True)(x @ W + 0.5) + nn.ReLU6(True)(x @ W) + nn.Hardtanh(0, 2, True)(x @ W)
    y += nn.LeakyReLU(0.2, inplace=True)(x @ W) + nn.Hardswish(True)(x @ W) + nn.SiLU(True)(x @ W)
    return (
        y + nn.ELU(inplace=True)(x @ W) + nn.Threshold(0.1, 0.3, True)(x @ W) + nn.Mish(True)(x @ W)
    )


@case
def inplace_by_keyword(x):
    return F.relu(input=x @ W, inplace=True) * x


@case
def out_slice(x):
    out = torch.zeros(4, 4, dtype=x.dtype)
    out[:, 1:3] = x[:, :2].sin()
    out[0] += x[1]
    return out @ W


@case
def out_slice_twice(x):
    out = torch.zeros(4, 4, dtype=x.dtype)
    out[:, :3] = x[:, :3].sin()
    out[:, 1:] = x[:, 1:].cos() * out[:, 1:].clone()
    return out * x


@case
def boolean_mask(x):
    y = x @ W
    y[y > 0] = 0.25
    y[x > 0.3] *= 2
    return y * x


@case
def boolean_mask_of_tracked_numbers(x):
    y = x @ W
    y[W > 0] = x[W > 0].sin()
    return y.exp()


@case
def index_arrays(x):
    y = x @ W
    y[torch.tensor([0, 2])] = x[torch.tensor([1, 3])]
    y[torch.tensor([0, 1]), torch.tensor([3, 2])] += 1.5 * x[0, 0]
    return y.sin()


@case
def steps_none_and_ellipsis(x):
    y = x @ W
    y[..., ::2] = x[..., 1::2]
    y[:, None, 1] = x[:, :1]
    return y.sin()


@case
def expanded_operand(x):
    y = x @ W
    y += x[:1].expand(4, 4)
    y.copy_(x[0])
    y[1:].add_(W[1:])
    return y * x


@case.like(lambda x: (x @ W + x).sin() * x.max(0).values + torch.cat([x, x]).sum())
def out_arguments(x):
    out, rows = torch.empty(4, 4, dtype=x.dtype), torch.empty(8, 4, dtype=x.dtype)
    torch.matmul(x, W, out=out)
    torch.add(out, x, out=out)
    torch.cat([x, x], out=rows)
    best = torch.empty(0, dtype=x.dtype), torch.empty(0, dtype=torch.long)
    torch.max(x, 0, out=best)
    return out.sin() * best[0] + rows.sum()


@case
def copy_fill_zero(x):
    y = x @ W
    kept = y.clone()
    y[0].fill_(2.0)
    y[1].zero_()
    y[2].copy_(x[3])
    y[3, 1:].fill_(x[0, 0])
    return y * kept


@case
def index_put_and_kin(x):
    y = x @ W
    y.index_put_((torch.tensor([1, 1]), torch.tensor([0, 3])), x[0, :2], accumulate=True)
    y.index_add_(0, torch.tensor([0, 0]), x[1:3])
    y.index_copy_(1, torch.tensor([2]), x[:, :1].sin())
    y.index_fill_(0, torch.tensor([3]), 0.5)
    y.scatter_(1, torch.tensor([[0], [1], [2], [3]]), x[:, 2:3])
    y.scatter_add_(1, torch.tensor([[0], [1], [2], [3]]), x[:, 1:2])
    y.masked_fill_(W > 0.9, -1.0)
    return y * x


@case
def addcmul_lerp_clamp(x):
    y = x @ W
    y.addcmul_(x, x, value=0.5).clamp_(-0.8, 0.8).lerp_(x, 0.25)
    y.addcdiv_(x, 2 + x * x)
    y.addmm_(x, W, beta=0.5)
    return y.sin()


@case
def a_constant_made_in_the_call(x):
    c = torch.ones(4, dtype=x.dtype)
    c += 1
    c[1] = 5
    view = c[2:]
    view *= 3
    return x * c


@case
def masks_with_operators(x):
    mask = x > 0
    mask &= W > 0
    mask |= x < -1
    count = mask.long()
    count //= 1
    count <<= 1
    return x * count + x.masked_fill(~mask, 0.5)


@case
def a_constant_kept_by_the_tape_then_written(x):
    c = torch.ones(4, dtype=x.dtype)
    y = x + c
    c.add_(5)
    c[2] = -1
    return y.sin() + c


@case
def a_shared_counter(x):
    step = torch.zeros((), dtype=x.dtype)
    for row in x:
        step += 1
        x = x + row * step.item()
        x = x + step
    return x.sin()


@case
def a_loop_that_fills(x):
    out = torch.empty(4, 4, dtype=x.dtype)
    state = torch.zeros(4, dtype=x.dtype)
    for i in range(4):
        state = torch.tanh(state + x[i] @ W)
        out[i] = state
    return out


@case
def aten_overloads(x):
    y = torch.ops.aten.mm.default(x, W)
    torch.ops.aten.tanh_.default(z := y.clone())
    y = y * z
    torch.ops.aten.add_.Tensor(y, x, alpha=2)
    z = torch.ops.aten.slice.Tensor(y, 0, 1, 3)
    torch.ops.aten.mul_.Tensor(z, 3.0)
    torch.ops.aten.copy_.default(torch.ops.aten.select.int(y, 0, 0), x[1])
    return torch.ops.aten.sin.default(y)


@case
def swap_halves(x):
    y = x @ W
    y[:2], y[2:] = y[2:].clone(), y[:2].clone()
    return y * x


@case
def overlapping_read_and_write(x):
    y = x @ W
    y[:, 1:] += y[:, :-1].clone()
    y[0] = y[1].clone() * y[2].clone()
    return y.sin()


@pytest.mark.parametrize("name", case)
def test_a_write_is_recorded_as_it_happened(name):
    x = torch.randn(4, 4, dtype=torch.float64)
    kept = x.clone()
    model, reference = case[name]
    exact(model, x, like=reference)
    assert torch.equal(x, kept), "the caller's input was written to"


class Buffers(nn.Module):
    """Writes to its own buffers and parameter in every way that a forward can."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("cache", torch.zeros(4, 4, dtype=torch.float64))
        self.register_buffer("mean", torch.ones(4, dtype=torch.float64))
        self.scale = nn.Parameter(torch.ones(4, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.cache[:2] = x[:2].sin()
        view = self.cache[2:]
        view.copy_(x[2:])
        self.mean.mul_(0.5)
        self.mean = self.mean + x.detach().mean(0)
        self.mean.data.add_(1.0)
        self.scale.data.mul_(2.0)
        with torch.no_grad():
            self.scale.add_(1.0)
        return self.cache * x * self.scale + self.mean * self.count


def test_writes_to_buffers_and_parameters_do_not_reach_the_model():
    model, x = Buffers().eval(), torch.randn(4, 4, dtype=torch.float64)
    before = state_of(model)
    tape = record(model, x)
    assert changed(before, state_of(model)) == []
    fresh = Buffers()
    fresh.scale.requires_grad_(False)  # autograd forbids these writes where gradients are asked for
    assert torch.equal(tape.output, fresh(x))


def test_predict_and_gradient_leave_buffers_alone_too():
    from whence.frameworks import find, gather

    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("cache", torch.zeros(4, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            self.cache.add_(1.0)
            self.cache = self.cache + 1
            return x.sum(1) * self.cache

    model, x = Cached().eval(), torch.randn(4, 4, dtype=torch.float64)
    framework = find(model, x)
    inputs = gather(framework, model, x)
    before = state_of(model)
    outputs = framework.predict(model, inputs)
    grads, scores, _ = framework.gradient(model, inputs, lambda o: (o["output"], {}), key="sum")
    # Writing to a buffer moves its version on, whatever is written back: that alone may differ.
    lost = [c for c in changed(before, state_of(model)) if ".buffers" not in c]
    assert lost == []
    assert torch.equal(model.cache, torch.zeros(4, dtype=torch.float64))
    assert torch.allclose(outputs["output"], x.sum(1) * 2)
    assert torch.allclose(scores, x.sum(1) * 2)
    assert torch.allclose(grads["input"], torch.full((4, 4), 2.0, dtype=torch.float64))
