"""What is explained and where it is read: inputs, outputs, units, layers, words for the reader."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whence
from support_nets import (
    FORWARD_ONLY,
    FRAMEWORKS,
    PLAIN_ONLY,
    close,
    conv_twin,
    fitting,
    small,
)
from whence.errors import OptionError, TargetError, UnknownName

METHODS = [row.name for row in whence.methods()]


ANY_NET = [m for m in METHODS if m not in PLAIN_ONLY]


@pytest.fixture(params=FRAMEWORKS)
def twin(request):
    """The small network that the test's method can explain, in each framework."""
    return fitting(request.param, request.node.callspec.params.get("method", ""))


class Pair(nn.Module):
    """Two inputs of different shapes, and one that is not used."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, left, right, unused=None, flag=True):
        return self.head(torch.relu(self.a(left) + self.b(right)) if flag else left)


BY_INPUT = ("smoothgrad", "rise", "sobol", "lime", "shapley-sampling")
"""Methods whose draws go by the order of the inputs, so that each order is another sample."""


@pytest.mark.parametrize("method", [m for m in METHODS if m not in BY_INPUT])
def test_tuples_and_dicts(method):
    net, left, right = Pair(), torch.randn(2, 3), torch.randn(2, 2)
    joined = torch.cat([left, right], 1)
    theirs = whence.explain(
        lambda t: net(t[:, :3], t[:, 3:]), joined, method, target=1, **small(method)
    ).to_numpy()
    by_tuple = whence.explain(net, (left, right), method, target=1, **small(method))
    by_dict = whence.explain(
        net, {"right": right, "left": left, "flag": True}, method, target=1, **small(method)
    )
    mixed = whence.explain(net, (left, right.numpy()), method, target=1, **small(method))
    assert isinstance(by_tuple.attribution, tuple)
    assert set(by_dict.attribution) == {"left", "right"}
    for e in (by_tuple, mixed):
        close(np.concatenate([np.asarray(a) for a in e.attribution], 1), theirs, 1e-5)
    assert isinstance(mixed.attribution[0], torch.Tensor)
    assert isinstance(mixed.attribution[1], np.ndarray)
    named = by_dict.to_numpy()
    close(np.concatenate([named["left"], named["right"]], 1), theirs, 1e-5)
    np.testing.assert_array_equal(by_dict.heatmap(name="right"), named["right"])


@pytest.mark.parametrize("method", BY_INPUT)
def test_draws_go_by_the_order_of_the_inputs(method):
    net, left, right = Pair(), torch.randn(2, 3), torch.randn(2, 2)
    by_tuple = whence.explain(net, (left, right), method, target=1, **small(method))
    given = {"left": left, "right": right, "flag": True}
    by_dict = whence.explain(net, given, method, target=1, **small(method))
    for ours, theirs in zip(by_tuple.attribution, by_dict.attribution.values(), strict=True):
        close(ours, theirs, 1e-6)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in FORWARD_ONLY])
def test_an_input_that_is_not_used_gets_zeros_and_a_note(method):
    e = whence.explain(
        Pair(), (torch.randn(2, 3), torch.randn(2, 2), torch.randn(2, 5)), method, **small(method)
    )
    assert e.attribution[2].shape == (2, 5)
    assert not e.attribution[2].any()
    assert "top class does not depend on 'input2': zeros there" in e.notes
    assert e.attribution[0].any()


def test_both_frameworks_take_several_inputs_and_outputs():
    keras = pytest.importorskip("keras")
    import tensorflow as tf

    net, left, right = Pair(), torch.randn(2, 3), torch.randn(2, 2)
    layers = keras.layers
    ins = [layers.Input((3,), name="left"), layers.Input((2,), name="right")]
    a, b, head = layers.Dense(4), layers.Dense(4), layers.Dense(2)
    hidden = layers.ReLU()(layers.Add()([a(ins[0]), b(ins[1])]))
    twin = keras.Model(ins, {"score": head(hidden), "hidden": hidden})
    for ours, theirs in ((a, net.a), (b, net.b), (head, net.head)):
        ours.set_weights([theirs.weight.detach().numpy().T, theirs.bias.detach().numpy()])
    for method in ("gradient", "lrp"):
        torchs = whence.explain(net, (left, right), method, target=1, **small(method))
        given = tuple(tf.convert_to_tensor(t.numpy()) for t in (left, right))
        e = whence.explain(
            twin, given, method, target=whence.targets.output("score", 1), **small(method)
        )
        for ours, theirs in zip(e.to_numpy(), torchs.to_numpy(), strict=True):
            close(ours, theirs, 1e-4)


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.heads = nn.Linear(3, 4), nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 5)])

    def forward(self, x):
        x = torch.tanh(self.body(x))
        return {"small": self.heads[0](x), "large": self.heads[1](x)}


@pytest.mark.parametrize("method", ["gradient", "lrp", "guided-backpropagation"])
def test_several_outputs(method):
    net, x = Several(), torch.randn(2, 3)
    y = {k: v.detach().numpy() for k, v in net(x).items()}
    for name, place in (("small", 0), ("large", -1)):
        for given in (name, place):
            e = whence.explain(net, x, method, target=whence.targets.output(given), **small(method))
            np.testing.assert_allclose(e.output, y[name].max(1), rtol=1e-5)
            assert e.answer.tolist() == y[name].argmax(1).tolist()
    e = whence.explain(
        net, x, method, target=lambda out: out["large"][:, 4] * out["small"][:, 0], **small(method)
    )
    np.testing.assert_allclose(e.output, y["large"][:, 4] * y["small"][:, 0], rtol=1e-4)
    assert e.target == "function"
    assert e.answer is None
    with pytest.raises(
        TargetError, match=re.escape("the model has 2 outputs (small, large); name")
    ):
        whence.explain(net, x, method, **small(method))
    with pytest.raises(UnknownName, match="no output named 'larg'; did you mean 'large'"):
        whence.explain(net, x, method, target=whence.targets.output("larg"), **small(method))


@pytest.mark.parametrize("method", METHODS)
def test_differences(twin, method):
    x = twin.array(twin.x)
    e = whence.explain(twin.model, x, method, target=whence.difference(2, [0, 1, 0]),
                       classes=["cat", "dog", "cow"], **small(method))  # fmt: skip
    assert e.target_names == ["cow minus cat", "cow minus dog", "cow minus cat"]
    assert isinstance(e.target, str)
    outputs = [whence.explain(twin.model, x, "gradient", target=t).output for t in (2, [0, 1, 0])]
    np.testing.assert_allclose(e.output, outputs[0] - outputs[1], rtol=1e-4, atol=1e-6)
    if method in ("gradient", "gradient-x-input", "simple-taylor"):  # linear in the target
        parts = [
            whence.explain(twin.model, x, method, target=t, **small(method)).to_numpy()
            for t in (2, [0, 1, 0])
        ]
        close(e.to_numpy(), parts[0] - parts[1], 1e-4)


POSITIONS = [None, "mean", "max", (1, 2), (-1, 0)]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("method", METHODS)
def test_any_unit_is_a_target(twin, method, position):
    x = twin.array(twin.x)
    target = whence.neuron("conv2", channel=3, position=position)
    e = whence.explain(twin.model, x, method, target=target, **small(method))
    other = fitting("torch", method)
    tape = whence.record(other.model, other.array(other.x))
    plane = tape.at("conv2").array.detach().numpy()[:, 3]
    tape.free()
    theirs = {
        None: plane.sum((1, 2)), "mean": plane.mean((1, 2)), "max": plane.max((1, 2)),
        (1, 2): plane[:, 1, 2], (-1, 0): plane[:, -1, 0],
    }[position]  # fmt: skip
    np.testing.assert_allclose(e.output, theirs, rtol=2e-4, atol=1e-6)
    assert e.target == target.describe()
    scores = whence.explain(twin.model, x, "gradient")
    assert e.answer.tolist() == scores.answer.tolist()  # the model's answer, not the unit's
    if method == "gradient":
        # By the framework's own gradient of the unit, with the model cut off behind it.
        leaf = torch.as_tensor(other.x).requires_grad_()
        unit = other.model.conv2(
            F.max_pool2d(torch.relu(other.model.norm(other.model.conv1(leaf))), 2)
        )
        plane = unit[:, 3]
        chosen = {
            None: plane.sum((1, 2)), "mean": plane.mean((1, 2)), "max": plane.amax((1, 2)),
            (1, 2): plane[:, 1, 2], (-1, 0): plane[:, -1, 0],
        }[position]  # fmt: skip
        close(twin.first(e.to_numpy()), torch.autograd.grad(chosen.sum(), leaf)[0].numpy(), 1e-4)
    if method == "lrp":
        assert (e.ledger.balance < 1e-5).all()


def test_a_unit_does_not_run_the_model_twice():
    twin = conv_twin("torch")
    calls = []
    handle = twin.model.register_forward_hook(lambda *a: calls.append(1))
    for target in (None, 1, whence.neuron("conv2", 1), whence.logit):
        if target is whence.logit:
            continue
        calls.clear()
        e = whence.explain(twin.model, twin.array(twin.x), "lrp", target=target)
        assert len(calls) == 1
        assert e.answer is not None
    handle.remove()


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 4)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, input_ids):
        x = self.table(input_ids)
        return self.head((x + self.attend(x, x, x)[0]).mean(1))


@pytest.mark.parametrize("method", [m for m in ANY_NET if m != "simple-taylor"])
def test_token_ids_are_explained_at_their_embedding(method):
    net, ids = Tokens(), torch.randint(0, 11, (2, 5))
    e = whence.explain(net, ids, method, target=1, **small(method))
    assert e.attribution.shape == (2, 5, 4)
    assert e.axes == ("batch", "token", "feature")
    assert e.channels is None
    assert e.heatmap().shape == (2, 5)

    def behind(x):
        return net.head((x + net.attend(x, x, x)[0]).mean(1))

    vectors = net.table(ids).detach()
    # What token ids are compared with is token 0, and its vector in the table.
    zeroth = net.table(torch.zeros_like(ids)).detach()
    with_reference = {"deeplift": {"baseline": zeroth}, "deepshap": {"baseline": [zeroth]}}
    given = with_reference.get(method, {})
    found = whence.explain(behind, vectors, method, target=1, **given, **small(method))
    close(e.to_numpy(), found.to_numpy(), 1e-4)
    numpy = whence.explain(net, ids.numpy(), method, target=1, **small(method))
    assert isinstance(numpy.attribution, np.ndarray)
    named = whence.explain(net, {"input_ids": ids}, method, target=1, **small(method))
    close(named.attribution["input_ids"].numpy(), e.to_numpy(), 1e-6)
    unit = whence.explain(
        net, ids, method, target=whence.neuron("attend", 2, position=3), **small(method)
    )
    np.testing.assert_allclose(
        unit.output, net.attend(vectors, vectors, vectors)[0][:, 3, 2].detach(), rtol=1e-4
    )


def test_token_ids_in_keras():
    keras = pytest.importorskip("keras")
    import tensorflow as tf

    table, head = keras.layers.Embedding(11, 4), keras.layers.Dense(3)
    entry = keras.layers.Input((5,), dtype="int32")
    net = keras.Model(entry, head(keras.layers.Flatten()(table(entry))))
    ids = tf.constant([[1, 2, 3, 4, 5], [0, 10, 2, 2, 1]])
    e = whence.explain(net, ids, "lrp", target=1)
    assert e.axes == ("batch", "token", "feature")
    weight = np.asarray(head.get_weights()[0])[:, 1].reshape(5, 4)
    theirs = np.asarray(table.get_weights()[0])[ids.numpy()] * weight
    close(e.to_numpy(), theirs, 1e-3)


def test_taylor_needs_numbers_between():
    with pytest.raises(OptionError, match="whole-number ids have no line to a root"):
        whence.explain(Tokens(), torch.randint(0, 11, (2, 5)), "simple-taylor")
    with pytest.raises(OptionError, match="at= is not defined for it"):
        whence.explain(nn.Linear(2, 2), torch.rand(1, 2), "simple-taylor", at="0")


def test_roots_that_do_not_fit():
    net, x = nn.Linear(3, 2), torch.rand(2, 3)
    for root, said in {
        "near": 'root is "zero", "nearest" or an array; got \'near\'',
        (4,): "the root has shape (4,), the input (2, 3): they do not fit",
        (5, 2, 3): "the root has shape (5, 2, 3), larger than the input's (2, 3)",
    }.items():
        given = root if isinstance(root, str) else np.zeros(root)
        with pytest.raises(OptionError, match=re.escape(said)):
            whence.explain(net, x, "simple-taylor", root=given)
    with pytest.raises(OptionError, match="the root has no array for input 'input1'"):
        whence.explain(Pair(), (torch.rand(1, 3), torch.rand(1, 2)), "simple-taylor",
                       root=(np.zeros(3),))  # fmt: skip
    e = whence.explain(Pair(), (torch.rand(1, 3), torch.rand(1, 2)), "simple-taylor",
                       root=(np.zeros(3), 0.5))  # fmt: skip
    assert e.extras["root"]["input1"].tolist() == [[0.5, 0.5]]
    assert (e.gap >= 0).all()


def test_volumes_and_sequences_have_axes():
    for dims, names in ((1, "length"), (2, "height width"), (3, "depth height width")):
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](2, 3, 1)
        net = nn.Sequential(conv, nn.Flatten())
        e = whence.explain(net, torch.rand(1, 2, *[4] * dims), "lrp")
        assert e.axes == ("batch", "channel", *names.split())
        assert e.channels == "first"
        assert e.heatmap().shape == (1, *[4] * dims)


def test_a_probability_has_a_note():
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Softmax(1)), torch.randn(2, 3)
    said = "the model ends in a softmax; this explains a probability. target=whence.logit(...)"
    for method in ANY_NET:
        e = whence.explain(net, x, method, **small(method))
        assert any(n.startswith(said) for n in e.notes)
        np.testing.assert_allclose(e.probability, net(x).amax(1).detach(), rtol=1e-6)
        assert said not in repr(
            whence.explain(net, x, method, target=whence.logit(), **small(method))
        )
        assert said not in repr(whence.explain(net[0], x, method, **small(method)))
        assert said not in repr(
            whence.explain(net, x, method, target=whence.neuron("0", 1), **small(method))
        )


def test_a_map_of_zeros_has_a_note():
    net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU())
    nn.init.ones_(net[0].weight)
    x = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    for method in ("gradient", "lrp", "gradient-x-input"):
        e = whence.explain(net, x, method, **small(method))
        assert any(n.startswith("the attribution is zero everywhere for sample(s) 1:")
                   for n in e.notes)  # fmt: skip
        assert "zero everywhere" not in repr(whence.explain(net, x[:1], method, **small(method)))
    tiny = whence.explain(nn.Linear(2, 1), x * 1e-30, "gradient-x-input")
    assert "zero everywhere" not in repr(tiny)


def test_a_net_without_rectifiers_has_a_note():
    for method in ("deconvolution", "guided-backpropagation"):
        e = whence.explain(nn.Linear(2, 2), torch.rand(1, 2), method, **small(method))
        assert e.notes == [f"no rectifier on the tape: {method} equals the gradient here"]


def test_options_are_looked_at():
    net, x = nn.Linear(2, 2), torch.rand(1, 2)
    wrong = {
        "reduce is one of max, sum, mean, l2; got 'top'": ("saliency", {"reduce": "top"}),
        "Epsilon needs eps >= 0, the stabiliser; got -1": ("lrp", {"eps": -1}),
        "seed is one of": ("lrp", {"seed": "two"}),
        'unknown is None or "gradient"; got \'zero\'': ("lrp", {"unknown": "zero"}),
        "steps, the bisections of the root search, must be at least 1; got 0": (
            "simple-taylor", {"steps": 0}),
    }  # fmt: skip
    for text, (method, options) in wrong.items():
        with pytest.raises(OptionError, match=re.escape(text)):
            whence.explain(net, x, method, **options, **small(method))
    with pytest.raises(
        OptionError, match=re.escape("options ['eps'] were given beside whence.LRP(")
    ):
        whence.explain(net, x, whence.LRP(), eps=1)


def test_relevance_may_start_with_one():
    net, x = nn.Linear(3, 2, bias=False), torch.tensor([[1.0, 2.0, 3.0]])
    whole = whence.explain(net, x, "lrp", target=0, eps=0)
    one = whence.explain(net, x, "lrp", target=0, eps=0, seed="one")
    close(one.to_numpy() * whole.output, whole.to_numpy(), 1e-5)
    np.testing.assert_allclose(one.ledger.seed, [1])
    assert one.gap[0] < 1e-5
