"""What ``baseline=`` may be, and the arrays that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from whence import baselines
from whence.baselines import Black, Blur, Mean, Noise
from whence.errors import OptionError, UnknownName
from whence.frameworks import find, gather


def made(baseline, x, net=None):
    """The one reference for an input, as NumPy."""
    (reference,) = several(baseline, x, net)
    return reference


def several(baseline, x, net=None):
    net = nn.Identity() if net is None else net
    framework = find(net, x)
    inputs = gather(framework, net, x)
    found, _ = baselines.references(baseline, framework, net, inputs)
    arrays = [r["input"] for r in found]
    for array in arrays:
        assert array.dtype == inputs.arrays["input"].dtype
        assert array.shape == inputs.arrays["input"].shape
    return [a.numpy() for a in arrays]


@pytest.fixture
def images():
    return torch.rand(3, 2, 8, 6, generator=torch.Generator().manual_seed(0)) + torch.arange(
        3
    ).reshape(3, 1, 1, 1)


def test_a_number_and_zero(images):
    assert (made(0.25, images) == 0.25).all()
    assert (made(2, images) == 2).all()
    assert (made("zero", images) == 0).all()


def test_an_array_for_all_samples_one_each_or_one_a_channel(images):
    one = np.arange(2 * 8 * 6, dtype=np.float32).reshape(2, 8, 6)
    assert (made(one, images) == one).all()
    assert (made(torch.from_numpy(one), images) == one).all()
    each = np.stack([one, one + 1, one + 2])
    assert (made(each, images) == each).all()
    colour = np.array([3.0, 4.0]).reshape(2, 1, 1)
    assert (made(colour, images)[:, 0] == 3).all()
    assert (made(colour, images)[:, 1] == 4).all()


def test_mean_is_the_samples_own_colour(images):
    found = made("mean", images)
    wanted = images.numpy().mean((2, 3), keepdims=True)
    assert found == pytest.approx(np.broadcast_to(wanted, found.shape), rel=1e-6)


def test_black_is_the_bound_that_is_given(images):
    assert (made(Black(-2.0), images) == -2).all()
    found = made(Black((-1.0, -2.0)), images)
    assert (found[:, 0] == -1).all()
    assert (found[:, 1] == -2).all()


def test_blur_is_a_gaussian_with_edges_continued():
    x = torch.zeros(1, 1, 1, 21)
    x[..., 10] = 1
    found = made(Blur(1.5), x)[0, 0, 0]
    bell = np.exp(-0.5 * ((np.arange(21) - 10) / 1.5) ** 2)
    bell[np.abs(np.arange(21) - 10) > 6] = 0
    assert found == pytest.approx(bell / bell.sum(), abs=1e-6)
    flat = torch.full((1, 1, 5, 7), 3.0)
    assert made("blur", flat) == pytest.approx(np.full((1, 1, 5, 7), 3.0))
    edge = torch.zeros(1, 1, 1, 9)
    edge[..., 0] = 1
    # All that lies before the edge counts as the edge.
    assert made(Blur(1.0), edge)[0, 0, 0, 0] == pytest.approx(0.6995, abs=1e-3)


def test_blur_leaves_the_channels_of_a_sequence_apart():
    x = torch.zeros(1, 9, 2)
    x[0, :, 1] = 5
    assert made("blur", x) == pytest.approx(x.numpy())
    first = nn.Conv1d(2, 1, 3)
    x = torch.zeros(1, 2, 9)
    x[0, 1] = 5
    assert made("blur", x, first) == pytest.approx(x.numpy())


def test_noise_is_seeded_in_range_and_the_same_in_any_batch(images):
    found = made("noise", images)
    low, high = images.numpy().min((2, 3)), images.numpy().max((2, 3))
    assert (found >= low[..., None, None]).all()
    assert (found <= high[..., None, None]).all()
    assert found.std() > 0.1
    assert (made("noise", images[1:2])[0] == found[1]).all()
    assert (made(Noise(0), images) == found).all()
    assert (made(Noise(1), images) != found).any()


def test_noise_of_a_table_spans_the_samples_own_numbers():
    x = torch.tensor([[0.0, 10.0, 5.0]])
    found = made("noise", x)
    assert found.min() >= 0
    assert found.max() <= 10
    assert len(np.unique(found)) == 3


def test_a_list_is_a_set(images):
    found = several(["zero", 1.0, np.ones((2, 8, 6)) * 2], images)
    assert [float(a.max()) for a in found] == [0, 1, 2]


def test_stacked_reads_a_set_from_an_array_or_a_dict():
    assert [float(a) for a in baselines.stacked(np.arange(3.0))] == [0, 1, 2]
    found = baselines.stacked({"a": np.zeros((2, 4)), "b": np.ones((2, 5))})
    assert [sorted(one) for one in found] == [["a", "b"], ["a", "b"]]
    assert found[1]["b"].shape == (5,)
    with pytest.raises(OptionError, match="a different length for each input: a 2, b 3"):
        baselines.stacked({"a": np.zeros((2, 4)), "b": np.ones((3, 5))})


def test_whole_numbers_take_token_ids():
    ids = torch.tensor([[4, 5, 6]])
    assert made(3, ids).tolist() == [[3, 3, 3]]
    assert made(np.array([1, 2, 3]), ids).tolist() == [[1, 2, 3]]
    assert made(np.array([1.0, 2.0, 3.0]), ids).tolist() == [[1, 2, 3]]


def test_several_inputs_and_which_keep_their_numbers():
    net = nn.Bilinear(2, 2, 1)
    x = (torch.ones(1, 2), torch.full((1, 2), 5.0))
    framework = find(net, x)
    inputs = gather(framework, net, x)

    def found(baseline):
        (one,), _ = baselines.references(baseline, framework, net, inputs)
        return [one[k].tolist()[0] for k in ("input0", "input1")]

    assert found(0) == [[0, 0], [0, 0]]
    assert found((2, 3)) == [[2, 2], [3, 3]]
    assert found({"input0": 7}) == [[7, 7], [5, 5]]
    with pytest.raises(UnknownName, match="input2"):
        found({"input2": 7})
    with pytest.raises(OptionError, match="3 baselines were given for 2 inputs"):
        found((1, 2, 3))


def test_a_mask_of_whole_numbers_is_not_compared_with_anything():
    x = {"x": torch.ones(1, 2), "mask": torch.tensor([[1, 0]])}
    framework = find(nn.Identity(), x)
    (one,), _ = baselines.references(0.5, framework, nn.Identity(), gather(framework, len, x))
    assert one["x"].tolist() == [[0.5, 0.5]]
    assert one["mask"].tolist() == [[1, 0]]
    x = {"ids": torch.tensor([[3, 4]]), "mask": torch.tensor([[1, 0]])}
    inputs = gather(framework, len, x)
    with pytest.raises(OptionError, match="say which of them are token ids"):
        baselines.references(0, framework, nn.Identity(), inputs)
    (one,), _ = baselines.references({"ids": 9}, framework, nn.Identity(), inputs)
    assert one["ids"].tolist() == [[9, 9]]
    assert one["mask"].tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        ("black", "needs to know what black is after preprocessing"),
        (Black((1, 2, 3)), r"one a channel; got shape \(3,\) for 2 channels"),
        (np.zeros((5, 2, 8, 6)), r'It holds 5 references: a set is a list.*"deepshap"'),
        (np.zeros((8, 8)), r"the baseline has shape \(8, 8\), the input \(3, 2, 8, 6\)"),
        (np.full((2, 8, 6), np.nan), "holds NaN or infinity"),
        ([], "the set of references is empty"),
        ([0, 1], "a list of numbers may be one reference or a set of them"),
        (object(), "a baseline is a number, an array like the input"),
    ],
)
def test_baselines_that_do_not_fit_are_refused(baseline, words, images):
    with pytest.raises(OptionError, match=words):
        made(baseline, images)


def test_tables_and_token_ids_have_no_blur():
    with pytest.raises(OptionError, match="this input is a table"):
        made("blur", torch.ones(2, 5))
    with pytest.raises(OptionError, match="this input is a table"):
        made(Mean(), torch.ones(2, 5))
    with pytest.raises(OptionError, match="holds whole numbers: Blur is for floating input"):
        made("blur", torch.ones(2, 5, dtype=torch.long))
    with pytest.raises(OptionError, match=r"so its baseline must too; got 0\.5"):
        made(0.5, torch.ones(2, 5, dtype=torch.long))
    with pytest.raises(OptionError, match="Blur needs sigma > 0"):
        Blur(0)


def test_an_unknown_name_lists_the_known_ones(images):
    with pytest.raises(UnknownName, match="blur"):
        made("blurred", images)
