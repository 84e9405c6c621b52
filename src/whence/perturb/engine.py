"""The shared loop: a model called many times on varied inputs, and the answers brought together.

A method says what to vary (``Plan``) and what it wants back: scores (``Engine.forward``), sums of
gradients (``Engine.gradient``), or sums of anything (``Engine.each``). The engine lays the draws of
all samples one after another along the batch axis, cuts that line into chunks that fit the memory,
calls the model once a chunk, and adds up each sample's results as they come.

    engine = Engine(job, seed=0, sample_ids=None)   # job: framework, model, inputs, target,
                                                    #      arguments, at (a methods.base.Job)
    engine.places          {name: (batch, ...)}: what can be varied: the floating inputs; embeddings
                           where inputs are whole numbers; the layer's output where job.at is set
    engine.base            the explained number at x, (batch,) float64, and the class that was
                           chosen there; every later call explains that class
    plan = Plan(draws=32, make=make)
    scores = engine.forward(plan)                   # (batch, draws) float64
    sums = engine.gradient(plan)                    # {name: (batch, ...)}: sum over draws

``make(chunk)`` returns {name: (rows, ...)} for the places that it varies; the others stay as in x.
Row r of a chunk is draw ``chunk.draw[r]`` of sample ``chunk.sample[r]``; rows run through the draws
of one sample before the next begins. What a row holds may depend on its sample and draw only: then
the answer is the same for any chunk and batch size. See ``Chunk`` for its helpers.

A chunk that does not fit is halved and tried again, and the size that worked is remembered.
Where the framework compiles a graph a shape, the last chunk is filled up with copies of its last
row, which ``make`` sees too and whose results are dropped: every call has the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array, Functions
from ..errors import OptionError
from ..frameworks.base import Inputs
from .alike import content
from .calls import Base, Caller
from .chunks import Chunk
from .explained import Explained
from .memory import first_size, out_of_memory, release, remember
from .progress import Progress
from .seeds import Seeds
from .sums import Sums

__all__ = ["Chunk", "Engine", "Explained", "Interrupted", "Plan"]

Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Plan:
    """What to vary, and how many times.

    draws: calls a sample. make: the varied arrays of a chunk's rows. samples: which samples, by
    place in the batch; None for all. label: words for the progress bar. uneven: how many draws each
    of the samples has, 1 to ``draws``, where not all have as many; for sums alone.
    Raises OptionError for fewer than one draw.
    """

    draws: int
    make: Callable[[Chunk], Arrays]
    samples: Sequence[int] | np.ndarray | None = None
    label: str = "model calls"
    show: bool | None = None
    """Whether this run may show progress; False for one of many short ones."""
    uneven: np.ndarray | None = None

    def __post_init__(self) -> None:
        if isinstance(self.draws, bool) or not isinstance(self.draws, (int, np.integer)):
            raise OptionError(f"the number of draws is a whole number; got {self.draws!r}")
        if self.draws < 1:
            raise OptionError(f"at least one draw a sample is needed; got {self.draws}")

    def ends(self, samples: int) -> np.ndarray:
        """Where the draws of each of the samples end on the line, (samples,)."""
        each = np.full(samples, self.draws) if self.uneven is None else self.uneven
        return np.cumsum(each)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run, with what had been computed by then.

    samples: places of the samples that were finished. arrays: their sums, {name: (samples, ...)},
    or {"scores": (samples, draws)}. done, total: rows.
    """

    def __init__(self, samples: np.ndarray, arrays: dict[str, Any], done: int, total: int) -> None:
        super().__init__(f"interrupted after {done} of {total} model calls")
        self.samples, self.arrays, self.done, self.total = samples, arrays, done, total


