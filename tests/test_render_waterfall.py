"""The ledger by layer, and its picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from render_standins import explained, misplaced, row, words
from whence.errors import InputError, NotFinite, OptionError
from whence.ledger import Ledger
from whence.render import draw_ledger
from whence.render.waterfall import Step, waterfall


def book():
    """Two samples, three layers and a nameless addition, output first."""
    rows = [
        row(0, "conv1", "conv2d", {"bias": np.array([0.5, 1.0]), "epsilon": np.array([0.25, 0.0])}),
        row(1, "", "add", {"epsilon": np.array([0.0, 0.125])}),
        row(2, "relu", "relu", {}),
        row(3, "fc", "linear", {"bias": np.array([-1.0, 2.0])}),
        row(4, "fc", "linear", {"epsilon": np.array([0.25, 0.0])}),
    ]
    return Ledger(rows[::-1], np.array([10.0, 20.0]), np.array([10.0, 16.875]))


def test_layers_from_the_output_to_the_input():
    data = waterfall(book())
    assert data.seed == 10.0 and data.total == 10.0
    assert data.steps == [
        Step("fc", {"epsilon": 0.25, "bias": -1.0}),
        Step("conv1", {"bias": 0.5, "epsilon": 0.25}),
    ]
    assert data.silent == 2 and data.merged == 0
    assert data.unaccounted == 0.0


def test_another_sample_and_the_mean():
    assert waterfall(book(), 1).steps[1] == Step("(add)", {"epsilon": 0.125})
    assert waterfall(book(), 1).unaccounted == pytest.approx(0.0)
    mean = waterfall(book(), "mean")
    assert mean.seed == 15.0
    assert mean.steps[0] == Step("fc", {"epsilon": 0.125, "bias": 0.5})


def test_small_layers_are_merged_and_nothing_is_lost():
    amounts = np.arange(1.0, 51.0)
    rows = [row(i, f"layer{i}", "conv", {"bias": np.array([a])}) for i, a in enumerate(amounts)]
    data = waterfall(Ledger(rows[::-1], np.array([2000.0]), np.array([725.0])), bars=20)
    assert len(data.steps) == 20 and data.merged == 31
    assert data.steps[-1] == Step("31 others", {"bias": float(amounts[:31].sum())})
    assert [s.name for s in data.steps[:-1]] == [f"layer{i}" for i in range(49, 30, -1)]
    assert data.unaccounted == 0.0


def test_bars_stand_where_the_sum_stands():
    figure = draw_ledger(explained(1, ledger=book()))
    spans = [(p.get_x() + p.get_width() / 2, p.get_y(), p.get_y() + p.get_height())
             for p in figure.axes[1].patches]  # fmt: skip
    want = [
        (0, 0, 10),  # the output
        (1 - 0.18, 10, 9.75),  # fc takes a quarter by epsilon
        (1 + 0.18, 9.75, 10.75),  # and its bias adds one
        (2, 10.75, 10.25),
        (2, 10.25, 10.0),
        (3, 0, 10),  # the input
    ]
    assert spans == [pytest.approx(w) for w in want]
    assert len(figure.axes) == 2  # amounts are large enough, no second plot


def test_small_amounts_get_a_scale_of_their_own():
    ledger = Ledger([row(0, "a", "conv", {"bias": np.array([0.01]), "epsilon": np.array([-0.02])})],
                  np.array([5.0]), np.array([5.01]))  # fmt: skip
    figure = draw_ledger(explained(1, ledger=ledger))
    assert len(figure.axes) == 3
    assert [(p.get_y(), p.get_height()) for p in figure.axes[2].patches] == [(0, 0.01), (0, -0.02)]
    low, high = figure.axes[2].get_ylim()
    assert -0.03 < low < -0.02 and 0.01 < high < 0.02


@pytest.mark.parametrize("layers", [1, 15, 60])
@pytest.mark.parametrize("size", [1.0, 1e-4])
def test_nothing_collides(layers, size):
    rng = np.random.default_rng(layers)
    reasons = ("bias", "epsilon", "softmax", "clipped", "norm", "another reason", "$one$ more")
    rows = [row(i, f"encoder.layers.{i}.a_long_name_of_a_layer.conv{i % 3}", "conv",
                {r: rng.normal(size=1) * size for r in reasons[: 1 + i % 7]})
            for i in range(layers)]  # fmt: skip
    lost = sum(float(v.sum()) for r in rows for v in r.absorbed.values())
    one = explained(1, ledger=Ledger(rows, np.array([14.2]), np.array([14.2 - lost])))
    figure = draw_ledger(one, title="t" * 300)
    assert misplaced(figure) == []
    assert "Unaccounted" not in " ".join(words(figure))


def test_footer_states_what_is_not_seen():
    ledger = replace(book(), total=np.array([9.0, 9.0]))
    text = " ".join(words(draw_ledger(explained(2, ledger=ledger)))).replace("\n", " ")
    text = text.replace("\u00a0", " ")
    assert "5 operations." in text
    assert "Absorbed on the way: 1, 10 % of the output." in text
    assert "2 layers absorbed nothing and are not shown." in text
    assert "Unaccounted for: 1 (10 %)." in text
    assert "sample 0 of 2" in text
    ledger = replace(book(), total=np.array([12.0, 9.0]))
    text = " ".join(words(draw_ledger(explained(2, ledger=ledger))))
    assert "Added on the way: 2" in text


@pytest.mark.parametrize("seed", [0.0, -3.0])
def test_negative_and_zero_outputs(seed):
    ledger = Ledger([row(0, "a", "conv", {"bias": np.array([-1.0])})], np.array([seed]),
                  np.array([seed + 1]))  # fmt: skip
    figure = draw_ledger(explained(1, ledger=ledger))
    low, high = figure.axes[1].get_ylim()
    assert low <= min(seed, 0) and high > max(seed + 1, 0)
    assert misplaced(figure) == []


def test_long_names_stay_different():
    names = [f"model.encoder.layers.{i}.a_long_name_of_a_layer.convolution" for i in range(12)]
    rows = [row(i, n, "conv", {"bias": np.array([1.0])}) for i, n in enumerate(names)]
    figure = draw_ledger(
        explained(1, ledger=Ledger(rows, np.array([20.0]), np.array([8.0]))), title="t"
    )
    shown = [t.get_text() for t in figure.axes[0].texts if t.get_rotation()]
    assert shown[0] == "output" and shown[-1] == "input"
    assert len(set(shown)) == 14
    assert [w.split(".")[0] for w in shown[1:-1]] == [str(i) for i in range(12)]
    assert "without their beginning “model.encoder.layers.”" in " ".join(words(figure))


def test_names_that_differ_in_the_middle_get_more_room():
    names = [f"{'ab'[i % 2]}.common_beginning.{i}.and_a_common_ending.conv" for i in range(6)]
    rows = [row(i, n, "conv", {"bias": np.array([1.0])}) for i, n in enumerate(names)]
    figure = draw_ledger(explained(1, ledger=Ledger(rows, np.array([8.0]), np.array([2.0]))))
    assert len({t.get_text() for t in figure.axes[0].texts if t.get_rotation()}) == 8
    assert misplaced(figure) == []


def test_nothing_absorbed_at_all():
    ledger = Ledger([row(0, "a", "conv", {})], np.array([2.0]), np.array([2.0]))
    assert waterfall(ledger).steps == []
    assert misplaced(draw_ledger(explained(1, ledger=ledger))) == []


def test_bad_requests():
    with pytest.raises(InputError, match="'saliency' keeps no ledger"):
        draw_ledger(explained(1, method="saliency"))
    with pytest.raises(OptionError, match="sample=2: give 0 to 1, or 'mean'"):
        waterfall(book(), 2)
    with pytest.raises(OptionError, match="bars=1"):
        waterfall(book(), bars=1)
    ledger = book()
    ledger.rows[-1].absorbed["bias"] = np.array([np.nan, 0])
    with pytest.raises(NotFinite, match="the ledger's entry of conv1 is nan for sample 0"):
        draw_ledger(explained(2, ledger=ledger))
