"""Groups of input elements: superpixels, grids, words, columns."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from whence import segments
from whence.errors import InputError, MissingFramework, OptionError, UnknownName


def test_grid_cuts_sides_as_evenly_as_they_allow():
    np.testing.assert_array_equal(
        segments.grid((4, 3, 3, 5), (2, 3))[0, 0],
        [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]],
    )
    assert segments.grid((4, 3, 5, 3), 2, channels="last").shape == (1, 3, 5, 1)
    assert segments.grid((1, 6), 3, channels=None).tolist() == [[0, 0, 1, 1, 2, 2]]


def test_grid_takes_an_array_and_volumes():
    found = segments.grid(np.zeros((2, 1, 4, 4, 4)), 2)
    assert found.shape == (1, 1, 4, 4, 4)
    assert np.bincount(found.ravel()).tolist() == [8] * 8


@pytest.mark.parametrize("cells", [0, 9, (2, 3, 4)])
def test_grid_refuses(cells):
    with pytest.raises(OptionError, match=r"cells"):
        segments.grid((1, 1, 8, 8), cells)


def test_grid_says_how_many_cells_fit():
    with pytest.raises(OptionError, match="9 cells were asked for along axis 2, which is 8 long"):
        segments.grid((1, 1, 8, 8), 9)
    with pytest.raises(OptionError, match="channels is"):
        segments.grid((1, 1, 8, 8), 2, channels="middle")
    with pytest.raises(InputError, match="no axes to cut"):
        segments.grid((1, 3), 2)


def halves(channels, layout):
    """Two pictures: left half dark, right half bright; and top dark, bottom bright."""
    picture = np.zeros((2, 24, 24, channels))
    picture[0, :, 12:] = 2.0
    picture[1, 12:] = 2.0
    return picture if layout == "last" else np.moveaxis(picture, -1, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", ["first", "last"])
def test_superpixels_keep_to_edges(channels, layout):
    pytest.importorskip("skimage")
    found = segments.superpixels(halves(channels, layout), n=9, channels=layout)
    assert found.shape == ((2, 1, 24, 24) if layout == "first" else (2, 24, 24, 1))
    for cut, bright in zip(found, halves(1, layout) > 1, strict=True):
        assert 4 <= cut.max() + 1 <= 16
        assert sorted(set(cut.ravel())) == list(range(cut.max() + 1))
        assert not set(cut[bright]) & set(cut[~bright])


def test_superpixels_do_not_depend_on_range_or_company():
    pytest.importorskip("skimage")
    picture = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
    found = segments.superpixels(picture, n=10)
    np.testing.assert_array_equal(segments.superpixels(picture * 40 - 7, n=10), found)
    np.testing.assert_array_equal(segments.superpixels(picture[1:], n=10), found[1:])
    assert (segments.superpixels(picture, n=40).max((1, 2, 3)) > found.max((1, 2, 3))).all()


def test_superpixels_of_one_colour_are_squares():
    pytest.importorskip("skimage")
    found = segments.superpixels(np.ones((1, 8, 8, 1)), n=4)
    np.testing.assert_array_equal(found[..., 0], segments.grid((1, 8, 8), 2, channels=None))


def test_superpixels_take_a_torch_tensor_channels_first():
    pytest.importorskip("skimage")
    torch = pytest.importorskip("torch")
    picture = halves(3, "first")
    found = segments.superpixels(torch.tensor(picture), n=9)
    np.testing.assert_array_equal(found, segments.superpixels(picture, n=9, channels="first"))


def test_superpixels_refuse():
    pytest.importorskip("skimage")
    with pytest.raises(InputError, match=r"4 axes; got shape \(8, 8\)"):
        segments.superpixels(np.zeros((8, 8)))
    with pytest.raises(InputError, match="first or last"):
        segments.superpixels(np.zeros((1, 3, 8, 3)))
    with pytest.raises(OptionError, match="at least 1; got 0"):
        segments.superpixels(np.zeros((1, 8, 8, 3)), n=0)
    with pytest.raises(OptionError, match="channels is"):
        segments.superpixels(np.zeros((1, 8, 8, 3)), channels="middle")


def test_superpixels_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(MissingFramework, match='pip install "scikit-image"'):
        segments.superpixels(np.zeros((1, 8, 8, 3)))


def test_words_of_three_kinds_of_tokens():
    pieces = [["[CLS]", "un", "##believ", "##able", "story", "[SEP]"]]
    assert segments.words(pieces).tolist() == [[-1, 0, 0, 0, 1, -1]]
    bytes_ = [["<s>", "un", "believable", "Ġstory", "Ġtold", "</s>"]]
    assert segments.words(bytes_).tolist() == [[-1, 0, 0, 1, 2, -1]]
    sentence = [["▁a", "▁sto", "ry", "<pad>"]]
    assert segments.words(sentence).tolist() == [[0, 1, 1, -1]]
    numbers = [[None, 0, 0, 2, None], [None, 5, 6, 6, None]]
    assert segments.words(numbers).tolist() == [[-1, 0, 0, 1, -1], [-1, 0, 1, 1, -1]]


def test_words_of_unmarked_tokens_stand_alone():
    assert segments.words([["a", "b", "<"]]).tolist() == [[0, 1, 2]]
    assert segments.words([["[CLS]", "##ing"]]).tolist() == [[-1, 0]]


def test_words_refuse_unequal_rows():
    with pytest.raises(InputError, match=r"got 2 of lengths \[1, 2\]"):
        segments.words([["a"], ["a", "b"]])
    with pytest.raises(InputError, match="one list of tokens"):
        segments.words(["a", "b"])


def test_columns_group_by_name_or_place():
    names = ["age", "red", "height", "green"]
    by_name = segments.columns(names, {"colour": ["red", "green"]})
    assert by_name.tolist() == [[0, 1, 2, 1]]
    assert segments.columns(4, {"colour": [1, 3]}).tolist() == by_name.tolist()
    assert segments.columns(3).tolist() == [[0, 1, 2]]


def test_columns_refuse():
    with pytest.raises(UnknownName, match="did you mean 'age'"):
        segments.columns(["age", "red"], {"a": ["agee"]})
    with pytest.raises(UnknownName, match="no column named 4"):
        segments.columns(4, {"a": [4]})
    with pytest.raises(OptionError, match="column 1 is in two groups, 'a' and 'b'"):
        segments.columns(3, {"a": [0, 1], "b": [1]})
