"""SmoothGrad: any method's attribution, averaged over noisy copies of the input."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ..arrays import Array
from ..errors import OptionError
from ..frameworks.base import Inputs
from ..perturb.chunks import Chunk
from ..perturb.engine import Engine, Plan
from ..perturb.noise import check_count, check_sigma, noisy, ranges
from .averaged import Averaged, IntegratedGradients, found_of
from .base import Found, Job, Method, family_of
from .gradients import Gradient, GradientTimesInput, Saliency, SensitivityAnalysis
from .gradients import _OfGradient as OfGradient
from .lrp import LRP
from .walks import Deconvolution, GuidedBackpropagation

__all__ = ["SmoothGrad"]

Arrays = Mapping[str, Array]

_AROUND: dict[str, type[Method]] = {
    m.name: m
    for m in (
        Gradient, GradientTimesInput, Saliency, SensitivityAnalysis, LRP, Deconvolution,
        GuidedBackpropagation, IntegratedGradients,
    )
}  # fmt: skip
_KINDS = ("mean", "squared", "variance")


@dataclass(frozen=True, repr=False)
class SmoothGrad(Averaged):
    """The attribution averaged over noisy copies of the input [smilkov2017].

    method: what is averaged: "gradient", the name of another method, or a method object.
    n: copies. sigma: the noise's standard deviation, in parts of each input's range (largest minus
        smallest number of the sample).
    kind: "mean"; "squared", the mean of the squares [hooker2019]; "variance" [adebayo2018].
    antithetic: noise in opposite pairs, which cancels what is linear in it; n must be even.
    seed: names the noise.
    Raises OptionError for any other value.
    """

    name: ClassVar[str] = "smoothgrad"

    method: Any = "gradient"
    n: int = 50
    sigma: float = 0.15
    kind: str = "mean"
    antithetic: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise OptionError(f"kind is one of {', '.join(map(repr, _KINDS))}; got {self.kind!r}")
        check_count(self.n, 2 if self.kind == "variance" else 1)
        check_sigma(self.sigma)
        if self.antithetic and self.n % 2:
            raise OptionError(f"antithetic noise comes in pairs: n must be even; got {self.n}")
        self.inner()

    def inner(self) -> Method:
        """The method that is averaged."""
        if isinstance(self.method, Method):
            return self.method
        if isinstance(self.method, type) and issubclass(self.method, Method):
            return self.method()
        if self.method not in _AROUND:
            raise OptionError(
                f"smoothgrad goes around {', '.join(map(repr, _AROUND))} by name, and around any "
                f"method object; got {self.method!r}"
            )
        return _AROUND[self.method]()

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Squares and variances have no sign."""
        return self.kind == "mean" and self.inner().signed

    @property
    def reduce(self) -> str:
        """As the method that is averaged."""
        inner = self.inner()
        return str(getattr(inner, "reduce", inner.reduce_by))

    @property
    def noise(self) -> str:
        """What tells the noisy inputs of one from those of another."""
        return repr((self.n, self.sigma, self.antithetic, self.seed, self.rows))

    @classmethod
    def run(cls, methods: Sequence[Any], job: Job) -> list[Found]:
        """Those with equal noise together: a noisy input goes through the model once for all."""
        alike: dict[str, list[int]] = {}
        for place, method in enumerate(methods):
            alike.setdefault(method.noise, []).append(place)
        # Noise is put on the input, wherever the attribution is read.
        seen = job if job.at is None else replace(job, at=None, several=False)
        results: dict[int, Found] = {}
        for places in alike.values():
            start = time.perf_counter()
            first: SmoothGrad = methods[places[0]]
            engine = Engine(seen, seed=first.seed, rows=first.rows, sample_ids=job.sample_ids)
            found = _together([methods[p] for p in places], engine, job)
            seconds = (time.perf_counter() - start) / len(places)
            for place, one in zip(places, found, strict=True):
                results[place] = replace(one, seconds=seconds)
        return [results[place] for place in range(len(methods))]

    def compute(self, engine: Engine, job: Job) -> Found:
        """The mean, or the second moments."""
        (found,) = _together([self], engine, job)
        return found

    def terms(self, arrays: Arrays, middle: Arrays, chunk: Chunk) -> Arrays:
        """What is summed over the draws: of the attribution on a chunk's rows, {place: array}."""
        if self.kind == "mean":
            return arrays
        if self.kind == "squared":
            return {k: a * a for k, a in arrays.items()}
        # Taken about the attribution at x, so that no small difference of large numbers is left.
        off = {k: a - chunk.take(middle[k]) for k, a in arrays.items()}
        return {**off, **{f"{k} squared": a * a for k, a in off.items()}}

    def of_sums(self, sums: Arrays, middle: Arrays) -> Arrays:
        """The attribution, of the means of the terms."""
        if self.kind != "variance":
            return sums
        scale = self.n / (self.n - 1)
        return {k: scale * (sums[f"{k} squared"] - sums[k] * sums[k]) for k in middle if k in sums}


