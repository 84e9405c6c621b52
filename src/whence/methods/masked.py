"""Methods over random masks: RISE, Sobol indices and HSIC."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..arrays import Array
from ..errors import OptionError
from ..perturb.chunks import Chunk
from ..perturb.designs import Design, count
from ..perturb.engine import Engine, Plan
from ..perturb.fills import fill
from ..perturb.masks import Hsic, Lattice, RandomUnits, smooth
from ..perturb.masks import Sobol as Jansen
from ..perturb.units import make_units, mix, sides_of
from .base import Job
from .perturbed import Perturbed, Result, by_units

__all__ = ["HSIC", "RISE", "Sobol"]


@dataclass(frozen=True, repr=False)
class _Masked(Perturbed):
    """A method over random masks."""

    n: int = 1000
    baseline: Any = 0.0
    features: Any = None
    seed: int = 0

    def __post_init__(self) -> None:
        count(self.n)


@dataclass(frozen=True, repr=False)
class RISE(_Masked):
    """The mean answer with a place visible, over random smooth masks [petsiuk2018].

    1 / (n keep) sum of f(masked x) mask, in units of the output; unbiased. A place that the answer
    does not need gets keep times as much as one that it needs alone, not 0.

    n: masks. cells: of the coarse lattice along each side of an image or sequence; columns of a
    table, and groups, are kept independently. keep: how much of the input a mask shows, on average.
    baseline: what is behind the masks. features: groups to be kept or not, instead of lattices.
    """

    name: ClassVar[str] = "rise"

    cells: int = 8
    keep: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        count(self.cells, what="cells")
        if not 0 < self.keep < 1:
            raise OptionError(
                f"keep is the share that is visible, between 0 and 1; got {self.keep}"
            )

    def compute(self, engine: Engine, job: Job) -> Result:
        """Show parts, call, weigh the parts by the answers."""
        x0 = fill(engine, self.baseline)
        if self.features is not None:
            units = make_units(
                job.framework, job.model, engine.places, self.features, axes=engine.axes
            )
            designs = [
                RandomUnits(int(k), self.n, engine.seeds.generator(i), self.keep)
                for i, k in enumerate(units.counts)
            ]
            return by_units(engine, units, designs, x0, "masks", share=False)
        return self._over_lattices(engine, job, x0)

    def _over_lattices(self, engine: Engine, job: Job, x0: dict[str, Array]) -> Result:
        lattices, drawn, shapes = {}, {}, {}
        rngs = [engine.seeds.generator(i) for i in range(engine.batch)]
        for name, x in engine.places.items():
            shape = tuple(engine.xp.shape(x))
            sides = sides_of(job.framework, job.model, shape, engine.axes)
            lengths = [shape[a] for a in sides.space] or [1]
            near = self.cells if sides.kind != "table" else max(lengths)
            lattices[name] = Lattice(lengths, near, self.keep)
            each = [lattices[name].draw(self.n, rng) for rng in rngs]
            drawn[name] = tuple(np.stack(part) for part in zip(*each, strict=True))
            shapes[name] = [s if i in sides.space else 1 for i, s in enumerate(shape)][1:]

        def make(chunk: Chunk) -> dict[str, Array]:
            made = {}
            for name, lattice in lattices.items():
                bits, shifts = (part[chunk.sample, chunk.draw] for part in drawn[name])
                x = chunk.x(name)
                mask = smooth(lattice, bits, shifts, chunk, x)
                mask = chunk.xp.reshape(mask, (len(chunk), *shapes[name]))
                made[name] = mix(mask, x, chunk.take(x0[name]))
            return made

        scores = engine.forward(Plan(self.n, make, label="masks"))
        found = {}
        for name, lattice in lattices.items():
            total = [lattice.total(*one) for one in zip(*drawn[name], scores, strict=True)]
            mean = np.stack(total) / (self.n * self.keep)
            found[name] = mean.reshape(engine.batch, *shapes[name])
        return Result(found)


@dataclass(frozen=True, repr=False)
class _QuasiRandom(_Masked):
    """A method over quasi-random coefficients of groups."""

    signed: ClassVar[bool] = False

    cells: int = 8

    def __post_init__(self) -> None:
        count(self.n, 2)
        count(self.cells, what="cells")

    @abstractmethod
    def design(self, units: int, rng: np.random.Generator) -> Design:
        """The calls of one sample."""

    def compute(self, engine: Engine, job: Job) -> Result:
        """Keep groups by quasi-random amounts, call, see which amounts matter."""
        units = make_units(
            job.framework, job.model, engine.places, self.features, cells=self.cells,
            axes=engine.axes,
        )  # fmt: skip
        designs = [
            self.design(int(k), engine.seeds.generator(i)) for i, k in enumerate(units.counts)
        ]
        x0 = fill(engine, self.baseline)
        return by_units(engine, units, designs, x0, "masks", share=False)


@dataclass(frozen=True, repr=False)
class Sobol(_QuasiRandom):
    """Each group's total share of the answer's variance under random fading [jansen1999, fel2021].

    Every group is faded towards the baseline by an independent uniform amount. Between 0 and 1; the
    shares of groups that act together count for each, so they may add up to more than 1.

    n: quasi-random points; n (groups + 2) model calls. cells: groups along each side of an image,
    where ``features`` are not given. Needs SciPy.
    """

    name: ClassVar[str] = "sobol"

    n: int = 32

    def design(self, units: int, rng: np.random.Generator) -> Design:
        """Jansen's."""
        return Jansen(units, self.n, rng)


@dataclass(frozen=True, repr=False)
class HSIC(_QuasiRandom):
    """How strongly the answer depends on each group's presence, in any way [novello2022].

    The Hilbert-Schmidt independence criterion between presence and answer; 0 where they are
    independent, without a unit, for comparing groups of one input.

    n: quasi-random masks, one call each. cells: groups along each side of an image, where
    ``features`` are not given. Needs SciPy.
    """

    name: ClassVar[str] = "hsic"

    n: int = 1024

    def design(self, units: int, rng: np.random.Generator) -> Design:
        """Presences by quasi-random points."""
        return Hsic(units, self.n, rng)
