"""Baselines and backgrounds, brought to the places that are varied.

One rule for all methods. A baseline is an input, and at the model's own inputs that is all there is
to it. Elsewhere:

- at embeddings, whole numbers are token ids, whose embeddings are taken; everything else (0.5,
  "mean", a floating array) is for the embeddings themselves;
- at a layer, it is what the layer makes of the baseline; an array of the layer's own shape stands
  for itself, and so does whatever is no token id where the inputs are token ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays import Array
from ..baselines import references
from ..errors import OptionError, unknown
from ..frameworks import to_numpy
from ..frameworks.base import Inputs
from .engine import Engine

__all__ = ["backgrounds", "resolved", "starts"]


def starts(engine: Engine, baseline: Any) -> tuple[dict[str, Array], list[str]]:
    """({place: (baselines, batch, ...)}, notes) for whatever is a baseline."""
    found, notes = resolved(engine, baseline)
    return {k: engine.xp.concat([p[k][None] for p in found], 0) for k in engine.places}, notes


def resolved(
    engine: Engine, baseline: Any, *, own: bool = False
) -> tuple[list[dict[str, Array]], list[str]]:
    """(for each baseline {place: (batch, ...)}, notes).

    own: all but token ids is for the places themselves, also at a layer. Places that a dict leaves
    out keep their x.
    """
    if isinstance(baseline, list) and _is_set(baseline):
        several = [resolved(engine, one, own=own) for one in baseline]
        notes = list(dict.fromkeys(note for _, said in several for note in said))
        return [one for found, _ in several for one in found], notes
    job, read = engine.job, engine.caller.patch.read
    inputs = job.inputs
    as_input = read is None or _is_input(engine, baseline, own)
    if not as_input:
        inputs = Inputs(engine.places, inputs.call, inputs.restore)
    found, notes = references(baseline, job.framework, job.model, inputs)
    if read is not None and as_input:
        found = [read(inputs.replaced(one)) for one in found]
    return [{k: one[k] for k in engine.places} for one in found], notes


def _is_set(given: list[Any]) -> bool:
    """Whether a list is one of baselines; lists in lists, and numbers, are left to be looked at."""
    return any(not isinstance(one, (list, int, float)) for one in given)


def _is_input(engine: Engine, given: Any, own: bool) -> bool:
    """Whether a baseline is for the model's inputs, where the places are others."""
    xp, arrays = engine.xp, engine.job.inputs.arrays
    floats = any(xp.is_floating(a) for a in arrays.values())
    if engine.job.at is None or not floats:
        if isinstance(given, Mapping):
            whole = [k for k in given if k in arrays and not xp.is_floating(arrays[k])]
            return bool(whole) and all(_whole(given[k]) for k in whole)
        return _whole(given)
    return not own and not _like_place(engine, given)


def _like_place(engine: Engine, given: Any) -> bool:
    """Whether an array has the shape of the layer's output, and not that of an input."""
    shape = getattr(given, "shape", None)
    if shape is None or len(engine.places) != 1:
        return False
    wanted, (place,) = tuple(shape), engine.places.values()
    inputs = [tuple(engine.xp.shape(a)) for a in engine.job.inputs.arrays.values()]
    own = tuple(engine.xp.shape(place))
    return wanted in (own, own[1:]) and not any(wanted in (s, s[1:]) for s in inputs)


def _whole(given: Any) -> bool:
    if isinstance(given, (bool, str)):
        return False
    if isinstance(given, (int, np.integer)):
        return True
    if isinstance(given, list):
        return np.asarray(given).dtype.kind in "iu"
    return "int" in str(getattr(given, "dtype", ""))


def backgrounds(engine: Engine, background: Any) -> dict[str, Array]:
    """{place: (references, 1, ...)}: a set of inputs that all samples are compared with.

    Raises OptionError where it is not a set of inputs of the model's kind.
    """
    xp, job = engine.xp, engine.job
    arrays, read = job.inputs.arrays, engine.caller.patch.read
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
    # Floating arrays at embeddings are embeddings, as every baseline there.
    inside = [
        k for k, v in background.items()
        if job.at is None and k in engine.places and not xp.is_floating(arrays[k])
        and to_numpy(v).dtype.kind == "f"
    ]  # fmt: skip
    given = {
        k: _like(engine, v, engine.places[k] if k in inside else arrays[k], k)
        for k, v in background.items()
    }
    counts = {xp.shape(v)[0] for v in given.values()}
    if len(counts) != 1:
        raise OptionError(f"the background has {sorted(counts)} references for different inputs")
    (count,) = counts
    if read is not None:
        own = {k: v for k, v in given.items() if k not in inside}
        rest = {k: _repeated(engine, v, count) for k, v in arrays.items() if k not in own}
        given = read(job.inputs.replaced({**rest, **own})) | {k: given[k] for k in inside}
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
    # A copy: the caller's array may be one that must not be written to.
    return xp.cast(xp.asarray(np.array(numbers), like=like), xp.dtype(like))


def _repeated(engine: Engine, array: Array, count: int) -> Array:
    """The first sample's own array, for every reference."""
    return engine.xp.concat([array[:1]] * count, 0)
