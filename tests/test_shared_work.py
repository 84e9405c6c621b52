"""Several methods at once: fewer calls of the model, and the numbers that each gives alone."""

from __future__ import annotations

import gc
import importlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import whence
from support_averaged import job, torch_f
from support_nets import FRAMEWORKS, installed, small
from whence.errors import OptionError, WhenceError
from whence.frameworks.numpy import NumpyFunctions
from whence.methods.averaged import ExpectedGradients, IntegratedGradients
from whence.methods.coalitional import LIME, ExactShapley, KernelSHAP
from whence.methods.lrp import LRP, DeepTaylor
from whence.methods.masked import RISE
from whence.methods.perturbed import Occlusion
from whence.methods.smoothed import SmoothGrad
from whence.methods.taylor import SimpleTaylor
from whence.perturb.alike import content
from whence.perturb.calls import Caller

pytestmark = pytest.mark.filterwarnings("error")

_RNG = np.random.default_rng(3)
FIRST, SECOND = (_RNG.normal(size=s).astype("f") for s in ((4, 6), (6, 3)))
X = _RNG.normal(size=(2, 4)).astype("f")
SAMPLES = len(X)


class Counted:
    """A small net in one framework, and how many rows went through it, from inside the model."""

    def __init__(self, framework: str) -> None:
        self.rows = 0
        self.seen = lambda: None
        """What to do at every call."""
        self.model = getattr(self, framework)()
        module = importlib.import_module(framework)
        self.x = (module.tensor if framework == "torch" else module.constant)(X)

    def count(self, x: Any) -> Any:
        self.rows += len(x)
        self.seen()
        return np.float32(0)

    def torch(self) -> Any:
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self, counted: Counted) -> None:
                super().__init__()
                self.counted = [counted]
                self.first, self.second = nn.Linear(4, 6, bias=False), nn.Linear(6, 3, bias=False)

            def forward(self, x: Any) -> Any:
                self.counted[0].count(x)
                return self.second(torch.relu(self.first(x)))

        net = Net(self)
        weights = {"first.weight": FIRST, "second.weight": SECOND}
        net.load_state_dict({k: torch.tensor(w.T) for k, w in weights.items()})
        return net

    def tensorflow(self) -> Any:
        import tensorflow as tf

        class Net(tf.Module):
            def __init__(self, counted: Counted) -> None:
                super().__init__()
                self.counted = counted

            def __call__(self, x: Any) -> Any:
                # An op of the graph, so that it counts whenever the graph runs.
                zero = tf.numpy_function(self.counted.count, [tf.stop_gradient(x)], tf.float32)
                with tf.name_scope("first"):
                    inner = (x + tf.reshape(zero, [1])) @ tf.constant(FIRST)
                return tf.nn.relu(inner) @ tf.constant(SECOND)

        return Net(self)

    def explain(self, method: Any, **given: Any) -> Any:
        self.rows = 0
        return whence.explain(self.model, self.x, method, **given)


@pytest.fixture(scope="module", params=FRAMEWORKS)
def net(request):
    """One for all tests of a framework: TensorFlow compiles its graphs once a model."""
    return Counted(installed(request.param))


def smooth(*args: Any, **options: Any) -> SmoothGrad:
    return SmoothGrad(*args, n=8, **options)


def by_name(*names: str) -> list[Any]:
    made = {row.name: row.make for row in whence.methods()}
    return [made[n](**small(n)) for n in names]


# By what is shared: the methods, the rows that each takes alone, and the rows that all take.
SHARED: dict[str, tuple[list[Any], list[int], int]] = {
    "the gradient": (
        [*by_name("gradient", "saliency", "gradient-x-input"), SimpleTaylor()],
        [2, 2, 2, 4], 4,
    ),
    "the recording": ([LRP("epsilon"), LRP("gamma"), DeepTaylor()], [2, 2, 2], 2),
    "f(x)": (
        [IntegratedGradients(steps=4), smooth(), Occlusion(), RISE(n=8), KernelSHAP()],
        [12, 18, 10, 18, 32], 82,
    ),
    "f(x0)": (
        [
            IntegratedGradients(steps=4), IntegratedGradients(steps=4, path="guided"),
            IntegratedGradients(steps=4, idgi=True), ExpectedGradients(n=4),
        ],
        [12, 12, 22, 12], 46,
    ),
    "noise and gradient": (
        [
            smooth(), smooth(kind="squared"), smooth("saliency"), smooth("gradient-x-input"),
            smooth(kind="variance"),
        ],
        [18, 18, 18, 18, 20], 20,
    ),
    "noise and recording": (
        [smooth("lrp"), smooth(LRP("gamma")), smooth("lrp", kind="variance")], [18, 18, 20], 20,
    ),
    "noise alone": ([smooth("gradient"), smooth("guided-backpropagation")], [18, 18], 34),
    "coalitions": (
        [
            LIME(n=16), LIME(n=16, regression="lasso"), LIME(n=16, distance="euclidean"),
            KernelSHAP(n=14), KernelSHAP(n=20),
        ],
        [34, 34, 34, 32, 32], 64,
    ),
}  # fmt: skip

