"""Attributions at a layer instead of at the input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whence
from support_nets import FRAMEWORKS, close, conv_twin, fitting, small
from whence.errors import TargetError

METHODS = [row.name for row in whence.methods()]


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


LED_FROM = {m.name: "baseline" in m.make.__dataclass_fields__ for m in whence.methods()}
AT_A_LAYER = ("gradient", "lrp", "gradient-x-input", "occlusion",
              *(m for m in METHODS if small(m) and LED_FROM[m]))  # fmt: skip
"""Those that are to the rest of the model what they are to a model: no noise on the input, say."""


@pytest.mark.parametrize("method", AT_A_LAYER)
def test_at_a_layer(twin, method):
    """The attribution at a layer is that of the rest of the model to the layer's output."""
    x, options = twin.array(twin.x), small(method)
    if options:  # an array of the layer's shape is a baseline there; anything else is an input
        shape = (5, 3, 3) if twin.framework == "torch" else (3, 3, 5)
        options = options | {"baseline": np.zeros(shape, "float32")}
    e = whence.explain(twin.model, x, method, target=1, at="conv2", **options)
    assert e.layer == "conv2"
    assert e.axes.index("channel") == (1 if twin.framework == "torch" else 3)
    other = conv_twin("torch")
    tape = whence.record(other.model, other.array(other.x))
    inner = tape.at("conv2").array.detach()
    tape.free()

    def rest(t):
        return other.model.dense(F.leaky_relu(t, 0.1).flatten(1))

    theirs = whence.explain(rest, inner, method, target=1, **small(method))
    close(twin.first(e.to_numpy()), theirs.to_numpy(), 2e-4)
    if theirs.gap is not None:
        np.testing.assert_allclose(e.gap, theirs.gap, rtol=1e-2, atol=1e-5)
    assert e.heatmap().shape == (3, 3, 3)
    numpy = whence.explain(twin.model, twin.x, method, target=1, at="conv2", **options)
    assert isinstance(numpy.attribution, np.ndarray)


def test_at_a_layer_for_a_unit_behind_it(twin):
    x = twin.array(twin.x)
    e = whence.explain(twin.model, x, "lrp", target=whence.neuron("conv2", 0), at="conv1")
    assert e.to_numpy().size == 3 * 4 * 36
    same = whence.explain(twin.model, x, "lrp", target=whence.neuron("conv2", 0), at="conv2")
    np.testing.assert_allclose(same.to_numpy().reshape(3, -1).sum(1), same.output, rtol=1e-4)
    for method in ("gradient", "lrp"):
        with pytest.raises(TargetError, match="conv1 channel 0 does not depend on layer conv2"):
            whence.explain(
                twin.model, x, method, target=whence.neuron("conv1", 0), at="conv2", **small(method)
            )


def test_at_with_several_inputs_of_numpy():
    net = Pair()
    given = (np.random.rand(2, 3).astype("f"), np.random.rand(2, 2).astype("f"))
    e = whence.explain(net, given, "lrp", at="head")
    assert isinstance(e.attribution, np.ndarray)
    assert e.axes == ("batch", "feature")
