"""Averages over random neighbours of the input, and over random points between it and others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..arrays import Array
from ..errors import OptionError
from .chunks import Chunk
from .engine import Engine, Plan
from .path import Straight
from .units import sides_of

__all__ = ["check_count", "check_sigma", "expected", "noisy", "ranges"]


def check_count(n: int, least: int = 1) -> None:
    """Raise OptionError for a number of draws that is none."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < least:
        raise OptionError(f"n is a whole number of draws, {least} or more; got {n!r}")


def check_sigma(sigma: float) -> None:
    """Raise OptionError for a noise level below zero, or none."""
    good = isinstance(sigma, (int, float, np.number)) and not isinstance(sigma, bool)
    if not good or not 0 <= sigma < float("inf"):
        raise OptionError(
            f"sigma is the noise in parts of the input's range, 0 or more; got {sigma!r}"
        )


def ranges(engine: Engine) -> dict[str, np.ndarray]:
    """Largest minus smallest number of each sample at each place, {place: (batch,)}."""
    found = {}
    for name, array in engine.places.items():
        numbers = np.asarray(engine.xp.to_numpy(array), np.float64)
        flat = numbers.reshape(len(numbers), -1)
        flat = np.where(np.isfinite(flat), flat, np.nan)
        with np.errstate(invalid="ignore"):
            found[name] = np.nan_to_num(np.nanmax(flat, 1) - np.nanmin(flat, 1))
    return found


def noisy(engine: Engine, n: int, sigma: float, *, antithetic: bool = False) -> Plan:
    """The input plus Gaussian noise of sigma times its range, n draws a sample [smilkov2017].

    antithetic: draws come in pairs of opposite noise, so n must be even.
    The noise of a map is drawn channel by channel, so that it is the same whichever way a
    framework keeps channels.
    """
    check_count(n)
    check_sigma(sigma)
    if antithetic and n % 2:
        raise OptionError(f"antithetic noise comes in pairs: n must be even; got {n}")
    scale = {k: sigma * r for k, r in ranges(engine).items()}
    job = engine.job
    sides = {
        k: sides_of(job.framework, job.model, engine.xp.shape(v), engine.axes)
        for k, v in engine.places.items()
    }

    def make(chunk: Chunk) -> dict[str, Array]:
        made = {}
        for stream, (name, array) in enumerate(engine.places.items()):
            shape, channel = engine.xp.shape(array)[1:], sides[name].channel
            noise = _drawn(chunk, shape, channel, stream, antithetic)
            x = chunk.x(name)
            made[name] = x + chunk.column(scale[name][chunk.sample], x) * chunk.array(noise, x)
        return made

    return Plan(n, make, label="noisy inputs")


def _drawn(
    chunk: Chunk, shape: tuple[int, ...], channel: int | None, stream: int, antithetic: bool
) -> np.ndarray:
    """Standard normal numbers, (rows, *shape), float32."""
    order = list(shape)
    if channel is not None:
        order.insert(0, order.pop(channel - 1))
    draws = chunk.draw // 2 if antithetic else chunk.draw
    noise = chunk.random(
        lambda g: g.standard_normal(order, dtype=np.float32), draws=draws, stream=stream
    )
    if antithetic:
        noise *= np.where(chunk.draw % 2, -1, 1).astype(np.float32).reshape(-1, *[1] * len(shape))
    return noise if channel is None else np.moveaxis(noise, 1, channel)


def expected(engine: Engine, background: Mapping[str, Array], n: int) -> dict[str, Array]:
    """Mean over draws of (x - x') times the gradient at x' + t (x - x') [erion2021].

    background: {place: (references, 1 or batch, ...)}; each draw takes one of them and a t, both at
    random. Returns {place: (batch, ...)}. Its mean over many draws is the mean of integrated
    gradients over the references.
    """
    check_count(n)
    path = Straight(engine, background)

    def chosen(chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
        drawn = chunk.random(lambda g: g.random(2))
        return (drawn[:, 0] * path.count).astype(np.int64), drawn[:, 1]

    def make(chunk: Chunk) -> dict[str, Array]:
        which, t = chosen(chunk)
        return path.at(chunk, t, which)

    def terms(chunk: Chunk, grads: dict[str, Array], scores: Array) -> dict[str, Array]:
        way = path.way(chunk, chosen(chunk)[0])
        return {k: grads[k] * way[k] for k in way if k in grads}

    plan = Plan(n, make, label="expected gradients")
    return engine.gradient(plan, np.full(n, 1 / n), terms)
