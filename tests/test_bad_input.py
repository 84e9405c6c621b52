"""Bad input: each with its type and its text, which says what came, where, and what to do."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

import whence
from support_nets import FORWARD_ONLY, FRAMEWORKS, PLAIN_ONLY, conv_twin, installed
from whence.errors import (
    InputError,
    MissingFramework,
    MissingRule,
    ModelError,
    NotFinite,
    OptionError,
    TargetError,
    UnknownName,
    WhenceError,
)

NAN, INF = float("nan"), float("inf")


@pytest.fixture(params=FRAMEWORKS)
def twin(request):
    return conv_twin(installed(request.param))


def refused(kind, text, model, x, method="lrp", **options):
    """The error has the type, is also the natural built-in, and says the text."""
    with pytest.raises(kind, match=re.escape(text)) as caught:
        whence.explain(model, x, method, **options)
    assert isinstance(caught.value, WhenceError)
    natural = {
        InputError: ValueError, TargetError: ValueError, OptionError: ValueError,
        UnknownName: LookupError, MissingRule: LookupError, ModelError: TypeError,
        NotFinite: ArithmeticError, MissingFramework: ImportError,
    }  # fmt: skip
    assert isinstance(caught.value, natural[kind])
    return str(caught.value)


NO_MODELS = {
    "got int": 3,
    "got NoneType": None,
    "got ndarray": np.ones(3),
    'got str; whence.load_model("...") makes a model of a name or a path': "resnet18",
    "got OrderedDict; a state dict holds weights only: load it into its model first": (
        nn.Linear(1, 1).state_dict()),
    "got the class Linear; make one first: Linear(...)": nn.Linear,
}  # fmt: skip


@pytest.mark.parametrize("text", NO_MODELS)
def test_not_a_model(text):
    said = refused(ModelError, text, NO_MODELS[text], torch.rand(1, 3))
    assert said.startswith("a model is wanted (a torch.nn.Module, a Keras model, a function of")


def test_a_plain_function_of_numpy():
    text = (
        "is a plain function, so its framework is taken from its input; give the input as a torch"
    )
    refused(ModelError, text, lambda x: x, np.ones((1, 3)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_model():
    scripted = torch.jit.trace(nn.Linear(2, 2), torch.rand(1, 2))
    text = "is (or contains) a TorchScript module, whose operations cannot be seen. Give the Python"
    refused(ModelError, text, scripted, torch.rand(1, 2))


def test_no_batch_axis(twin):
    x = twin.array(twin.x[0])
    shape = "(2, 6, 6)" if twin.framework == "torch" else "(6, 6, 2)"
    said = refused(InputError, f"the input has shape {shape}, without a batch axis", twin.model, x)
    assert said.endswith("wants 4 axes. Add one: x[None]")
    assert "conv1" in said or twin.framework == "tensorflow"


def test_wrong_rank(twin):
    text = "the input has 2 axes, shape (3, 72); the model's first layer"
    said = refused(InputError, text, twin.model, twin.array(twin.x.reshape(3, 72)))
    order = "(batch, 2, height, width)"
    if twin.framework == "tensorflow":
        order = "(batch, height, width, 2)"
    assert said.endswith(f"wants 4: shape {order}")


def test_wrong_channel_order(twin):
    """Says which order the model wants, and the transpose that makes it: which then works."""
    moved = np.moveaxis(twin.x, 1, -1) if twin.framework == "torch" else np.moveaxis(twin.x, -1, 1)
    wants, axis, order = {
        "torch": ("first", 3, "(0, 3, 1, 2)"),
        "tensorflow": ("last", 1, "(0, 2, 3, 1)"),
    }[twin.framework]
    text = f"with channels on axis {axis}; this model wants channels {wants}, shape (batch,"
    said = refused(InputError, text, twin.model, moved)
    assert said.endswith(f"For a NumPy array: x.transpose{order}")
    advised = moved.transpose(eval(order))
    np.testing.assert_array_equal(advised, twin.x)
    whence.explain(twin.model, advised, "gradient")


def test_wrong_number_of_channels(twin):
    x = twin.x[:, :1] if twin.framework == "torch" else twin.x[..., :1]
    axis = 1 if twin.framework == "torch" else 3
    text = f"so 1 channels on axis {axis}; the model's first layer"
    said = refused(InputError, text, twin.model, twin.array(x))
    assert "wants 2: shape (batch" in said


@pytest.mark.parametrize("kind", ["uint8", "int64", "int32"])
def test_whole_number_pixels(twin, kind):
    x = twin.array((np.abs(twin.x) * 50).astype(kind))
    said = refused(InputError, f"the input is {kind}", twin.model, x)
    if twin.framework == "torch":
        assert "but the model's first layer (conv1) wants floating pixels." in said
    assert "Convert and scale them as in training, for example x.astype('float32') / 255" in said


def test_floats_for_tokens():
    net = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    text = (
        "the input is float32, but the model starts at the embedding (0), which takes "
        "whole-number token ids, shape (batch, tokens)"
    )
    refused(InputError, text, net, torch.rand(1, 2))


def test_whole_numbers_where_nothing_embeds_them():
    text = "the input is int64: whole numbers, which the model does not look up in an embedding, so"
    for method in ("gradient", "lrp"):
        refused(InputError, text, lambda x: x.float() * 2, torch.tensor([[1, 2]]), method)


def test_an_empty_batch(twin):
    shape = "(0, 2, 6, 6)" if twin.framework == "torch" else "(0, 6, 6, 2)"
    text = f"the input has shape {shape}: the batch is empty"
    refused(InputError, text, twin.model, twin.array(twin.x[:0]))


def test_a_single_number():
    refused(InputError, "the input is a single number; an array with a batch axis", nn.Linear(1, 1),
            torch.tensor(1.0))  # fmt: skip


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (
            "cat.png",
            "the input is str, which is not an array of numbers. Give an array with a batch",
        ),
        (None, "the input is NoneType, which is not an array of numbers"),
        (object(), "the input is object, which is not an array of numbers"),
        ({"a": 1}, "no array among the inputs ['a']; give at least one, with a batch axis"),
    ],
)
def test_no_array(x, text):
    refused(InputError, text, nn.Linear(1, 1), x)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_not_finite_input(twin, value):
    x = twin.x.copy()
    x[1, 0, 2, 1] = value
    text = f"the input has 1 value(s) that are not finite, the first ({value}) at (1, 0, 2, 1)"
    for given in (x, twin.array(x)):
        refused(NotFinite, text, twin.model, given)


class Root(nn.Module):
    def forward(self, x):
        return torch.sqrt(x)


@pytest.mark.parametrize("method", [m.name for m in whence.methods() if m.name not in PLAIN_ONLY])
def test_not_finite_activations(method):
    net = nn.Sequential(nn.Linear(2, 2), Root(), nn.Linear(2, 2))
    nn.init.constant_(net[0].weight, -1.0)
    text = (
        "NaN or infinity first appears in the model at activation.sqrt at layer 1, node 2 of the "
        "tape; the input is finite"
    )
    refused(NotFinite, text, net, torch.ones(1, 2), method)


def test_not_finite_activations_in_keras():
    keras = pytest.importorskip("keras")
    import tensorflow as tf

    net = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(2, name="first"),
                            keras.layers.Activation(keras.ops.log, name="logs"),
                            keras.layers.Dense(2)])  # fmt: skip
    net.get_layer("first").set_weights([-np.ones((2, 2)), np.zeros(2)])
    for method in ("gradient", "lrp"):
        said = refused(NotFinite, "NaN or infinity first appears in the model at activation.", net,
                       tf.ones((1, 2)), method)  # fmt: skip
        assert "at layer logs" in said


def test_not_finite_attributions():
    """The square root's slope at zero: every activation is finite, the gradient is not."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), Root())
    text = (
        "the attribution by gradient is not finite, though every activation is: a division by zero "
        "or an overflow on the way back. Try a larger eps, or float32 instead of half precision"
    )
    refused(NotFinite, text, net, torch.zeros(1, 2), "gradient")


