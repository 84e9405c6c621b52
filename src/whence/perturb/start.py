"""Where paths begin: baselines and backgrounds, brought to the places that are varied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays import Array
from ..baselines import references
from ..errors import OptionError, unknown
from ..frameworks import to_numpy
from .engine import Engine

__all__ = ["backgrounds", "starts"]


def starts(engine: Engine, baseline: Any) -> tuple[dict[str, Array], list[str]]:
    """({place: (baselines, batch, ...)}, notes) for whatever is a baseline.

    Where the places are embeddings, or a layer's output, a baseline is an input still (token ids),
    and the place is what the model makes of it; an array of the place's own shape is taken as is.
    """
    xp, job, read = engine.xp, engine.job, engine.caller.patch.read
    direct = _direct(engine, baseline)
    if direct is not None:
        return direct, []
    found, notes = references(baseline, job.framework, job.model, job.inputs)
    places = [one if read is None else read(job.inputs.replaced(one)) for one in found]
    # An input that no baseline was named for stays as it is in x, and has no way to go.
    return {k: xp.concat([p[k][None] for p in places], 0) for k in engine.places}, notes


def _direct(engine: Engine, baseline: Any) -> dict[str, Array] | None:
    """A floating array of the shape of an embedding or layer, as that place's baseline."""
    shape = getattr(baseline, "shape", None)
    if engine.caller.patch.read is None or shape is None or len(engine.places) != 1:
        return None
    ((name, place),) = engine.places.items()
    xp, wanted = engine.xp, tuple(engine.xp.shape(place))
    if tuple(shape) not in (wanted, wanted[1:]) or tuple(shape) == tuple(
        engine.xp.shape(engine.caller.like)
    ):
        return None
    given = xp.cast(xp.asarray(to_numpy(baseline), like=place), xp.dtype(place))
    return {name: (xp.zeros_like(place) + given)[None]}


def backgrounds(engine: Engine, background: Any) -> dict[str, Array]:
    """{place: (references, 1, ...)}: a set of inputs that all samples are compared with.

    Raises OptionError where it is not a set of inputs of the model's kind.
    """
    xp, job = engine.xp, engine.job
    arrays = job.inputs.arrays
    if not isinstance(background, Mapping):
        items = background if isinstance(background, tuple) else (background,)
        if len(items) != len(arrays):
            raise OptionError(
                f"a background for each of the inputs {list(arrays)} is needed: give a dict of "
                "arrays by these names"
            )
        background = dict(zip(arrays, items, strict=True))
    for name in background:
        if name not in arrays:
            raise unknown("input", name, arrays)
    given = {k: _like(engine, v, arrays[k], k) for k, v in background.items()}
    counts = {xp.shape(v)[0] for v in given.values()}
    if len(counts) != 1:
        raise OptionError(f"the background has {sorted(counts)} references for different inputs")
    (count,) = counts
    read = engine.caller.patch.read
    if read is not None:
        rest = {k: _repeated(engine, v, count) for k, v in arrays.items() if k not in given}
        given = read(job.inputs.replaced({**rest, **given}))
    return {k: given[k][:, None] for k in engine.places if k in given}


def _like(engine: Engine, given: Any, like: Array, name: str) -> Array:
    xp = engine.xp
    numbers = to_numpy(given) if hasattr(given, "shape") else np.asarray(given)
    shape = tuple(xp.shape(like))
    if numbers.shape[1:] != shape[1:] or numbers.ndim != len(shape) or not len(numbers):
        raise OptionError(
            f"the background of {name!r} has shape {numbers.shape}; references of the input's kind "
            f"are wanted, shape (references, {', '.join(map(str, shape[1:]))})"
        )
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise OptionError(f"the background of {name!r} holds NaN or infinity")
    return xp.cast(xp.asarray(np.ascontiguousarray(numbers), like=like), xp.dtype(like))


def _repeated(engine: Engine, array: Array, count: int) -> Array:
    """The first sample's own array, for every reference."""
    return engine.xp.concat([array[:1]] * count, 0)
