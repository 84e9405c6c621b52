"""Methods that average the gradient along a path, or over a background of other inputs.

All are sums over many calls of the model, taken by the shared loop of ``perturb/engine.py``.
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
from ..perturb.blur import Blur
from ..perturb.chunks import Chunk
from ..perturb.engine import Engine, Plan
from ..perturb.guided import guided
from ..perturb.noise import check_count, expected
from ..perturb.path import (
    MOST_STEPS,
    Integral,
    Straight,
    idgi,
    integrate,
    refined,
    rounding,
    step_sums,
)
from ..perturb.quadrature import check_steps
from ..perturb.refine import Tolerance, adapted
from ..perturb.start import backgrounds, starts
from ..perturb.units import sides_of
from .base import Found, Job, Method

__all__ = ["Averaged", "ExpectedGradients", "IntegratedGradients", "found_of"]


@dataclass(frozen=True, repr=False)
class Averaged(Method):
    """A method that sums over many calls.

    rows: most rows a model call; None chooses by the memory at hand. The answer does not depend on
    it.
    """

    rows: int | None = field(default=None, kw_only=True)

    @classmethod
    def run(cls, methods: Sequence[Averaged], job: Job) -> list[Found]:
        """Each in turn; f(x), f(x0) and what was found out about the model are shared."""
        results: list[Found] = []
        for method in methods:
            start = time.perf_counter()
            engine = Engine(
                job, seed=getattr(method, "seed", 0), rows=method.rows, sample_ids=job.sample_ids
            )
            found = method.compute(engine, job)
            found.seconds = time.perf_counter() - start
            results.append(found)
        return results

    @abstractmethod
    def compute(self, engine: Engine, job: Job) -> Found:
        """The attribution."""


def found_of(engine: Engine, attribution: Mapping[str, Array], **more: Any) -> Found:
    """What all of them return: sums in the places' own type, None where nothing leads."""
    xp, base = engine.xp, engine.base
    arrays: dict[str, Array | None] = dict.fromkeys(engine.places)
    for name, array in attribution.items():
        like = engine.places.get(name)
        arrays[name] = array if like is None else xp.cast(array, xp.dtype(like))
    more.setdefault("axes", engine.axes)
    return Found(arrays, base.array, base.index, base.outputs, **more)


_STEPS, _TOLERANCE = 64, 1e-3
"""What is begun with, and aimed at, where the caller says neither."""

_ROUNDING = 4
"""Units of the last place of a score by which sums of gradients may be off for no other reason."""

_PATHS = ("straight", "guided", "blur")


