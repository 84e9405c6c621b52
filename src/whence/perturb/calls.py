"""One call of the model on a chunk: which arrays go in, which number comes out.

The explained number is fixed at x: the top class there is the class that all later calls explain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .. import checks, targets
from ..arrays import Array, Functions
from ..backward import plan as plan_walk
from ..backward import walk
from ..errors import InputError, TargetError
from ..frameworks.base import Inputs
from ..rules.gradient import gradient as chain_rule
from ..tape import Tape
from ..targets import Classes, Target, Top
from .chunks import Chunk
from .explained import Explained
from .patched import Patch, patch

__all__ = ["Base", "Caller"]


@dataclass(frozen=True)
class Base:
    """What the model says at x itself."""

    score: np.ndarray
    """The explained number of each sample, (batch,), float64."""
    index: Array | None
    """The class of each sample, where the target is one, in the framework's type."""
    outputs: Array | None
    """The output that the number was read from; None where a function made it."""
    array: Array
    """The score in the framework's type."""


class Caller:
    """Runs the model of a job on rows; knows what can be varied and what is read."""

    def __init__(self, job: Explained) -> None:
        self.job = job
        self.framework = job.framework
        self.xp: Functions = job.framework.xp
        self.patch: Patch = patch(job)
        self.model, self.inputs = self.patch.model, self.patch.inputs
        self.axes = self.patch.axes
        self.like: Array = next(iter(job.inputs.arrays.values()))
        self.on_tape = False
        """Whether gradients go over the tape: the framework's own has nothing to hold on to."""

    @property
    def places(self) -> dict[str, Array]:
        """What can be varied, by name, as it is at x."""
        return self.patch.places

    @cached_property
    def base(self) -> Base:
        """The explained number at x, and the class that was chosen there."""
        job = self.job
        y, score, index = self._forward(job.model, job.inputs, job.target, job.arguments)
        shown = None if job.target.head is not None else y
        return Base(np.asarray(self.xp.to_numpy(score), np.float64), index, shown, score)

    @cached_property
    def target(self) -> Target:
        """What every varied call explains: the class of x where a class was to be found."""
        target = self.patch.target
        if isinstance(target, Top) and self.base.index is not None:
            return Classes((0,), output=target.output, logit=target.logit)
        return target

    @cached_property
    def arguments(self) -> dict[str, np.ndarray]:
        """The target's arrays, (batch,), NumPy."""
        if isinstance(self.patch.target, Top) and self.base.index is not None:
            return {"target": np.asarray(self.xp.to_numpy(self.base.index))}
        return {k: np.asarray(self.xp.to_numpy(v)) for k, v in self.job.arguments.items()}

    def inputs_of(self, chunk: Chunk, made: Mapping[str, Array]) -> Inputs:
        """The model's inputs for a chunk's rows: as made, and as in x elsewhere."""
        unknown = [k for k in made if k not in self.places]
        if unknown:
            raise InputError(
                f"no place named {unknown[0]!r} to vary; there are {list(self.places)}"
            )
        rows: dict[str, Array] = {}
        for name, array in self.inputs.arrays.items():
            place = self.patch.public.get(name)
            if place is not None and place in made:
                rows[name] = made[place]
            elif self.xp.shape(array)[:1] == (self.inputs.batch,):
                rows[name] = chunk.take(array, own=True)
            else:
                rows[name] = array  # shared by all samples: a mask, a table of positions
        return self.inputs.replaced(rows)

    def score(self, inputs: Inputs, chunk: Chunk) -> Array:
        """The explained number of each row, (rows,)."""
        target, arguments = self.target, self.arguments_of(chunk)
        return self._forward(self.model, inputs, target, arguments)[1]

    def gradient(self, inputs: Inputs, chunk: Chunk) -> tuple[dict[str, Array], Array]:
        """({place: gradient (rows, ...)}, the explained number (rows,)).

        A place that the number does not depend on is absent. Raises TargetError where all are.
        """
        target, arguments = self.target, self.arguments_of(chunk)
        native = target.layer is None and not target.logit and not self.on_tape
        found: Mapping[str, Array | None] = {}
        score: Array = None
        if native:
            found, score = self._native(inputs, target, arguments, len(chunk))
        if all(found.get(k) is None for k in self.patch.public):
            found, score = self._walked(inputs, target, arguments, len(chunk))
            self.on_tape = True
        public = self.patch.public
        grads = {public[k]: g for k, g in found.items() if g is not None and k in public}
        grads = {k: grads[k] for k in self.places if k in grads}
        if not grads:
            raise TargetError(
                f"{self.job.target.describe()} does not depend on "
                f"{'layer ' + self.job.at if self.job.at else 'the input'}: its gradient does not "
                "exist (a constant output, a detach(), or whole numbers on the way)"
            )
        return grads, score

    def arguments_of(self, chunk: Chunk) -> dict[str, Array]:
        """The target's arrays for a chunk's rows."""
        return {
            k: self.xp.asarray(v[chunk.sample], like=self.like if self.xp.name == "torch" else None)
            for k, v in self.arguments.items()
        }

    def _native(
        self, inputs: Inputs, target: Target, arguments: Mapping[str, Array], rows: int
    ) -> tuple[Mapping[str, Array | None], Array]:
        xp = self.xp

        def score(outputs: Mapping[str, Array], **given: Array) -> Any:
            y = outputs[targets.pick(target, outputs)]
            target.check(xp.shape(y))
            checks.check_batch(xp.shape(y), rows, "the explained output")
            return _scored(xp, target, y, given)[0], {}

        found, scores, _ = self.framework.gradient(
            self.model, inputs, score, key=("perturb", target.key), arguments=arguments,
            head=target.head,
        )  # fmt: skip
        return found, scores

    def _walked(
        self, inputs: Inputs, target: Target, arguments: Mapping[str, Array], rows: int
    ) -> tuple[Mapping[str, Array | None], Array]:
        names = [self.patch.private[k] for k in self.places]

        def program(tape: Tape, **given: Array) -> dict[str, Any]:
            goal, value = targets.find(target, tape)
            checks.check_batch(value.shape, rows, "the explained place")
            xp: Any = value.node.xp
            score, weights, _ = _scored(xp, goal, value.array, given)
            at = {k: tape.inputs[k] for k in names if tape.inputs[k].tracked}
            rules = plan_walk(tape, lambda node: chain_rule, [value], list(at.values()))
            found = walk(tape, rules, {value: weights}, list(at.values()), samples=rows,
                         consume=True).relevance  # fmt: skip
            return {"grads": {k: found.get(v) for k, v in at.items()}, "score": score}

        result = self.framework.compute(
            self.model, inputs, program, key=("perturb-walk", target.key, tuple(names)),
            arguments=arguments, head=target.head, lean=True,
        )  # fmt: skip
        return result["grads"], result["score"]

    def _forward(
        self, model: Any, inputs: Inputs, target: Target, arguments: Mapping[str, Array]
    ) -> tuple[Array, Array, Array | None]:
        """(the output, its explained number (rows,), the class of each row)."""
        rows = inputs.batch
        xp: Any = self.xp
        eager = xp.name == "torch"
        if target.layer is None and not target.logit and (target.head is None or eager):
            run = model if target.head is None else _Headed(model, target.head)
            outputs = self.framework.predict(run, inputs)
            y = outputs[targets.pick(target, outputs)]
            target.check(xp.shape(y))
            checks.check_batch(xp.shape(y), rows, "the explained output")
            score, _, index = _scored(xp, target, y, arguments)
            return y, score, index

        def program(tape: Tape, **given: Array) -> dict[str, Any]:
            goal, value = targets.find(target, tape)
            checks.check_batch(value.shape, rows, "the explained place")
            score, _, index = _scored(value.node.xp, goal, value.array, given)
            shown = tape.outputs[tape.main if target.layer else targets.pick(target, tape.outputs)]
            shown = getattr(shown, "array", shown)
            return {"score": score, "index": index, "y": shown, "shape": value.shape}

        found = self.framework.compute(
            model, inputs, program, key=("perturb-forward", target.key), arguments=arguments,
            head=target.head, lean=True, keep=() if target.layer is None else (target.layer,),
        )  # fmt: skip
        if target.layer is None:
            target.check(found["shape"])
        return found["y"], found["score"], found["index"]


class _Headed:
    """A model and a function of what it returns, as one model."""

    def __init__(self, model: Any, head: Any) -> None:
        self.model = model
        self.head = head

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.head(self.model(*args, **kwargs))


def _scored(
    xp: Any, target: Target, y: Array, arguments: Mapping[str, Array]
) -> tuple[Array, Array, Array | None]:
    """(explained number (rows,), weights like y, class of each row or None)."""
    weights, index = target.weights(xp, y, arguments)
    axes = tuple(range(1, len(xp.shape(y))))
    return (xp.sum(weights * y, axis=axes) if axes else weights * y), weights, index