class Engine:
    """Many calls of one model around one batch of inputs; see the module's text.

    seed, sample_ids: name the random draws (``perturb.seeds.Seeds``).
    rows: most rows a call; None chooses by the memory at hand.
    show: whether to show progress; None does so on a terminal, for runs of more than a second.
    """

    def __init__(
        self,
        job: Explained,
        *,
        seed: int = 0,
        sample_ids: Sequence[Any] | None = None,
        rows: int | None = None,
        show: bool | None = None,
    ) -> None:
        if rows is not None and (not isinstance(rows, (int, np.integer)) or rows < 1):
            raise OptionError(f"rows is a whole number, 1 or more, or None; got {rows!r}")
        self.job = job
        self.framework = job.framework
        self.xp: Functions = job.framework.xp
        self.batch = job.inputs.batch
        self.seeds = Seeds(seed, sample_ids, self.batch)
        # f(x), and all that was found out about the model, are the same for all methods of a call.
        self.caller: Caller = job.once("caller", lambda: Caller(job))
        self.rows = rows
        self.show = show
        self.sizes: list[int] = []
        """How many rows each call had, over the life of the engine."""

    @property
    def places(self) -> dict[str, Array]:
        """The arrays that can be varied, as they are at x, by name."""
        return self.caller.places

    @property
    def base(self) -> Base:
        """The explained number at x; computed once."""
        return self.caller.base

    @property
    def axes(self) -> tuple[str, ...] | None:
        """Names of the places' axes, where more is known of them than their rank."""
        return self.caller.axes

    def forward(
        self, plan: Plan, reduce: Callable[[Chunk, np.ndarray], Any] | None = None
    ) -> np.ndarray:
        """The explained number of every draw: (samples, draws), float64.

        reduce: called with each chunk (real rows only: ``chunk.real``) and its scores (real,), as
            they come, in order.
        Raises Interrupted on Ctrl-C.
        """
        samples = self._samples(plan)
        scores = np.full(len(samples) * plan.draws, np.nan)
        place = 0

        def step(chunk: Chunk) -> None:
            nonlocal place
            found = self.caller.score(self._rows_of(chunk, plan), chunk)
            numbers = np.asarray(self.xp.to_numpy(found), np.float64)[: chunk.real]
            if reduce is not None:
                reduce(chunk, numbers)
            scores[place : place + chunk.real] = numbers
            place += chunk.real

        def partial() -> tuple[np.ndarray, dict[str, Any]]:
            whole = place // plan.draws
            finished = scores[: whole * plan.draws].reshape(whole, plan.draws)
            return samples[:whole], {"scores": finished}

        self._run(plan, samples, step, partial, "forward")
        return scores.reshape(len(samples), plan.draws)

    def gradient(
        self,
        plan: Plan,
        weights: np.ndarray | Callable[[Chunk], np.ndarray] | None = None,
        terms: Callable[[Chunk, dict[str, Array], Array], Arrays] | None = None,
    ) -> dict[str, Array]:
        """The sum over draws of weight times gradient, for every place: {name: (samples, ...)}.

        weights: (draws,), one a draw; or a function of the chunk that gives one a row; default 1.
        terms: what is summed instead of the gradients: from (chunk, {name: gradient (rows, ...)},
            scores (rows,)) to {any name: (rows, ...)}.
        The sums are in at least single precision. Raises Interrupted on Ctrl-C, TargetError where
        the explained number does not depend on what is varied.
        """

        def step(chunk: Chunk) -> Arrays:
            grads, scores = self.caller.gradient(self._rows_of(chunk, plan), chunk)
            return grads if terms is None else terms(chunk, grads, scores)

        return self.each(plan, step, weights, kind="gradient")

    def each(
        self,
        plan: Plan,
        step: Callable[[Chunk], Arrays],
        weights: np.ndarray | Callable[[Chunk], np.ndarray] | None = None,
        *,
        kind: str = "each",
    ) -> dict[str, Array]:
        """The sum over draws of whatever ``step`` computes for a chunk: {name: (samples, ...)}.

        step: from a chunk to {name: (rows, ...)}; ``varied`` gives it the chunk's inputs.
        """
        samples = self._samples(plan)
        sums = Sums(self.xp, plan.draws, None if plan.uneven is None else plan.ends(len(samples)))

        def add(chunk: Chunk) -> None:
            found = step(chunk)
            by_row = None
            if weights is not None:
                by_row = weights(chunk) if callable(weights) else np.asarray(weights)[chunk.draw]
            sums.add(found, chunk.real, by_row)

        def partial() -> tuple[np.ndarray, dict[str, Any]]:
            arrays = sums.finished()
            return samples[: sums.finished_samples], arrays

        self._run(plan, samples, add, partial, kind)
        return sums.finished()

    def varied(self, chunk: Chunk, plan: Plan) -> Inputs:
        """The model's inputs for the rows of a chunk, as the plan varies them."""
        return self._rows_of(chunk, plan)

    def score(self, arrays: Arrays, samples: Sequence[int] | None = None) -> np.ndarray:
        """The explained number with other arrays at some places, (samples,): one draw a sample.

        arrays: {name: (batch, ...)}.
        """
        plan = Plan(1, lambda chunk: {k: chunk.take(v) for k, v in arrays.items()}, samples)
        return self.forward(plan)[:, 0]

    def once(self, said: Callable[[], Iterable[Any]], make: Callable[[], Any]) -> Any:
        """What ``make`` returns, from the first method of the call that varies x in this way.

        said: arrays and numbers that tell the varied inputs, in their order; they are compared by
            what is in them. The rows a call count too, since results are the same to the last bit
            only from equal calls. What comes back is shared: it is not to be written to.
        """
        return self.job.once(lambda: (self.rows, content(self.xp, said())), make)

    def _samples(self, plan: Plan) -> np.ndarray:
        if plan.samples is None:
            return np.arange(self.batch)
        return np.asarray(plan.samples, np.int64)

    def _rows_of(self, chunk: Chunk, plan: Plan) -> Inputs:
        made = plan.make(chunk)
        return self.caller.inputs_of(chunk, made)

    def _run(
        self,
        plan: Plan,
        samples: np.ndarray,
        step: Callable[[Chunk], Any],
        partial: Callable[[], tuple[np.ndarray, dict[str, Any]]],
        kind: str,
    ) -> None:
        """Walk along the line of draws, a chunk a call; halve the chunk where it does not fit."""
        ends = plan.ends(len(samples))
        total = int(ends[-1]) if len(ends) else 0
        if total == 0:
            return
        few = plan.uneven is not None
        place, size = 0, first_size(self.caller, total, self.rows, kind, few=few)
        fixed = self.framework.name != "torch"  # a shape is a graph to be compiled
        with Progress(plan.label, total, self.show if plan.show is None else plan.show) as progress:
            while place < total:
                real = min(size, total - place)
                line = np.minimum(np.arange(place, place + (size if fixed else real)), total - 1)
                item = np.searchsorted(ends, line, side="right")
                draw = line - np.where(item > 0, ends[item - 1], 0)
                chunk = Chunk(samples[item], draw, real, self.seeds, self.caller, item)
                failed: BaseException | None = None
                try:
                    step(chunk)
                except KeyboardInterrupt:
                    raise Interrupted(*partial(), place, total) from None
                except Exception as error:
                    if not out_of_memory(error):
                        raise
                    failed = error
                if failed is not None:
                    if size == 1:
                        failed.add_note(
                            "one row of the batch alone does not fit the memory; free some, or "
                            "explain a smaller input"
                        )
                        raise failed
                    # What the failed call held goes with its traceback.
                    failed.__traceback__ = None
                    failed = None
                    release(self.framework)
                    size = max(min(size, real) // 2, 1)
                    remember(self.caller, kind, size)
                    continue
                self.sizes.append(len(line))
                place += real
                progress.at(place)