@dataclass(frozen=True, repr=False)
class IntegratedGradients(Averaged):
    """(x - x0) times the mean gradient on the way from x0 to x [sundararajan2017].

    Adds up to f(x) - f(x0), up to an error of the sum over steps that ``gap`` measures.
    ``extras``: ``reference_output``, f(x0) of each sample; ``steps``, how many each took.

    baseline: x0: a number, an array, "zero", "black", "mean", "blur", "noise", or a list of these,
        whose attributions are averaged (see ``whence.baselines``). Where the input is token ids,
        whole numbers are ids and all else is for their embeddings, which are zero by default. With
        ``at=`` it is still an input, and the way is a straight line between the layer's two
        outputs; an array of the layer's own shape stands for itself.
    steps: looks at the gradient. None takes 64, and on a straight path a tolerance of 0.001: a
        smooth network is done with that, one of ReLUs takes some hundred. A number is kept to,
        unless a tolerance is given too.
    quadrature: where on the way: "gauss-legendre" (exact for polynomials of degree 2 steps - 1),
        "trapezoid", or the Riemann sums "left", "middle", "right". For the straight path.
    tolerance: the gap down to which more looks (up to 2048) are taken for the samples that are
        above it, and only for those: on a straight path where f changes most against what the looks
        around say, else twice as many along the whole of it. It is the sum that comes so close;
        single elements may still be off by some per cent, as more ``steps`` would show.
    path: "straight"; "guided", by elements of small gradient first [kapishnikov2021]; "blur", from
        blurred to sharp [xu2020], which has no baseline.
    idgi: share out f's change over each step by the squared gradient [yang2023].
    blur: the widest blur of path="blur", in elements; None takes a quarter of the longest side.
    Raises OptionError for any other value.
    """

    name: ClassVar[str] = "integrated-gradients"
    complete: ClassVar[bool] = True

    baseline: Any = 0.0
    steps: int | None = None
    quadrature: str = "gauss-legendre"
    tolerance: float | None = None
    path: str = "straight"
    idgi: bool = False
    blur: float | None = None

    def __post_init__(self) -> None:
        check_steps(self.quadrature, self.planned[0])
        if self.path not in _PATHS:
            raise OptionError(f"path is one of {', '.join(map(repr, _PATHS))}; got {self.path!r}")
        if self.tolerance is not None and not (
            isinstance(self.tolerance, (int, float)) and 0 < self.tolerance < float("inf")
        ):
            raise OptionError(f"tolerance is a number above 0, or None; got {self.tolerance!r}")
        if self.path != "straight" and self.quadrature != "gauss-legendre":
            raise OptionError(f'quadrature is for path="straight"; path={self.path!r} has its own')

    @property
    def planned(self) -> tuple[int, float | None]:
        """The steps to begin with, and the gap that is small enough."""
        if self.steps is not None:
            return self.steps, self.tolerance
        asked = self.tolerance is not None or self.path != "straight"
        return _STEPS, self.tolerance if asked else _TOLERANCE

    def compute(self, engine: Engine, job: Job) -> Found:
        """The integral, refined where it was asked for, and f(x0)."""
        xp, base = engine.xp, engine.base.score
        if self.path == "blur":
            way = self._sharpening(engine)
            notes: list[str] = []
            plan = Plan(1, lambda c: way.at(c, np.zeros(len(c)), np.zeros(len(c), np.int64)))
            ends = engine.forward(plan)
            compute = self._along(engine, way)
        else:
            start, notes = starts(engine, self.baseline)
            line = Straight(engine, start)
            ends = _scores_at(engine, line)
            notes += _same(engine, start)
            apart = self.path == "guided"
            compute = self._guided(engine, line) if apart else self._along(engine, line)
        begin = ends.mean(1)
        floor = _ROUNDING * rounding(xp.dtype(engine.base.array)) * (np.abs(base) + np.abs(begin))
        steps, tolerance = self.planned
        if tolerance is not None and self.path == "straight" and not self.idgi:
            wanted = Tolerance(tolerance, floor, MOST_STEPS)
            made = adapted(engine, line, steps, self.quadrature, ends, wanted)
        else:
            made = refined(compute, base - begin, steps, tolerance, xp, floor=floor)
        if tolerance is not None:
            notes += _missed(made, tolerance)
        return found_of(
            engine, made.attribution, reference=xp.asarray(begin, like=engine.base.array),
            notes=tuple(notes), extras={"reference_output": begin, "steps": made.steps},
            facts={"steps": steps, "tolerance": tolerance},
        )  # fmt: skip

    def _along(self, engine: Engine, way: Straight | Blur) -> Any:
        if self.idgi:
            return lambda steps, samples: idgi(engine, way, steps, samples)
        if isinstance(way, Straight):
            return lambda steps, samples: integrate(engine, way, steps, self.quadrature, samples)
        return lambda steps, samples: step_sums(engine, way, steps, samples)

    def _guided(self, engine: Engine, line: Straight) -> Any:
        def compute(steps: int, samples: np.ndarray) -> dict[str, Array]:
            total: dict[str, Array] = {}
            for which in range(line.count):
                start = {k: v[which] for k, v in line.start.items()}
                found = guided(engine, start, steps, samples, idgi=self.idgi)
                total = {k: v / line.count + total.get(k, 0.0) for k, v in found.items()}
            return total

        return compute

    def _sharpening(self, engine: Engine) -> Blur:
        axes = {}
        widest = 0
        for name, array in engine.places.items():
            shape = engine.xp.shape(array)
            sides = sides_of(engine.framework, engine.job.model, shape, engine.axes)
            if sides.kind == "table":
                raise OptionError(
                    f'path="blur" needs places next to each other (images, sequences); {name!r} '
                    f"has shape {tuple(shape)}"
                )
            axes[name] = sides.space
            widest = max(widest, *(shape[a] for a in sides.space))
        return Blur(engine, axes, widest / 4 if self.blur is None else self.blur)


