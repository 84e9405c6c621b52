"""What a node on a PyTorch tape can do: run again, name its constants, let go, be folded."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from support_tape import apart, gradients, lively
from whence.errors import UnknownName
from whence.frameworks import find, gather
from whence.ops import Op
from whence.tape import Tape

Tensor = torch.Tensor
D = torch.float64


class Mixed(nn.Module):
    """Something of every kind that rules read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)
        self.up_norm = nn.BatchNorm2d(6, affine=False)
        self.layer_norm = nn.LayerNorm(6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.flat = nn.Linear(6, 6, bias=False)
        self.flat_norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.norm(self.conv(x)))
        h = F.max_pool2d(self.up_norm(self.up(h)), 2)
        h = torch.cat([h, h.sin()], 3).flatten(2).transpose(1, 2)
        h = h + self.attention(*[self.layer_norm(h)] * 3)[0] * 0.5
        h = self.flat_norm(self.flat(h.mean(1)))
        return self.head(h * torch.sigmoid(h) / (1 + h.exp()))


def mixed() -> tuple[nn.Module, Tensor]:
    return lively(Mixed()).to(D), torch.randn(2, 3, 6, 6, dtype=D)


def taped(model, x, *, lean=False, fold=False, keep=()) -> Tape:
    framework = find(model, x)
    return framework.record(model, gather(framework, model, x), lean=lean, fold=fold, keep=keep)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("lean", [False, True])
def test_an_op_runs_again_and_gives_what_it_gave(lean, fold):
    model, x = mixed()
    tape = taped(model, x, lean=lean, fold=fold)
    kinds = Counter(n.kind for n in tape)
    assert {
        Op.CONV,
        Op.RELU,
        Op.MAXPOOL,
        Op.NORM,
        Op.SOFTMAX,
        Op.MATMUL,
        Op.DENSE,
        Op.AVGPOOL,
    } <= set(kinds)
    for node in tape.nodes[1:]:
        again = node.call()
        again = again if isinstance(again, Tensor) else again[0]
        assert not again.requires_grad
        assert apart(again, node.output) <= 1e-14, node


def test_an_op_runs_on_other_operands_and_parameters():
    model, x = mixed()
    for node in taped(model, x):
        if node.kind not in (Op.CONV, Op.DENSE):
            continue
        other = torch.randn_like(node.inputs[0])
        none = {"bias": node.params["bias"] * 0} if "bias" in node.params else {}
        plain = node.call(other, **none)
        if "bias" in node.params:
            bias = node.params["bias"].detach()
            wide = bias.reshape(-1, *(1,) * node.attrs["dims"]) if node.kind is Op.CONV else bias
            assert apart(node.call(other), plain + wide) <= 1e-12
            assert apart(node.call(other, bias=2 * bias), plain + 2 * wide) <= 1e-12
        weight = node.params["weight"].detach()
        assert apart(node.call(other, weight=weight * -3, **none), plain * -3) <= 1e-12
    node = next(n for n in taped(model, x) if n.kind is Op.AFFINE)
    changed = node.call(
        node.inputs[0], scale=torch.tensor(2.0, dtype=D), shift=torch.tensor(1.0, dtype=D)
    )
    assert torch.equal(changed, node.inputs[0] * 2 + 1)
    with pytest.raises(KeyError, match=r"no parameter 'kernel'.*weight"):
        next(n for n in taped(model, x) if n.kind is Op.CONV).call(x, kernel=x)


@pytest.mark.parametrize("fold", [False, True])
def test_the_offset_is_the_output_less_the_linear_part(fold):
    model, x = mixed()
    seen = set()
    for node in taped(model, x, fold=fold):
        if node.kind in (Op.CONV, Op.DENSE, Op.AFFINE, Op.AVGPOOL, Op.SHAPE, Op.ADD):
            nothing = node.call(*(torch.zeros_like(a) for a in node.inputs))
            offset = node.offset
            if offset is None:
                assert nothing.abs().max() == 0, node
            else:
                assert apart(offset + torch.zeros_like(node.output), nothing) <= 1e-12, node
                seen.add(node.kind)
    assert seen >= {Op.CONV, Op.DENSE}


