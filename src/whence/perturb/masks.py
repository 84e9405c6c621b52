"""Masks: RISE's random ones, and the quasi-random ones that Sobol indices and HSIC are read from.

RISE's masks over images and sequences are lattices of random bits, interpolated between; there
``Lattice`` describes one input's. The others keep units by a coefficient and are designs.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from math import ceil, log2
from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import MissingFramework, OptionError
from .chunks import Chunk
from .designs import Answer, Design, count

__all__ = ["Hsic", "Lattice", "RandomUnits", "Sobol", "points", "smooth"]


class Lattice:
    """Random smooth masks over some axes [petsiuk2018].

    Bits that are 1 with probability ``keep`` lie on a lattice with ``cells`` steps to a side;
    between them a mask is (bi-, tri-)linear. Where the lattice begins is random, from mask to mask,
    so that every place has the mean ``keep`` and one and the same variance.

    sides: lengths of the axes. cells: of the lattice, along each axis; as many as the side is long
    gives independent bits.
    """

    def __init__(self, sides: Sequence[int], cells: int, keep: float) -> None:
        self.sides = tuple(sides)
        self.steps = tuple(ceil(s / min(cells, s)) for s in sides)
        self.knots = tuple((s + c - 2) // c + 2 for s, c in zip(sides, self.steps, strict=True))
        self.keep = keep
        self.tables = [_hats(*a) for a in zip(self.sides, self.steps, self.knots, strict=True)]
        """By axis, (shifts, side, knots): how much each knot counts at each place."""

    def draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """What makes n masks: bits (n, *knots) and shifts (n, axes)."""
        bits = rng.random((n, *self.knots)) < self.keep
        return bits, np.stack([rng.integers(0, c, n) for c in self.steps], 1)

    def hats(self, shifts: np.ndarray, axis: int) -> np.ndarray:
        """Along an axis, the knots' share at each place: (n, axes) -> (n, side, knots)."""
        return self.tables[axis][shifts[:, axis]]

    def total(self, bits: np.ndarray, shifts: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """The sum of score x mask over n masks, (*sides), without making any of them.

        Masks of one shift are added up on the lattice first, and interpolated together.
        """
        summed = np.zeros((*self.steps, *self.knots))
        wide = scores.reshape((-1,) + (1,) * len(self.knots)) * bits
        np.add.at(summed, tuple(shifts.T), wide)
        for done, table in enumerate(self.tables):
            # Left are the shifts of the axes to come, their knots, and the sides that are finished.
            summed = np.tensordot(summed, table, axes=((0, len(self.sides) - done), (0, 2)))
        return summed


def smooth(
    lattice: Lattice, bits: np.ndarray, shifts: np.ndarray, chunk: Chunk, like: Array
) -> Array:
    """The masks of a chunk's rows, (rows, *sides), in the framework's arrays.

    bits: (rows, *knots). shifts: (rows, axes).
    """
    xp, rows = chunk.xp, len(bits)
    mask = chunk.array(bits.astype(np.float32), like)
    for axis in range(len(lattice.sides)):
        hats = chunk.array(lattice.hats(shifts, axis).astype(np.float32), like)
        knots = lattice.knots[axis]
        # The axis in hand is first; once done it goes behind the others.
        mask = xp.matmul(hats, xp.reshape(mask, (rows, knots, -1)))
        mask = xp.transpose(mask, (0, 2, 1))
    return xp.reshape(mask, (rows, *lattice.sides))


def _hats(side: int, step: int, knots: int) -> np.ndarray:
    """The linear hat of every knot, at every place of a side, for every shift."""
    place = (np.arange(side) + np.arange(step)[:, None]) / step
    return np.clip(1 - np.abs(place[..., None] - np.arange(knots)), 0, None)


class RandomUnits(Design):
    """RISE over units that have no neighbours: kept or not, each by a coin [petsiuk2018]."""

    def __init__(self, units: int, n: int, rng: np.random.Generator, keep: float) -> None:
        self.units, self.rows, self.keep = units, n, keep
        self.kept = rng.random((n, units)) < keep

    def coefficients(self, draws: np.ndarray) -> np.ndarray:
        """The coins of some calls."""
        return self.kept[draws].astype(float)

    def answer(self, scores: np.ndarray, on: float) -> Answer:
        """The mean of score x mask, over the mask's own mean."""
        return Answer(scores @ self.kept / (self.rows * self.keep))


def points(n: int, dimensions: int, rng: np.random.Generator) -> np.ndarray:
    """The first n points of a scrambled Sobol' sequence, (n, dimensions), in [0, 1).

    Raises MissingFramework without SciPy, OptionError for more dimensions than the sequence has.
    """
    try:
        qmc: Any = import_module("scipy.stats.qmc")
    except ImportError as error:
        raise MissingFramework(
            'quasi-random masks need SciPy, which is not installed: pip install "scipy"'
        ) from error
    if dimensions > qmc.Sobol.MAXDIM:
        raise OptionError(
            f"quasi-random masks of {dimensions} dimensions were asked for, {qmc.Sobol.MAXDIM} are "
            "the most; use fewer groups"
        )
    own = np.random.default_rng(rng.integers(2**63))  # SciPy wants one that it can branch off
    sequence = qmc.Sobol(dimensions, scramble=True, seed=own)
    return np.asarray(sequence.random_base2(ceil(log2(n)) if n > 1 else 0))[:n]


class Sobol(Design):
    """Total Sobol indices by Jansen's estimator [jansen1999, fel2021].

    Each unit's share of the variance of f, with all that it does in company, when every unit is
    kept by an independent uniform amount. n: quasi-random points; n (units + 2) calls.
    """

    def __init__(self, units: int, n: int, rng: np.random.Generator) -> None:
        self.units, self.n = units, count(n, 2)
        self.rows = self.n * (units + 2)
        both = points(self.n, 2 * units, rng)
        self.a, self.b = both[:, :units], both[:, units:]

    def coefficients(self, draws: np.ndarray) -> np.ndarray:
        """First A, then B, then A with each column in turn from B."""
        part, row = draws // self.n, draws % self.n
        kept = np.where((part == 1)[:, None], self.b[row], self.a[row])
        swapped = np.arange(self.units) == (part - 2)[:, None]
        return np.where(swapped, self.b[row], kept)

    def answer(self, scores: np.ndarray, on: float) -> Answer:
        """Half the mean squared change when one column is drawn anew, over the variance."""
        table = scores.reshape(self.units + 2, self.n)
        variance = table[:2].var()
        changed = ((table[2:] - table[0]) ** 2).mean(1) / 2
        values = changed / variance if variance > 0 else np.zeros(self.units)
        return Answer(values, report={"variance": variance})


class Hsic(Design):
    """How strongly f depends on each unit's presence: Hilbert-Schmidt independence [novello2022].

    Units are kept or not, by quasi-random points; the kernel of presences is 1 for equal ones and 0
    for others, that of scores is Gaussian with the median distance for its width. n: calls.
    """

    def __init__(self, units: int, n: int, rng: np.random.Generator) -> None:
        self.units, self.rows = units, count(n, 2)
        self.kept = points(self.rows, units, rng) >= 0.5

    def coefficients(self, draws: np.ndarray) -> np.ndarray:
        """The presences of some calls."""
        return self.kept[draws].astype(float)

    def answer(self, scores: np.ndarray, on: float) -> Answer:
        """trace(K H L H) / (n - 1)^2 of each unit."""
        n = self.rows
        apart = np.abs(scores[:, None] - scores)
        pairs = apart[np.triu_indices(n, 1)]
        width = np.median(pairs)
        if width == 0:  # most scores are equal: the others decide
            width = pairs[pairs > 0].mean() if pairs.any() else 1.0
        like = np.exp(-((apart / width) ** 2) / 2)
        like -= like.mean(0)
        like -= like.mean(1, keepdims=True)
        # With s = +1 or -1 the kernel is (1 + s s') / 2, whose constant part centring takes away.
        sign = np.where(self.kept, 1.0, -1.0)
        return Answer(np.einsum("ik,ij,jk->k", sign, like, sign, optimize=True) / 2 / (n - 1) ** 2)
