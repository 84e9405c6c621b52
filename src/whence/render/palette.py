"""Two palettes made by construction in OKLab: signed maps, centred at zero, and unsigned ones.

Both are straight recipes, not tables copied from somewhere: lightness is a straight line, hue and
chroma move smoothly, and the result is converted to sRGB. In a perceptually uniform space equal
steps of lightness are equal steps for the eye, so a map has no edges that its numbers lack. White
is zero in both, so that "no evidence" looks like the paper. The signed palette uses blue and
orange-red because these two stay apart for all common kinds of colour blindness.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap

__all__ = ["SIZE", "colormap", "diverging", "oklab_to_srgb", "sequential", "srgb_to_oklab"]

SIZE = 256
"""Colours in a palette."""

# Ottosson's OKLab: linear sRGB -> cone-like responses -> (cube root) -> lightness, two opponents.
_RGB_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_CONES_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)

_PAPER = 0.985  # lightness at zero
_DEEP, _DARKEST = 0.45, 0.24  # lightness at the ends: signed, unsigned
_BLUE, _RED = 256.0, 36.0  # hue angles of the two arms, in degrees
# Chroma may grow per lightness lost only so fast near white, and only so far at all, or sRGB ends.
_ARM_SLOPE, _ARM_CHROMA = 0.53, 0.155
_ROAD_SLOPE, _ROAD_CHROMA = 0.50, 0.097


def srgb_to_oklab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours (..., 3) in sRGB, 0 to 1, as OKLab (..., 3): lightness, green-red, blue-yellow."""
    rgb = np.asarray(rgb, dtype=np.float64)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((np.abs(rgb) + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ _RGB_TO_CONES.T) @ _CONES_TO_LAB.T)


def oklab_to_srgb(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours (..., 3) in OKLab as sRGB (..., 3); outside 0 to 1 where the screen cannot follow."""
    cones = (np.asarray(lab, dtype=np.float64) @ np.linalg.inv(_CONES_TO_LAB).T) ** 3
    linear = cones @ np.linalg.inv(_RGB_TO_CONES).T
    bright = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, bright)


def _polar(
    lightness: NDArray[Any], chroma: NDArray[Any], degrees: NDArray[Any]
) -> NDArray[np.float64]:
    angle = np.deg2rad(degrees)
    return np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], axis=-1)


def _levelled(lost: NDArray[Any], slope: float, most: float) -> NDArray[np.float64]:
    """A line of ``slope`` that bends smoothly into the level ``most``."""
    line = slope * lost / most
    return most * line / (1.0 + line**4) ** 0.25


def _table(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    rgb = np.clip(oklab_to_srgb(lab), 0.0, 1.0)
    rgb.flags.writeable = False  # the cached table is shared by everyone
    return rgb


@functools.cache
def diverging() -> NDArray[np.float64]:
    """The signed palette, (256, 3) sRGB in 0 to 1: blue below zero, white at it, orange-red above.

    Both arms have the same lightness and chroma at the same |value|, so a value and its negative
    weigh the same for the eye.

    Example:
        >>> from whence.render.palette import diverging
        >>> diverging().shape
        (256, 3)
    """
    position = np.linspace(-1.0, 1.0, SIZE)
    lost = (_PAPER - _DEEP) * np.abs(position)
    hue = np.where(position < 0, _BLUE, _RED)
    return _table(_polar(_PAPER - lost, _levelled(lost, _ARM_SLOPE, _ARM_CHROMA), hue))


@functools.cache
def sequential() -> NDArray[np.float64]:
    """The unsigned palette, (256, 3) sRGB in 0 to 1: white at zero, green, teal, dark violet.

    Lightness falls in equal steps; the hue turns once, from yellow to violet, to help tell
    neighbouring values apart. Neither arm of the signed palette looks like it.

    Example:
        >>> from whence.render.palette import sequential
        >>> bool(sequential()[0].min() > sequential()[-1].max())
        True
    """
    position = np.linspace(0.0, 1.0, SIZE)
    lost = (_PAPER - _DARKEST) * position
    hue = 110.0 + 190.0 * position
    return _table(_polar(_PAPER - lost, _levelled(lost, _ROAD_SLOPE, _ROAD_CHROMA), hue))


def colormap(signed: bool) -> ListedColormap:
    """The palette as a matplotlib colour map: "whence-signed" or "whence-unsigned", unregistered.

    Example:
        >>> from whence.render.palette import colormap
        >>> colormap(signed=True).N
        256
    """
    from matplotlib.colors import ListedColormap

    name = "whence-signed" if signed else "whence-unsigned"
    return ListedColormap(diverging() if signed else sequential(), name=name)
