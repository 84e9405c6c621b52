"""The path that goes where the gradient is small first, and so around noise [kapishnikov2021]."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..arrays import Array
from .chunks import Chunk
from .engine import Engine, Plan
from .path import shares

__all__ = ["advance", "guided"]


def advance(
    now: np.ndarray, grad: np.ndarray, x0: np.ndarray, x: np.ndarray, step: int, steps: int,
    fraction: float, distance: float,
) -> np.ndarray:  # fmt: skip
    """The next point of each sample's path, (samples, elements).

    Elements with the smallest gradients move first, a ``fraction`` of them at a time, until the
    way left to x, in L1, is what a straight line would have left after the step. None may be
    farther than ``distance`` (in parts of its whole way) from where the straight line is.
    """
    t = (step + 1) / steps
    low, high = max(t - distance, 0.0), min(t + distance, 1.0)
    way = x - x0
    floor, ceiling = x0 + low * way, x0 + high * way
    now = now.copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        along = np.where(way != 0, (now - x0) / way, high)
    behind = along < low
    now[behind] = floor[behind]
    wanted = np.abs(way).sum(1) * (1 - t)
    size = np.where(np.abs(now - ceiling) <= 1e-12 * np.abs(way), np.inf, np.abs(grad))
    place = int(fraction * (size.shape[1] - 1))
    busy = np.ones(len(now), bool)
    for _ in range(int(np.ceil(1 / max(fraction, 1e-6))) + size.shape[1]):
        excess = np.abs(now - x).sum(1) - wanted
        busy &= excess > 1e-9 * np.maximum(np.abs(way).sum(1), 1e-300)
        threshold = np.partition(size, place, axis=1)[:, place]
        # With fewer than a fraction still to move, the smallest of those that are left.
        threshold = np.where(np.isinf(threshold), size.min(1), threshold)
        chosen = (size <= threshold[:, None]) & np.isfinite(size) & busy[:, None]
        busy &= chosen.any(1)
        if not busy.any():
            break
        room = np.where(chosen, np.abs(ceiling - now), 0.0).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(room > 0, np.clip(excess / room, 0.0, 1.0), 1.0)
        now = np.where(chosen, now + part[:, None] * (ceiling - now), now)
        size = np.where(chosen, np.inf, size)
        busy &= part >= 1
    return x.copy() if step == steps - 1 else now


def guided(
    engine: Engine, start: Mapping[str, Array], steps: int, samples: np.ndarray,
    fraction: float = 0.25, distance: float = 0.02, idgi: bool = False,
) -> dict[str, Array]:  # fmt: skip
    """Sum over steps of the gradient at the step's start times the step, {place: (samples, ...)}.

    start: {place: (batch, ...)}, the baseline. One call a step, for all samples together, since
    each step depends on the last. idgi: share out the change of f by the squared gradient instead.
    """
    xp = engine.xp
    names = list(start)
    shapes = {k: tuple(xp.shape(engine.places[k]))[1:] for k in names}
    sizes = [int(np.prod(shapes[k])) for k in names]
    cuts = np.cumsum(sizes)[:-1]

    def flat(arrays: Mapping[str, Array]) -> np.ndarray:
        parts = [np.asarray(xp.to_numpy(arrays[k]), np.float64)[samples] for k in names]
        return np.concatenate([p.reshape(len(samples), -1) for p in parts], axis=1)

    x, x0 = flat(engine.places), flat(start)
    x0 = np.where(np.isfinite(x), x0, x)
    moving = np.isfinite(x)
    x, x0 = np.where(moving, x, 0.0), np.where(moving, x0, 0.0)
    held = flat(engine.places)
    now, total = x0.copy(), np.zeros_like(x)
    last_share = np.zeros_like(x)
    last_score = np.zeros(len(samples))
    row_of = {int(s): i for i, s in enumerate(samples)}
    for step in range(steps):
        point = np.where(moving, now, held)
        grads, score = _gradient(engine, names, shapes, cuts, point, samples, row_of)
        if idgi and step:
            total += last_share * (score - last_score)[:, None]
        after = advance(now, grads, x0, x, step, steps, fraction, distance)
        if idgi:
            last_share = shares_of(grads)
            last_score = score
        else:
            total += grads * (after - now)
        now = after
    if idgi:
        final = engine.base.score[samples]
        total += last_share * (final - last_score)[:, None]
    parts = np.split(total, cuts, axis=1)
    like = {k: engine.places[k] for k in names}
    return {
        k: xp.cast(xp.asarray(p.reshape(-1, *shapes[k]), like=like[k]), xp.dtype(like[k]))
        for k, p in zip(names, parts, strict=True)
    }


def shares_of(grads: np.ndarray) -> np.ndarray:
    """Squared gradients that add up to 1 for each sample, (samples, elements)."""
    found: np.ndarray = shares(_numpy(), {"all": grads})["all"]
    return found


def _numpy() -> object:
    from ..frameworks.numpy import NumpyFunctions

    return NumpyFunctions()


def _gradient(
    engine: Engine, names: list[str], shapes: Mapping[str, tuple[int, ...]], cuts: np.ndarray,
    point: np.ndarray, samples: np.ndarray, row_of: Mapping[int, int],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Gradients (samples, elements) and scores (samples,) at a point of each sample's path."""
    xp = engine.xp
    parts = dict(zip(names, np.split(point, cuts, axis=1), strict=True))

    def make(chunk: Chunk) -> dict[str, Array]:
        rows = [row_of[int(s)] for s in chunk.sample]
        return {
            k: chunk.array(parts[k][rows].reshape(-1, *shapes[k]), engine.places[k]) for k in names
        }

    def terms(chunk: Chunk, grads: dict[str, Array], scores: Array) -> dict[str, Array]:
        return {**grads, "score ": scores}

    found = engine.gradient(Plan(1, make, samples, "guided path", show=False), terms=terms)
    score = np.asarray(xp.to_numpy(found.pop("score ")), np.float64)
    flat = [
        np.asarray(xp.to_numpy(found[k]), np.float64).reshape(len(samples), -1)
        if k in found
        else np.zeros((len(samples), int(np.prod(shapes[k]))))
        for k in names
    ]
    return np.concatenate(flat, axis=1), score