def test_targets_that_do_not_exist(twin):
    x = twin.array(twin.x)
    for method in ("gradient", "lrp"):
        for target in (3, -1, [0, 1, 7]):
            wrong = target if isinstance(target, int) else 7
            text = f"class {wrong} was asked for; the model has 3 outputs, 0 to 2"
            refused(TargetError, text, twin.model, x, method, target=target)
        text = "2 targets were given for 3 samples; give one, or one a sample"
        refused(TargetError, text, twin.model, x, method, target=[0, 1])
        text = "no class named 'dgo'; did you mean 'dog'? Known: 'cat', 'cow', 'dog'."
        refused(UnknownName, text, twin.model, x, method, target="dgo",
                classes=["cat", "dog", "cow"])  # fmt: skip
        text = "class 'dog' was asked for by name, but the model's class names are not known"
        refused(TargetError, text, twin.model, x, method, target="dog")
        text = "channel 9 of layer conv2 was asked for"
        refused(TargetError, text, twin.model, x, method, target=whence.neuron("conv2", 9))
        text = "the target function must return one number a sample, shape (batch,); it returned"
        refused(TargetError, text, twin.model, x, method, target=lambda y: y)


def test_unknown_names(twin):
    x = twin.array(twin.x)
    text = "no method named 'salience'; did you mean 'saliency'"
    assert "whence.methods() lists them." in refused(UnknownName, text, twin.model, x, "salience")
    refused(UnknownName, "no method named 3.", twin.model, x, 3)
    text = "no option of lrp named 'esp'; did you mean 'eps'"
    refused(UnknownName, text, twin.model, x, "lrp", esp=1)
    refused(UnknownName, "no option of gradient named 'eps'. Known: none.", twin.model, x,
            "gradient", eps=1)  # fmt: skip
    text = "no composite named 'epsilom'; did you mean 'epsilon'"
    refused(UnknownName, text, twin.model, x, "lrp", composite="epsilom")
    text = "composite is a name, a whence.Composite or a rule; got 3"
    refused(OptionError, text, twin.model, x, "lrp", composite=3)
    for options in ({"at": "conv3"}, {"target": whence.neuron("conv3", 0)}):
        for method in ("gradient", "lrp"):
            text = "no layer on the tape named 'conv3'; did you mean 'conv"
            said = refused(UnknownName, text, twin.model, x, method, **options)
            assert said.endswith("whence.layers(model, x) lists them.")


