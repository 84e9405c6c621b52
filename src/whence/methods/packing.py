"""From what a method computed to an explanation: checked, named, in the caller's own types."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import checks
from ..arrays import Array, Functions
from ..errors import NotFinite, TargetError
from ..frameworks import to_numpy
from ..frameworks.base import Framework
from ..ledger import Entry, Ledger
from ..result import Explanation, guess_axes
from ..targets import Classes, Difference, Top
from .base import Found, Job, Method

__all__ = ["pack"]


def pack(
    method: Method, found: Found, job: Job, x: Any, classes: Sequence[str] | None
) -> Explanation:
    """The explanation, after looking for NaN, infinity and attributions that do not exist."""
    if all(a is None for a in found.attribution.values()):
        raise TargetError(
            f"{job.target.describe()} does not depend on the input: its gradient does not exist "
            "(a constant output, a detach(), or whole numbers on the way)"
        )
    xp = job.framework.xp
    score = np.array(xp.to_numpy(found.score))  # methods that ran together found it together
    silent = _check_numbers(method, found, job, score)
    structure = _structure(found, job, x)
    channels, axes = _axes(found, job)
    index = None if found.index is None else np.array(xp.to_numpy(found.index))
    answer, probability, is_probability = _answer(found)
    notes = [*found.notes, *_notes(found, job, silent, is_probability)]
    total = _summed(found, job, len(score)) if method.complete or found.rows else score
    names = job.target.names(len(score), None if index is None else index.tolist(), classes)
    return Explanation(
        attribution=structure, raw=structure,
        target=index if index is not None else job.target.describe(),
        output=score, method=method.name, options=method.options | found.facts,
        ledger=_ledger(found, job, total), gap=_gap(method, found, job, score, total),
        layer=job.at or "", channels=channels, axes=axes, seconds=found.seconds,
        versions=_versions(job.framework),
        model_summary=job.framework.summary(job.model), target_names=names,
        answer=answer, probability=probability, inputs=x, signed=method.signed,
        reduce=getattr(method, "reduce", method.reduce_by), notes=notes,
        extras=_extras(found), kept={k: _kept(v, job, x) for k, v in found.kept.items()},
    )  # fmt: skip


def _structure(found: Found, job: Job, x: Any) -> Any:
    """The attribution in the structure and array type of the input."""
    xp = job.framework.xp
    if job.at is not None:
        (array,) = found.attribution.values()
        return _kept(array, job, x)
    arrays = job.inputs.arrays
    filled = {
        k: xp.zeros_like(arrays[k]) if a is None and k in arrays else a
        for k, a in found.attribution.items()
    }
    inside = {k: v for k, v in filled.items() if k in arrays}
    if inside and len(inside) == len(filled):
        return job.inputs.restore(inside)
    # Embeddings that stand for no input have a name of their own.
    return dict(filled) if len(filled) > 1 else next(iter(filled.values()))


def _kept(array: Any, job: Job, x: Any) -> Any:
    """A layer's array in the array type of the input."""
    leaf = x
    while isinstance(leaf, (Mapping, tuple, list)) and leaf:
        leaf = next(iter(leaf.values() if isinstance(leaf, Mapping) else leaf))
    if array is None:
        return None
    return array if job.framework.owns(leaf) else job.framework.xp.to_numpy(array)


def _axes(found: Found, job: Job) -> tuple[str | None, tuple[str, ...]]:
    """Where channels stand in the attribution, and the names of its axes."""
    main = next(a for a in found.attribution.values() if a is not None)
    shape = job.framework.xp.shape(main)
    is_map = len(shape) >= 4
    if len(shape) == 3:
        is_map = job.framework.expectation(job.model).rank == 3
    channels = job.framework.channels if is_map else None
    if found.axes is None:
        return channels, guess_axes(shape, channels)
    if "channel" in found.axes:
        channels = "first" if found.axes[1] == "channel" else "last"
    return channels, found.axes


def _extras(found: Found) -> dict[str, Any]:
    return {k: v for k, v in (found.extras or {}).items() if k not in ("places", "rectifiers")}


def _check_numbers(method: Method, found: Found, job: Job, score: np.ndarray) -> list[int]:
    """Samples whose attribution is zero everywhere. Raises NotFinite for NaN or infinity.

    One number a sample crosses to the host; the arrays themselves do so only if those look wrong.
    """
    xp = job.framework.xp
    arrays = [a for a in found.attribution.values() if a is not None]
    squares = [xp.to_numpy(xp.inner(a, a)) for a in arrays]
    finite = bool(np.isfinite(score).all()) and all(
        bool(np.isfinite(s).all()) or checks.is_finite(xp, a)
        for s, a in zip(squares, arrays, strict=True)
    )
    if not finite:
        _raise_not_finite(method, job, score)
    if any(len(s) != job.inputs.batch for s in squares):
        return []  # a layer that merges samples with another axis
    low = np.flatnonzero(np.sum(squares, axis=0) == 0)
    # Squares of very small numbers vanish too, so look at the numbers themselves.
    return [int(i) for i in low if not any(np.any(xp.to_numpy(a[int(i)])) for a in arrays)]


