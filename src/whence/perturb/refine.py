"""More looks at the gradient along a straight path, where the sum over steps is off and only there.

A rule of summation lets each look stand for a stretch of the way that is as long as its weight. So
between two looks it says how much f should change, and f at the looks, which is known in any case,
says how much it does: the difference is that part's own gap, and the gaps of all parts add up to
that of the whole. Where they are largest a look is put in the middle of the part, until the whole
is small enough. What was looked at before stays, with a shorter stretch to stand for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays import Array
from .chunks import Chunk
from .engine import Engine, Plan
from .path import Integral, Straight, rows_replaced, wide
from .quadrature import quadrature

__all__ = ["Looks", "Tolerance", "adapted"]

SHARE = 0.5
"""Of the gaps of all parts, without their signs, what is taken on in one round."""

SHORTEST = 2.0**-22
"""Parts of the way below this are no longer told apart in single precision."""


@dataclass(frozen=True)
class Tolerance:
    """When a sum is good enough, and when to leave it.

    gap: largest |sum - change| / |change|. floor: |sum - change| that is the scores' own rounding,
    (batch,), which no look takes away. most: looks along one way.
    """

    gap: float
    floor: np.ndarray
    most: int

    def open(self, off: float, change: float, sample: int) -> bool:
        """Whether a sum that is off by so much wants more looks."""
        return abs(off) > self.gap * abs(change) and abs(off) > float(self.floor[sample])


@dataclass(frozen=True)
class Looks:
    """The looks along one way, in order.

    t: where, (looks,). edges: the ends of their stretches, (looks + 1,), from 0 to 1; look k stands
    for what is between edges k and k + 1. score, slope: f and df/dt there. counted: with which
    weight each is in the sum so far. begin, end: f at 0 and 1.
    """

    t: np.ndarray
    edges: np.ndarray
    score: np.ndarray
    slope: np.ndarray
    counted: np.ndarray
    begin: float
    end: float

    @property
    def weight(self) -> np.ndarray:
        """How long a stretch each look stands for, (looks,)."""
        return np.diff(self.edges)

    def gaps(self) -> np.ndarray:
        """By how much f changes more than the looks say, in every part, (looks + 1,).

        The first is before the first look, the last behind the last. Their sum is the whole's.
        """
        rise = np.diff(self.score, prepend=self.begin, append=self.end)
        left = np.append(0.0, self.slope * (self.edges[1:] - self.t))  # from a look to its edge
        right = np.append(self.slope * (self.t - self.edges[:-1]), 0.0)  # from there to the next
        return rise - left - right

    def middles(self) -> np.ndarray:
        """The middle of every part, (looks + 1,)."""
        ends = np.concatenate([[0.0], self.t, [1.0]])
        return (ends[1:] + ends[:-1]) / 2

    def splits(self) -> np.ndarray:
        """Which parts are long enough to be split, (looks + 1,)."""
        return np.diff(self.t, prepend=0.0, append=1.0) > SHORTEST

    def split(self, parts: np.ndarray) -> tuple[Looks, np.ndarray]:
        """With a look in the middle of some parts, not yet taken (NaN), and which those are.

        A new look and the old one next to it meet half way. The new ones are counted as they stand.
        """
        t = np.insert(self.t, parts, self.middles()[parts])
        edges = np.concatenate([[0.0], (t[1:] + t[:-1]) / 2, [1.0]])
        new = parts + np.arange(len(parts))
        fresh = np.zeros(len(t), bool)
        fresh[new] = True
        old = np.flatnonzero(~fresh)
        # Between two old looks nothing has changed.
        together = np.flatnonzero(np.diff(old) == 1)
        edges[old[together] + 1] = self.edges[together + 1]
        score, slope, counted = np.full(len(t), np.nan), np.full(len(t), np.nan), np.diff(edges)
        score[old], slope[old], counted[old] = self.score, self.slope, self.counted
        return Looks(t, edges, score, slope, counted, self.begin, self.end), new


def chosen(looks: Sequence[Looks]) -> list[np.ndarray]:
    """Which parts of each of a sample's ways to split: the largest, which make half of all gaps."""
    sizes = [np.where(w.splits(), np.abs(w.gaps()), 0.0) for w in looks]
    together = np.sort(np.concatenate(sizes))[::-1]
    total = np.cumsum(together)
    if not total[-1] > 0:
        return [np.zeros(0, np.int64) for _ in looks]
    least = together[np.searchsorted(total, SHARE * total[-1])]
    # What is as large but for rounding is taken along, so that no chunk decides otherwise.
    return [np.flatnonzero(s >= 0.999 * least) for s in sizes]


