"""Occlusion: windows and groups against a literal twin, additive models, borders, bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import whence
from reference import perturbed as twin
from support_perturbed import FRAMEWORKS, Formulas, numbers
from whence import segments
from whence.errors import OptionError, UnknownName
from whence.methods.perturbed import Occlusion
from whence.perturb.occlude import Windows


@pytest.fixture(params=FRAMEWORKS)
def formulas(request):
    return Formulas(request.param)


SHAPES = {
    "image": ((2, 3, 5, 7), (2, 3)),
    "sequence": ((2, 6, 3), (1,)),
    "table": ((2, 5), (1,)),
}


def layout(formulas, kind):
    """The shape as the framework keeps it, and the axes of places."""
    shape, axes = SHAPES[kind]
    if kind == "image" and formulas.name == "tensorflow":
        return (2, 5, 7, 3), (1, 2)
    return shape, axes


def bent(formulas, weights):
    """A tanh of a weighted sum, plus the sum: not additive."""
    inner = formulas.weighed(weights)
    return lambda x: formulas.tanh(inner(x)) + inner(x * x)


def bent_twin(weights):
    return lambda x: float(np.tanh((weights * x).sum()) + (weights * x * x).sum())


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("window, stride", [(1, 1), (2, 1), (3, 2), (4, 3)])
def test_windows_like_the_twin(formulas, rng, kind, window, stride):
    shape, axes = layout(formulas, kind)
    x, weights = rng.normal(size=shape), rng.normal(size=shape[1:]) / 4
    e = formulas.explain(bent(formulas, weights), x, Occlusion(window, stride, fill=0.5))
    for one, found in zip(x, numbers(e), strict=True):
        inner = [a - 1 for a in axes]
        want = twin.occlusion(
            bent_twin(weights), one, np.full(one.shape, 0.5), inner,
            [window] * len(axes), [stride] * len(axes),
        )  # fmt: skip
        np.testing.assert_allclose(found, want, atol=2e-5)


def test_windows_of_unequal_sides(formulas, rng):
    shape, axes = layout(formulas, "image")
    x, weights = rng.normal(size=shape), rng.normal(size=shape[1:]) / 4
    e = formulas.explain(bent(formulas, weights), x, Occlusion((2, 5), (2, 1)))
    want = twin.occlusion(bent_twin(weights), x[1], 0 * x[1], [a - 1 for a in axes], (2, 5), (2, 1))
    np.testing.assert_allclose(numbers(e)[1], want, atol=2e-5)


@pytest.mark.parametrize("kind", SHAPES)
def test_an_additive_model_gives_its_terms(formulas, rng, kind):
    shape, _ = layout(formulas, kind)
    x, weights = rng.normal(size=shape), rng.normal(size=shape[1:])
    e = formulas.explain(
        lambda x: formulas.sum(formulas.sin(x) * formulas.array(weights)), x,
        Occlusion(1, 1, each_channel=True),
    )  # fmt: skip
    np.testing.assert_allclose(numbers(e), weights * np.sin(x), atol=1e-5)


def test_a_window_spans_channels_unless_asked(formulas, rng):
    shape, axes = layout(formulas, "image")
    x, weights = rng.normal(size=shape), rng.normal(size=shape[1:])
    e = formulas.explain(formulas.weighed(weights), x, Occlusion(1, 1))
    channel = next(a for a in (1, 2, 3) if a not in axes)
    want = (weights * x).sum(channel, keepdims=True)
    np.testing.assert_allclose(numbers(e), np.broadcast_to(want, shape), atol=1e-5)


def test_defaults_are_an_eighth_of_an_image_and_single_columns(formulas, rng):
    x = rng.normal(size=(1, 16, 24, 1)) if formulas.name == "tensorflow" else None
    x = rng.normal(size=(1, 1, 16, 24)) if x is None else x
    model = bent(formulas, rng.normal(size=x.shape[1:]) / 9)
    plain = formulas.explain(model, x, Occlusion())
    spelled = formulas.explain(model, x, Occlusion((2, 3), (1, 1)))
    np.testing.assert_array_equal(numbers(plain), numbers(spelled))
    table = rng.normal(size=(1, 4))
    e = formulas.explain(formulas.weighed(np.arange(4.0)), table, Occlusion())
    np.testing.assert_allclose(numbers(e), table * np.arange(4), atol=1e-6)


def test_the_last_window_is_cut_at_the_border():
    windows = Windows((1, 7), (1,), (3,), (2,))
    assert windows.starts[0].tolist() == [0, 2, 4] and windows.stops[0].tolist() == [3, 5, 7]
    windows = Windows((1, 8), (1,), (3,), (3,))
    assert windows.starts[0].tolist() == [0, 3, 6] and windows.stops[0].tolist() == [3, 6, 8]
    assert Windows((1, 4), (1,), (4,), (1,)).grid == (1,)


def test_share_is_the_mean_over_the_windows_that_hold_a_place():
    windows = Windows((1, 2, 4), (2,), (3,), (1,))
    found = windows.share(np.array([[3.0, 5.0]]))
    np.testing.assert_array_equal(found, [[[3, 4, 4, 5]]])


@pytest.mark.parametrize("corner", [(0, 0), (1, 2), (2, 4), (0, 3)])
def test_inpainting_like_the_twin(formulas, rng, corner):
    x = rng.normal(size=(5, 7))
    weights = rng.normal(size=(5, 7))
    top, left = corner
    given = x[None, :, :, None] if formulas.name == "tensorflow" else x[None, None]
    held = weights[..., None] if formulas.name == "tensorflow" else weights[None]
    e = formulas.explain(formulas.weighed(held), given, Occlusion(3, 1, fill="inpaint"))
    found = numbers(e).reshape(5, 7)
    drop, times = np.zeros((5, 7)), np.zeros((5, 7))
    for r in range(3):
        for c in range(5):
            there = twin.painted(x, r, r + 3, c, c + 3)
            drop[r : r + 3, c : c + 3] += (weights * (x - there)).sum()
            times[r : r + 3, c : c + 3] += 1
    place = (top + 1, left + 1)
    np.testing.assert_allclose(found[place], (drop / times)[place], atol=1e-5)


def test_inpainting_continues_a_slope(formulas):
    x = np.arange(9.0)[None, :, None] * [[[1.0, -2.0]]]
    weights = np.ones((9, 2)) * [1, 3]
    e = formulas.explain(formulas.weighed(weights), x, Occlusion(2, 1, fill="inpaint"))
    np.testing.assert_allclose(numbers(e)[0, 2:7], 0, atol=1e-5)
    assert abs(numbers(e)[0, 0, 0]) > 1  # at the border there is one side only


def test_fills_by_name(formulas, rng):
    shape, axes = layout(formulas, "image")
    x, weights = rng.normal(size=shape), rng.normal(size=shape[1:])
    model = formulas.weighed(weights)
    mean = numbers(formulas.explain(model, x, Occlusion(1, 1, fill="mean", each_channel=True)))
    np.testing.assert_allclose(mean, weights * (x - x.mean(axes, keepdims=True)), atol=1e-5)
    blur = numbers(formulas.explain(model, x, Occlusion(1, 1, fill="blur", each_channel=True)))
    assert np.abs(blur).max() > 0.1 and not np.allclose(blur, mean, atol=1e-2)
    own = rng.normal(size=shape[1:])
    given = Occlusion(1, 1, fill=own, each_channel=True)
    np.testing.assert_allclose(
        numbers(formulas.explain(model, x, given)), weights * (x - own), atol=1e-5
    )


def test_groups_instead_of_windows(formulas, rng):
    x, weights = rng.normal(size=(2, 5)), rng.normal(size=5)
    groups = segments.columns(5, {"pair": [1, 4]})
    e = formulas.explain(formulas.weighed(weights), x, Occlusion(features=groups))
    terms = weights * x
    want = terms.copy()
    want[:, [1, 4]] = terms[:, [1]] + terms[:, [4]]
    np.testing.assert_allclose(numbers(e), want, atol=1e-5)
    np.testing.assert_allclose(e.extras["groups"], want[:, :4], atol=1e-5)


def test_groups_over_places_alone_and_held_ones(formulas, rng):
    shape, axes = layout(formulas, "image")
    x, weights = rng.normal(size=shape), rng.normal(size=shape[1:])
    places = np.full((2, 5, 7), -1)
    places[0, :2], places[1, 3:] = 10, 4
    e = formulas.explain(formulas.weighed(weights), x, Occlusion(features=places))
    channel = next(a for a in (1, 2, 3) if a not in axes)
    found = np.moveaxis(numbers(e), channel, 1)
    terms = np.moveaxis(weights * x, channel, 1)
    np.testing.assert_allclose(found[0, :, :2], terms[0, :, :2].sum(), atol=1e-4)
    np.testing.assert_allclose(found[1, :, 3:], terms[1, :, 3:].sum(), atol=1e-4)
    assert not found[0, :, 2:].any() and not found[1, :, :3].any()


def test_several_inputs(formulas, rng):
    a, b = rng.normal(size=(2, 3)), rng.normal(size=(2, 4, 2))
    w, v = rng.normal(size=3), rng.normal(size=(4, 2))

    def model(x, y):
        return formulas.sum(x * formulas.array(w)) + formulas.sum(y * formulas.array(v))

    e = formulas.explain(model, (a, b), Occlusion())
    np.testing.assert_allclose(numbers(e)[0], a * w, atol=1e-5)
    want = np.broadcast_to((b * v).sum(2, keepdims=True), b.shape)
    np.testing.assert_allclose(numbers(e)[1], want, atol=1e-5)
    only = formulas.explain(model, (a, b), Occlusion(window={"input1": 4}))
    assert not numbers(only)[0].any()
    np.testing.assert_allclose(numbers(only)[1][0], (b * v)[0].sum(), atol=1e-5)
    shared = Occlusion(features=(np.array([[0, 1, 1]]), np.zeros((1, 4, 1), int)))
    both = numbers(formulas.explain(model, (a, b), shared))
    np.testing.assert_allclose(both[0][:, 0], (a * w)[:, 0] + (b * v).sum((1, 2)), atol=1e-5)
    np.testing.assert_allclose(both[0][:, 2], (a * w)[:, 1:].sum(1), atol=1e-5)


def test_the_class_is_that_of_x(formulas):
    """Covering column 0 makes class 1 the top; what is explained stays class 0."""

    def model(x):
        rows = x[:, 0], x[:, 1]
        return formulas.stack(rows)

    e = formulas.explain(model, np.array([[3.0, 2.0], [1.0, 4.0]]), Occlusion())
    assert e.target.tolist() == [0, 1]
    np.testing.assert_allclose(numbers(e), [[3, 0], [0, 4]], atol=1e-6)
    e = formulas.explain(model, np.array([[3.0, 2.0]]), Occlusion(), target=whence.difference(1, 0))
    np.testing.assert_allclose(numbers(e), [[-3, 2]], atol=1e-6)
    e = formulas.explain(model, np.array([[3.0, 2.0]]), Occlusion(), target=lambda y: y[:, 0] * 2)
    np.testing.assert_allclose(numbers(e), [[6, 0]], atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_any_chunk_and_batch_gives_the_same(formulas, rng, rows):
    shape, _ = layout(formulas, "image")
    x, weights = rng.normal(size=shape), rng.normal(size=shape[1:]) / 4
    for method in (Occlusion(3, 2), Occlusion(2, 1, fill="inpaint"), Occlusion(1, 1, fill="blur")):
        model = bent(formulas, weights)
        whole = numbers(formulas.explain(model, x, method))
        cut = numbers(formulas.explain(model, x, replace(method, rows=rows)))
        np.testing.assert_allclose(cut, whole, atol=1e-6)
        alone = numbers(formulas.explain(model, x[1:], method))
        np.testing.assert_allclose(alone, whole[1:], atol=1e-6)


def test_frameworks_agree(rng):
    x, weights = rng.normal(size=(2, 4, 3)), rng.normal(size=(4, 3))
    found = [
        numbers(f.explain(bent(f, weights), x, Occlusion(2, 1, fill="inpaint")))
        for f in map(Formulas, ("torch", "tensorflow"))
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_at_a_layer_and_at_an_embedding():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1, bias=False)
    )
    x = torch.randn(2, 4)
    e = whence.explain(net, x, Occlusion(), at="1")
    want = torch.tanh(net[0](x)) * net[2].weight
    torch.testing.assert_close(e.attribution, want.detach())
    words = torch.nn.Sequential(
        torch.nn.Embedding(9, 2), torch.nn.Flatten(), torch.nn.Linear(6, 1, bias=False)
    )
    tokens = torch.tensor([[1, 5, 2], [3, 3, 8]])
    terms = (words[0](tokens) * words[2].weight.reshape(3, 2)).detach()
    e = whence.explain(words, tokens, Occlusion())
    torch.testing.assert_close(e.attribution, terms.sum(2, keepdim=True).expand(2, 3, 2))
    nothing = (words[0](tokens * 0) * words[2].weight.reshape(3, 2)).detach()
    e = whence.explain(words, tokens, Occlusion(fill=0))
    torch.testing.assert_close(e.attribution[..., 0], (terms - nothing).sum(2))


def test_what_is_covered_with_itself_is_said(formulas):
    x = np.array([[0.0, 0.0], [1.0, 0.0]])
    e = formulas.explain(formulas.weighed([1.0, 1.0]), x, Occlusion(features=np.array([[0, 1]])))
    assert any("the baseline is the input itself for sample(s) 0" in note for note in e.notes)


REFUSED = {
    "larger": ({"window": 9}, "the window is 9 along axis 1 of the input, which has only 4"),
    "empty": ({"window": 0}, "a window of 0 .* holds nothing"),
    "stride zero": ({"window": 2, "stride": 0}, "a stride of 0 .* never moves the window"),
    "gaps": ({"window": 2, "stride": 3}, "steps over places that a window of 2 never holds"),
    "half": ({"window": 1.5}, "the window is a whole number"),
    "axes": ({"window": (2, 2)}, "1 of them for the input"),
    "shape": (
        {"features": np.zeros((1, 3), int)},
        r"features have shape \(1, 3\), the input \(1, 4",
    ),
    "type": ({"features": np.zeros(4)}, "features are whole numbers, .* got float64"),
    "inpaint": ({"fill": "inpaint"}, "columns of a table are not"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    options, words = REFUSED[case]
    with pytest.raises(OptionError, match=words):
        Formulas("torch").explain(lambda x: x[:, 0], np.zeros((1, 4)), Occlusion(**options))


def test_refused_by_word():
    f = Formulas("torch")
    with pytest.raises(UnknownName, match="'inpuy'"):
        f.explain(lambda x: x[:, 0], np.zeros((1, 4)), Occlusion(window={"inpuy": 2}))
    with pytest.raises(UnknownName, match="'blurr'"):
        f.explain(lambda x: x[:, 0], np.zeros((1, 4)), Occlusion(fill="blurr"))
    with pytest.raises(OptionError, match="not both"):
        Occlusion(window=2, features=np.zeros(4, int))
    with pytest.raises(OptionError, match="with features use"):
        Occlusion(fill="inpaint", features=np.zeros(4, int))
    with pytest.raises(OptionError, match="holds everything"):
        f.explain(lambda x: x[:, 0, 0], np.zeros((1, 4, 2)), Occlusion(4, fill="inpaint"))
