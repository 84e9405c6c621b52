"""How numbers become colours: one limit, found from the numbers and stated in the picture.

A signed map runs from -limit to +limit, so zero is always the middle of the palette; an unsigned
one from 0 to limit. The limit is a high percentile of |value|, because a single extreme pixel would
otherwise leave the rest of the map white. Nothing is ever stretched out of nothing: an all-zero map
stays white and says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whence.errors import NotFinite, OptionError
from whence.render.palette import SIZE, diverging, sequential
from whence.render.words import number

__all__ = ["PERCENT", "Scale", "fit_scale", "legend", "tint"]

PERCENT = 99.5
"""The percentile of |value| at which colours are clipped, unless asked otherwise."""


@dataclass(frozen=True)
class Scale:
    """From value to colour. ``limit`` is in the unit of the map; 0 means that all values are 0."""

    limit: float
    signed: bool
    percent: float = 100.0
    clipped: bool = False
    """Whether some value lies beyond the limit, and so looks like the limit."""

    def positions(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Values as parts of the limit, clipped: -1 to 1 where signed, 0 to 1 where not."""
        values = np.asarray(values, dtype=np.float64)
        if self.limit == 0.0:
            return np.zeros_like(values)
        lowest = -1.0 if self.signed else 0.0
        held = np.clip(values, lowest * self.limit, self.limit)  # before dividing: no overflow
        return np.asarray(held / self.limit)

    def colours(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The palette's sRGB (..., 3), 0 to 1, interpolated between its 256 entries."""
        return tint(self.positions(values), self.signed)

    def ramp(self, steps: int = 128) -> NDArray[np.float64]:
        """Values from one end to the other, for a colour bar."""
        return np.linspace(-self.limit if self.signed else 0.0, self.limit, steps)

    @property
    def ends(self) -> tuple[str, str]:
        """What stands at the two ends of the colour bar."""
        low = number(-self.limit) if self.signed and self.limit else "0"
        return low, number(self.limit)

    @property
    def text(self) -> str:
        """The scale in words: ``"clipped at 99.5 %: ±0.13"``, ``"0 to 0.13"``, ``"all zero"``."""
        if self.limit == 0.0:
            return "all zero"
        span = f"±{number(self.limit)}" if self.signed else f"0 to {number(self.limit)}"
        return f"clipped at {self.percent:g}\N{NO-BREAK SPACE}%: {span}" if self.clipped else span


def tint(positions: NDArray[Any], signed: bool) -> NDArray[np.float64]:
    """Positions on a palette (-1 to 1 where signed, else 0 to 1) as sRGB (..., 3)."""
    table = diverging() if signed else sequential()
    place = (positions + 1.0) / 2.0 if signed else np.asarray(positions)
    knots = np.linspace(0.0, 1.0, SIZE)
    return np.stack([np.interp(place, knots, table[:, k]) for k in range(3)], axis=-1)


def fit_scale(
    values: NDArray[Any], *, signed: bool, percent: float = PERCENT, what: str = "the map"
) -> Scale:
    """The scale for some values of any shape.

    signed: whether the sign has a meaning; values below zero make it signed in any case.
    percent: the percentile of |value| to clip at, above 0 and at most 100. Where it falls on zero
    (nearly all values are zero) the largest value is the limit instead.
    Raises NotFinite for NaN or infinity and OptionError for a percentile out of range.

    Example:
        >>> import numpy as np
        >>> fit_scale(np.array([-2.0, 0.0, 1.0]), signed=True, percent=100).text
        '±2'
    """
    if not 0.0 < percent <= 100.0:
        raise OptionError(f"percent={percent!r}: colours are clipped above 0 and at most at 100")
    values = np.asarray(values, dtype=np.float64)
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise NotFinite(
            f"{what} holds {bad} NaN or infinite of {values.size} values and is not drawn; "
            "look for the first such number in the model's activations"
        )
    size = np.abs(values)
    most = float(size.max(initial=0.0))
    limit = float(np.percentile(size, percent)) if size.size else 0.0
    if limit == 0.0:
        limit = most
    signed = bool(signed or (values < 0).any())
    return Scale(limit, signed, float(percent), clipped=most > limit)


def legend(scales: Iterable[Scale], zero: str = "white is zero") -> str:
    """What the colours mean, for the palettes that really occur; ``zero``: how zero looks."""
    kinds = {scale.signed for scale in scales}
    words = []
    if True in kinds:
        words.append(f"Orange-red speaks for the target, blue against it, {zero}.")
    if False in kinds:
        words.append(f"Green to violet: the darker the stronger, without sign; {zero}.")
    return " ".join(words)