def test_the_folded_weight_and_bias_are_those_of_the_pair():
    model, x = mixed()
    tape = taped(model, x, fold=True)
    pairs = [n for n in tape if n.op.endswith("+batch_norm")]
    assert [n.op for n in pairs] == [
        "conv2d+batch_norm", "conv_transpose2d+batch_norm", "linear+batch_norm"
    ]  # fmt: skip
    for node in pairs:
        (a,) = node.inputs
        weight, bias = node.params["weight"], node.params["bias"]
        if node.op.startswith("linear"):
            rebuilt = F.linear(a, weight, bias)
        else:
            call = getattr(F, node.op.partition("+")[0])
            options = {k: node.attrs[k] for k in ("stride", "padding", "dilation", "groups")}
            rebuilt = call(a, weight, bias, **options)
        assert apart(rebuilt, node.output) <= 1e-12, node
        assert apart(node.call(a, weight=weight, bias=bias), node.output) <= 1e-12, node
        assert (
            apart(node.call(a, weight=weight * 0, bias=bias), rebuilt - node.call(a, bias=bias * 0))
            <= 1e-12
        )
        assert [p.op for p in node.parts] == node.op.split("+")


def test_folding_changes_neither_output_nor_gradient():
    model, x = mixed()
    plain, folded = taped(model, x), taped(model, x, fold=True)
    assert len(folded) < len(plain)
    assert [n.index for n in folded] == list(range(len(folded)))
    assert apart(folded.output, plain.output) == 0
    assert apart(gradients(folded)["input"], gradients(plain)["input"]) <= 1e-14


def test_only_what_one_op_alone_uses_is_folded():
    conv, norm = lively(nn.Conv2d(2, 3, 1)).to(D), lively(nn.BatchNorm2d(3)).to(D)
    x = torch.randn(2, 2, 4, 4, dtype=D)

    def ops(model, **options) -> list[str]:
        return [n.op for n in taped(model, x, fold=True, **options)][1:]

    assert ops(lambda t: norm(conv(t))) == ["conv2d+batch_norm"]
    assert ops(lambda t: (lambda h: norm(h) + h)(conv(t))) == ["conv2d", "batch_norm", "add"]
    assert ops(lambda t: (lambda h: (norm(h), h))(conv(t))) == ["conv2d", "batch_norm"]
    assert ops(lambda t: norm(conv(t)).relu() * 2 + 1) == ["conv2d+batch_norm", "relu", "mul+add"]
    assert ops(lambda t: (conv(t) - 1) * 3 / 7) == ["conv2d+sub+mul+div"]
    columns = torch.randn(4, 4, dtype=D)
    assert ops(lambda t: (t @ columns) * 2 + columns[0]) == ["matmul+mul+add"]
    assert ops(lambda t: (columns @ t) + columns[0]) == ["matmul", "add"]
    per_pixel = torch.randn(4, 4, dtype=D)
    assert ops(lambda t: conv(t) * per_pixel) == ["conv2d", "mul"]
    assert ops(lambda t: norm(conv(t)), keep=["conv"]) == ["conv2d", "batch_norm"]


@pytest.mark.parametrize("lean", [False, True])
def test_an_array_that_was_let_go_is_made_again(lean):
    model, x = mixed()
    true = [n.output.clone() for n in taped(model, x)]
    tape = taped(model, x, lean=lean)
    for node in tape.nodes[1:]:  # the graphs hold the leaves; without them nothing is left
        node._pull = None
        if node._free is not None:
            node._free()
    held = [
        n
        for n in tape.nodes
        if not callable(n.out[0]._array) or isinstance(n.out[0]._array, Tensor)
    ]
    assert (len(held) < len(tape) / 4) if lean else (len(held) < len(tape))
    for node, expected in zip(tape.nodes, true, strict=True):
        assert torch.equal(node.output, expected), node


def test_what_is_drawn_is_not_drawn_again():
    def noisy(x: Tensor) -> Tensor:
        return torch.bernoulli(F.dropout(x, 0.5, True).sigmoid()) + F.alpha_dropout(
            x, 0.5, True
        ) * F.rrelu(x, training=True)

    x = torch.randn(50, 4, dtype=D)
    for lean in (False, True):
        tape = taped(noisy, x, lean=lean)
        drawn = [n.output.clone() for n in tape]
        for node in tape.nodes:
            if node._free is not None:
                node._free()
        torch.manual_seed(99)
        assert all(torch.equal(n.output, d) for n, d in zip(tape, drawn, strict=True))