@dataclass
class _Run:
    """Looks of several samples for one run of the engine: flat arrays, sample by sample.

    counts: how many are of each of the samples. even: whether all have as many, by rule.
    """

    samples: np.ndarray
    counts: np.ndarray
    t: np.ndarray
    which: np.ndarray
    weight: np.ndarray
    even: bool = False

    def __post_init__(self) -> None:
        self.starts = np.cumsum(self.counts) - self.counts
        self.score, self.slope = np.full(len(self.t), np.nan), np.full(len(self.t), np.nan)

    def take(self, engine: Engine, path: Straight) -> dict[str, Array]:
        """Sum of weight times gradient times way, {place: (samples, ...)}; scores and slopes."""
        xp = engine.xp

        def rows(chunk: Chunk) -> np.ndarray:
            return self.starts[chunk.item] + chunk.draw

        def make(chunk: Chunk) -> dict[str, Array]:
            return path.at(chunk, self.t[rows(chunk)], self.which[rows(chunk)])

        def terms(chunk: Chunk, grads: dict[str, Array], scores: Array) -> dict[str, Array]:
            place = rows(chunk)
            way = path.way(chunk, self.which[place])
            pairs = {k: (wide(xp, grads[k]), wide(xp, way[k])) for k in way if k in grads}
            slopes = [xp.to_numpy(xp.inner(g, w)) for g, w in pairs.values()]
            self.score[place] = np.asarray(xp.to_numpy(scores), np.float64)
            self.slope[place] = np.sum(slopes, axis=0, dtype=np.float64)
            return {k: g * w for k, (g, w) in pairs.items()}

        plan = Plan(
            int(self.counts.max()), make, self.samples, "integrated gradients",
            uneven=None if self.even else self.counts,
        )  # fmt: skip
        return engine.gradient(plan, lambda chunk: self.weight[rows(chunk)], terms)


def adapted(
    engine: Engine, path: Straight, steps: int, rule: str, ends: np.ndarray, tolerance: Tolerance
) -> Integral:
    """The integral along straight lines, with more looks for the samples whose gap is too large.

    ends: f(x0), (batch, baselines). Samples that a rule with so many steps does well enough for
    are left at that.
    """
    batch, count = ends.shape
    places, weights = quadrature(rule, steps)
    edges = np.append(0.0, np.cumsum(weights))
    edges[-1] = 1.0
    weights = np.diff(edges)
    first = _Run(
        np.arange(batch), np.full(batch, steps * count), np.tile(places, batch * count),
        np.tile(np.repeat(np.arange(count), steps), batch),
        np.tile(weights, batch * count) / count, even=True,
    )  # fmt: skip
    total = first.take(engine, path)
    score, slope = (a.reshape(batch, count, steps) for a in (first.score, first.slope))
    scores = engine.base.score
    ways = {
        i: [Looks(places, edges, score[i, b], slope[i, b], weights, ends[i, b], scores[i])
            for b in range(count)]
        for i in range(batch)
    }  # fmt: skip
    change = scores - ends.mean(1)
    return _refined(engine, path, total, ways, change, tolerance)


