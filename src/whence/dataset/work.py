"""The work of one part: from samples to columns of numbers.

``explain_part`` is a function of the part and of the ``Work`` (which holds the seed) alone: it
reads and writes nothing else, so that any engine may carry parts in any order and place.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import numpy as np

from ..errors import (
    InputError,
    MissingFramework,
    MissingRule,
    ModelError,
    OptionError,
    TargetError,
    UnknownName,
)
from ..frameworks import to_numpy
from ..methods.base import Method
from ..methods.explain import explain
from ..result import Explanation
from .items import is_array, leaves, mapped
from .parts import Block, Part
from .records import Failure, reason_of

__all__ = ["DONE", "FAILED", "LABEL", "Done", "Facts", "Work", "explain_part", "single"]

DONE, FAILED = 1, 2
"""What the column ``status`` holds of an item; 0 where it was not yet its turn."""

LABEL = "label"
"""As a target: explain each sample's label."""

# Of the call rather than of a sample: the next sample would only raise the same.
_OF_THE_CALL = (UnknownName, OptionError, ModelError, MissingRule, MissingFramework)


@dataclass(frozen=True, eq=False)
class Work:
    """What is done to every part.

    target: as for ``whence.explain``; a list of one a item of the data; or ``"label"``.
    """

    model: object
    method: Method
    target: Any = None
    at: str | None = None
    classes: Sequence[str] | None = None
    report: bool = True
    """Whether an item that raises is a failure of its own, rather than the end."""


@dataclass(frozen=True)
class Facts:
    """What is the same for all samples of a run, as JSON holds it.

    structure: how the attribution's arrays lie in it: ``"one"``, ``{"tuple": [...]}`` or
    ``{"dict": {...}}``, each leaf the number of its array or None. shapes: of one sample's arrays.
    """

    structure: Any
    options: dict[str, Any]
    """The method's, as it chose them."""
    shapes: list[list[int]]
    target: str | None
    channels: str | None
    axes: list[str]
    signed: bool
    reduce: str
    layer: str
    summary: str
    versions: dict[str, str]


