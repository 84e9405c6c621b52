"""Methods made of the gradient: one call of the framework's own, then a line of arithmetic."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .. import checks, targets
from ..arrays import Array, Functions
from ..errors import OptionError
from ..rules.affine import finite
from ..rules.gradient import GRADIENT
from .base import Found, Job, Method
from .walks import Walk, run_walks

__all__ = ["Gradient", "GradientTimesInput", "Saliency", "SensitivityAnalysis", "native_gradient"]


def native_gradient(job: Job) -> Found:
    """The gradient of the target with respect to the inputs, by the framework or over the tape.

    The tape is used where the framework's own gradient has nothing to hold on to: for a layer's
    units, before the last softmax, at a layer, for whole-number inputs, and through a model that
    runs under ``no_grad``. All methods of a call share one, so it is not to be written to.
    """
    found: Found = job.once("gradient", lambda: _gradient(job))
    return found


def _gradient(job: Job) -> Found:
    target, xp = job.target, job.framework.xp
    floats = any(xp.is_floating(a) for a in job.inputs.arrays.values())
    if target.layer is None and not target.logit and job.at is None and floats:
        found = _by_framework(job)
        if any(g is not None for g in found.attribution.values()):
            return found
    walks = [Walk(lambda tape: lambda node: GRADIENT[node.kind])]
    (walked,) = run_walks(walks, job, keep_books=False, in_units=False, key="gradient")
    walked.seed = None  # weights, not an amount that the attribution should add up to
    return walked


def _by_framework(job: Job) -> Found:
    target, xp = job.target, job.framework.xp

    def score(outputs: Mapping[str, Array], **arguments: Array) -> Any:
        y = outputs[targets.pick(target, outputs)]
        target.check(xp.shape(y))
        checks.check_batch(xp.shape(y), job.inputs.batch, "the explained output")
        weights, index = target.weights(xp, y, arguments)
        axes = tuple(range(1, len(xp.shape(y))))
        scores = xp.sum(weights * y, axis=axes) if axes else weights * y
        return scores, {"y": y} | ({} if index is None else {"index": index})

    grads, scores, extras = job.framework.gradient(
        job.model, job.inputs, score, key=target.key, arguments=job.arguments, head=target.head
    )
    # A compiled graph serves other classes too, so the class is looked at on every call.
    target.check(xp.shape(extras["y"]))
    shown = None if target.head is not None else extras["y"]
    return Found(dict(grads), scores, extras.get("index"), shown)


@dataclass(frozen=True, repr=False)
class _OfGradient(Method):
    """A method that is the gradient and a function of it."""

    @abstractmethod
    def of(self, xp: Functions, gradient: Array, x: Array) -> Array:
        """The attribution from the gradient and what it was taken with respect to."""

    @classmethod
    def run(cls, methods: Sequence[_OfGradient], job: Job) -> list[Found]:
        start = time.perf_counter()
        shared = native_gradient(job)
        seconds = (time.perf_counter() - start) / len(methods)
        xp = job.framework.xp
        results = []
        for method in methods:
            given = {**job.inputs.arrays, **(shared.extras or {}).get("places", {})}
            made = {
                k: None if g is None else method.of(xp, g, given[k])
                for k, g in shared.attribution.items()
            }
            results.append(
                Found(made, shared.score, shared.index, shared.outputs, axes=shared.axes,
                      notes=shared.notes, seconds=seconds)
            )  # fmt: skip
        return results


@dataclass(frozen=True, repr=False)
class Gradient(_OfGradient):
    """df/dx: how the answer changes with each input element [baehrens2010].

    Signed, in units of output per unit of input.
    """

    name: ClassVar[str] = "gradient"

    def of(self, xp: Functions, gradient: Array, x: Array) -> Array:
        """The gradient itself."""
        return gradient


_REDUCTIONS = ("max", "sum", "mean", "l2")


@dataclass(frozen=True, repr=False)
class Saliency(_OfGradient):
    """|df/dx|: how strongly the answer reacts to each input element [simonyan2013].

    reduce: how a heat map brings channels together: "max" (the paper's), "sum", "mean" or "l2".
    The attribution itself keeps the input's shape. Raises OptionError for another word.
    """

    name: ClassVar[str] = "saliency"
    signed: ClassVar[bool] = False

    reduce: str = "max"

    def __post_init__(self) -> None:
        if self.reduce not in _REDUCTIONS:
            raise OptionError(f"reduce is one of {', '.join(_REDUCTIONS)}; got {self.reduce!r}")

    def of(self, xp: Functions, gradient: Array, x: Array) -> Array:
        """Its size."""
        return xp.abs(gradient)


@dataclass(frozen=True, repr=False)
class SensitivityAnalysis(_OfGradient):
    """(df/dx)^2: the squared gradient, element by element [montavon2018]."""

    name: ClassVar[str] = "sensitivity-analysis"
    signed: ClassVar[bool] = False

    def of(self, xp: Functions, gradient: Array, x: Array) -> Array:
        """Its square."""
        return gradient * gradient


@dataclass(frozen=True, repr=False)
class GradientTimesInput(_OfGradient):
    """x * df/dx: what each element contributes, to first order [shrikumar2017, ancona2018].

    Adds up to the answer exactly for networks of ReLUs without biases.
    """

    name: ClassVar[str] = "gradient-x-input"
    complete: ClassVar[bool] = True

    def of(self, xp: Functions, gradient: Array, x: Array) -> Array:
        """Gradient times input."""
        # An attention mask may hold -inf: it is no quantity, and 0 * inf is NaN.
        return gradient * finite(xp, x)
