"""What every method of the catalogue keeps to, in both frameworks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import whence
from support_nets import FRAMEWORKS, UNSIGNED, close, conv_twin, fitting, small
from support_tape import changed, state_of

METHODS = [row.name for row in whence.methods()]

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(params=FRAMEWORKS)
def twin(request):
    """The small network that the test's method can explain, in each framework."""
    method = request.node.callspec.params.get("method", "")
    return fitting(request.param, method)


def both(one, other, tolerance=1e-6):
    """Equal to a share of the largest number of each sample."""
    for a, b in zip(np.asarray(one, float), np.asarray(other, float), strict=True):
        close(a, b, tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_samples(twin, method):
    classes = [2, 0, 1]
    whole = whence.explain(twin.model, twin.array(twin.x), method, target=classes, **small(method))
    for i in range(3):
        one = whence.explain(
            twin.model, twin.array(twin.x[i : i + 1]), method, target=classes[i], sample_ids=[i],
            **small(method),
        )  # fmt: skip
        both(one.to_numpy(), whole.to_numpy()[i : i + 1], 2e-6)
        np.testing.assert_allclose(one.output, whole.output[i : i + 1], rtol=1e-5)
        assert one.target.tolist() == [classes[i]]
        assert one.answer.tolist() == [whole.answer[i]]
        if one.gap is not None:
            np.testing.assert_allclose(one.gap[0], whole.gap[i], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_both_frameworks_agree(method):
    found = {}
    for name in FRAMEWORKS:
        twin = fitting(name, method)
        e = whence.explain(twin.model, twin.array(twin.x), method, **small(method))
        found[name] = (twin.first(e.to_numpy()), e, e.heatmap())
    ours, theirs = found["torch"], found["tensorflow"]
    both(theirs[0], ours[0], 1e-4)
    both(theirs[2], ours[2], 1e-4)
    np.testing.assert_allclose(theirs[1].output, ours[1].output, rtol=1e-4)
    np.testing.assert_allclose(theirs[1].probability, ours[1].probability, rtol=1e-4)
    assert theirs[1].target.tolist() == ours[1].target.tolist()
    assert (ours[1].channels, theirs[1].channels) == ("first", "last")
    assert ours[1].axes == ("batch", "channel", "height", "width")
    assert theirs[1].axes == ("batch", "height", "width", "channel")


@pytest.mark.parametrize("method", METHODS)
def test_arrays_come_back_as_they_came(twin, method):
    native = twin.array(twin.x)
    before = twin.x.copy()
    e = whence.explain(twin.model, native, method, target=1, **small(method))
    assert type(e.attribution) is type(native)
    assert e.attribution.dtype == native.dtype
    assert tuple(e.attribution.shape) == tuple(native.shape)
    np.testing.assert_array_equal(np.asarray(native), before)
    numpy = whence.explain(twin.model, twin.x, method, target=1, **small(method))
    assert type(numpy.attribution) is np.ndarray
    assert numpy.attribution.dtype == np.float32
    both(numpy.attribution, e.to_numpy(), 1e-7)
    np.testing.assert_array_equal(twin.x, before)
    assert numpy.inputs is twin.x
    lists = whence.explain(twin.model, twin.x.tolist(), method, target=1, **small(method))
    both(lists.to_numpy(), e.to_numpy(), 1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_writes_to_its_input(method):
    """The caller's numbers stay, also where the model was given their very memory."""

    def model(x):
        x *= 2
        x[:, 0] = 1.0
        return torch.relu_(x.add_(0.5)).sum((2, 3))

    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype("f")
    before, tensor = x.copy(), torch.as_tensor(x)
    e = whence.explain(model, tensor, method, target=1, **small(method))
    np.testing.assert_array_equal(x, before)
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 2))
    whence.explain(net, x, method, target=1, **small(method))
    np.testing.assert_array_equal(x, before)
    if method == "gradient":
        inside = 2 * (before[:, 1] * 2 + 0.5 > 0)
        np.testing.assert_array_equal(e.to_numpy()[:, 1], inside)
        assert not e.to_numpy()[:, [0, 2]].any()


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_also_an_object(twin, method):
    row = next(r for r in whence.methods() if r.name == method)
    by_object = row.make(**small(method))(twin.model, twin.array(twin.x), target=1)
    by_name = whence.explain(twin.model, twin.array(twin.x), method, target=1, **small(method))
    by_class = whence.explain(twin.model, twin.array(twin.x), row.make, target=1, **small(method))
    for e in (by_object, by_class):
        assert e.method == method
        assert e.options == by_name.options
        both(e.to_numpy(), by_name.to_numpy(), 1e-7)
    for made in (row.make(), row.make(**small(method))):
        assert eval(repr(made), {"whence": whence}) == made


def test_the_catalogue_prints():
    text = str(whence.methods())
    assert text.splitlines()[0].split() == "method question needs promises cost paper".split()
    assert len(text.splitlines()) == len(METHODS) + 1
    for row in whence.methods():
        assert all((row.question, row.needs, row.promises, row.cost, row.paper))
    assert {"gradient", "saliency", "gradient-x-input", "sensitivity-analysis", "simple-taylor",
            "deconvolution", "guided-backpropagation", "lrp"} <= set(METHODS)  # fmt: skip


class Restless(nn.Module):
    """In training mode, with dropout, statistics, a counter and mixed flags: all must stay."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(3, 4)
        self.fc.bias.requires_grad_(False)
        self.register_buffer("calls", torch.zeros(()))
        self.fails = False

    def forward(self, x):
        self.calls += 1
        x = self.drop(torch.relu(self.norm(self.conv(x))))
        if self.fails:
            raise ValueError("half-way")
        return self.fc(x.mean((2, 3)))


def numbers_of(net):
    """The state, but for how often a buffer was written to: it is written back to what it was."""
    state = state_of(net)
    return state | {"buffers": {k: (i, held) for k, (i, _, held) in state["buffers"].items()}}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was(method, fails):
    net = Restless().train()
    net.drop.eval()
    net.conv.weight.grad = torch.ones_like(net.conv.weight)
    seen = []
    handle = net.conv.register_forward_hook(lambda *a: seen.append(1))
    net.fails = fails
    x = torch.randn(2, 2, 6, 6, requires_grad=True)
    before, memory = numbers_of(net), x.detach().clone()
    if fails:
        with pytest.raises(whence.errors.InputError, match="ValueError: half-way"):
            whence.explain(net, x, method, target=1, **small(method))
    else:
        first = whence.explain(net, x, method, target=1, **small(method))
        again = whence.explain(net, x, method, target=1, **small(method))
        assert torch.equal(first.attribution, again.attribution)  # no dropout, no statistics
        assert not first.attribution.requires_grad
        assert net.norm.running_mean.abs().max() == 0
    assert changed(before, numbers_of(net)) == []
    assert torch.equal(x, memory)
    assert x.grad is None
    assert seen
    handle.remove()


def test_a_keras_model_is_left_as_it_was():
    keras = pytest.importorskip("keras")
    import tensorflow as tf

    twin = conv_twin("tensorflow", 0.0)
    before = [w.copy() for w in twin.model.get_weights()]
    flags = [layer.trainable for layer in twin.model.layers]
    tf.random.set_seed(3)
    expected = tf.random.normal((2,)).numpy()
    tf.random.set_seed(3)
    for method in METHODS:
        whence.explain(twin.model, twin.array(twin.x), method, **small(method))
    assert tf.random.normal((2,)).numpy().tolist() == expected.tolist()
    for a, b in zip(before, twin.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [layer.trainable for layer in twin.model.layers] == flags
    assert isinstance(twin.model, keras.Model)


@pytest.mark.parametrize("method", METHODS)
def test_global_random_state_is_left_alone(method):
    net, x = Restless().train(), torch.randn(1, 2, 6, 6)
    np.random.seed(5)
    torch.manual_seed(5)
    whence.explain(net, x, method, **small(method))
    ours = (torch.rand(()).item(), np.random.rand())
    np.random.seed(5)
    torch.manual_seed(5)
    assert ours == (torch.rand(()).item(), np.random.rand())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_other_precisions(method, kind):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16, 3),
    ).eval()  # fmt: skip
    x = torch.randn(2, 2, 6, 6)
    exact = whence.explain(net.double(), x.double(), method, target=1, **small(method)).to_numpy()
    e = whence.explain(net.to(kind), x.to(kind), method, target=1, **small(method))
    assert e.attribution.dtype is kind
    # Half precision has 11 bits, bfloat16 8; quotients by small numbers cost LRP some of them.
    tolerance = {torch.float16: 0.05, torch.bfloat16: 0.3, torch.float64: 1e-12}[kind]
    both(e.to_numpy(), exact, tolerance)
    assert np.isfinite(e.to_numpy()).all()
    # NumPy's array takes the model's own type.
    numpy = whence.explain(net, x.numpy(), method, target=1, **small(method))
    assert numpy.attribution.dtype == (np.float32 if kind is torch.bfloat16 else e.to_numpy().dtype)


@pytest.mark.parametrize("method", METHODS)
def test_facts_of_an_explanation(twin, method):
    x = twin.array(twin.x)
    e = whence.explain(
        twin.model, x, method, target=[0, 0, 2], classes=["cat", "dog", "cow"], **small(method)
    )
    scores = np.asarray(whence.record(twin.model, x).output if twin.framework == "tensorflow"
                        else twin.model(x).detach())  # fmt: skip
    odds = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert e.target.tolist() == [0, 0, 2]
    assert e.target_names == ["cat", "cat", "cow"]
    np.testing.assert_allclose(e.output, scores[[0, 1, 2], [0, 0, 2]], rtol=1e-5)
    assert e.answer.tolist() == scores.argmax(1).tolist()
    np.testing.assert_allclose(e.probability, odds.max(1), rtol=1e-5)
    assert e.method == method
    assert e.layer == ""
    assert e.raw is e.attribution
    assert e.inputs is x
    assert 0 < e.seconds < 60
    assert set(e.versions) == {"whence", twin.framework, "python"}
    assert "parameters, float32" in e.model_summary
    assert e.heatmap().shape == (3, 6, 6)
    assert e.signed == (method not in UNSIGNED)
    complete = next(r.make.complete for r in whence.methods() if r.name == method)
    assert (e.gap is None) == (not complete)
    if complete and method != "simple-taylor":
        change = e.output - e.extras.get("reference_output", 0)
        left = np.abs(e.to_numpy().reshape(3, -1).sum(1) - change) / np.abs(change)
        np.testing.assert_allclose(e.gap, left, rtol=1e-4, atol=1e-5)


def test_saliency_reduces_by_the_largest_channel(twin):
    x = twin.array(twin.x)
    e = whence.explain(twin.model, x, "saliency", target=1)
    gradient = np.abs(whence.explain(twin.model, x, "gradient", target=1).to_numpy())
    np.testing.assert_allclose(e.heatmap(), twin.first(gradient).max(1), rtol=1e-6)
    e = whence.explain(twin.model, x, "saliency", target=1, reduce="l2")
    np.testing.assert_allclose(e.heatmap(), np.sqrt((twin.first(gradient) ** 2).sum(1)), rtol=1e-5)


def test_a_second_call_for_other_classes_compiles_nothing():
    pytest.importorskip("tensorflow")
    from whence.frameworks import by_name

    twin, framework = conv_twin("tensorflow"), by_name("tensorflow")
    x = twin.array(twin.x)
    for method in ("gradient", "lrp"):
        whence.explain(twin.model, x, method, target=0, **small(method))
        count = framework.traces
        e = whence.explain(twin.model, x * 0.5, method, target=[1, 2, 1], **small(method))
        assert framework.traces == count
        assert e.target.tolist() == [1, 2, 1]
        with pytest.raises(whence.errors.TargetError, match="class 3 was asked for; the model has"):
            whence.explain(twin.model, x, method, target=3, **small(method))


def test_a_model_that_returns_its_input():
    x = torch.tensor([[1.0, 3.0], [2.0, -1.0]])
    for method, theirs in (
        ("lrp", [[0, 3], [2, 0]]),
        ("gradient", [[0, 1], [1, 0]]),
        ("guided-backpropagation", [[0, 1], [1, 0]]),
    ):
        e = whence.explain(lambda t: t, x, method, **small(method))
        np.testing.assert_array_equal(e.to_numpy(), theirs)


def test_few_things_cross_to_the_host(monkeypatch):
    """The books of all ops cross together; a device would wait at each transfer."""
    from whence.frameworks import by_name

    functions, crossed = type(by_name("torch").xp), []
    real = functions.to_numpy

    def counting(self, array):
        crossed.append(tuple(array.shape))
        return real(self, array)

    monkeypatch.setattr(functions, "to_numpy", counting)
    twin = conv_twin("torch")
    for method in ("gradient", "lrp"):
        crossed.clear()
        e = whence.explain(twin.model, twin.array(twin.x), method, **small(method))
        assert len(crossed) <= 8
        assert (e.ledger is None) == (method == "gradient")
