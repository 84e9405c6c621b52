"""Simple Taylor decomposition: the answer expanded to first order about a root point."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ..arrays import Array
from ..errors import OptionError
from ..targets import Classes
from .base import Found, Job, Method
from .gradients import native_gradient

__all__ = ["SimpleTaylor"]

Arrays = dict[str, Array]


@dataclass(frozen=True, repr=False)
class SimpleTaylor(Method):
    """R = (x - root) * df/dx at the root: the first-order share of f(x) - f(root) [montavon2018].

    root: "zero", the origin of the input space, where the expansion of a piecewise linear network
        is gradient x input (exact without biases); "nearest", the closest point with f = 0 on the
        line through x along its own gradient, found by bisection; or an array that broadcasts to
        the input (a dict or tuple of them for several inputs).
    steps: bisections of the search, each a call of the model.
    ``extras`` holds the ``root`` and the ``remainder`` f(x) - f(root) - sum R.
    Raises OptionError for another word, a root that does not fit, or whole-number input.
    """

    name: ClassVar[str] = "simple-taylor"
    complete: ClassVar[bool] = True

    root: Any = "zero"
    steps: int = 30

    def __post_init__(self) -> None:
        if isinstance(self.root, str) and self.root not in ("zero", "nearest"):
            raise OptionError(f'root is "zero", "nearest" or an array; got {self.root!r}')
        if self.steps < 1:
            raise OptionError(
                f"steps, the bisections of the root search, must be at least 1; got {self.steps}"
            )

    @classmethod
    def run(cls, methods: Sequence[SimpleTaylor], job: Job) -> list[Found]:
        """One expansion a method."""
        return [method._one(job) for method in methods]

    def _one(self, job: Job) -> Found:
        start = time.perf_counter()
        if job.at is not None:
            raise OptionError(
                "simple-taylor expands about a root of the input; at= is not defined for it"
            )
        xp = job.framework.xp
        here = native_gradient(job)
        arrays = {k: a for k, a in job.inputs.arrays.items() if xp.is_floating(a)}
        x = {k: arrays[k] for k, g in here.attribution.items() if g is not None and k in arrays}
        if not x:
            raise OptionError(
                "simple-taylor needs floating-point input: whole-number ids have no line to a "
                "root. gradient-x-input is the expansion about zero embeddings"
            )
        notes: tuple[str, ...] = here.notes
        if isinstance(self.root, str) and self.root == "zero":
            # The limit of the expansion point towards the origin: the slope is the one at x.
            root = {k: xp.zeros_like(v) for k, v in x.items()}
            there, slope = native_gradient(_moved(job, root, here)), here
        else:
            if isinstance(self.root, str):
                root, notes = self._search(job, here, x)
            else:
                root = self._given(job, x)
            there = slope = native_gradient(_moved(job, root, here))
        parts = {
            k: (x[k] - root[k]) * slope.attribution[k] if k in x else None for k in here.attribution
        }
        total = sum(xp.inner(p, xp.ones_like(p)) for p in parts.values() if p is not None)
        remainder = here.score - there.score - total
        shown = root if len(root) > 1 else next(iter(root.values()))
        return replace(
            here, attribution=parts, reference=there.score, notes=notes,
            extras={"remainder": xp.to_numpy(remainder), "root": shown},
            seconds=time.perf_counter() - start,
        )  # fmt: skip

    def _given(self, job: Job, x: Arrays) -> Arrays:
        """The caller's root, in each input's own type and shape."""
        xp = job.framework.xp
        given = self.root
        if isinstance(given, tuple):
            given = {f"input{i}": root for i, root in enumerate(given)}
        if not isinstance(given, Mapping):
            given = dict.fromkeys(x, given)
        missing = [k for k in x if k not in given]
        if missing:
            raise OptionError(
                f"the root has no array for input {missing[0]!r}; it needs one for "
                f"each of {list(x)}"
            )
        found = {}
        for name, like in x.items():
            root = given[name]
            root = root if job.framework.owns(root) else xp.asarray(np.asarray(root), like=like)
            _check_fits(xp.shape(root), xp.shape(like))
            found[name] = xp.zeros_like(like) + xp.cast(root, xp.dtype(like))
        return found

    def _search(self, job: Job, here: Found, x: Arrays) -> tuple[Arrays, tuple[str, ...]]:
        """The nearest root on x - t * gradient, t >= 0, of each sample.

        t is doubled until f <= 0, then bisected.
        """
        xp = job.framework.xp
        slope: Arrays = {k: here.attribution[k] for k in x}
        norm = sum(xp.to_numpy(xp.inner(g, g)) for g in slope.values())
        score = np.asarray(xp.to_numpy(here.score), np.float64)
        norm = np.asarray(norm, np.float64)
        low, positive = np.zeros_like(score), score > 0
        # A linear function has its root exactly one Newton step away.
        high = np.where(positive & (norm > 0), score / np.maximum(norm, 1e-300), 0.0)

        def at(t: np.ndarray) -> Arrays:
            return {k: v - xp.cast(_column(xp, t, v), xp.dtype(v)) * slope[k] for k, v in x.items()}

        def value(t: np.ndarray) -> np.ndarray:
            return np.asarray(xp.to_numpy(_scored(job, at(t), here)), np.float64)

        reached = ~positive
        found = value(high)
        for _ in range(20):
            reached |= found <= 0
            if reached.all():
                break
            low = np.where(reached, low, high)
            high = np.where(reached, high, high * 2)
            found = value(high)
        reached |= found <= 0
        for _ in range(self.steps):
            middle = (low + high) / 2
            below = value(middle) <= 0
            high, low = np.where(below, middle, high), np.where(below, low, middle)
        high = np.where(positive, high, 0.0)
        missed = int((~reached).sum())
        notes = here.notes
        if missed:
            notes += (
                f"no root on the gradient's line for {missed} sample(s); the farthest point tried "
                "was used",
            )
        if (~positive).any():
            notes += (
                f"f(x) <= 0 for {int((~positive).sum())} sample(s): x is its own root there, "
                "and R = 0",
            )
        return at(high), notes


def _check_fits(root: tuple[int, ...], x: tuple[int, ...]) -> None:
    try:
        both = np.broadcast_shapes(root, x)
    except ValueError as error:
        raise OptionError(f"the root has shape {root}, the input {x}: they do not fit") from error
    if both != tuple(x):
        raise OptionError(f"the root has shape {root}, larger than the input's {x}")


def _column(xp: Any, t: np.ndarray, like: Array) -> Array:
    """One number a sample, shaped to multiply the input."""
    return xp.asarray(t.reshape((-1,) + (1,) * (len(xp.shape(like)) - 1)), like=like)


def _moved(job: Job, arrays: Arrays, here: Found) -> Job:
    """The same call at another input, explaining the class that was chosen at x."""
    target, arguments = job.target, dict(job.arguments)
    if here.index is not None and not arguments:
        # The index itself travels as an argument.
        target = Classes((0,), output=target.output, logit=target.logit)
        arguments = {"target": here.index}
    return replace(job, inputs=job.inputs.replaced(arrays), target=target, arguments=arguments)


def _scored(job: Job, arrays: Arrays, here: Found) -> Array:
    return native_gradient(_moved(job, arrays, here)).score
