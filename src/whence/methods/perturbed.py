"""Methods that only call the model: what they share, and occlusion.

All are carried by one run: the engine's line of model calls, the units that are varied together,
and what takes their place. Random masks are in ``masked.py``, LIME and Shapley values in
``coalitional.py``.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..arrays import Array
from ..errors import OptionError
from ..perturb.designs import Answer, Design, padded, run
from ..perturb.engine import Engine, Plan
from ..perturb.fills import fill
from ..perturb.occlude import LeaveOneOut, Windows, covered, painted
from ..perturb.units import Units, by_name, make_units, sides_of
from .base import Found, Job, Method

__all__ = ["Occlusion", "Perturbed", "Result", "by_units"]


@dataclass
class Result:
    """What a method of this family computed, in NumPy."""

    attribution: dict[str, np.ndarray]
    reference: np.ndarray | None = None
    extras: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Perturbed(Method):
    """A method that calls the model on varied inputs and looks at the explained number alone.

    rows: most varied inputs a model call; None goes by the memory at hand. The numbers are the
    same.
    """

    reduce_by: ClassVar[str] = "mean"

    rows: int | None = field(default=None, kw_only=True)

    @classmethod
    def run(cls, methods: Sequence[Perturbed], job: Job) -> list[Found]:
        """Each in turn; f(x), equal calls and what was found out about the model are shared."""
        results = []
        for method in methods:
            start = time.perf_counter()
            engine = Engine(
                job, seed=getattr(method, "seed", 0), rows=method.rows, sample_ids=job.sample_ids
            )
            made = method.compute(engine, job)
            results.append(_found(made, engine, time.perf_counter() - start))
        return results

    @abstractmethod
    def compute(self, engine: Engine, job: Job) -> Result:
        """The attribution, by input name."""


def _found(made: Result, engine: Engine, seconds: float) -> Found:
    xp, base = engine.xp, engine.base
    arrays: dict[str, Array | None] = {}
    for name, like in engine.places.items():
        if name not in made.attribution:
            arrays[name] = xp.zeros_like(like)
            continue
        numbers = np.broadcast_to(made.attribution[name], tuple(xp.shape(like)))
        arrays[name] = xp.cast(xp.asarray(np.array(numbers), like=like), xp.dtype(like))
    reference, extras = None, made.extras
    if made.reference is not None:
        reference = xp.asarray(made.reference, like=base.array)
        extras = {"reference_output": made.reference, **extras}
    return Found(
        arrays, base.array, base.index, base.outputs, reference=reference, axes=engine.axes,
        notes=made.notes, extras=extras, seconds=seconds,
    )  # fmt: skip


def by_units(
    engine: Engine, units: Units, designs: Sequence[Design], x0: Mapping[str, Array], label: str,
    *, share: bool,
) -> Result:  # fmt: skip
    """Play the designs and spread their values over the elements."""
    answers = run(engine, units, designs, x0, label)
    values = padded([a.values for a in answers], units.most)
    reference = None
    if all(a.off is not None for a in answers):
        reference = np.array([a.off for a in answers], np.float64)
    return Result(
        units.spread(values, share=share), reference, _reports(answers, units, values),
        _same_as_input(engine, units, x0),
    )  # fmt: skip


def _reports(answers: Sequence[Answer], units: Units, values: np.ndarray) -> dict[str, Any]:
    """The values by group, which group each element is in, and what the designs say besides."""
    numbers = dict(units.numbers)
    extras: dict[str, Any] = {
        "groups": values,
        "features": next(iter(numbers.values())) if len(numbers) == 1 else numbers,
    }
    for key in answers[0].report or {}:
        found = [np.asarray((a.report or {})[key], np.float64) for a in answers]
        extras[key] = padded(found, units.most) if found[0].ndim else np.array(found)
    return extras


def _same_as_input(engine: Engine, units: Units, x0: Mapping[str, Array]) -> tuple[str, ...]:
    """A note where what should be taken away is what is there already."""
    xp = engine.xp
    apart = np.zeros(engine.batch)
    for name in units.numbers:
        difference = engine.places[name] - x0[name]
        apart += np.asarray(xp.to_numpy(xp.inner(difference, difference)), np.float64)
    same = [str(i) for i in np.flatnonzero(apart == 0)]
    if not same:
        return ()
    return (f"the baseline is the input itself for sample(s) {', '.join(same)}: zero there",)


@dataclass(frozen=True, repr=False)
class Occlusion(Perturbed):
    """f(x) - f(x with a window covered): what each place is needed for [zeiler2014].

    Every element of a window gets that window's drop, in units of the output; where windows overlap
    it gets their mean.

    window: its length, one for all axes or one for each (rows, columns; steps; columns of a table);
        None takes an eighth of an image's sides, and single steps and columns otherwise. A dict
        gives one an input, and inputs that it leaves out are not varied.
    stride: how far it moves; None half a window. The last window is cut at the border.
    fill: what covers it: a number, "mean", "blur", "inpaint" (the places around it), or whatever is
        a baseline.
    each_channel: cover one channel at a time instead of all.
    features: whole numbers that say which elements are covered together, instead of windows.
    Raises OptionError for a window larger than the input and strides that leave places out.
    """

    name: ClassVar[str] = "occlusion"

    window: Any = None
    stride: Any = None
    fill: Any = 0.0
    each_channel: bool = False
    features: Any = None

    def __post_init__(self) -> None:
        if self.features is not None and (self.window is not None or self.stride is not None):
            raise OptionError("give a window and its stride, or features; not both")
        if self.features is not None and _is(self.fill, "inpaint"):
            raise OptionError(
                'fill="inpaint" paints windows from the places around them; with features use '
                '"blur" or "mean"'
            )

    def compute(self, engine: Engine, job: Job) -> Result:
        """Cover, call, compare."""
        if self.features is not None:
            units = make_units(
                job.framework, job.model, engine.places, self.features, axes=engine.axes
            )
            designs = [LeaveOneOut(int(k)) for k in units.counts]
            return by_units(
                engine, units, designs, fill(engine, self.fill, own=True), "occlusion", share=False
            )
        windows = self._windows(engine, job)
        painting = _is(self.fill, "inpaint")
        x0 = {} if painting else fill(engine, self.fill, own=True)
        first = np.cumsum([0, *(w.rows for w in windows.values())])
        bounds = {n: (a, b) for n, a, b in zip(windows, first[:-1], first[1:], strict=True)}

        def make(chunk: Any) -> dict[str, Array]:
            made = {}
            for name, (a, b) in bounds.items():
                mine = (chunk.draw >= a) & (chunk.draw < b)
                if not mine.any():
                    continue
                draws, x = np.where(mine, chunk.draw - a, 0), chunk.x(name)
                if painting:
                    made[name] = painted(windows[name], draws, mine, chunk, x)
                else:
                    made[name] = covered(windows[name], draws, mine, chunk, x, chunk.take(x0[name]))
            return made

        scores = engine.forward(Plan(int(first[-1]), make, label="occlusion"))
        drops = engine.base.score[:, None] - scores
        return Result({n: windows[n].share(drops[:, a:b]) for n, (a, b) in bounds.items()})

    def _windows(self, engine: Engine, job: Job) -> dict[str, Windows]:
        shapes = {k: tuple(engine.xp.shape(v)) for k, v in engine.places.items()}
        strides = by_name(self.stride, list(shapes), "stride")
        made = {}
        for name, window in by_name(self.window, list(shapes), "window").items():
            shape = shapes[name]
            sides = sides_of(job.framework, job.model, shape, engine.axes)
            space = sides.space
            if window is None:
                parts = [max(shape[a] // 8, 1) if sides.kind == "image" else 1 for a in space]
            else:
                parts = _each(window, len(space), "window", name)
            if strides.get(name) is None:
                steps = [max(p // 2, 1) for p in parts]
            else:
                steps = _each(strides[name], len(space), "stride", name)
            if self.each_channel and sides.channel is not None:
                space, parts, steps = (*space, sides.channel), [*parts, 1], [*steps, 1]
            made[name] = Windows(shape, space, parts, steps, name)
            if _is(self.fill, "inpaint"):
                _can_paint(sides.kind, [shape[a] for a in sides.space], parts, name)
        return made


def _is(given: Any, word: str) -> bool:
    return isinstance(given, str) and given == word


def _each(given: Any, axes: int, what: str, name: str) -> list[int]:
    """One number for all axes, or one for each."""
    numbers = list(given) if isinstance(given, (tuple, list)) else [given] * axes
    if len(numbers) != axes or not all(
        isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in numbers
    ):
        where = "the input" if name == "input" else f"input {name!r}"
        raise OptionError(
            f"the {what} is a whole number, or {axes} of them for {where}; got {given!r}"
        )
    return [int(n) for n in numbers]


def _can_paint(kind: str, sides: Sequence[int], parts: Sequence[int], name: str) -> None:
    if kind == "table":
        raise OptionError(
            'fill="inpaint" goes by neighbours, which the columns of a table are not; use a number '
            'or "mean"'
        )
    if all(p == s for p, s in zip(parts, sides, strict=False)):
        raise OptionError(
            'the window holds everything, so fill="inpaint" has nothing to paint from'
        )