def _scores_at(engine: Engine, line: Straight) -> np.ndarray:
    """f(x0) of each sample and baseline, (batch, baselines)."""

    def make(chunk: Chunk) -> dict[str, Array]:
        return line.at(chunk, np.zeros(len(chunk)), chunk.draw)

    scores = engine.once(lambda: [line.start], lambda: engine.forward(Plan(line.count, make)))
    return np.asarray(scores)


def _same(engine: Engine, start: Mapping[str, Array]) -> list[str]:
    """A note where the baseline is the input itself."""
    xp = engine.xp
    apart = np.zeros(engine.batch)
    for name, begin in start.items():
        off = xp.abs(begin - engine.places[name])
        off = xp.where(xp.isfinite(off), off, xp.zeros_like(off))
        axes = (0, *range(2, len(xp.shape(off))))
        apart += np.asarray(xp.to_numpy(xp.max(off, axis=axes)), np.float64)
    same = np.flatnonzero(apart == 0)
    if not len(same):
        return []
    return [
        f"the baseline equals the input for sample(s) {', '.join(map(str, same[:6]))}"
        f"{', ...' if len(same) > 6 else ''}: the attribution is zero because of it"
    ]


def _missed(made: Integral, tolerance: float) -> list[str]:
    """A note where the gap is too large and no more steps are taken."""
    left = np.flatnonzero(made.missed)
    if not len(left):
        return []
    return [
        f"the gap is above {tolerance:g} still at {made.steps[left].max()} steps for sample(s) "
        f"{', '.join(map(str, left[:6]))}{', ...' if len(left) > 6 else ''}"
    ]


@dataclass(frozen=True, repr=False)
class ExpectedGradients(Averaged):
    """Integrated gradients from a background of real inputs instead of one baseline [erion2021].

    Each draw takes a background sample and a point on the way from it to x, both at random. Adds up
    to f(x) minus the background's mean of f, on average over draws.

    background: what x is compared with: an array (references, ...) of the input's kind, some tens
        of training samples; a dict of such for several inputs. By default, as for deepshap, zero,
        the mean and a blur of x itself, or zero alone for a table.
    n: draws. seed: names them.
    Raises OptionError for a background of another shape.
    """

    name: ClassVar[str] = "expected-gradients"
    complete: ClassVar[bool] = True

    background: Any = None
    n: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        check_count(self.n)

    def compute(self, engine: Engine, job: Job) -> Found:
        """The mean over draws, and the background's mean answer."""
        notes: list[str] = []
        if self.background is None:
            start, notes = _made_of_x(engine)
        else:
            start = backgrounds(engine, self.background)
        line = Straight(engine, start)
        made = expected(engine, start, self.n)
        begin = _scores_at(engine, line).mean(1)
        reference = engine.xp.asarray(begin, like=engine.base.array)
        notes += _same(engine, start)
        return found_of(
            engine, made, reference=reference, notes=tuple(notes),
            extras={"reference_output": begin},
        )  # fmt: skip


def _made_of_x(engine: Engine) -> tuple[dict[str, Array], list[str]]:
    """A background for who has none at hand: each sample's own zero, mean and blur."""
    shapes = [engine.xp.shape(a) for a in engine.places.values()]
    tables = any(len(s) < 3 for s in shapes)
    start, _ = starts(engine, ["zero"] if tables else ["zero", "mean", "blur"])
    said = "zero" if tables else "zero, the mean and a blur of x"
    return start, [f"no background was given; compared with {said}"]