def _refined(
    engine: Engine, path: Straight, total: dict[str, Array], ways: dict[int, list[Looks]],
    change: np.ndarray, tolerance: Tolerance,
) -> Integral:  # fmt: skip
    """Round after round of more looks for those that want them, and what they change."""
    touched: set[int] = set()
    left = list(ways)
    while left := [i for i in left if tolerance.open(_off(ways[i]), change[i], i)]:
        wanted = {}
        for i in left:
            # What no look closes, a jump of f, is not made good for elsewhere.
            stuck = tolerance.open(_off(ways[i], stuck=True), change[i], i)
            parts = [] if stuck else chosen(ways[i])
            looks = sum(len(w.t) + len(p) for w, p in zip(ways[i], parts, strict=False))
            if any(len(p) for p in parts) and looks <= tolerance.most * len(parts):
                wanted[i] = [w.split(p) for w, p in zip(ways[i], parts, strict=True)]
        left = list(wanted)
        if not left:
            break
        made = {i: [looks for looks, _ in wanted[i]] for i in left}
        fresh = {i: [new for _, new in wanted[i]] for i in left}
        run = _of(made, fresh, {i: [w.counted for w in made[i]] for i in left})
        total = _added(engine, total, run.take(engine, path), run.samples)
        _write(run, made, fresh)
        ways |= made
        touched |= set(left)
    total = _settled(engine, path, total, {i: ways[i] for i in sorted(touched)})
    steps = [-(-sum(len(w.t) for w in own) // len(own)) for own in ways.values()]
    missed = [tolerance.open(_off(own), change[i], i) for i, own in ways.items()]
    return Integral(total, np.array(steps), np.array(missed))


def _off(ways: Sequence[Looks], *, stuck: bool = False) -> float:
    """How far the sum over a sample's ways is off; or only those parts that are not to be split."""
    counted = [~w.splits() | (not stuck) for w in ways]
    return float(np.mean([w.gaps() @ own for w, own in zip(ways, counted, strict=True)]))


def _of(
    ways: Mapping[int, list[Looks]], which: Mapping[int, list[np.ndarray]],
    weights: Mapping[int, list[np.ndarray]],
) -> _Run:  # fmt: skip
    """The looks at some places of every way, each with a weight, (looks,) for every way."""
    flat = [
        (w.t[p], np.full(len(p), b), v[p] / len(own))
        for i, own in ways.items()
        for b, (w, p, v) in enumerate(zip(own, which[i], weights[i], strict=True))
    ]
    counts = np.array([sum(len(p) for p in which[i]) for i in ways])
    t, number, weight = (np.concatenate(column) for column in zip(*flat, strict=True))
    return _Run(np.array(list(ways)), counts, t, number, weight)


def _write(
    run: _Run, ways: Mapping[int, list[Looks]], which: Mapping[int, list[np.ndarray]]
) -> None:
    """What a run saw, into the looks that it was for."""
    place = 0
    for i, own in ways.items():
        for w, p in zip(own, which[i], strict=True):
            w.score[p] = run.score[place : place + len(p)]
            w.slope[p] = run.slope[place : place + len(p)]
            place += len(p)


def _settled(
    engine: Engine, path: Straight, total: dict[str, Array], ways: dict[int, list[Looks]]
) -> dict[str, Array]:
    """Looks that stand for less than they were counted with are taken again, for the difference."""
    weights = {i: [w.weight - w.counted for w in own] for i, own in ways.items()}
    which = {i: [np.flatnonzero(v) for v in own] for i, own in weights.items()}
    ways = {i: own for i, own in ways.items() if any(len(p) for p in which[i])}
    if not ways:
        return total
    run = _of(ways, which, weights)
    return _added(engine, total, run.take(engine, path), run.samples)


def _added(
    engine: Engine, total: dict[str, Array], more: dict[str, Array], samples: np.ndarray
) -> dict[str, Array]:
    xp = engine.xp
    index = xp.asarray(samples, like=next(iter(total.values())) if xp.name == "torch" else None)
    return {
        k: rows_replaced(xp, a, xp.take(a, index, 0) + more[k], samples) if k in more else a
        for k, a in total.items()
    }