@dataclass(eq=False)
class Done:
    """A part that was explained.

    pieces: by column, (places in the part, numbers of them). facts: None where nothing succeeded.
    """

    part: Part
    pieces: dict[str, list[tuple[list[int], np.ndarray]]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: Facts | None = None
    seconds: float = 0.0

    @property
    def status(self) -> np.ndarray:
        """(items,) uint8."""
        status = np.full(self.part.count, DONE, np.uint8)
        status[[f.index - self.part.start for f in self.failures]] = FAILED
        return status


def explain_part(work: Work, part: Part) -> Done:
    """Explain the samples of a part; those that raise become failures.

    Raises what is wrong with the call rather than with a sample, and, where ``work.report`` is
    false, whatever the first bad item raises.
    """
    done = Done(part, failures=list(part.failures), errors=list(part.errors))
    if part.errors and not work.report:
        raise _named(part.errors[0], part.failures[0])
    start = time.perf_counter()
    for block in part.blocks or ():
        _block(work, block, done)
    done.failures.sort(key=lambda f: f.index)
    done.seconds = time.perf_counter() - start
    return done


def _block(work: Work, block: Block, done: Done) -> None:
    """Explain a block; where that raises, halves of it, down to the samples that are to blame."""
    part = done.part
    failed: Exception | None = None
    try:
        found = _explained(work, part, block)
    except _OF_THE_CALL:
        raise
    except Exception as error:
        failed = error
    if failed is None:
        _keep(found, block.places, done)
        return
    if len(block.places) > 1:
        half = len(block.places) // 2
        _block(work, _slice(block, 0, half), done)
        _block(work, _slice(block, half, len(block.places)), done)
        return
    (place,) = block.places
    failure = Failure(part.start + place, part.ids[place], reason_of(failed), "explaining")
    if not work.report:
        raise _named(failed, failure)
    failed.__traceback__ = None  # what the failed call held goes with it
    done.failures.append(failure)
    done.errors.append(failed)


def _named(error: BaseException, failure: Failure) -> BaseException:
    error.add_note(f"item {failure.index} ({failure.id}), while {failure.stage}")
    return error


def _slice(block: Block, start: int, stop: int) -> Block:
    x = mapped(lambda a: a[start:stop] if is_array(a) and len(a.shape) else a, block.x)
    return Block(x, block.places[start:stop])


def _explained(work: Work, part: Part, block: Block) -> Explanation:
    named: dict[str, Any] = {}
    if "sample_ids" in signature(explain).parameters:
        named["sample_ids"] = [part.ids[place] for place in block.places]
    found: Explanation = explain(
        work.model, block.x, work.method, target=_target(work, part, block.places), at=work.at,
        classes=work.classes, ledger=False, **named,
    )  # fmt: skip
    return found


def single(target: Any) -> bool:
    """Whether a target is one for all samples."""
    return not isinstance(target, (list, tuple, np.ndarray)) or len(target) == 1


def _target(work: Work, part: Part, places: Sequence[int]) -> Any:
    if isinstance(work.target, str) and work.target == LABEL and LABEL not in (work.classes or ()):
        labels = [part.labels[place] for place in places]
        missing = [part.ids[p] for p, y in zip(places, labels, strict=True) if y is None]
        if missing:
            raise TargetError(f"target='label', but there is no label for {missing[0]}")
        return labels
    if single(work.target):
        return work.target
    if part.start + max(places) >= len(work.target):
        raise OptionError(
            f"{len(work.target)} targets were given, and the data have more items than that"
        )
    return [work.target[part.start + place] for place in places]


def _keep(e: Explanation, places: list[int], done: Done) -> None:
    """The numbers of an explanation, by column."""
    arrays = [to_numpy(a) for a in leaves(e.attribution) if a is not None]
    for array in arrays:
        if not array.ndim or len(array) != len(places):
            raise TargetError(
                f"the attribution has shape {array.shape} for {len(places)} sample(s): its first "
                "axis is not the batch, so that it cannot be kept sample by sample"
            )
    columns: dict[str, Any] = {f"attribution_{k}": a for k, a in enumerate(arrays)}
    columns["output"] = e.output
    columns |= {name: getattr(e, name) for name in ("answer", "probability", "gap")}
    if not isinstance(e.target, str):
        columns["target"] = e.target
    for name, numbers in columns.items():
        if numbers is not None:
            done.pieces.setdefault(name, []).append((places, np.asarray(numbers)))
    done.notes += [note for note in e.notes if note not in done.notes]
    if done.facts is None:
        done.facts = _facts(e, arrays)


def _facts(e: Explanation, arrays: Sequence[np.ndarray]) -> Facts:
    return Facts(
        structure=_structure(e.attribution), options=dict(e.options),
        shapes=[list(a.shape[1:]) for a in arrays],
        target=e.target if isinstance(e.target, str) else None, channels=e.channels,
        axes=list(e.axes), signed=bool(e.signed), reduce=str(e.reduce), layer=e.layer,
        summary=e.model_summary, versions=dict(e.versions),
    )  # fmt: skip


def _structure(attribution: Any) -> Any:
    """The attribution's structure with the number of its array in each leaf's place."""
    if is_array(attribution):
        return "one"
    many = attribution.values() if isinstance(attribution, Mapping) else attribution
    if any(isinstance(leaf, (Mapping, tuple, list)) for leaf in many):
        raise InputError("an attribution of nested structures cannot be kept in a store")
    numbers = iter(range(len(many)))
    held = [None if leaf is None else next(numbers) for leaf in many]
    if isinstance(attribution, Mapping):
        return {"dict": dict(zip(map(str, attribution), held, strict=True))}
    return {"tuple": held}