def _raise_not_finite(method: Method, job: Job, score: np.ndarray) -> None:
    """Name the op where NaN or infinity first appears, or say that it came up on the way back."""
    tape = job.framework.record(job.model, job.inputs, head=job.target.head)
    try:
        where = checks.first_not_finite(job.framework, tape)
    finally:
        tape.free()
    if where:
        raise NotFinite(
            f"NaN or infinity first appears in the model at {where}; the input is finite"
        )
    what = "the explained output"
    if np.isfinite(score).all():
        what = f"the attribution by {method.name}"
    raise NotFinite(
        f"{what} is not finite, though every activation is: a division by zero or an overflow on "
        "the way back. Try a larger eps, or float32 instead of half precision"
    )


def _notes(found: Found, job: Job, silent: list[int], is_probability: bool) -> list[str]:
    """What a reader of this explanation should know."""
    notes = []
    missed = [k for k, a in found.attribution.items() if a is None]
    if missed:
        names = ", ".join(map(repr, missed))
        notes.append(f"{job.target.describe()} does not depend on {names}: zeros there")
    if silent:
        some = ", ".join(map(str, silent[:6])) + (", ..." if len(silent) > 6 else "")
        notes.append(
            f"the attribution is zero everywhere for sample(s) {some}: the explained number is 0 "
            "there, or nothing that it depends on is active"
        )
    if (
        is_probability
        and not job.target.logit
        and isinstance(job.target, (Top, Classes, Difference))
    ):
        notes.append(
            "the model ends in a softmax; this explains a probability. target=whence.logit(...) "
            "explains the value before it"
        )
    around = sum(
        np.abs(to_numpy(r.absorbed["around"])).sum() for r in found.rows if "around" in r.absorbed
    )
    if around and found.seed is not None:
        share = float(around / max(np.abs(to_numpy(found.seed)).sum(), 1e-12))
        if share > 0.01:
            notes.append(
                f"relevance worth {share:.0%} of the explained number passes around layer {job.at} "
                "(a skip connection) and is not in this map"
            )
    return notes


def _gap(
    method: Method, found: Found, job: Job, score: np.ndarray, total: np.ndarray
) -> np.ndarray | None:
    """How far the attribution is from adding up, (batch,), for methods that should."""
    if not method.complete:
        return None
    xp = job.framework.xp
    reference = np.zeros(())
    if found.reference is not None:
        reference = np.asarray(xp.to_numpy(found.reference), np.float64)
    start = np.asarray(score if found.seed is None else xp.to_numpy(found.seed), np.float64)
    wanted = start - reference
    left = np.abs(total - wanted)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(left == 0, 0.0, left / np.abs(wanted))


def _summed(found: Found, job: Job, samples: int) -> np.ndarray:
    """The attribution added up over all that it was read at, (batch,)."""
    xp = job.framework.xp
    total = np.zeros(samples, np.float64)
    for array in found.attribution.values():
        if array is not None:
            numbers = np.asarray(xp.to_numpy(array), np.float64)
            total += numbers.reshape(samples, -1).sum(1)
    return total


def _ledger(found: Found, job: Job, total: np.ndarray) -> Ledger | None:
    if not found.rows or found.seed is None:
        return None
    amounts = [found.seed]
    for row in found.rows:
        amounts += [row.relevance_in, row.relevance_out, *row.absorbed.values()]
    host = iter(_together(job.framework.xp, amounts))
    seed = next(host)
    rows = [
        Entry(r.index, r.layer, r.op, r.kind, r.rule, next(host), next(host),
              {reason: next(host) for reason in r.absorbed})
        for r in found.rows
    ]  # fmt: skip
    return Ledger(rows, seed, total)


def _together(xp: Functions, arrays: Sequence[Array]) -> np.ndarray:
    """Arrays of one number a sample in one transfer to the host: (arrays, batch)."""
    wide = "float64" if any(xp.dtype(a) == "float64" for a in arrays) else "float32"
    lines = [xp.reshape(xp.cast(a, wide), (1, -1)) for a in arrays]
    return xp.to_numpy(xp.concat(lines, axis=0))


def _answer(found: Found) -> tuple[np.ndarray | None, np.ndarray | None, bool]:
    """Top class, its probability, and whether the output was a probability; where it is classes."""
    if found.outputs is None:
        return None, None, False
    y = np.asarray(to_numpy(found.outputs), np.float64)
    if y.ndim != 2 or y.shape[1] < 2 or not np.isfinite(y).all():
        return None, None, False
    top = y.argmax(1)
    is_probability = bool((y >= 0).all() and np.allclose(y.sum(1), 1, atol=1e-3))
    if not is_probability:
        y = np.exp(y - y.max(1, keepdims=True))
        y /= y.sum(1, keepdims=True)
    return top, y[np.arange(len(y)), top], is_probability


def _versions(framework: Framework) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    try:
        own = version("whence")
    except PackageNotFoundError:
        own = "unknown"
    return {"whence": own, framework.name: framework.version(), "python": platform.python_version()}