def _together(methods: Sequence[SmoothGrad], engine: Engine, job: Job) -> list[Found]:
    """Methods with equal noise, in one run over it."""
    first, xp = methods[0], engine.xp
    plan = noisy(engine, first.n, first.sigma, antithetic=first.antithetic)
    around = _Around(engine, [m.inner() for m in methods], job.at)
    middles: list[Arrays] = [{} for _ in methods]
    varying = [i for i, m in enumerate(methods) if m.kind == "variance"]
    if varying:
        still = Plan(1, lambda chunk: {}, show=False)
        made = engine.each(still, lambda c: _numbered(around.of(c, still, varying)))
        for i in varying:
            middles[i] = _own(made, i)

    def step(chunk: Chunk) -> Arrays:
        found = around.of(chunk, plan, range(len(methods)))
        return _numbered({i: methods[i].terms(a, middles[i], chunk) for i, a in found.items()})

    sums = engine.each(plan, step, np.full(first.n, 1 / first.n))
    flat = [k for k, r in ranges(engine).items() if (r == 0).any()]
    results = []
    for i, method in enumerate(methods):
        whole = method.of_sums(_own(sums, i), middles[i])
        notes = list(around.notes[i])
        if flat:
            notes.append(f"a sample of {flat[0]!r} is the same number everywhere: no noise on it")
        if job.at is None:
            results.append(found_of(engine, whole, notes=tuple(notes)))
            continue
        base, at = engine.base, xp.cast(whole["at"], around.dtypes[i])
        results.append(
            Found({"at": at}, base.array, base.index, base.outputs, axes=around.axes[i],
                  notes=tuple(notes))
        )  # fmt: skip
    return results


def _numbered(found: Mapping[int, Arrays]) -> Arrays:
    """The arrays of several methods in one dict."""
    return {f"{i} {k}": a for i, arrays in found.items() for k, a in arrays.items()}


def _own(arrays: Arrays, number: int) -> Arrays:
    """One method's arrays out of that."""
    label = f"{number} "
    return {k.removeprefix(label): a for k, a in arrays.items() if k.startswith(label)}


class _Around:
    """The attributions of some methods on the rows of a chunk."""

    def __init__(self, engine: Engine, methods: Sequence[Method], at: str | None) -> None:
        self.engine, self.methods, self.at = engine, methods, at
        self.notes: list[dict[str, None]] = [{} for _ in methods]
        self.axes: list[tuple[str, ...] | None] = [None for _ in methods]
        self.dtypes = ["" for _ in methods]

    def of(self, chunk: Chunk, plan: Plan, chosen: Sequence[int]) -> dict[int, Arrays]:
        """{method: {place: (rows, ...)}}; one place, ``at``, for a layer.

        chosen: which of the methods. Those of one family share the gradient, or the recording.
        """
        inputs = self.engine.varied(chunk, plan)
        families: dict[type[Method], list[int]] = {}
        for i in chosen:
            families.setdefault(family_of(self.methods[i]), []).append(i)
        found: dict[int, Arrays] = {}
        for family, places in families.items():
            if issubclass(family, OfGradient) and self.at is None:
                found |= self._of_gradient(chunk, inputs, places)
            else:
                found |= self._by_run(chunk, inputs, places)
        return found

    def _of_gradient(self, chunk: Chunk, inputs: Inputs, places: list[int]) -> dict[int, Arrays]:
        caller, xp = self.engine.caller, self.engine.xp
        public = caller.patch.public
        grads, _ = caller.gradient(inputs, chunk)
        given = {public[k]: a for k, a in inputs.arrays.items() if k in public}
        methods: dict[int, Any] = {i: self.methods[i] for i in places}
        return {i: {k: m.of(xp, g, given[k]) for k, g in grads.items()} for i, m in methods.items()}

    def _by_run(self, chunk: Chunk, inputs: Inputs, places: list[int]) -> dict[int, Arrays]:
        caller, xp = self.engine.caller, self.engine.xp
        public = caller.patch.public
        job = Job(
            caller.framework, caller.model, inputs, caller.target, self.at,
            caller.arguments_of(chunk), ledger=False,
        )  # fmt: skip
        made: dict[int, Arrays] = {}
        methods = [self.methods[i] for i in places]
        for i, found in zip(places, type(methods[0]).run(methods, job), strict=True):
            self.notes[i].update(dict.fromkeys(found.notes))
            self.axes[i] = found.axes
            arrays = {k: a for k, a in found.attribution.items() if a is not None}
            self.dtypes[i] = xp.dtype(next(iter(arrays.values()))) if arrays else ""
            if self.at is None:
                arrays = {public[k]: a for k, a in arrays.items() if k in public}
            made[i] = arrays
        return made
