"""SmoothGrad: any method's attribution, averaged over noisy copies of the input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ..arrays import Array
from ..errors import OptionError
from ..perturb.chunks import Chunk
from ..perturb.engine import Engine, Plan
from ..perturb.noise import check_count, check_sigma, noisy, ranges
from .averaged import Averaged, IntegratedGradients, found_of
from .base import Found, Job, Method
from .gradients import Gradient, GradientTimesInput, Saliency, SensitivityAnalysis
from .gradients import _OfGradient as OfGradient
from .lrp import LRP
from .walks import Deconvolution, GuidedBackpropagation

__all__ = ["SmoothGrad"]

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

    def seen(self, job: Job) -> Job:
        """Noise is put on the input, wherever the attribution is read."""
        return replace(job, at=None)

    def compute(self, engine: Engine, job: Job) -> Found:
        """The mean, or the second moments."""
        plan = noisy(engine, self.n, self.sigma, antithetic=self.antithetic)
        around = _Around(engine, self.inner(), job.at)
        xp = engine.xp
        share = np.full(self.n, 1 / self.n)
        if self.kind == "mean":
            made = engine.each(plan, lambda c: around.of(c, plan), share)
        elif self.kind == "squared":
            made = engine.each(
                plan, lambda c: {k: a * a for k, a in around.of(c, plan).items()}, share
            )
        else:
            made = self._variance(engine, plan, around, share)
        notes = list(around.notes)
        flat = [k for k, r in ranges(engine).items() if (r == 0).any()]
        if flat:
            notes.append(f"a sample of {flat[0]!r} is the same number everywhere: no noise on it")
        axes = around.axes if job.at is not None else engine.axes
        if job.at is None:
            return found_of(engine, made, notes=tuple(notes), axes=axes)
        base = engine.base
        whole = {"at": xp.cast(made["at"], around.dtype)}
        return Found(whole, base.array, base.index, base.outputs, axes=axes, notes=tuple(notes))

    def _variance(
        self, engine: Engine, plan: Plan, around: _Around, share: np.ndarray
    ) -> dict[str, Array]:
        # Taken about the attribution at x, so that no small difference of large numbers is left.
        still = Plan(1, lambda chunk: {}, show=False)
        middle = engine.each(still, lambda c: around.of(c, still))

        def moments(chunk: Chunk) -> dict[str, Array]:
            off = {k: a - chunk.take(middle[k]) for k, a in around.of(chunk, plan).items()}
            return {**off, **{f"{k} squared": a * a for k, a in off.items()}}

        sums = engine.each(plan, moments, share)
        scale = self.n / (self.n - 1)
        return {k: scale * (sums[f"{k} squared"] - sums[k] * sums[k]) for k in middle if k in sums}


class _Around:
    """A method's attribution on the rows of a chunk."""

    def __init__(self, engine: Engine, method: Method, at: str | None) -> None:
        self.engine, self.method, self.at = engine, method, at
        self.notes: dict[str, None] = {}
        self.axes: tuple[str, ...] | None = None
        self.dtype = ""

    def of(self, chunk: Chunk, plan: Plan) -> dict[str, Array]:
        """{place: (rows, ...)}; one entry ``at`` for a layer."""
        caller, xp = self.engine.caller, self.engine.xp
        inputs = self.engine.varied(chunk, plan)
        public = caller.patch.public
        if isinstance(self.method, OfGradient) and self.at is None:
            grads, _ = caller.gradient(inputs, chunk)
            given = {public[k]: a for k, a in inputs.arrays.items() if k in public}
            return {k: self.method.of(xp, g, given[k]) for k, g in grads.items()}
        job = Job(
            caller.framework, caller.model, inputs, caller.target, self.at,
            caller.arguments_of(chunk), ledger=False,
        )  # fmt: skip
        (found,) = type(self.method).run([self.method], job)
        self.notes.update(dict.fromkeys(found.notes))
        self.axes = found.axes
        arrays = {k: a for k, a in found.attribution.items() if a is not None}
        self.dtype = xp.dtype(next(iter(arrays.values()))) if arrays else ""
        if self.at is not None:
            return arrays
        return {public[k]: a for k, a in arrays.items() if k in public}