def test_arrays_on_the_tape_ask_for_no_gradient():
    model, x = mixed()
    for lean in (False, True):
        for node in taped(model, x, lean=lean):
            assert not node.output.requires_grad
            assert not any(a.requires_grad for a in node.inputs)
    taped(model, x).output.numpy()


def test_the_tape_prints_as_a_program():
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
            self.act = nn.ReLU()
            self.head = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            h = self.act(self.stem(x))
            top, places = h.flatten(2).max(2)
            return {"logits": self.head(self.act(top + h.mean((2, 3)))), "places": places}

    x = torch.randn(2, 1, 4, 4)
    text = """
 0  %0:float32[2,1,4,4] = input.input()
 1  %1:float32[2,2,2,2] = conv.conv2d(%0)  @ stem.0
 2  %2:float32[2,2,2,2] = affine.batch_norm(%1)  @ stem.1
 3  %3:float32[2,2,2,2] = relu.relu(%2)  @ act
 4  %4:float32[2,2,4] = shape.flatten(%3)
 5  %5.0:float32[2,2], %5.1:int64[2,2] = maxpool.max(%4)
 6  %6:float32[2,2] = avgpool.mean(%3)
 7  %7:float32[2,2] = add.add(%5.0, %6)
 8  %8:float32[2,2] = relu.relu(%7)  @ act
 9  %9:float32[2,3] = dense.linear(%8)  @ head
    return logits=%9, places=constant"""
    assert str(taped(Small().eval(), x)) == text[1:]
    folded = str(taped(Small().eval(), x, fold=True)).splitlines()
    assert folded[1] == "1  %1:float32[2,2,2,2] = conv.conv2d+batch_norm(%0)  @ stem.0"
    assert folded[-1] == "   return logits=%8, places=constant"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.one(self.act(self.one(x))))


def test_layers_by_name_and_by_call():
    model, x = nn.Sequential(Block(), Block()).to(D), torch.randn(2, 3, dtype=D)
    tape = taped(model, x)
    assert list(tape.layers) == ["0.one", "0.act", "0", "1.one", "1.act", "1"]
    assert [(r.type, r.parameters) for r in tape.layers["0"]] == [("Block", 12)]
    assert len(tape.layers["0.act"]) == 2
    first = torch.tanh(model[0].one(x))
    assert torch.equal(tape.at("0.act#1").array, first)
    assert torch.equal(tape.at("0.act#2").array, model[0](x))
    assert tape.at("0.act") is tape.at("0.act#2") is tape.at("0")
    with pytest.raises(UnknownName, match=r"no layer on the tape.*'0\.akt'.*0\.act"):
        tape.at("0.akt")
    for call in ("0.act#3", "0.act#0", "0.act#x"):
        with pytest.raises(UnknownName, match=r"layer on the tape"):
            tape.at(call)


def test_a_layer_that_was_folded_away_still_has_its_array():
    model, x = mixed()
    tape = taped(model, x, fold=True)
    assert apart(tape.at("conv").array, model.conv(x)) == 0
    assert tape.at("conv").node.op == "conv2d"
    kept = taped(model, x, fold=True, keep=["conv"])
    assert kept.at("conv").node in kept.nodes


def test_a_value_outlives_its_tape():
    model, x = mixed()
    value = taped(model, x).at("conv")
    assert apart(value.array, model.conv(x)) == 0
    with pytest.raises(RuntimeError, match="keep it in a variable"):
        _ = value.node


def test_a_freed_tape_holds_nothing():
    model, x = mixed()
    tape = taped(model, x)
    node = next(n for n in tape if n.kind is Op.CONV)
    tape.free()
    assert node.output is None
    with pytest.raises(RuntimeError, match="released already"):
        node.pull(x)
    with pytest.raises(RuntimeError, match="cannot be run again"):
        node.call()


def test_a_folded_pair_keeps_its_weights_no_longer_than_it_is_walked():
    """Else a walk over a whole net would hold all of its weights a second time."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2)).eval()
    x = torch.randn(1, 1, 5, 5)
    framework = find(net, x)
    tape = framework.record(net, gather(framework, net, x), fold=True)
    node = tape.nodes[-1]
    assert list(node.params) == ["weight", "bias"] and "shift" not in node.params
    first = node.params["weight"]
    assert node.params["weight"] is first
    node.free()
    assert node.params["weight"] is not first
    assert torch.equal(node.params["weight"], first)
    tape.free()
