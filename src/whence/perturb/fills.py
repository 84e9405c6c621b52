"""What takes the place of what is taken away: one array like each place that can be varied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays import Array
from ..baselines import references
from ..errors import OptionError
from ..frameworks.base import Inputs
from .engine import Engine

__all__ = ["fill"]


def fill(engine: Engine, given: Any) -> dict[str, Array]:
    """Whatever is a baseline -> {name: (batch, ...)}, for every place that can be varied.

    Where a model starts at embeddings, whole numbers are token ids, whose embeddings are taken; all
    else is for the embeddings themselves. Places that a dict leaves out keep their x.
    Raises OptionError for a set of baselines: one is wanted.
    """
    caller = engine.caller
    read, inputs = caller.patch.read, engine.job.inputs
    by_ids = read is not None and engine.job.at is None and _token_ids(engine, given)
    if by_ids and read is not None:
        (found, *more), _ = references(given, engine.framework, engine.job.model, inputs)
        found = read(inputs.replaced(found))
    else:
        places = Inputs(engine.places, inputs.call, inputs.restore)
        (found, *more), _ = references(given, engine.framework, engine.job.model, places)
    if more:
        raise OptionError(
            f"one baseline is wanted here; got a set of {len(more) + 1}. Explain once for each, or "
            "give their mean"
        )
    return {name: found[name] for name in engine.places}


def _token_ids(engine: Engine, given: Any) -> bool:
    """Whether a baseline is one for whole-number inputs."""
    xp = engine.xp
    if isinstance(given, Mapping):
        arrays = engine.job.inputs.arrays
        whole = [k for k in given if k in arrays and not xp.is_floating(arrays[k])]
        return bool(whole) and all(_whole(given[k]) for k in whole)
    return _whole(given)


def _whole(given: Any) -> bool:
    if isinstance(given, bool) or isinstance(given, str):
        return False
    if isinstance(given, (int, np.integer)):
        return True
    if isinstance(given, list):
        return np.asarray(given).dtype.kind in "iu"
    return "int" in str(getattr(given, "dtype", ""))
