"""What may be given as a model, and what it may take and return."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from support_tape import (
    apart,
    changed,
    exact,
    lively,
    net,
    picture,
    record,
    state_of,
)
from whence.errors import ModelError
from whence.ops import Op

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*LeafSpec.*:FutureWarning"
)
Tensor = torch.Tensor
D = torch.float64


# ---- inputs and outputs


def test_by_keyword_and_several_inputs_and_options():
    class Two(nn.Module):
        def forward(self, left, right=None, *, scale=1.0, names=("a",), flag=False):
            out = F.linear(input=left, weight=torch.ones(2, 3, dtype=D) * 0.3).sin()
            return out * scale + (right.mean(1, keepdim=True) if right is not None else 0) * len(
                names
            )

    a, b = torch.randn(4, 3, dtype=D), torch.randn(4, 5, dtype=D)
    model = Two()
    assert list(exact(model, a).inputs) == ["input"]
    assert list(exact(model, (a, b)).inputs) == ["input0", "input1"]
    tape = exact(model, {"left": a, "right": b, "scale": 2.5, "names": ("x", "y"), "flag": True})
    assert list(tape.inputs) == ["left", "right"]
    assert torch.equal(tape.output, model(a, b, scale=2.5, names=("x", "y")))


def test_one_dict_or_list_as_the_argument():
    class OfDict(nn.Module):
        def forward(self, batch):
            return batch["a"].sin() * batch["b"] + len(batch)

    class OfList(nn.Module):
        def forward(self, pair):
            return pair[0] * pair[1].exp()

    a, b = torch.randn(2, 3, dtype=D), torch.randn(2, 3, dtype=D)
    exact(OfDict(), {"a": a, "b": b})
    exact(OfList(), (a, b))


def test_whole_number_and_bool_inputs_beside_floating_ones():
    def model(x, index, mask):
        return (x[index] * 2).masked_fill(mask, 0.0).sin()

    x = torch.randn(4, 3, dtype=D)
    tape = exact(model, (x, torch.tensor([3, 0]), torch.rand(2, 3) > 0.5))
    assert [v.tracked for v in tape.inputs.values()] == [True, False, False]


@dataclass
class Answer:
    logits: Tensor
    extra: dict[str, Tensor]
    note: str = "fine"
    nothing: Tensor | None = None


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


RETURNS = {
    "tuple": (lambda x: (x.sin(), x.cos() * 2), ["output0", "output1"]),
    "list": (lambda x: [x.sin(), (x.cos(),)], ["output0", "output1.output0"]),
    "dict": (lambda x: {"a": x.sin(), "b": x * 2, "n": 3}, ["a", "b"]),
    "dataclass": (lambda x: Answer(x.sin(), {"hidden": x * x}), ["logits", "extra.hidden"]),
    "namedtuple": (lambda x: Pair(x.sin(), x.exp()), ["first", "second"]),
    "one twice": (lambda x: (lambda y: (y, y))(x.sin()), ["output0", "output1"]),
    "with a constant": (lambda x: (x.sin(), torch.ones(3)), ["output0", "output1"]),
    "the input itself": (lambda x: (x, x.sin()), ["output0", "output1"]),
}


@pytest.mark.parametrize("name", RETURNS)
def test_several_outputs(name):
    model, names = RETURNS[name]
    x = torch.randn(2, 3, dtype=D)
    tape = exact(model, x)
    assert list(tape.outputs) == names
    rebuilt = tape.structure({k: torch.zeros(1) for k in names})
    assert type(rebuilt) is type(model(x))


def test_a_head_is_recorded_and_replaces_the_outputs():
    tape = exact(
        lambda x: {"a": x.sin(), "b": x}, torch.randn(2, 3, dtype=D), head=lambda o: o["a"].sum(1)
    )
    assert tape.output.shape == (2,)
    assert [n.op for n in tape][-1] == "sum"


def test_outputs_without_a_tensor_are_an_error():
    with pytest.raises(ModelError, match="returned str without any tensor"):
        record(lambda x: "hello", torch.ones(1, 2))


# ---- kinds of models


def test_plain_functions_partials_and_wrappers():
    model, x = net(), picture()
    plain = exact(model, x)
    for other in (
        lambda t: model(t),
        functools.partial(model),
        model.forward,
        functools.partial(lambda m, t: m(t), model),
    ):
        tape = exact(other, x)
        assert [n.kind for n in tape] == [n.kind for n in plain]
        assert "conv" in tape.layers

    class Wrapper:
        def __init__(self, inner):
            self.inner = [inner]

        def __call__(self, t):
            return self.inner[0](t)

    model.train()
    before = state_of(model)
    tape = record(Wrapper(model), x)
    assert changed(before, state_of(model)) == []
    assert torch.equal(tape.output, plain.output), "the hidden model ran in training mode"


def test_a_module_that_nothing_registers():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = [lively(nn.BatchNorm1d(3).to(D)).train(), nn.Dropout(0.5).train()]

        def forward(self, x):
            for part in self.parts:
                x = part(x)
            return x * x

    model, x = Hidden(), torch.randn(4, 3, dtype=D)
    before = [state_of(p) for p in model.parts]
    tape = record(model, x)
    assert [
        c for b, p in zip(before, model.parts, strict=True) for c in changed(b, state_of(p))
    ] == []
    for part in model.parts:
        part.eval()
    assert torch.equal(tape.output, model(x))
    assert list(tape.layers) == ["batchnorm1d", "dropout"]


def test_a_model_in_training_mode_is_explained_in_inference_mode_and_given_back():
    model, x = net(), picture()
    expected = model(x)
    model.train()
    model.norm.eval()
    model.conv.weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = state_of(model)
    tape = record(model, x)
    assert changed(before, state_of(model)) == []
    assert torch.equal(tape.output, expected)


def test_frozen_weights_change_nothing():
    model, x = net(), picture()
    lines = str(record(model, x))
    model.requires_grad_(False)
    assert str(exact(model, x)) == lines


@pytest.mark.parametrize("saved", [False, True])
def test_an_exported_program(saved, tmp_path):
    model, x = net(), picture()
    with torch.no_grad():
        program = torch.export.export(model, (x,))
    if saved:
        torch.export.save(program, tmp_path / "net.pt2")
        program = torch.export.load(tmp_path / "net.pt2")
    tape = exact(program, x)
    assert apart(tape.output, model(x)) <= 1e-12
    assert Op.OPAQUE not in [n.kind for n in tape]
    kinds = [n.kind for n in tape]
    assert [kinds.count(k) for k in (Op.CONV, Op.RELU, Op.DENSE)] == [2, 2, 1]


def test_an_exported_program_with_decompositions():
    model, x = net(), picture()
    with torch.no_grad():
        program = torch.export.export(model, (x,)).run_decompositions()
    exact(program, x)


def test_scripted_models_say_the_way_out():
    scripted = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2), check_trace=False)
    for model in (
        scripted,
        nn.Sequential(scripted),
        lambda x: scripted(x),
        lambda x: [scripted][0](x),
    ):
        with pytest.raises(ModelError, match=r"TorchScript module.*Python model.*torch\.export"):
            record(model, torch.ones(1, 2))


def test_a_scripted_function_is_refused_as_a_model_and_opaque_inside_one():
    @torch.jit.script
    def twice(x: Tensor) -> Tensor:
        return x * 2 + 1

    with pytest.raises(ModelError, match="TorchScript function"):
        record(twice, torch.ones(1, 2))
    x = torch.randn(2, 3, dtype=D)
    tape = exact(lambda t: twice(t.sin()) * t, x)
    assert [(n.kind, n.op) for n in tape][2] == (Op.OPAQUE, "twice.script")


@pytest.mark.slow
def test_compiled_models_and_parts_run_as_python():
    x, plain = picture(), net()
    lines = str(record(plain, x))
    whole = torch.compile(plain)
    assert str(record(whole, x)) == lines
    part = net()
    part.head = torch.compile(part.head, backend="eager")
    assert [n.kind for n in exact(part, x, like=plain)] == [n.kind for n in record(plain, x)]
    itself = net()
    itself.compile(backend="eager")
    assert str(exact(itself, x, like=plain)) == lines
    function = torch.compile(lambda t: plain(t).sin(), backend="eager")
    assert [n.kind for n in exact(function, x, like=lambda t: plain(t).sin())][:-1] == [
        n.kind for n in record(plain, x)
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    model, x = net(dtype), picture(dtype)
    tape = exact(model, x, tolerance=0.02 if dtype is torch.float16 else 0.1)
    assert tape.output.dtype is dtype
    assert all(v.dtype == str(dtype).removeprefix("torch.") for n in tape for v in n.out)


def test_autocast():
    model, x = net(torch.float32), picture(torch.float32)

    def cast(t: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(t)

    assert exact(cast, x, tolerance=0.05).output.dtype is torch.bfloat16
    for tape in (record(cast, x), record(cast, x, lean=True)):  # arrays made again are made alike
        for node in tape.nodes[1:]:
            assert torch.equal(node.call(), node.output), node


# ---- weights


def test_tied_weights_and_a_layer_applied_twice():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)
            self.outer = nn.Linear(3, 3)
            self.outer.weight = self.inner.weight

        def forward(self, x):
            return self.outer(self.inner(torch.tanh(self.inner(x))))

    tape = exact(lively(Tied().to(D)), torch.randn(2, 3, dtype=D))
    assert [len(tape.layers[n]) for n in ("inner", "outer")] == [2, 1]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_parametrised_weights():
    x = torch.randn(2, 3, dtype=D)
    exact(parametrizations.weight_norm(nn.Linear(3, 4).to(D)), x)
    exact(parametrizations.orthogonal(nn.Linear(3, 3).to(D)), x)
    exact(nn.utils.weight_norm(nn.Linear(3, 4).to(D)), x)
    for spectral in (parametrizations.spectral_norm, nn.utils.spectral_norm):
        model = spectral(nn.Linear(3, 4).to(D))
        model(x)
        model.train()
        before = state_of(model)
        record(model, x)
        assert changed(before, state_of(model)) == []
        tape = exact(model.eval(), x)
        assert [n.kind for n in tape] == [Op.INPUT, Op.DENSE]
