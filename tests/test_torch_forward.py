"""What a model may do on the way to its output, and what is left when it raises."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from support_tape import (
    Net,
    apart,
    autograd,
    changed,
    errors,
    exact,
    gradients,
    net,
    picture,
    record,
    seeds_of,
    state_of,
)
from whence.errors import ModelError
from whence.frameworks import find, gather
from whence.ops import Op

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*LeafSpec.*:FutureWarning"
)
Tensor = torch.Tensor
D = torch.float64


# ---- what a forward does


def test_no_grad_in_a_part_cuts_as_autograd_does():
    def model(x):
        with torch.no_grad():
            scale = x.abs().mean(1, keepdim=True)
        return x / scale

    tape = exact(model, torch.randn(2, 3, dtype=D))
    assert tape.notes == []


@pytest.mark.parametrize("block", [torch.no_grad, torch.inference_mode])
def test_no_grad_around_everything_is_passed_through(block):
    model, x = net(), picture()

    @block()
    def closed(t):
        return model(t)

    tape = record(closed, x)
    assert tape.notes == ["the model runs under no_grad; the tape goes through it"]
    assert max(errors(model, x, tape=tape)) <= 1e-12
    assert not tape.output.is_inference()


def test_inference_mode_in_a_part():
    def model(x):
        with torch.inference_mode():
            scale = x.abs().mean(1, keepdim=True)
        return x.sin() * scale

    def like(x):
        return x.sin() * x.abs().mean(1, keepdim=True).detach()

    exact(model, torch.randn(2, 3, dtype=D), like=like)


def test_inference_mode_outside():
    model, x = net(), picture()
    lines = str(record(model, x))
    with torch.inference_mode():
        tape = record(model, x.clone())
        gradient = gradients(tape)
    assert str(tape) == lines
    assert apart(gradient["input"], autograd(model, x, seeds_of(tape))[1]["input"]) <= 1e-12


class Straight(torch.autograd.Function):
    """Rounds forwards, does nothing backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        return (x * factor).round() / factor

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g * 1.5, None


def test_a_custom_autograd_function_keeps_its_own_backward():
    x = torch.randn(2, 3, dtype=D)
    tape = exact(lambda t: Straight.apply(t.sin(), 4.0) * t, x)
    assert [(n.kind, n.op) for n in tape][2] == (Op.OPAQUE, "Straight.apply")
    assert "apply" not in vars(Straight)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_are_looked_into(reentrant):
    model, x = net(), picture()

    def saving(t):
        return checkpoint(model, t, use_reentrant=reentrant).sin()

    tape = exact(saving, x, like=lambda t: model(t).sin())
    assert [n.kind for n in tape][:-1] == [n.kind for n in record(model, x)]


def test_transforms_and_inner_gradients_are_refused():
    x = torch.randn(2, 3, dtype=D)
    with pytest.raises(ModelError, match=r"the model calls sin inside torch\.vmap.*batch axis"):
        record(lambda t: torch.vmap(torch.sin)(t), x)

    def force(t):
        t = t.clone().requires_grad_()
        return torch.autograd.grad(t.sin().sum(), t)[0]

    with pytest.raises(ModelError, match=r"the model calls autograd\.grad.*not on the tape"):
        record(force, x)


def test_user_hooks_keep_working():
    model, x = net(), picture()
    seen = []
    model.conv.register_forward_hook(lambda m, i, o: seen.append("after"))
    model.conv.register_forward_pre_hook(lambda m, i: (i[0] * 2,))
    model.head.register_forward_hook(lambda m, i, o: o.sin())
    tape = exact(model, x, lean=(False,))
    assert seen
    assert [n.op for n in tape][-1] == "sin"


def test_what_a_model_keeps_does_not_keep_the_tape():
    class Keeper(nn.Module):
        def forward(self, x):
            self.kept = x.sin()
            return self.kept * x

    model = Keeper()
    tape = record(model, torch.randn(2, 3, dtype=D))
    marks = [weakref.ref(n) for n in tape.nodes] + [
        weakref.ref(n.out[0]._array) for n in tape.nodes[2:]
    ]
    gc.disable()
    try:
        del tape
        assert [m for m in marks if m() is not None] == [], (
            "only the garbage collector would free it"
        )
    finally:
        gc.enable()
    assert model.kept.grad_fn is None
    exact(model, torch.randn(2, 3, dtype=D))


def test_threads():
    model, x = net().train(), [picture() for _ in range(8)]
    found, fresh = {}, net()
    before = state_of(model)

    def work(i: int) -> None:
        found[i] = gradients(record(model, x[i]))["input"]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert changed(before, state_of(model)) == []
    for i in range(8):
        assert apart(found[i], gradients(record(fresh, x[i]))["input"]) <= 1e-12


# ---- when something raises


class Breaks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        self.calls = self.calls + 1
        torch.rand(3)
        x = self.first(x)
        self.first[0].weight.requires_grad_(False)
        raise KeyError("half-way")


@pytest.mark.parametrize("where", ["record", "predict", "gradient", "head"])
def test_a_failure_half_way_leaves_no_trace(where):
    model = Breaks() if where != "head" else Net()
    model.train()
    x = torch.randn(2, 3) if where != "head" else picture(torch.float32)
    framework = find(model, x)
    inputs = gather(framework, model, x)

    def head(output: Any) -> Tensor:
        raise KeyError("half-way")

    before = state_of(model)
    with pytest.raises(KeyError, match="half-way"):
        if where == "predict":
            framework.predict(model, inputs)
        elif where == "gradient":
            framework.gradient(model, inputs, lambda o: (o["output"][:, 0], {}), key="0")
        else:
            framework.record(model, inputs, head=head if where == "head" else None)
    lost = changed(before, state_of(model))
    if where in ("predict", "gradient"):  # a buffer that was written back has a newer version
        lost = [c for c in lost if c != ".buffers.calls"]
    assert lost == []
    assert gc.isenabled()
