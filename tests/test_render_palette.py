"""The palettes are uniform, centred and readable without all three cones."""

from __future__ import annotations

import numpy as np
import pytest

from whence.render.palette import (
    SIZE,
    colormap,
    diverging,
    oklab_to_srgb,
    sequential,
    srgb_to_oklab,
)

# Machado, Oliveira and Fernandes (2009), severity 1: what is left of linear sRGB.
BLINDNESS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def linear(rgb):
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def seen_with(rgb, kind):
    left = np.clip(linear(rgb) @ np.array(BLINDNESS[kind]).T, 0, 1)
    return np.where(left <= 0.0031308, 12.92 * left, 1.055 * left ** (1 / 2.4) - 0.055)


def cie_lightness(rgb):
    """L* of CIELAB, another space than the one the palettes were made in."""
    y = linear(rgb) @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def test_oklab_known_colours_and_way_back():
    # the published values of the space's author for white and for pure red
    assert srgb_to_oklab(np.ones(3)) == pytest.approx([1, 0, 0], abs=1e-6)
    assert srgb_to_oklab(np.array([1.0, 0, 0])) == pytest.approx([0.6280, 0.2249, 0.1258], abs=1e-4)
    colours = np.random.default_rng(0).uniform(size=(50, 3))
    assert oklab_to_srgb(srgb_to_oklab(colours)) == pytest.approx(colours, abs=1e-9)


@pytest.mark.parametrize("palette", [diverging, sequential])
def test_inside_srgb_without_clipping(palette):
    table = palette()
    assert table.shape == (SIZE, 3)
    assert table.min() > 0.0 and table.max() < 1.0
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 0


def test_sequential_lightness_falls_in_equal_steps():
    lab = srgb_to_oklab(sequential())
    steps = np.diff(lab[:, 0])
    assert steps == pytest.approx(np.full(SIZE - 1, -0.745 / (SIZE - 1)), rel=1e-9)
    whole = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    assert whole.max() / whole.min() < 1.06
    elsewhere = np.diff(cie_lightness(sequential()))
    assert (elsewhere < 0).all()
    assert elsewhere.min() / elsewhere.mean() < 1.25 and elsewhere.max() / elsewhere.mean() > 0.7


def test_diverging_is_a_symmetric_roof():
    lab = srgb_to_oklab(diverging())
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    assert lightness == pytest.approx(lightness[::-1], abs=1e-12)
    assert chroma == pytest.approx(chroma[::-1], abs=1e-12)
    up, down = np.diff(lightness)[: SIZE // 2 - 1], np.diff(lightness)[SIZE // 2 :]
    assert up == pytest.approx(np.full(SIZE // 2 - 1, 2 * 0.535 / (SIZE - 1)), rel=1e-9)
    assert down == pytest.approx(-up[::-1], rel=1e-9)
    whole = np.linalg.norm(np.diff(lab, axis=0), axis=1)[: SIZE // 2 - 1]
    assert whole.max() / whole.min() < 1.15
    other = cie_lightness(diverging())
    assert (np.diff(other)[:127] > 0).all() and (np.diff(other)[128:] < 0).all()


def test_diverging_centre_is_paper():
    middle = diverging()[127:129].mean(axis=0)
    assert middle.min() > 0.97 and np.ptp(middle) < 0.01


@pytest.mark.parametrize("kind", BLINDNESS)
def test_signs_stay_apart_without_a_cone(kind):
    seen = srgb_to_oklab(seen_with(diverging(), kind))
    size = np.abs(np.linspace(-1, 1, SIZE))
    apart = np.linalg.norm(seen - seen[::-1], axis=1)
    # 0.02 is about one just noticeable difference in this space
    assert apart[size > 0.25].min() > 0.08
    assert apart[size > 0.6].min() > 0.15
    assert (np.diff(seen[:128, 0]) > 0).all() and (np.diff(seen[128:, 0]) < 0).all()


@pytest.mark.parametrize("kind", BLINDNESS)
def test_order_of_sequential_survives_without_a_cone(kind):
    seen = srgb_to_oklab(seen_with(sequential(), kind))
    assert (np.diff(seen[:, 0]) < 0).all()


def test_colormaps_carry_the_tables_and_are_not_registered():
    import matplotlib

    for signed, table in ((True, diverging()), (False, sequential())):
        made = colormap(signed)
        assert made(np.arange(SIZE))[:, :3] == pytest.approx(table)
        assert made.name not in matplotlib.colormaps
