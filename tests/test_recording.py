"""A recorded call to look at: the program, the table of layers, the gradient by the tape."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whence
from support_nets import close, conv_twin
from whence.errors import InputError, TargetError, UnknownName


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.block = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1))
        self.act = nn.ReLU()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        x = self.act(self.conv(x))
        x = self.act(x + self.block(x))
        return self.fc(x.mean((2, 3)))


PROGRAM = """\
0  %0:float32[1,2,4,4] = input.input()
1  %1:float32[1,3,4,4] = conv.conv2d(%0)  @ conv
2  %2:float32[1,3,4,4] = relu.relu(%1)  @ act
3  %3:float32[1,3,4,4] = relu.relu(%2)  @ block.0
4  %4:float32[1,3,4,4] = conv.conv2d(%3)  @ block.1
5  %5:float32[1,3,4,4] = add.add(%2, %4)
6  %6:float32[1,3,4,4] = relu.relu(%5)  @ act
7  %7:float32[1,3] = avgpool.mean(%6)
8  %8:float32[1,2] = dense.linear(%7)  @ fc
   return output=%8"""

TABLE = """\
layer    type        ops    output   parameters
conv     Conv2d      conv   1x3x4x4          57
act#1    ReLU        relu   1x3x4x4           0
block.0  ReLU        relu   1x3x4x4           0
block.1  Conv2d      conv   1x3x4x4          12
block    Sequential         1x3x4x4          12
act#2    ReLU        relu   1x3x4x4           0
fc       Linear      dense  1x2               8"""


def test_a_tape_prints_as_a_program():
    tape = whence.record(Small(), torch.rand(1, 2, 4, 4))
    assert str(tape) == PROGRAM
    assert len(tape) == 9
    assert [n.op for n in tape][1] == "conv2d"
    tape.free()


def test_layers_print_as_a_table():
    table = whence.layers(Small(), torch.rand(1, 2, 4, 4))
    rows = [line for line in str(table).splitlines() if not line.startswith(" ")]
    assert "\n".join(rows) == TABLE
    assert table.names[1:3] == ["act#1", "block.0"]
    assert repr(table) == str(table)


def test_layers_by_name():
    x = torch.rand(1, 2, 4, 4)
    net = Small()
    tape = whence.record(net, x)
    first, second = tape.at("act#1").array, tape.at("act#2").array
    assert torch.equal(tape.at("act").array, second)
    assert torch.equal(first, torch.relu(net.conv(x)))
    assert not torch.equal(first, second)
    for wrong, said in {
        "blocks": "did you mean 'block'",
        "act#3": "no layer on the tape named 'act#3'",
        "act#x": "no layer on the tape named 'act#x'",
    }.items():
        with pytest.raises(UnknownName, match=re.escape(said)):
            tape.at(wrong)
    tape.free()


@pytest.mark.parametrize("target", [None, 1, [0, 1, 2], "difference", "neuron", "cotangent"])
def test_the_gradient_by_the_tape(target):
    twin = conv_twin("torch")
    x = twin.array(twin.x)
    leaf = x.clone().requires_grad_()
    y = twin.model(leaf)
    seed = torch.randn(3, 3)
    picked = {
        "difference": lambda: y[:, 0] - y[:, 2],
        "neuron": lambda: F.leaky_relu(y, 1.0)[:, 1],
        "cotangent": lambda: (y * seed).sum(1),
    }
    if target is None:
        picked[None] = lambda: y.amax(1)
    elif target == 1:
        picked[1] = lambda: y[:, 1]
    elif isinstance(target, list):
        theirs = torch.autograd.grad(y[torch.arange(3), target].sum(), leaf)[0]
    if not isinstance(target, list):
        theirs = torch.autograd.grad(picked[target]().sum(), leaf)[0]
    given = {
        "difference": whence.difference(0, 2),
        "neuron": whence.neuron("dense", 1),
        "cotangent": seed,
    }
    tape = whence.record(twin.model, x)
    wanted = given.get(target, target) if not isinstance(target, list) else target
    close(tape.gradient(wanted).numpy(), theirs.numpy(), 1e-6)
    close(tape.gradient(wanted).numpy(), theirs.numpy(), 1e-6)  # a tape can be walked again
    tape.free()


def test_the_gradient_in_both_frameworks(rng):
    pytest.importorskip("tensorflow")
    found = []
    for name in ("torch", "tensorflow"):
        twin = conv_twin(name)
        tape = whence.record(twin.model, twin.array(twin.x))
        gradient = tape.gradient(whence.difference([0, 1, 2], 1 if name == "" else [1, 2, 0]))
        found.append(twin.first(np.asarray(gradient)))
    close(found[1], found[0], 1e-5)


def test_gradients_of_several_inputs_by_name():
    def model(a, b, unused):
        return a * 2 + b * b

    given = (torch.ones(1, 2), torch.full((1, 2), 3.0), torch.ones(1, 2))
    tape = whence.record(model, given)
    found = tape.gradient(0)
    assert {k: v.tolist() for k, v in found.items()} == {
        "input0": [[2, 0]], "input1": [[6, 0]], "input2": [[0, 0]],
    }  # fmt: skip
    tape.free()


def test_gradient_at_the_embedding_of_token_ids():
    net = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(6, 2))
    tape = whence.record(net, torch.tensor([[1, 4]]))
    found = tape.gradient(1)
    close(found.numpy(), net[2].weight[1].detach().numpy().reshape(1, 2, 3), 1e-6)
    tape.free()


def test_what_has_no_gradient():
    tape = whence.record(nn.Linear(2, 2), torch.rand(1, 2))
    with pytest.raises(TargetError, match="a function cannot be its target"):
        tape.gradient(lambda y: y)
    tape = whence.record(lambda x: x.detach() * 2, torch.rand(1, 2))
    with pytest.raises(TargetError, match="does not depend on its input"):
        tape.gradient(0)
    with pytest.raises(TargetError, match="the output 'output' does not depend on the input"):
        tape.gradient(torch.ones(1, 2))
    counts = whence.record(lambda x: x.float() * 2, torch.tensor([[1, 2]]))
    with pytest.raises(InputError, match="the input is int64: whole numbers, which the model does"):
        counts.gradient(0)


def test_a_model_that_cannot_run_on_the_input():
    text = "the model cannot run on the input float32 (1, 5): RuntimeError: mat1 and mat2"
    for look in (whence.record, whence.layers):
        with pytest.raises(InputError, match=re.escape(text)):
            look(nn.Linear(2, 2), torch.rand(1, 5))
    with pytest.raises(InputError, match="the batch is empty"):
        whence.record(nn.Linear(2, 2), torch.rand(0, 2))


def test_looking_leaves_the_model_alone():
    twin = conv_twin("torch")
    model = copy.deepcopy(twin.model).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    whence.layers(model, twin.array(twin.x))
    assert model.training
    assert model.norm.training
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
