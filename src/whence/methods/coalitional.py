"""Methods that ask which groups of the input made the answer: LIME and Shapley values."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import segments
from ..errors import MissingFramework, OptionError
from ..perturb.coalitions import Exact, KernelShap, Permutations
from ..perturb.designs import Design, count
from ..perturb.engine import Engine
from ..perturb.fills import fill
from ..perturb.surrogate import Lime
from ..perturb.units import Sides, Units, by_name, make_units, sides_of
from .base import Job
from .perturbed import Perturbed, Result, by_units

__all__ = ["LIME", "ExactShapley", "KernelSHAP", "ShapleySampling"]

_LEAST_PIXELS = 8
"""Of a superpixel: smaller ones follow no edge."""


class _Coalitional(Perturbed):
    """A method over groups that are present or replaced by the baseline."""

    cells: ClassVar[int] = 8
    share: ClassVar[bool] = True

    features: Any
    baseline: Any

    @abstractmethod
    def design(self, units: int, rng: np.random.Generator) -> Design:
        """The calls of one sample."""

    def units(self, engine: Engine, job: Job) -> tuple[Units, list[str]]:
        """The groups of each sample, and notes on them."""
        units = make_units(
            job.framework, job.model, engine.places, self.features, cells=self.cells,
            axes=engine.axes,
        )  # fmt: skip
        return units, []

    def compute(self, engine: Engine, job: Job) -> Result:
        """Form coalitions, call, credit their members."""
        units, notes = self.units(engine, job)
        designs = [
            self.design(int(k), engine.seeds.generator(i)) for i, k in enumerate(units.counts)
        ]
        x0 = fill(engine, self.baseline)
        made = by_units(engine, units, designs, x0, "coalitions", share=self.share)
        made.notes = (*notes, *made.notes)
        return made


class _Shapley(_Coalitional):
    """Shapley values: each group's value is shared out evenly among its elements.

    So the attribution adds up to f(x) - f(x0); ``extras["groups"]`` has one value a group.
    """

    complete: ClassVar[bool] = True
    reduce_by: ClassVar[str] = "sum"


@dataclass(frozen=True, repr=False)
class ExactShapley(_Shapley):
    """Shapley values from every coalition of at most 16 groups: 2^groups calls [shapley1953].

    features: the groups; None takes 3 x 3 patches of an image (512 calls) or 2 x 2 x 2 blocks of a
    volume, each step of a sequence, each column of a table. baseline: what absent groups are
    replaced with.
    Raises OptionError for more than 16 groups.
    """

    name: ClassVar[str] = "exact-shapley"
    cells: ClassVar[int] = 3

    features: Any = None
    baseline: Any = 0.0

    def units(self, engine: Engine, job: Job) -> tuple[Units, list[str]]:
        """Few enough groups of an image or a volume."""
        flat = all(len(engine.xp.shape(a)) < 5 for a in engine.places.values())
        units = make_units(
            job.framework, job.model, engine.places, self.features,
            cells=self.cells if flat else 2, axes=engine.axes,
        )  # fmt: skip
        return units, []

    def design(self, units: int, rng: np.random.Generator) -> Design:
        """All coalitions."""
        return Exact(units)


@dataclass(frozen=True, repr=False)
class ShapleySampling(_Shapley):
    """Shapley values by random orders: each group is paid what it adds as it enters [castro2009].

    Adds up to f(x) - f(x0) whatever ``n`` is. n: orders; n (groups - 1) + 1 calls. antithetic: use
    each order backwards too. ``extras["error"]`` has the standard error of each group's value.
    """

    name: ClassVar[str] = "shapley-sampling"

    n: int = 25
    features: Any = None
    baseline: Any = 0.0
    antithetic: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        count(self.n)

    def design(self, units: int, rng: np.random.Generator) -> Design:
        """Random orders."""
        return Permutations(units, self.n, rng, antithetic=self.antithetic)


@dataclass(frozen=True, repr=False)
class KernelSHAP(_Shapley):
    """Shapley values as weighted least squares over paired coalitions [lundberg2017, covert2021].

    Adds up to f(x) - f(x0) whatever ``n`` is. n: coalitions, one call each; with 2^groups - 2 or
    more the values are exact.
    """

    name: ClassVar[str] = "kernel-shap"

    n: int = 1024
    features: Any = None
    baseline: Any = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        count(self.n, 2)

    def design(self, units: int, rng: np.random.Generator) -> Design:
        """Coalitions, the telling ones first."""
        return KernelShap(units, self.n, rng)


@dataclass(frozen=True, repr=False)
class LIME(_Coalitional):
    """The slopes of a linear model of f over groups present or absent, near x [ribeiro2016].

    Every element of a group bears the group's slope, in units of the output.

    n: calls. features: the groups; None takes superpixels of an image (a grid of squares where it
    has fewer than 8 pixels for each, or without scikit-image), each step of a sequence, each column
    of a table. segments: about how many superpixels. distance: "cosine" or "euclidean", between the
    presences and all ones. width: of the exponential kernel; None takes 0.25, or
    0.75 sqrt(groups). regression: "ridge" or "lasso" (scikit-learn). alpha: its penalty.
    ``extras["fit"]`` is the linear model's weighted R^2 for each sample.
    """

    name: ClassVar[str] = "lime"
    share: ClassVar[bool] = False

    n: int = 1000
    features: Any = None
    baseline: Any = 0.0
    segments: int = 50
    distance: str = "cosine"
    width: float | None = None
    regression: str = "ridge"
    alpha: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        count(self.n, 2)
        count(self.segments, what="segments")
        for what, given, known in (
            ("distance", self.distance, ("cosine", "euclidean")),
            ("regression", self.regression, ("ridge", "lasso")),
        ):
            if given not in known:
                raise OptionError(f'{what} is "{known[0]}" or "{known[1]}"; got {given!r}')
        if self.width is not None and not self.width > 0:
            raise OptionError(f"width is a distance, more than 0; got {self.width!r}")
        if self.alpha is not None and not self.alpha >= 0:
            raise OptionError(f"alpha is a penalty, 0 or more; got {self.alpha!r}")

    def units(self, engine: Engine, job: Job) -> tuple[Units, list[str]]:
        """Superpixels where an image came without groups; a grid where there can be none."""
        given = by_name(self.features, list(engine.places), "features")
        start, notes = 0, []
        for name, features in given.items():
            if features is not None:
                continue
            shape = tuple(engine.xp.shape(engine.places[name]))
            sides = sides_of(job.framework, job.model, shape, engine.axes)
            if len(sides.space) != 2 or sides.channel is None:
                continue
            cut, why = self._superpixels(engine, name, shape, sides)
            if cut is None:
                notes.append(f"{why}: a grid of squares is varied instead of superpixels")
                continue
            given[name] = cut + start
            start += int(cut.max()) + 1
        units = make_units(job.framework, job.model, engine.places, given, axes=engine.axes)
        return units, list(dict.fromkeys(notes))

    def _superpixels(
        self, engine: Engine, name: str, shape: tuple[int, ...], sides: Sides
    ) -> tuple[np.ndarray | None, str]:
        """The superpixels of a batch of images, or why there are none."""
        pixels = int(np.prod([shape[a] for a in sides.space]))
        if pixels < _LEAST_PIXELS * self.segments:
            return None, f"{pixels} pixels are too few for {self.segments} superpixels"
        images = engine.xp.to_numpy(engine.places[name])
        where = "first" if sides.channel == 1 else "last"
        try:
            return segments.superpixels(images, self.segments, channels=where), ""
        except MissingFramework:
            return None, "scikit-image is not installed"

    def design(self, units: int, rng: np.random.Generator) -> Design:
        """Presences by the toss of a coin."""
        alpha = self.alpha
        if alpha is None:
            alpha = 1.0 if self.regression == "ridge" else 0.01
        return Lime(
            units, self.n, rng, distance=self.distance, width=self.width,
            model=self.regression, alpha=alpha,
        )  # fmt: skip
