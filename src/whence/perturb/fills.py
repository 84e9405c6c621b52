"""What takes the place of what is taken away: one array like each place that can be varied."""

from __future__ import annotations

from typing import Any

from ..arrays import Array
from ..errors import OptionError
from .engine import Engine
from .start import resolved

__all__ = ["fill"]


def fill(engine: Engine, given: Any, *, own: bool = False) -> dict[str, Array]:
    """Whatever is a baseline -> {name: (batch, ...)}, for every place that can be varied.

    own: it is for the places themselves, also at a layer (see ``start.py``).
    Raises OptionError for a set of baselines: one is wanted.
    """
    (found, *more), _ = resolved(engine, given, own=own)
    if more:
        raise OptionError(
            f"one baseline is wanted here; got a set of {len(more) + 1}. Explain once for each, or "
            "give their mean"
        )
    return found
