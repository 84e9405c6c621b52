"""A design: which units each model call keeps, and how the answers become one value a unit.

A design belongs to one sample and knows nothing of models: it gives coefficients, is given scores,
and returns values. ``run`` plays the designs of a whole batch in one line of model calls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import OptionError
from .chunks import Chunk
from .engine import Engine, Plan
from .units import Units, gathered

__all__ = ["Answer", "Design", "count", "run"]

MOST_WASTE = 0.2
"""Samples whose designs differ in length by no more share a line, the shorter ones filled up."""


@dataclass
class Answer:
    """What a design makes of its scores."""

    values: np.ndarray
    """One a unit, (units,)."""
    off: float | None = None
    """f with every unit off, where the values should add up to f(x) - f(x0)."""
    report: Mapping[str, Any] | None = None
    """Numbers besides: (units,) arrays or single ones."""


class Design(ABC):
    """The calls of one sample. units: how many there are. rows: how many calls."""

    units: int
    rows: int

    @abstractmethod
    def coefficients(self, draws: np.ndarray) -> np.ndarray:
        """How much of each unit some of the calls keep: (draws,) -> (draws, units), 0 to 1."""

    @abstractmethod
    def answer(self, scores: np.ndarray, on: float) -> Answer:
        """The values from the scores, (rows,), and the score at x itself."""


def count(n: Any, least: int = 1, what: str = "n") -> int:
    """``n`` as a whole number. Raises OptionError for what is none, or less than ``least``."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < least:
        raise OptionError(f"{what} is a whole number, {least} or more; got {n!r}")
    return int(n)


def run(
    engine: Engine, units: Units, designs: Sequence[Design], x0: Mapping[str, Array], label: str
) -> list[Answer]:
    """Every sample's design, in as few lines of model calls as their lengths allow.

    x0: what takes the place of units that are off, {name: (batch, ...)}.
    """
    held = units.held(engine.xp, engine.caller.like)
    answers: list[Answer | None] = [None] * len(designs)
    for samples in _lines([d.rows for d in designs]):
        rows = max(designs[i].rows for i in samples)

        def make(chunk: Chunk) -> dict[str, Array]:
            kept = np.ones((len(chunk), units.most))
            for i in np.unique(chunk.sample):
                mine, design = chunk.sample == i, designs[i]
                # Calls beyond a shorter design's end repeat its last; their scores are let go.
                draws = np.minimum(chunk.draw[mine], design.rows - 1)
                kept[mine, : design.units] = design.coefficients(draws)
            return gathered(units, held, kept, chunk, x0)

        plan = Plan(rows, make, samples=samples, label=label)
        scores = engine.once(
            partial(_said, plan, units, designs, x0), partial(engine.forward, plan)
        )
        for i, own in zip(samples, scores, strict=True):
            design = designs[i]
            answers[i] = design.answer(own[: design.rows], float(engine.base.score[i]))
    return [a for a in answers if a is not None]


def _said(
    plan: Plan, units: Units, designs: Sequence[Design], x0: Mapping[str, Array]
) -> Iterator[Any]:
    """All that the inputs of a line follow from: the same, by whatever design, is called once."""
    yield from (x0, units.numbers, plan.draws)
    for i in [] if plan.samples is None else plan.samples:
        yield int(i)
        yield designs[i].coefficients(np.arange(designs[i].rows))


def _lines(rows: Sequence[int]) -> list[list[int]]:
    """Samples with designs of nearly one length together, the longest first; in their order."""
    found: list[tuple[int, list[int]]] = []
    for i in sorted(range(len(rows)), key=lambda i: -rows[i]):
        if found and rows[i] >= (1 - MOST_WASTE) * found[-1][0]:
            found[-1][1].append(i)
        else:
            found.append((rows[i], [i]))
    return [sorted(samples) for _, samples in found]


def padded(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Arrays of different lengths as rows of one, zeros behind: (batch, width)."""
    found = np.zeros((len(rows), width))
    for line, own in zip(found, rows, strict=True):
        line[: len(own)] = own
    return found
