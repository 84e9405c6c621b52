"""Explanations as data: heat maps, axes, words, and several side by side."""

from __future__ import annotations

import re

import numpy as np
import pytest

import whence
from support_nets import conv_twin
from whence.errors import InputError, UnknownName
from whence.ledger import Entry, Ledger
from whence.result import Explanation, Explanations, guess_axes

MAP = np.array([[[[1.0, -2.0]], [[-4.0, 1.0]]]])  # (1, 2 channels, 1, 2)


def made(attribution, **given):
    options = {"target": np.array([1]), "output": np.array([2.5]), "method": "gradient",
               "options": {}, "target_names": ["class 1"], **given}  # fmt: skip
    return Explanation(attribution=attribution, raw=attribution, **options)


@pytest.mark.parametrize(
    ("reduce", "theirs"),
    [
        ("sum", [[-3, -1]]),
        ("mean", [[-1.5, -0.5]]),
        ("max", [[1, 1]]),
        ("maxabs", [[4, 2]]),
        ("l2", [[17**0.5, 5**0.5]]),
    ],
)
def test_heat_maps_bring_channels_together(reduce, theirs):
    first = made(MAP, channels="first")
    last = made(np.moveaxis(MAP, 1, -1), channels="last")
    for e in (first, last, made(MAP, channels="first", reduce=reduce)):
        given = None if e.reduce == reduce else reduce
        np.testing.assert_allclose(e.heatmap(given), [theirs])


def test_heat_maps_of_tokens_rows_and_volumes():
    tokens = np.arange(6.0).reshape(1, 2, 3)
    np.testing.assert_array_equal(made(tokens).heatmap(), [[3, 12]])
    row = np.array([[1.0, 2.0]])
    np.testing.assert_array_equal(made(row).heatmap(), row)
    volume = np.ones((1, 2, 3, 4, 5))
    assert made(volume, channels="first").heatmap().shape == (1, 3, 4, 5)
    named = made(MAP, axes=("batch", "height", "channel", "width"))
    np.testing.assert_array_equal(named.heatmap(), MAP.sum(2))


def test_heat_maps_of_several_inputs():
    e = made((MAP, None, MAP * 2), channels="first")
    np.testing.assert_array_equal(e.heatmap(), MAP.sum(1))
    for name in (2, -1, "input2"):
        np.testing.assert_array_equal(e.heatmap(name=name), 2 * MAP.sum(1))
    with pytest.raises(UnknownName, match="no input named 'input1'; did you mean 'input"):
        e.heatmap(name=1)
    named = made({"image": MAP, "ids": None}, channels="first")
    np.testing.assert_array_equal(named.heatmap(name="image"), MAP.sum(1))
    with pytest.raises(UnknownName, match="no input named 'imgae'; did you mean 'image'"):
        named.heatmap(name="imgae")
    with pytest.raises(UnknownName, match="no input named 'b'"):
        made(MAP, channels="first").heatmap(name="b")
    with pytest.raises(InputError, match="reduce is one of sum, mean, max, l2, maxabs; got 'med'"):
        e.heatmap("med")


@pytest.mark.parametrize(
    ("shape", "channels", "axes"),
    [
        ((2,), None, "batch"),
        ((2, 3), None, "batch feature"),
        ((2, 3, 4), None, "batch token feature"),
        ((2, 3, 4), "first", "batch channel length"),
        ((2, 3, 4), "last", "batch length channel"),
        ((2, 3, 4, 5), "first", "batch channel height width"),
        ((2, 3, 4, 5), "last", "batch height width channel"),
        ((2, 3, 4, 5, 6), "first", "batch channel depth height width"),
        ((2, 3, 4, 5, 6, 7), "first", "batch channel axis0 axis1 axis2 axis3"),
    ],
)
def test_names_of_axes(shape, channels, axes):
    assert guess_axes(shape, channels) == tuple(axes.split())


def test_as_text():
    books = Ledger(
        [Entry(1, "fc", "linear", "dense", "Epsilon", np.ones(1), np.full(1, 0.4),
               {"bias": np.full(1, 0.6)})],
        np.ones(1), np.full(1, 0.4),
    )  # fmt: skip
    e = made(MAP, layer="conv", seconds=1.5, gap=np.array([0.25]), notes=["mind"], ledger=books)
    assert repr(e) == (
        "Explanation by gradient at conv: (1, 2, 1, 2), 1 sample(s), 1.50 s\n"
        "  class 1: 2.5, gap 0.25\n"
        "  loses 60% at fc (linear, Epsilon): bias\n"
        "  note: mind"
    )
    many = made(MAP, output=np.arange(6.0), target_names=["top"] * 6)
    assert repr(many).splitlines()[-1] == "  ... 2 more"
    assert many.batch == 6
    several = made({"a": MAP, "b": None})
    assert "{'a': (1, 2, 1, 2), 'b': None}" in repr(several)


def test_several_explanations():
    twin = conv_twin("torch")
    x = twin.array(twin.x)
    names = ["saliency", "lrp", whence.LRP("epsilon", eps=0.1), "gradient"]
    many = whence.explain(twin.model, x, names)
    assert isinstance(many, Explanations)
    assert many.keys() == ["saliency", "lrp", "lrp#2", "gradient"]
    assert [e.method for e in many] == ["saliency", "lrp", "lrp", "gradient"]
    assert many["lrp#2"] is many[2]
    assert [e.method for e in many[:2]] == ["saliency", "lrp"]
    assert "lrp" in many
    assert many[0] in many
    assert "lime" not in many
    assert len(many) == len(many.values()) == len(many.items()) == 4
    assert repr(many) == "\n".join(map(repr, many))
    for name, one in many.items():
        method = names[many.keys().index(name)]
        alone = whence.explain(twin.model, x, method)
        np.testing.assert_array_equal(one.to_numpy(), alone.to_numpy())
    with pytest.raises(UnknownName, match=re.escape("no explanation named 'lpr'; did you mean 'l")):
        many["lpr"]


def test_as_numpy():
    import torch

    e = made({"a": torch.ones(2, 3), "b": None})
    assert isinstance(e.to_numpy()["a"], np.ndarray)
    assert e.to_numpy()["b"] is None
    e = made((torch.ones(2, 3, dtype=torch.bfloat16),))
    assert e.to_numpy()[0].dtype == np.float32