# Alike at first sight, but of other inputs: only f(x) is the same.
APART: dict[str, list[Any]] = {
    "seed": [smooth(), smooth(seed=1)],
    "sigma": [smooth(), smooth(sigma=0.3)],
    "pairs": [smooth(), smooth(antithetic=True)],
    "rows": [smooth(), smooth(rows=3)],
    "baseline": [IntegratedGradients(steps=4), IntegratedGradients(baseline=1.0, steps=4)],
    "lime's seed": [LIME(n=16), LIME(n=16, seed=1)],
    "lime's baseline": [LIME(n=16), LIME(n=16, baseline=1.0)],
    "lime's groups": [LIME(n=16), LIME(n=16, features=np.array([0, 1, 3, 2]))],
    "lime's rows": [LIME(n=16), LIME(n=16, rows=3)],
    "order": [KernelSHAP(), ExactShapley()],
}


def same(one: Any, other: Any) -> None:
    """Equal to the last bit, in all that a method says."""
    np.testing.assert_array_equal(one.to_numpy(), other.to_numpy())
    np.testing.assert_array_equal(one.output, other.output)
    np.testing.assert_array_equal(one.target, other.target)
    assert (one.gap is None) == (other.gap is None)
    if one.gap is not None:
        np.testing.assert_array_equal(one.gap, other.gap)
    assert one.notes == other.notes
    assert repr(one.options) == repr(other.options)
    assert set(one.extras) == set(other.extras)
    for key, found in one.extras.items():
        np.testing.assert_array_equal(np.asarray(found), np.asarray(other.extras[key]))


@pytest.mark.parametrize("what", SHARED)
def test_calls_are_shared(net, what):
    methods, alone, together = SHARED[what]
    found = []
    for method, rows in zip(methods, alone, strict=True):
        found.append(net.explain(method))
        assert net.rows == rows, method
    many = net.explain(methods)
    assert net.rows == together
    for one, other in zip(found, many.values(), strict=True):
        same(other, one)
    backwards = net.explain(methods[::-1])
    assert net.rows == together
    for one, other in zip(found[::-1], backwards.values(), strict=True):
        same(other, one)


@pytest.mark.parametrize("what", APART)
def test_what_differs_is_not_shared(net, what):
    found, rows = [], 0
    for method in APART[what]:
        found.append(net.explain(method))
        rows += net.rows
    many = net.explain(APART[what])
    assert net.rows == rows - SAMPLES
    for one, other in zip(found, many.values(), strict=True):
        same(other, one)


def test_the_whole_catalogue_at_once(net):
    methods = by_name(*(row.name for row in whence.methods()))
    found, rows = [], 0
    for method in methods:
        found.append(net.explain(method))
        rows += net.rows
    many = net.explain(methods)
    # One gradient for 5 methods, one recording for 2 and for 2, f(x) once for 11, f(x0) for 2.
    assert rows - net.rows == SAMPLES * (4 + 1 + 1 + 10 + 1)
    for one, other in zip(found, many.values(), strict=True):
        same(other, one)


def test_at_a_layer(net):
    """The layer's own numbers are looked up once, and f(x) is called once: for two methods less."""
    methods = [IntegratedGradients(steps=4), Occlusion(), LIME(n=16)]
    found, rows = [], 0
    for method in methods:
        found.append(net.explain(method, at="first"))
        rows += net.rows
    many = net.explain(methods, at="first")
    # How often the layer runs may be found out once, too.
    assert rows - net.rows >= SAMPLES * 2 * (1 + 1)
    for one, other in zip(found, many.values(), strict=True):
        same(other, one)


def test_at_embeddings():
    torch = pytest.importorskip("torch")
    rows = 0

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.second = torch.nn.Embedding(5, 6), torch.nn.Linear(6, 3)

        def forward(self, x):
            nonlocal rows
            rows += len(x)
            return self.second(torch.relu(self.table(x)).sum(1))

    model, x = Net(), torch.tensor([[0, 3, 1], [2, 2, 4]])
    methods = [IntegratedGradients(steps=4), smooth(), KernelSHAP()]
    found = [whence.explain(model, x, method) for method in methods]
    alone, rows = rows, 0
    many = whence.explain(model, x, methods)
    # Twice less: the embeddings, where they are on the tape, and f(x).
    assert alone - rows == SAMPLES * 2 * (1 + 1 + 1)
    for one, other in zip(found, many.values(), strict=True):
        same(other, one)


def test_smoothgrads_at_a_layer(net):
    methods = [smooth(), smooth(kind="variance"), smooth("lrp"), smooth(LRP("gamma"))]
    found = [net.explain(method, at="first") for method in methods]
    many = net.explain(methods, at="first")
    # f(x), one gradient and one recording of each noisy input, and the gradient at x.
    assert net.rows == SAMPLES * (1 + 8 + 8 + 1)
    for one, other in zip(found, many.values(), strict=True):
        same(other, one)


