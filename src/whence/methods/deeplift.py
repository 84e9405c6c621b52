"""DeepLIFT and DeepSHAP: what makes the answer differ from a reference's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from .. import baselines, checks, targets
from ..arrays import Array
from ..backward import Row, plan, walk
from ..errors import OptionError, TargetError
from ..layout import Layout
from ..rules.deeplift import (
    Halves,
    Ledgered,
    Revealed,
    ambiguous,
    rescale_rule,
    unknown_by_gradient,
)
from ..tape import Node, Tape, Value
from ..targets import Target
from .base import Found, Job, Method
from .walks import _axes, _places

__all__ = ["DeepLIFT", "DeepSHAP"]

_RULES = ("rescale", "reveal-cancel")
_ROWS = 32
"""How many pairs of input and reference run at once, if the caller does not say."""

_WAYS_OUT = {
    "rescale": (
        'Ways out: unknown="gradient" takes its mean gradient at input and reference (recorded in '
        "the result, and the sum no longer holds); a gradient method."
    ),
    "reveal-cancel": (
        "The reveal-cancel rule is defined for linear ops, activations, sums, averages, maxima and "
        'moves of data, not for this one. Ways out: rule="rescale"; unknown="gradient".'
    ),
}


@dataclass(frozen=True, repr=False)
class DeepLIFT(Method):
    """What each element contributes to f(x) - f(reference) [shrikumar2017].

    Input and reference run together; back through the tape goes the multiplier of each number: the
    answer's change over that number's. The attribution is multiplier x (x - reference), and adds up
    to f(x) - f(reference) on any model whose ops have a rule.

    rule: "rescale", or "reveal-cancel", which carries what rose and what fell apart.
    baseline: the reference: a number, an array like the input (or like one sample), "zero",
        "black", "mean", "blur", "noise", an object of ``whence.baselines``; a list of these is a
        set, over which the mean is taken; a dict or tuple gives each input its own. Token ids are
        compared with token ids (0 if nothing is given), and explained at their embeddings.
    unknown: what to do at an op without a rule: None raises MissingRule; "gradient" takes its mean
        gradient, and books what that misses.
    chunk: how many references of a set run at once, times the batch; None keeps it near 32 rows.
    A function as target sees the outputs of inputs and references together, (2 * batch, ...).
    ``extras``: ``reference_output``, f(reference) of each sample; ``references``, how many.
    Raises OptionError for another word, or a baseline that does not fit.

    Example:
        >>> import torch, whence
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> _ = torch.nn.init.constant_(net.weight, 3.0)
        >>> from whence.methods.deeplift import DeepLIFT
        >>> DeepLIFT(baseline=1.0)(net, torch.tensor([[2.0, 5.0]])).attribution
        tensor([[ 3., 12.]])
    """

    name: ClassVar[str] = "deeplift"
    complete: ClassVar[bool] = True

    rule: str = "rescale"
    baseline: Any = 0
    unknown: str | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.rule not in _RULES:
            raise OptionError(f"rule is one of {', '.join(map(repr, _RULES))}; got {self.rule!r}")
        if self.unknown not in (None, "gradient"):
            raise OptionError(f'unknown is None or "gradient"; got {self.unknown!r}')
        if self.chunk is not None and (not isinstance(self.chunk, int) or self.chunk < 1):
            raise OptionError(f"chunk is a number of references, 1 or more; got {self.chunk!r}")

    @classmethod
    def run(cls, methods: Sequence[DeepLIFT], job: Job) -> list[Found]:
        """One run of the doubled batch a method and chunk of references."""
        return [method._explained(job) for method in methods]

    def _references(self, job: Job) -> tuple[baselines.References, list[str]]:
        """What x is compared with, in the framework's arrays, and what to note about it."""
        return baselines.references(self.baseline, job.framework, job.model, job.inputs)

    def _explained(self, job: Job) -> Found:
        start = time.perf_counter()
        found, notes = self._references(job)
        at_once = self.chunk or max(1, _ROWS // job.inputs.batch)
        chunks = [found[i : i + at_once] for i in range(0, len(found), at_once)]
        parts = [self._chunk(job, chunk) for chunk in chunks]
        merged = _merged(parts, job, len(found))
        xp = job.framework.xp
        like = {k: x for k, x in job.inputs.arrays.items() if xp.is_floating(x)}
        attribution = {
            k: xp.cast(a, xp.dtype(like[k])) if a is not None and k in like else a
            for k, a in merged["attribution"].items()
        }
        extras = {
            "reference_output": job.framework.xp.to_numpy(merged["reference"]),
            "references": len(found),
        }
        return Found(
            attribution, merged["score"], merged["index"], merged["y"],
            rows=merged["rows"], seed=merged["score"] - merged["reference"], axes=merged["axes"],
            notes=(*notes, *merged["notes"]), extras=extras, seconds=time.perf_counter() - start,
        )  # fmt: skip

    def _chunk(self, job: Job, references: baselines.References) -> dict[str, Any]:
        """Some references at once: x as often as there are, then the references."""
        xp = job.framework.xp
        count, samples = len(references), job.inputs.batch
        arrays = {}
        for name, x in job.inputs.arrays.items():
            alone = int(x.shape[0]) != samples  # a mask for all samples, say
            ends = [r[name] for r in references]
            arrays[name] = x if alone else xp.concat([x] * count + ends, axis=0)
        arguments = {k: xp.concat([v] * count, axis=0) for k, v in job.arguments.items()}
        doubled = job.inputs.replaced(arrays)
        # The program may be kept compiled, so it holds no arrays and no model.
        target, at, books, method = job.target, job.at, job.ledger, (self.rule, self.unknown)

        def compute(known: _Places | None) -> dict[str, Any]:
            def program(tape: Tape, **given: Array) -> dict[str, Any]:
                halves = _halves(tape, samples * count, known)
                return _program(tape, target, at, method, books, halves, given)

            return job.framework.compute(
                job.model, doubled, program,
                key=("deeplift", method, target.key, at, books, count), arguments=arguments,
                head=target.head, fold=True, keep=keep,
            )  # fmt: skip

        keep = [n for n in (target.layer, at) if n]
        try:
            result = compute(None)
        except _Unclear:
            # Seen with numbers, it is clear; the graph that is traced now is kept.
            tape = job.framework.record(job.model, doubled, head=target.head, fold=True, keep=keep)
            places = Halves(tape, samples * count).places
            result = compute([[places.get(v) for v in node.out] for node in tape.nodes])
            tape.free()
        if target.layer is None:
            target.check(result["shape"])
        return result


@dataclass(frozen=True, repr=False)
class DeepSHAP(DeepLIFT):
    """DeepLIFT's mean over a set of references: an estimate of Shapley values [lundberg2017].

    baseline: the set: an array (references, ...) of samples of the training data, which is what the
        estimate means, or a list of baselines; by default zero, the mean and a blur of x itself.
        It adds up to f(x) minus the mean of f over the set.
    The other options are those of DeepLIFT.
    """

    name: ClassVar[str] = "deepshap"

    baseline: Any = None

    def _references(self, job: Job) -> tuple[baselines.References, list[str]]:
        """The set; without one, three references made of x, or zero alone for a table."""
        if self.baseline is not None:
            given = baselines.stacked(self.baseline)
            return baselines.references(given, job.framework, job.model, job.inputs)
        places = all(len(a.shape) > 2 for a in job.inputs.arrays.values())
        chosen: Any = ["zero", "mean", "blur"] if places else 0
        found, notes = baselines.references(chosen, job.framework, job.model, job.inputs)
        said = "zero, the mean and a blur of x" if places else "zero"
        return found, [*notes, f"no set of references was given; compared with {said}"]


def _chooser(method: tuple[str, str | None], books: Ledgered) -> Callable[[Node], Any]:
    """Which rule an op gets, for the walk."""
    unknown = method[1]
    choose: Callable[[Node], Any] = rescale_rule
    if isinstance(books, Revealed):
        choose = books.rules.choose
    chosen = unknown_by_gradient(choose) if unknown else choose

    def walked(node: Node) -> Any:
        deep = chosen(node)
        return None if deep is None else books.rule(deep)

    return walked


_Places = list[list[Layout | None]]
"""By node and result, in the order of the tape, where the samples are."""


class _Unclear(Exception):
    """Two axes are as long as the batch, and there are no numbers to tell them apart by."""


def _halves(tape: Tape, samples: int, known: _Places | None) -> Halves:
    """Where input and reference are on a tape. Raises _Unclear where that is a guess."""
    if known is not None:
        shapes = [(len(n.out), len(k)) for n, k in zip(tape.nodes, known, strict=False)]
        if len(known) == len(tape.nodes) and all(a == b for a, b in shapes):
            pairs = zip(tape.nodes, known, strict=True)
            places = {v: k for n, ks in pairs for v, k in zip(n.out, ks, strict=True)}
            return Halves(tape, samples, places)
    halves = Halves(tape, samples)
    if known is None and ambiguous(tape, halves):
        raise _Unclear
    return halves


def _program(
    tape: Tape,
    wanted: Target,
    at: str | None,
    method: tuple[str, str | None],
    keep_books: bool,
    halves: Halves,
    arguments: Mapping[str, Array],
) -> dict[str, Any]:
    """Pure array code on the tape of [x; x0]: the target, chosen at x, then the walk."""
    target, value = targets.find(wanted, tape)
    place = f"layer {target.layer}" if target.layer else "the explained output"
    samples = halves.samples
    checks.check_batch(value.shape, 2 * samples, f"{place} (input and reference together)")
    xp: Any = value.node.xp
    y, y0 = value.array[:samples], value.array[samples:]
    weights, index = target.weights(xp, y, arguments)
    axes = tuple(range(1, len(value.shape)))
    score, reference = (xp.sum(weights * h, axis=axes) if axes else weights * h for h in (y, y0))
    places, names = _places(tape, at)
    names = {k: v for k, v in names.items() if halves.knows(v)}
    shown = None
    if target.head is None:
        kept = tape.outputs[tape.main if target.layer else targets.pick(target, tape.outputs)]
        shown = kept.array if isinstance(kept, Value) else kept
        shown = shown[:samples]

    books = (Revealed if method[0] == "reveal-cancel" else Ledgered)(halves, keep_books)
    rules = plan(tape, _chooser(method, books), [value], places, _WAYS_OUT[method[0]])
    books.lead([tape.nodes[i] for i in rules], places)
    books.prepare(names.values())
    seed = {value: xp.concat([weights, weights], axis=0)}
    found = walk(tape, rules, seed, places, samples=2 * samples, consume=True).relevance
    if not any(v in found for v in names.values()):
        raise TargetError(
            f"{target.describe()} does not depend on "
            f"{'layer ' + at if at else 'the input'}: no path of operations leads there"
        )
    return {
        "attribution": {
            k: books.contributions(v, found[v]) if v in found else None for k, v in names.items()
        },
        "rows": [vars(row) for row in books.rows], "score": score, "reference": reference,
        "index": index, "y": shown, "notes": [*tape.notes, *books.notes],
        "axes": _axes(tape, at, names), "shape": value.shape,
    }  # fmt: skip


def _merged(parts: Sequence[dict[str, Any]], job: Job, count: int) -> dict[str, Any]:
    """Chunks of references brought together: means over the set, one row a sample."""
    xp, samples = job.framework.xp, job.inputs.batch

    def mean(arrays: Sequence[Array]) -> Any:
        total: Any = 0.0
        for array in arrays:
            shape = tuple(xp.shape(array))
            here = shape[0] // samples
            apart = xp.reshape(array, (here, samples, *shape[1:]))
            total = total + (xp.sum(apart, axis=0) if here > 1 else apart[0])
        return total / count if count > 1 else total

    first = parts[0]
    names = list(first["attribution"])
    attribution = {
        k: None if first["attribution"][k] is None else mean([p["attribution"][k] for p in parts])
        for k in names
    }
    rows = []
    for same in zip(*(p["rows"] for p in parts), strict=True):
        made = [Row(**row) for row in same]
        rows.append(replace(
            made[0], relevance_in=mean([r.relevance_in for r in made]),
            relevance_out=mean([r.relevance_out for r in made]),
            absorbed={k: mean([r.absorbed[k] for r in made]) for k in made[0].absorbed},
        ))  # fmt: skip
    return {
        "attribution": attribution, "rows": rows, "score": first["score"][:samples],
        "reference": mean([p["reference"] for p in parts]),
        "index": None if first["index"] is None else first["index"][:samples],
        "y": None if first["y"] is None else first["y"][:samples],
        "notes": list(dict.fromkeys(n for p in parts for n in p["notes"])), "axes": first["axes"],
    }  # fmt: skip
