"""Which number is explained: the weights of each target, its words, and what it refuses."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

import whence
from support import import_torchvision
from support_nets import close
from whence import targets
from whence.errors import TargetError, UnknownName
from whence.frameworks.numpy import NumpyFunctions

XP = NumpyFunctions()
Y = np.array([[0.1, 3.0, -1.0, 0.5], [2.0, 0.0, 2.5, -3.0]])


def weights(target, y=Y):
    given = target.arguments(len(y))
    return target.weights(XP, y, given)


def test_the_top_class():
    found, index = weights(targets.make(None))
    np.testing.assert_array_equal(found, [[0, 1, 0, 0], [0, 0, 1, 0]])
    assert index.tolist() == [1, 2]


def test_one_number_a_sample_has_no_class():
    found, index = weights(targets.make(None), np.array([1.0, -2.0]))
    assert found.tolist() == [1, 1]
    assert index is None


@pytest.mark.parametrize("given", [3, np.int64(3), torch.tensor(3), [3], (3,), np.array([3])])
def test_one_class_for_all(given):
    target = targets.make(given)
    found, index = weights(target)
    np.testing.assert_array_equal(found, [[0, 0, 0, 1], [0, 0, 0, 1]])
    assert index.tolist() == [3, 3]
    assert target.describe() == "class 3"


@pytest.mark.parametrize("given", [[0, 2], np.array([0, 2]), torch.tensor([0, 2])])
def test_a_class_for_each(given):
    found, index = weights(targets.make(given))
    np.testing.assert_array_equal(found, [[1, 0, 0, 0], [0, 0, 1, 0]])
    assert index.tolist() == [0, 2]


def test_class_names():
    names = ["cat", "dog", "cow", "crow"]
    assert targets.make("dog", names).index == (1,)
    assert targets.make(["cow", "cat"], names).index == (2, 0)
    assert whence.difference("cow", "crow", names).a == (2,)
    expected = "no class named 'cwo'; did you mean 'cow'?"
    with pytest.raises(UnknownName, match=re.escape(expected)):
        targets.make("cwo", names)
    with pytest.raises(TargetError, match="class 'cow' was asked for by name, but the model's"):
        targets.make("cow")


def test_difference():
    target = whence.difference(0, [1, 2])
    found, index = weights(target)
    np.testing.assert_array_equal(found, [[1, -1, 0, 0], [1, 0, -1, 0]])
    assert index is None
    assert target.names(2, None, None) == ["class 0 minus class 1", "class 0 minus class 2"]
    assert target.names(2, None, ["cat", "dog", "cow"]) == ["cat minus dog", "cat minus cow"]
    assert whence.difference(3, 8).describe() == "class 3 minus class 8"


def test_names_of_classes():
    assert targets.make(1).names(2, [1, 0], None) == ["class 1", "class 0"]
    assert targets.make(1).names(2, [1, 9], ["cat", "dog"]) == ["dog", "class 9"]
    assert targets.Neuron("conv", 2).names(2, None, ["cat"]) == ["conv channel 2"] * 2


MAPS = np.arange(48, dtype=float).reshape(2, 3, 2, 4)  # (batch, channel, height, width)


@pytest.mark.parametrize("axis", [1, 3])
@pytest.mark.parametrize("channel", [0, -1])
@pytest.mark.parametrize("position", [None, "mean", "max", (1, 2), (-1, 0)])
def test_units_with_channels_first_and_last(axis, channel, position):
    y = MAPS if axis == 1 else np.moveaxis(MAPS, 1, -1)
    target = targets.Neuron("conv", channel, position, axis)
    target.check(y.shape)
    found, _ = weights(target, y)
    plane = MAPS[:, channel]
    theirs = {
        None: plane.sum((1, 2)),
        "mean": plane.mean((1, 2)),
        "max": plane.max((1, 2)),
        (1, 2): plane[:, 1, 2],
        (-1, 0): plane[:, -1, 0],
    }[position]
    np.testing.assert_allclose((found * y).reshape(2, -1).sum(1), theirs, rtol=1e-6)
    if position in ("max", (1, 2), (-1, 0)):
        assert (np.count_nonzero(found.reshape(2, -1), axis=1) == 1).all()


def test_a_whole_layer_and_equal_maxima():
    found, _ = weights(targets.Neuron("conv", None, None, 1), MAPS)
    assert (found == 1).all()
    flat = np.zeros((1, 2, 2, 2))
    found, _ = weights(targets.Neuron("conv", 1, "max", 1), flat)
    np.testing.assert_array_equal(found[0, 1], np.full((2, 2), 0.25))
    assert not found[0, 0].any()


def test_tokens_and_rows():
    tokens = np.arange(24, dtype=float).reshape(2, 4, 3)
    found, _ = weights(targets.Neuron("block", 1, 2, 2), tokens)
    assert (found * tokens).reshape(2, -1).sum(1).tolist() == tokens[:, 2, 1].tolist()
    row = targets.Neuron("fc", 2, None, 1)
    row.check((2, 4))
    found, _ = weights(row, Y)
    np.testing.assert_array_equal(found, [[0, 0, 1, 0]] * 2)


REFUSED = {
    "channel 7 of layer conv was asked for; its output is (2, 3, 2, 4), so channels go from 0 to 2 "
    "(axis 1)": targets.Neuron("conv", 7, None, 1),
    "position (1,) of layer conv was asked for; its positions are 2x4": (
        targets.Neuron("conv", 0, (1,), 1)),
    "position (2, 0) of layer conv was asked for; its positions are 2x4": (
        targets.Neuron("conv", 0, (2, 0), 1)),
    "position is None, \"mean\", \"max\" or a place; got 'most'": (
        targets.Neuron("conv", 0, "most", 1)),
    "the top class was asked for, but the model's output has shape (2, 3, 2, 4): not one number a "
    "class. Give a function": targets.Top(),
    "class 1 was asked for, but the model's output has shape": targets.Classes((1,)),
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_places_that_do_not_exist(text):
    with pytest.raises(TargetError, match=re.escape(text)):
        REFUSED[text].check(MAPS.shape)


def test_classes_that_do_not_exist():
    for given in (4, -1, [0, 4]):
        wrong = max(np.atleast_1d(given).tolist(), key=lambda i: abs(i - 1.5))
        text = f"class {wrong} was asked for; the model has 4 outputs, 0 to 3"
        with pytest.raises(TargetError, match=text):
            targets.make(given).check(Y.shape)
    with pytest.raises(TargetError, match="class 9 was asked for; the model has 4 outputs"):
        whence.difference(0, 9).check(Y.shape)
    with pytest.raises(TargetError, match="a difference needs at least two classes"):
        whence.difference(0, 1).check((2,))
    with pytest.raises(TargetError, match="3 targets were given for 2 samples; give one, or one a"):
        targets.make([0, 1, 2]).arguments(2)


@pytest.mark.parametrize("given", [1.5, [[0, 1]], [], {"a": 1}, [0.5]])
def test_what_is_no_target(given):
    with pytest.raises(TargetError, match="a target is None, a class number, one number a sample"):
        targets.make(given)


def test_a_function_of_the_outputs():
    target = targets.make(lambda outputs: outputs.sum(1))
    assert target.describe() == "function"
    target.check((3,))
    target.check((3, 1))
    with pytest.raises(TargetError, match=re.escape("shape (batch,); it returned (3, 2)")):
        target.check((3, 2))
    with pytest.raises(TargetError, match=re.escape("shape (batch,); it returned ()")):
        target.check(())


def test_which_of_several_outputs():
    held = {"logits": 0, "loss": 1}
    assert targets.pick(targets.make(None), held) == "logits"
    assert targets.pick(targets.output(1, 0), held) == "loss"
    assert targets.pick(targets.output(-1), held) == "loss"
    assert targets.pick(targets.output("loss"), held) == "loss"
    with pytest.raises(TargetError, match=re.escape("the model has 2 outputs (a, b); name one: ")):
        targets.pick(targets.make(0), {"a": 0, "b": 1})
    with pytest.raises(TargetError, match="output 2 was asked for; the model has 2: logits, loss"):
        targets.pick(targets.output(2), held)
    with pytest.raises(UnknownName, match="no output named 'logit'; did you mean 'logits'"):
        targets.pick(targets.output("logit"), held)
    with pytest.raises(TargetError, match=r"output\(name, target\) takes a class"):
        targets.output("logits", whence.neuron("fc"))


class EndsInSoftmax(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.end = end

    def forward(self, x):
        return self.end(self.body(x))


ENDS = {
    "softmax": nn.Softmax(1),
    "log-softmax": nn.LogSoftmax(1),
    "sigmoid": nn.Sigmoid(),
    "softmax, cast": lambda z: z.softmax(1).float().contiguous(),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "method", ["gradient", "gradient-x-input", "lrp", "guided-backpropagation"]
)
def test_before_the_softmax(end, method):
    torch.manual_seed(0)
    net, x = EndsInSoftmax(ENDS[end]), torch.randn(2, 4)
    e = whence.explain(net, x, method, target=whence.logit([2, 1]))
    bare = whence.explain(net.body, x, method, target=[2, 1])
    close(e.to_numpy(), bare.to_numpy(), 1e-6)
    np.testing.assert_allclose(e.output, bare.output, rtol=1e-6)
    assert e.target.tolist() == [2, 1]
    if end != "sigmoid":
        np.testing.assert_allclose(
            e.probability, net.body(x).softmax(1).amax(1).detach(), rtol=1e-5
        )
    assert not any("softmax" in n for n in e.notes)


def test_before_the_softmax_of_the_top_class_and_of_a_difference():
    net, x = EndsInSoftmax(nn.Softmax(1)), torch.randn(3, 4)
    logits = net.body(x).detach().numpy()
    e = whence.explain(net, x, "gradient", target=whence.logit())
    assert e.target.tolist() == logits.argmax(1).tolist()
    np.testing.assert_allclose(e.output, logits.max(1), rtol=1e-6)
    e = whence.explain(net, x, "gradient", target=whence.logit(whence.difference(0, 2)))
    np.testing.assert_allclose(e.output, logits[:, 0] - logits[:, 2], rtol=1e-5)
    e = whence.explain(net, x, "simple-taylor", target=whence.logit(1), root="zero")
    np.testing.assert_allclose(e.output, logits[:, 1], rtol=1e-5)
    assert (e.gap < 1e-4).all()


def test_a_logit_where_there_is_no_softmax():
    text = (
        "the model's output 'output' does not come out of a softmax or sigmoid but of dense.linear "
        "at layer (top): it is the logit already; leave whence.logit out"
    )
    for method in ("gradient", "lrp"):
        with pytest.raises(TargetError, match=re.escape(text)):
            whence.explain(nn.Linear(3, 2), torch.randn(1, 3), method, target=whence.logit())
    with pytest.raises(TargetError, match=r"logit\(target\) takes a class"):
        whence.logit(lambda y: y)


def test_where_layers_keep_their_channels():
    """By the op that made the map, through transposes, sums and slices; by rank if none says."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 1)
            self.last = nn.Identity()
            self.norm = nn.LayerNorm(5)
            self.back = nn.Identity()
            self.group = nn.GroupNorm(1, 5)
            self.one = nn.Conv1d(5, 2, 1)

        def forward(self, x):
            x = torch.relu(self.conv(x))
            moved = self.last(x.permute(0, 2, 3, 1) + 1)
            moved = self.norm(moved[:, :2] * 2)
            x = self.back(moved.permute(0, 3, 1, 2).sigmoid() + moved.permute(0, 3, 1, 2))
            return self.one(self.group(x).flatten(2))

    tape = whence.record(Mixed(), torch.randn(2, 3, 4, 6))
    axes = {name: targets.channel_axis(tape.at(name), "first")
            for name in ("conv", "last", "norm", "back", "group", "one")}  # fmt: skip
    assert axes == {"conv": 1, "last": 3, "norm": 3, "back": 1, "group": 1, "one": 1}
    tape.free()


def test_units_of_models_that_keep_channels_last():
    models = import_torchvision().models
    swin = models.swin_t(weights=None).eval()
    x = torch.randn(1, 3, 32, 32)
    shapes = {row.name: row.shape for row in whence.layers(swin, x)}
    assert shapes["features.1.1"] == (1, 8, 8, 96)
    tape = whence.record(swin, x)
    for layer in ("features.0", "features.1.0", "features.1.1", "features.2", "norm"):
        assert targets.channel_axis(tape.at(layer), tape.channels) == 3, layer
    value = tape.at("features.1.1").array.detach()
    tape.free()
    e = whence.explain(swin, x, "gradient", target=whence.neuron("features.1.1", 95, (7, 0)))
    np.testing.assert_allclose(e.output, value[:, 7, 0, 95], rtol=1e-5)
    convnext = models.convnext_tiny(weights=None).eval()
    tape = whence.record(convnext, x)
    assert targets.channel_axis(tape.at("features.1.0.block.3"), "first") == 3  # its linear layer
    assert targets.channel_axis(tape.at("features.1.0"), "first") == 1
    tape.free()
