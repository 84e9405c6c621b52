"""Maps alone, over the input and as contours; maps of one axis."""

from __future__ import annotations

import numpy as np
import pytest

from render_standins import Explained, explained, misplaced, words
from whence.errors import InputError, NotFinite, OptionError
from whence.render import draw, draw_heatmap, to_png
from whence.render.flat import fold, token_rows
from whence.render.heatmap import bar_colours, over, resize
from whence.render.palette import diverging
from whence.render.scale import Scale
from whence.render.view import answers, numpy_of, views


def test_resize_between_pixel_centres():
    assert resize(np.array([[0.0, 1.0]]), 1, 4).tolist() == [[0, 0.25, 0.75, 1]]
    assert resize(np.array([[2.0]]), 3, 2).tolist() == [[2, 2]] * 3
    got = resize(np.array([[0.0, 4], [8, 12]]), 4, 4)
    assert got[1].tolist() == [2, 3, 5, 6] and got[:, 0].tolist() == [0, 2, 6, 8]


def test_resize_is_the_framework_s_bilinear():
    torch = pytest.importorskip("torch")
    small = np.random.default_rng(0).normal(size=(7, 5))
    whole = torch.nn.functional.interpolate(
        torch.tensor(small)[None, None], size=(31, 40), mode="bilinear", align_corners=False
    )
    assert resize(small, 31, 40) == pytest.approx(whole[0, 0].numpy(), abs=1e-12)


def test_overlay_opacity_follows_the_value():
    scale = Scale(2.0, True)
    picture = np.array([[0.0, 1.0, 0.5]])
    bare = over(np.zeros((1, 3)), picture, scale)
    assert bare == pytest.approx(np.repeat(0.22 + 0.73 * picture[..., None], 3, axis=2))
    full = over(np.array([[2.0, -2.0, 9.0]]), picture, scale)
    assert full[0] == pytest.approx(diverging()[[-1, 0, -1]])
    half = over(np.array([[1.0, 0, 0]]), picture, scale)
    knots = np.linspace(0, 1, 256)
    colour = [np.interp((1 + 0.725) / 2, knots, diverging()[:, k]) for k in range(3)]
    assert half[0, 0] == pytest.approx(0.5 * 0.22 + 0.5 * np.array(colour))


def test_overlay_uses_luminance_of_colour_pictures():
    green = np.zeros((1, 1, 3))
    green[..., 1] = 1.0
    assert over(np.zeros((1, 1)), green, Scale(1.0, True))[0, 0, 0] == pytest.approx(
        0.22 + 0.73 * 0.7152
    )