class Constant(nn.Module):
    def forward(self, x):
        return torch.ones(len(x), 3)


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 3)

    def forward(self, x):
        return self.fc(x).detach()


class Counts(nn.Module):
    def forward(self, x):
        return (x > 0).long().float()


@pytest.mark.parametrize("net", [Constant(), Detached(), Counts()])
@pytest.mark.parametrize("method", [m.name for m in whence.methods() if m.name not in FORWARD_ONLY])
def test_an_output_that_does_not_depend_on_the_input(net, method):
    text = (
        "the model's output 'output' does not depend on its input: no path of differentiable "
        "operations leads back (a constant, a detach(), or whole numbers in between)"
    )
    refused(TargetError, text, net, torch.randn(2, 2), method)


def test_a_function_that_does_not_depend_on_the_input():
    for method in ("gradient", "lrp"):
        text = "the target 'function' does not depend on its input"
        refused(TargetError, text, nn.Linear(2, 3), torch.rand(2, 2), method,
                target=lambda y: y.detach()[:, 0])  # fmt: skip


def test_an_op_without_a_rule():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.cumprod(x, 1)

    net = nn.Sequential(nn.Linear(3, 3), Odd())
    text = "no rule for opaque.cumprod at layer 1, node 2 of 3 on the tape. Ways out: unknown="
    refused(MissingRule, text, net, torch.rand(1, 3))
    whence.explain(net, torch.rand(1, 3), "gradient")


@pytest.mark.parametrize(
    "error", [RuntimeError, ValueError, KeyError, AssertionError, ZeroDivisionError]
)
@pytest.mark.parametrize("method", ["gradient", "lrp"])
def test_a_model_that_raises(error, method):
    class Raises(nn.Module):
        def forward(self, x):
            raise error("the reason")

    text = f"the model cannot run on the input float32 (1, 3): {error.__name__}: "
    with pytest.raises(InputError, match=re.escape(text)) as caught:
        whence.explain(Raises(), torch.rand(1, 3), method)
    assert "the reason" in str(caught.value)
    assert isinstance(caught.value.__cause__, error)


def test_a_model_that_cannot_take_the_size(twin):
    x = np.random.default_rng(0).normal(size=(1, 2, 7, 9)).astype("f")
    x = x if twin.framework == "torch" else x.transpose(0, 2, 3, 1)
    text = f"the model cannot run on the input float32 {tuple(x.shape)}: "
    said = refused(InputError, text, twin.model, twin.array(x))
    order = "2, height, width" if twin.framework == "torch" else "height, width, 2"
    assert re.search(rf"Its first layer \(.*\) wants shape \(batch, {order}\).$", said)


def test_a_layer_that_merges_its_samples():
    class Merges(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat = nn.Flatten(0, 1)
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(self.flat(x)).reshape(2, 4, 2).mean(1)

    text = "layer flat has shape (8, 3) for 2 sample(s): its first axis is not the batch"
    for method in ("gradient", "lrp"):
        refused(TargetError, text, Merges(), torch.rand(2, 4, 3), method,
                target=whence.neuron("flat", 1))  # fmt: skip
    text = "the explained output has shape (8, 2) for 2 sample(s)"
    for method in ("gradient", "lrp"):
        refused(TargetError, text, nn.Sequential(nn.Flatten(0, 1), nn.Linear(3, 2)),
                torch.rand(2, 4, 3), method)  # fmt: skip


def test_a_missing_framework(monkeypatch):
    from whence import frameworks

    monkeypatch.setattr(frameworks, "installed", lambda name: False)
    frameworks.by_name.cache_clear()
    try:
        with pytest.raises(MissingFramework, match=re.escape('pip install "whence[torch]"')):
            frameworks.by_name("torch")
    finally:
        monkeypatch.undo()
        frameworks.by_name.cache_clear()