REFUSED = [
    smooth("gradient", rows=[2]),
    SmoothGrad(IntegratedGradients(baseline=np.zeros(7)), n=8),
    IntegratedGradients(baseline=np.zeros(7)),
    LIME(features=np.zeros(7, int)),
    SimpleTaylor(root=np.zeros((3, 4))),
    LRP(rules={"no such layer": lambda node, relevance: relevance}),
]


@pytest.mark.parametrize("method", REFUSED, ids=lambda m: type(m).__name__)
def test_what_is_refused_alone_is_refused_in_company(net, method):
    with pytest.raises(WhenceError) as alone:
        net.explain(method)
    for company in ([smooth(), method], [method, smooth()], [smooth(), method, LIME(n=16)]):
        with pytest.raises(type(alone.value)) as error:
            net.explain(company)
        assert str(error.value) == str(alone.value)


def test_a_call_that_failed_is_tried_again():
    """Nothing is kept of it: the next call of the model is the next method's own."""
    asked, calls = call(), []

    def fails():
        calls.append(1)
        raise ValueError("half-way")

    for _ in range(2):
        with pytest.raises(ValueError, match="half-way"):
            asked.once("gradient", fails)
    assert len(calls) == 2 and not asked.made
    assert asked.once("gradient", lambda: 5) == 5
    assert asked.once("gradient", fails) == 5


def call(several: bool = True):
    torch = pytest.importorskip("torch")
    return replace(job(torch_f, torch.ones(1, 12)), several=several)


def test_a_method_alone_keeps_nothing():
    asked = call(several=False)
    assert asked.once("key", lambda: 1) == 1
    assert asked.once("key", lambda: 2) == 2
    assert not asked.made

    def key():
        raise AssertionError("not to be asked for")

    assert asked.once(key, lambda: 3) == 3


def test_another_input_shares_nothing():
    asked = call()
    asked.once("gradient", lambda: 1)
    assert replace(asked, at="layer").once("gradient", lambda: 2) == 2


def test_nothing_outlives_the_call(net):
    """Not even until the next garbage collection: what is kept may be large."""
    methods = by_name(
        "gradient", "integrated-gradients", "smoothgrad", "occlusion", "simple-taylor"
    )
    bad = [*methods, LIME(features=np.zeros(7, int))]
    net.explain(methods)
    gc.collect()
    gc.disable()
    try:
        net.explain(methods)
        assert not callers()
        net.explain([smooth(), Occlusion()], at="first")
        assert not callers()
        with pytest.raises(OptionError):
            net.explain(bad)
        assert not callers()
    finally:
        gc.enable()


def callers() -> list[Any]:
    return [o for o in gc.get_objects() if type(o) is Caller]


def test_no_step_is_held():
    """As many arrays are alive at a late call of the model as at an early one."""
    net, noise, calls, alive = Counted(installed("torch")), {"n": 32, "rows": 4}, 0, {}

    def seen():
        nonlocal calls
        calls += 1
        if calls in (8, 9, 28, 29, 36, 48):
            alive[calls] = sum(type(o) is type(net.x) for o in gc.get_objects())

    net.seen = seen
    net.explain([
        SmoothGrad(**noise), SmoothGrad(kind="squared", **noise), SmoothGrad("lrp", **noise),
        SmoothGrad(LRP("gamma"), **noise), LIME(n=32, rows=4), LIME(n=32, rows=4, alpha=2.0),
    ])  # fmt: skip
    assert net.rows == SAMPLES * (1 + 32 + 32 + 32)
    assert calls == 1 + 3 * SAMPLES * 32 // 4
    # Gradients and recordings by turns, then LIME's calls; one sample's sums are done by then.
    assert alive[28] <= alive[8] + 4
    assert alive[29] <= alive[9] + 4
    assert alive[48] <= alive[36]


def test_results_are_each_their_own(net):
    methods = [
        *by_name("gradient", "saliency"), IntegratedGradients(steps=4),
        IntegratedGradients(steps=4, idgi=True), LIME(n=16),
    ]  # fmt: skip
    many = list(net.explain(methods).values())
    reference = many[3].extras["reference_output"].copy()
    many[2].extras["reference_output"][:] = 7
    np.testing.assert_array_equal(many[3].extras["reference_output"], reference)
    before = [(e.output.copy(), e.target.copy()) for e in many]
    for i, e in enumerate(many):
        np.testing.assert_array_equal(e.output, before[i][0])
        np.testing.assert_array_equal(e.target, before[i][1])
        e.output[:], e.target[:] = 7, 7


def test_content():
    xp, a = NumpyFunctions(), np.arange(6, dtype="f")
    assert content(xp, [a, 3]) == content(xp, [a.copy(), 3])
    others = [
        [a, 4], [3, a], [a], [a.reshape(2, 3), 3], [a.view("i4"), 3], [a + 1, 3],
        [{"input": a}, 3], [{"other": a}, 3], [a[:3], a[3:], 3], [],
    ]  # fmt: skip
    names = {content(xp, parts) for parts in [[a, 3], *others]}
    assert len(names) == 1 + len(others)
