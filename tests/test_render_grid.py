"""The grid of methods and inputs."""

from __future__ import annotations

import numpy as np
import pytest

from render_standins import explained, misplaced, words
from whence.errors import InputError, NotFinite, OptionError
from whence.render import draw, draw_grid
from whence.render.scale import Scale


def three(n=4, **changes):
    methods = ("gradient", "saliency", "guided-backpropagation")
    made = [explained(n, seed=k, method=m, **changes) for k, m in enumerate(methods)]
    made[1].maps, made[1].signed = np.abs(made[1].maps), False
    return made


def pictures(figure):
    """Images of the page in the order in which they were put there, colour bars left out."""
    return [np.asarray(i.get_array()) for i in figure.axes[0].images if i.get_array().shape[0] > 1]


def test_rows_are_inputs_and_columns_methods():
    made = three(2)
    shown = pictures(draw(made, percent=100))
    assert len(shown) == 2 * 4
    for i in range(2):
        assert shown[4 * i][..., 0] == pytest.approx(made[0].inputs[i, 0])
        for k, one in enumerate(made):
            scale = Scale(np.abs(one.maps[i]).max(), one.signed)
            assert shown[4 * i + 1 + k] == pytest.approx(scale.colours(one.maps[i]))


def test_columns_line_up_under_their_titles():
    figure = draw(three(3))
    sheet = figure.axes[0]
    lefts = sorted({round(i.get_extent()[0], 6) for i in sheet.images})
    assert len(lefts) == 4
    heads = {t.get_text(): t.get_position()[0] for t in sheet.texts}
    right = {round(i.get_extent()[1], 6) for i in sheet.images}
    assert heads["gradient"] == pytest.approx((lefts[1] + sorted(right)[1]) / 2)


@pytest.mark.parametrize("sharing", ["map", "method", "row"])
@pytest.mark.parametrize("style", ["map", ("map", "overlay", "contour")])
def test_nothing_collides(sharing, style):
    made = three(5, target_names=["great white shark, man-eater, Carcharodon carcharias"] * 5)
    figure = draw(made, sharing=sharing, style=style, names=["a/very/long$path$/photo_01.jpeg"] * 5,
                  truth=list(range(5)), title="A title " * 20)  # fmt: skip
    assert misplaced(figure) == []


def test_ten_by_ten_and_long_method_names():
    made = [explained(10, seed=k, method="a-method-with-a-rather-long-name-" + "x" * 60)
            for k in range(10)]  # fmt: skip
    assert misplaced(draw(made)) == []


def test_labels_tell_answer_truth_target_output_and_gap():
    made = three(2, answer=np.array([0, 7]))
    text = " ".join(words(draw(made, truth=["zero", "one"], classes=list("abcdefgh"))))
    text = text.replace("\n", " ").replace("\u00a0", " ")
    for part in ("answer: a (99 %)", "answer: h (40 %)", "right: zero", "gap 1.2 %",
                 "explained: class 1, output 9"):  # fmt: skip
        assert part in text


def test_different_targets_stand_under_their_maps():
    one, other = explained(1), explained(1, target_names=["3 minus 8"], output=np.array([-2.5]))
    text = " ".join(words(draw([one, other]))).replace("\n", " ")
    assert "see under each map" in text
    assert "class 0, output 3" in text and "3 minus 8, output −2.5" in text
    close = explained(1, output=np.array([3.0004]))
    assert "see under" not in " ".join(words(draw([one, close])))


def test_same_method_twice_is_told_apart_by_its_options():
    made = [explained(1, options={"eps": e, "composite": "epsilon"}) for e in (0.1, 1e-6)]
    heads = words(draw(made))
    assert "lrp\neps=0.1" in heads and "lrp\neps=1e-06" in heads
    at = explained(1, layer="layer3.1")
    assert "lrp\nat layer3.1" in words(draw([at]))


def test_sharing_a_method_s_scale():
    made = [explained(2)]
    made[0].maps[0] *= 10
    most = np.abs(made[0].maps).max()
    shown = pictures(draw(made, sharing="method", percent=100, style="map"))
    assert shown[3] == pytest.approx(Scale(most, True).colours(made[0].maps[1]))


def test_sharing_a_row_s_scale_keeps_signed_and_unsigned_apart():
    made = three(2)
    shown = pictures(draw(made, sharing="row", percent=100))
    signed = max(np.abs(made[k].maps[1]).max() for k in (0, 2))
    assert shown[5] == pytest.approx(Scale(signed, True).colours(made[0].maps[1]))
    assert shown[7] == pytest.approx(Scale(signed, True).colours(made[2].maps[1]))
    alone = Scale(made[1].maps[1].max(), False)
    assert shown[6] == pytest.approx(alone.colours(made[1].maps[1]))


def test_all_zero_under_a_shared_scale_is_stated():
    one = explained(2)
    one.maps[1] = 0
    assert any("all zero" in w for w in words(draw([one], sharing="method", style="map")))


def test_many_rows_stay_a_readable_file():
    figure = draw_grid([explained(300)], size=0.6)
    width, height = figure.canvas.get_width_height()
    assert height <= 32000 and width > 100
    chosen = draw_grid([explained(300)], rows=[299, 3])
    assert len(pictures(chosen)) == 4
    assert "2 of 300 samples shown." in " ".join(words(chosen)).replace("\n", " ")


def test_images_of_other_sizes_are_shown_as_they_are():
    images = [np.zeros((20, 40, 3), np.uint8), np.full((50, 25), 255, np.uint8)]
    figure = draw_grid([explained(2)], images=images, style="overlay")
    shown = pictures(figure)
    assert [s.shape for s in shown] == [(20, 40, 3)] * 2 + [(50, 25, 3)] * 2
    assert misplaced(figure) == []
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    assert (right - left) / (bottom - top) == pytest.approx(2)


def test_flat_maps_share_a_grid_with_images():
    flat = explained(2, maps=np.random.default_rng(0).normal(size=(2, 500)), layer="fc",
                     axes=("batch", "feature"))  # fmt: skip
    figure = draw([explained(2), flat], style=("map", "overlay"))
    assert misplaced(figure) == []
    assert len(figure.axes[0].collections) == 2


def test_requests_that_make_no_sense():
    with pytest.raises(InputError, match="samples in each: lrp 2, gradient 3"):
        draw([explained(2), explained(3, method="gradient")])
    with pytest.raises(InputError, match="at least one explanation"):
        draw([])
    with pytest.raises(OptionError, match="known are 'map', 'method', 'row'"):
        draw([explained(1)], sharing="all")
    with pytest.raises(InputError, match="titles holds 1 titles for 2 methods"):
        draw([explained(1), explained(1)], titles=["a"])
    with pytest.raises(InputError, match="truth holds 1 entries for 2 samples"):
        draw([explained(2)], truth=[1])
    with pytest.raises(InputError, match=r"rows=\[5\]: samples are numbered 0 to 1"):
        draw([explained(2)], rows=[0, 5])
    with pytest.raises(OptionError, match=r"at least 0\.3 inches"):
        draw([explained(2)], size=0.1)
    bad = explained(2, method="saliency")
    bad.maps[1, 2, 2] = np.inf
    with pytest.raises(NotFinite, match="the saliency map of sample 1"):
        draw([explained(2), bad])