def test_bars_show_the_colours_of_their_style():
    scale = Scale(1.0, True)
    assert bar_colours(scale, "map")[[0, -1]] == pytest.approx(diverging()[[0, -1]])
    assert bar_colours(scale, "overlay")[-1] == pytest.approx(diverging()[-1])
    contour = bar_colours(scale, "contour")
    assert len(np.unique(contour.round(6), axis=0)) == 7  # three lines a side and nothing
    assert contour[len(contour) // 2] == pytest.approx([0.8] * 3)


def test_images_on_the_page_are_the_computed_colours():
    one = explained(2)
    figure = draw_heatmap(one, percent=100)
    drawn = figure.axes[0].images[0].get_array()
    limit = np.abs(one.maps[0]).max()
    assert np.asarray(drawn) == pytest.approx(Scale(limit, True).colours(one.maps[0]))


def test_heatmap_states_scale_and_answer():
    one = explained(1)
    limit = np.percentile(np.abs(one.maps), 99.5)
    text = " ".join(words(draw_heatmap(one))).replace("\n", " ").replace("\u00a0", " ")
    assert f"clipped at 99.5 %: ±{limit:.3g}" in text
    assert "answer: class 0 (99 %)" in text
    assert "explained: class 0, output 3" in text
    assert "gap 1.2 %" in text


def test_all_zero_map_says_so_and_is_white():
    figure = draw_heatmap(explained(1, maps=np.zeros((1, 4, 4))))
    assert "all zero" in words(figure)
    assert np.asarray(figure.axes[0].images[0].get_array()).min() > 0.97


@pytest.mark.parametrize("style", ["map", "overlay", "contour"])
def test_nothing_collides(style):
    long = explained(
        7, target_names=["great white shark, white shark, man-eater, Carcharodon carcharias"] * 7
    )
    assert misplaced(draw_heatmap(long, style=style, columns=3)) == []


def test_smaller_map_is_brought_to_the_input_and_that_is_stated():
    one = explained(1, shape=(2, 2), picture=(3, 16, 16))
    figure = draw_heatmap(one, style="overlay")
    assert figure.axes[0].images[0].get_array().shape == (16, 16, 3)
    assert "map 2×2 → 16×16, bilinear" in " ".join(words(figure)).replace("\n", " ")
    plain_map = draw_heatmap(one)
    assert plain_map.axes[0].images[0].get_array().shape == (2, 2, 3)
    assert "bilinear" not in " ".join(words(plain_map))


def test_contours_lie_at_quarters_of_the_limit():
    ramp = np.tile(np.linspace(-1, 1, 41), (5, 1))[None]
    figure = draw_heatmap(explained(1, maps=ramp, inputs=np.ones((1, 1, 5, 41))), style="contour",
                          percent=100)  # fmt: skip
    (lines,) = figure.axes[0].collections
    assert list(lines.levels) == [-0.75, -0.5, -0.25, 0.25, 0.5, 0.75]
    flat = draw_heatmap(explained(1, maps=np.zeros((1, 8, 8))), style="contour")
    assert len(flat.axes[0].collections) == 0


def test_overlay_without_a_picture_is_refused():
    with pytest.raises(InputError, match="style='overlay' lays the map over its input"):
        draw_heatmap(explained(1, inputs=None), style="overlay")
    with pytest.raises(OptionError, match="known styles are 'map', 'overlay', 'contour'"):
        draw_heatmap(explained(1), style="glow")


def test_not_finite_names_method_and_sample():
    one = explained(3)
    one.maps[2, 0, 0] = np.nan
    with pytest.raises(NotFinite, match=r"the lrp map of sample 2 holds 1 NaN or infinite of 64"):
        draw_heatmap(one)
    bad = explained(1)
    bad.inputs[0, 0, 0, 0] = np.inf
    with pytest.raises(NotFinite, match="the input of sample 0"):
        draw_heatmap(bad)


def test_wrong_shapes_are_refused():
    with pytest.raises(InputError, match=r"shape \(1, 2, 3, 4\); pictures are drawn of"):
        draw_heatmap(explained(1, maps=np.ones((1, 2, 3, 4))))
    with pytest.raises(InputError, match="names holds 1 names for 2 samples"):
        draw_heatmap(explained(2), names=["a"])
    with pytest.raises(InputError, match="images holds 1 images for 2 samples"):
        draw_heatmap(explained(2), images=np.ones((1, 8, 8)))
    with pytest.raises(InputError, match=r"\(3, 8, 8\) cannot be shown"):
        draw_heatmap(explained(2), images=np.ones((2, 3, 8, 8)))
    with pytest.raises(InputError, match="samples are numbered 0 to 1"):
        draw_heatmap(explained(2), rows=[2])


@pytest.mark.parametrize(("channels", "shape"), [("first", (3, 4, 6)), ("last", (4, 6, 3))])
def test_channel_order_is_the_one_written(channels, shape):
    one = explained(1, shape=(4, 6), picture=shape, channels=channels)
    (view,) = views(one)
    want = one.inputs[0] if channels == "last" else np.moveaxis(one.inputs[0], 0, -1)
    assert view.pictures[0] == pytest.approx(want)
    one.channels = None  # never guessed
    assert views(one)[0].pictures is None


def test_inputs_beyond_zero_to_one_are_shown_by_their_range():
    one = explained(1, picture=(1, 2, 2), inputs=np.array([[[[-1.0, 0], [1, 3]]]]))
    assert views(one)[0].pictures[0].tolist() == [[0, 0.25], [0.5, 1]]
    given = views(one, images=np.array([[[0, 51], [102, 255]]], dtype=np.uint8))
    assert given[0].pictures[0] == pytest.approx(np.array([[0, 0.2], [0.4, 1]]))


def test_framework_arrays_become_numpy():
    torch = pytest.importorskip("torch")
    leaf = torch.tensor([1.5, -2.0], requires_grad=True)
    assert numpy_of(leaf).tolist() == [1.5, -2.0]
    assert numpy_of(leaf.to(torch.bfloat16)).dtype == np.float64
    assert numpy_of(torch.tensor([1, 2])).dtype == np.int64


def test_answer_takes_its_name_from_classes_or_target():
    one = explained(2, answer=np.array([0, 5]))
    assert [a.replace("\u00a0", " ") for a in answers(one, None)] == ["class 0 (99 %)", "5 (40 %)"]
    named = answers(one, ["nought", "one"])
    assert named[0].startswith("nought") and named[1].startswith("5")
    assert answers(explained(1, answer=None), None) is None
    assert answers(explained(1, probability=None), None) == ["class 0"]


def test_words_are_never_mathematics():
    one = explained(1, target_names=["$\\frac{broken$ \n x_1"], method="a$b$")
    figure = draw_heatmap(one, names=["\\$5 $x$"])
    shown = [t for t in figure.axes[0].texts if "$" in t.get_text()]
    assert shown and not any(t.get_parse_math() for t in shown)
    assert any("\\$5 $x$" in w for w in words(figure))
    assert to_png(one)[:4] == b"\x89PNG"


def test_fold_keeps_the_strongest():
    columns, each = fold(np.array([1.0, -3, 0, 2, 5]), most=2)
    assert columns.tolist() == [-3, 5] and each == 3
    same, each = fold(np.arange(4.0), most=4)
    assert same.tolist() == [0, 1, 2, 3] and each == 1


def flat(n=2, length=6, **changes):
    rng = np.random.default_rng(1)
    return explained(n, **{"maps": rng.normal(size=(n, length)), "channels": None,
                           "inputs": rng.normal(size=(n, length)),
                           "axes": ("batch", "feature"), **changes})  # fmt: skip


def test_few_features_are_bars_with_names_and_numbers():
    one = flat(1, maps=np.array([[1.0, -0.5, 0, 2, 0, 0]]))
    figure = draw(one, features=["age", "$income$", "c", "d", "e", "f" * 200], percent=100)
    shown = words(figure)
    assert {"age", "$income$", "−0.5", "2"} <= set(shown)
    assert misplaced(figure) == []
    with pytest.raises(InputError, match="features holds 2 names for 6 positions"):
        draw(one, features=["a", "b"])


def test_long_series_are_profiles():
    figure = draw(flat(2, 700, axes=("batch", "time")))
    assert "each column the strongest of 3" in " ".join(words(figure)).replace("\n", " ")
    heights = figure.axes[0].collections[0].get_paths()
    assert len(heights) == 234
    assert misplaced(figure) == []


def test_tokens_run_as_text():
    tokens = ["[CLS]", "un", "##believ", "##able", "$", ""] * 12
    one = flat(1, 72, axes=("batch", "token", "channel"), inputs=None)
    figure = draw(one, features=[tokens])
    assert misplaced(figure) == []
    assert words(figure).count("##believ") == 12 and words(figure).count("␣") == 12
    rows = token_rows(["word"] * 30, 3.0)
    assert [i for row in rows for i, *_ in row] == list(range(30))
    assert all(x + w <= 3.0 for row in rows for _, x, w, _ in row)


def test_several_inputs_each_have_their_maps():
    both = Explained(
        {"left": np.ones((1, 1, 4, 4)), "ids": None, "right": -np.ones((1, 1, 4, 4))},
        None,
        inputs={"left": np.ones((1, 1, 4, 4)), "right": np.zeros((1, 1, 4, 4))},
        target=np.array([0]), output=np.array([1.0]), method="lrp", options={},
        channels="first", axes=("batch", "channel", "height", "width"),
    )  # fmt: skip
    text = " ".join(words(draw(both)))
    assert "lrp · left" in text and "lrp · right" in text
    assert [v.part for v in views(both)] == ["left", "right"]
    assert [v.maps[0, 0, 0] for v in views(both)] == [1, -1]
    assert [v.pictures[0][0, 0] for v in views(both)] == [1, 0]
    both.attribution = (both.attribution["left"],)
    both.inputs = (both.inputs["left"],)
    assert [(v.title, v.part) for v in views(both)] == [("lrp", "")]


def test_a_layer_s_map_is_shown_beside_the_input_that_is_a_picture():
    one = explained(1, shape=(2, 2), layer="conv")
    one.inputs = {"ids": np.arange(3)[None], "image": one.inputs}
    assert views(one)[0].pictures[0].shape == (8, 8)


def test_notes_of_a_result_are_in_its_picture():
    one = explained(1, notes=["nothing to act on"])
    assert "lrp: nothing to act on" in " ".join(words(draw(one)))
    assert "lrp: nothing to act on" in " ".join(words(draw_heatmap(one))).replace("\n", " ")
    flat_one = flat(1, notes=["nothing to act on"])
    assert "lrp: nothing to act on" in " ".join(words(draw(flat_one)))


def test_one_channel_series_show_their_input():
    series = flat(1, 50, inputs=np.ones((1, 1, 50)), channels="first")
    assert views(series)[0].pictures[0].shape == (50,)
    series.inputs = np.ones((1, 2, 50))
    assert views(series)[0].pictures is None


def test_notebook_picture_shows_a_few_and_says_so():
    from io import BytesIO

    from PIL import Image

    many = Image.open(BytesIO(to_png(explained(40))))
    eight = Image.open(BytesIO(to_png(explained(8))))
    assert many.size == eight.size
    assert "8 of 40 samples shown." in " ".join(words(draw(explained(40), rows=range(8))))
