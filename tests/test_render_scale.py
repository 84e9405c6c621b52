"""Limits, clipping and words of the colour scale; words in general."""

from __future__ import annotations

import numpy as np
import pytest

from whence.errors import NotFinite, OptionError
from whence.render.palette import diverging, sequential
from whence.render.scale import Scale, fit_scale, legend
from whence.render.words import number, percentage, plain, width_of, wrap


def test_signed_is_symmetric_around_zero():
    scale = fit_scale(np.array([-4.0, 0, 1]), signed=True, percent=100)
    assert scale == Scale(4.0, True, 100.0, False)
    assert scale.positions(np.array([-4.0, -2, 0, 1])).tolist() == [-1, -0.5, 0, 0.25]
    ends = scale.colours(np.array([-4.0, 4.0]))
    assert ends == pytest.approx(diverging()[[0, -1]])
    assert scale.colours(np.array(0.0)) == pytest.approx(diverging()[127:129].mean(axis=0))
    assert scale.text == "±4" and scale.ends == ("−4", "4")


def test_unsigned_runs_from_zero():
    scale = fit_scale(np.array([1.0, 2, 5]), signed=False, percent=100)
    assert scale.positions(np.array([0.0, 2.5, 5])).tolist() == [0, 0.5, 1]
    assert scale.colours(np.array([0.0, 5.0])) == pytest.approx(sequential()[[0, -1]])
    assert scale.text == "0 to 5" and scale.ends == ("0", "5")


def test_negative_values_are_never_hidden_by_an_unsigned_scale():
    assert fit_scale(np.array([-1.0, 5]), signed=False).signed


def test_clipping_is_stated():
    values = np.arange(1001.0)
    scale = fit_scale(values, signed=True)
    assert scale.limit == 995.0 and scale.clipped
    assert scale.text == "clipped at 99.5\u00a0%: ±995"
    assert scale.positions(np.array([-2000.0, 2000])).tolist() == [-1, 1]


def test_percentile_is_of_the_size():
    scale = fit_scale(np.array([-100.0, -1, 1, 1, 1]), signed=True, percent=75)
    assert scale.limit == 1.0


def test_all_zero_stays_zero():
    scale = fit_scale(np.zeros((3, 3)), signed=True)
    assert scale.text == "all zero" and scale.limit == 0.0
    assert (scale.positions(np.zeros((3, 3))) == 0).all()
    white = scale.colours(np.zeros((3, 3)))
    assert np.ptp(white) < 0.01 and white.min() > 0.97


def test_one_lit_pixel_is_seen():
    values = np.zeros(10_000)
    values[7] = 3.0
    scale = fit_scale(values, signed=True)
    assert scale.limit == 3.0 and not scale.clipped


@pytest.mark.parametrize("size", [1e-310, 1e300])
def test_extreme_sizes_keep_their_proportions(size):
    scale = fit_scale(np.array([size, -size / 2]), signed=True, percent=100)
    assert scale.positions(np.array([size, -size / 2])) == pytest.approx([1, -0.5])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_never_drawn(bad):
    with pytest.raises(NotFinite, match=r"the lrp map holds 1 NaN or infinite of 3 values"):
        fit_scale(np.array([0, bad, 1.0]), signed=True, what="the lrp map")


@pytest.mark.parametrize("percent", [0, -1, 101, np.nan])
def test_percent_out_of_range(percent):
    with pytest.raises(OptionError, match="above 0 and at most at 100"):
        fit_scale(np.ones(3), signed=True, percent=percent)


def test_legend_names_only_what_occurs():
    signed, unsigned = Scale(1, True), Scale(1, False)
    assert legend([signed]).startswith("Orange-red speaks for the target, blue against it")
    assert "Green" not in legend([signed, signed])
    assert legend([unsigned]).startswith("Green to violet")
    assert "uncoloured" in legend([unsigned], "uncoloured")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.12744, "0.127"), (-3, "−3"), (-1.2e-5, "−1.2e−5"), (31416, "31416"),
     (1.5e12, "1.5e12"), (-0.0, "0"), (999.9, "1000"), (0.00012, "1.2e−4"), (2e-4, "2e−4")],
)  # fmt: skip
def test_number(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("part", "text"),
    [(0, "0 %"), (1, "100 %"), (0.973, "97 %"), (0.9999, "99.9 %"), (0.0123, "1.2 %"),
     (0.0004, "< 0.1 %"), (3, "300 %"), (40, "40×"), (-0.34, "−34 %"), (np.nan, "undefined")],
)  # fmt: skip
def test_percentage(part, text):
    assert percentage(part).replace("\u00a0", " ") == text


def test_plain_shows_what_cannot_be_seen():
    assert plain("a\nb\t\x00") == r"a\nb\t\x00"
    assert plain("safe\u202egpj.exe") == r"safe\u202egpj.exe"
    assert plain("\udcff") == r"\udcff"
    assert plain("$x^2$ ä 漢 \\alpha") == "$x^2$ ä 漢 \\alpha"


def test_wrap_keeps_within_the_width():
    text = "layer3.0.downsample/a_very_long_name-of-something.conv2"
    for lines in (1, 2, 3):
        wrapped = wrap(text, 1.2, 8.5, lines).split("\n")
        assert len(wrapped) <= lines
        assert all(width_of(line, 8.5) <= 1.2 for line in wrapped)
        assert wrapped[0].startswith("layer3") and wrapped[-1].endswith("conv2")
    assert "…" in wrap(text, 1.2, 8.5, 1)
    assert wrap("short", 1.2, 8.5, 1) == "short"
    assert wrap("", 1.2, 8.5, 1) == ""


def test_wrap_breaks_at_spaces_and_not_inside_numbers():
    assert wrap("golden retriever, output 10.5", 1.3, 8.5, 3).split("\n") == [
        "golden retriever,",
        "output 10.5",
    ]
    assert wrap("hourglass, output 11.1", width_of("hourglass, output 11.", 8.5), 8.5, 2) == (
        "hourglass, output\n11.1"
    )
