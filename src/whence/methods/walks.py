"""Methods that are a reverse walk over the tape with a table of rules."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .. import checks, targets
from ..arrays import Array
from ..backward import Row, Rule, plan, walk
from ..errors import OptionError, TargetError
from ..ops import Op
from ..rules.affine import Epsilon
from ..rules.flow import proportional
from ..rules.lrp import epsilon_table
from ..rules.rectified import DECONVOLUTION, GUIDED
from ..tape import Node, Tape, Value
from .base import Found, Job, Method

__all__ = ["LRP", "Deconvolution", "GuidedBackpropagation", "run_walks"]

Table = Mapping[Op, Rule]


@dataclass(frozen=True)
class _Walk:
    """One walk to be done: which rule a node gets, and what it starts with."""

    choose: Callable[[Node], Rule | None]
    seed: str
    ways_out: str = ""


def run_walks(
    tables: Sequence[Table],
    job: Job,
    *,
    keep_books: bool,
    in_units: bool,
    seeds: Sequence[str] | None = None,
    key: Any = None,
) -> list[Found]:
    """Record once, walk once a table.

    in_units: start with weights x output (relevance) rather than with the weights (gradients).
    """
    kinds = list(seeds or ["output" if in_units else "one"] * len(tables))
    walks = [_Walk(_lookup(t), s, _WAYS_OUT) for t, s in zip(tables, kinds, strict=True)]
    names = key if key is not None else tuple(id(t) for t in tables)
    keep = [name for name in (job.target.layer, job.at) if name]

    def program(tape: Tape, **arguments: Array) -> dict[str, Any]:
        return _program(tape, walks, job, keep_books, arguments)

    start = time.perf_counter()
    result = job.framework.compute(
        job.model, job.inputs, program,
        key=("walk", names, job.target.key, job.at, keep_books, tuple(kinds)),
        arguments=job.arguments, head=job.target.head, lean=not in_units, fold=in_units, keep=keep,
    )  # fmt: skip
    seconds = (time.perf_counter() - start) / len(tables)
    if job.target.layer is None:
        # A compiled graph serves other classes too, so the class is looked at on every call.
        job.target.check(result["shape"])
    return [
        Found(
            w["attribution"], result["score"], result["index"], result["y"],
            rows=[Row(**row) for row in w["rows"]], seed=w["seed"], axes=result["axes"],
            notes=(*result["notes"], *w["notes"]),
            extras={k: result[k] for k in ("places", "rectifiers")}, seconds=seconds,
        )
        for w in result["walks"]
    ]  # fmt: skip


def _lookup(table: Table) -> Callable[[Node], Rule | None]:
    return lambda node: table.get(node.kind)


_WAYS_OUT = (
    'Ways out: unknown="gradient" hands it on in proportion to input x gradient (recorded in the '
    "result); a rule of your own for its kind; a gradient method."
)


def _program(
    tape: Tape, walks: Sequence[_Walk], job: Job, keep_books: bool, arguments: Mapping[str, Array]
) -> dict[str, Any]:
    """Pure array code: the target on the tape, then the walks."""
    target, value = targets.find(job.target, tape)
    samples = job.inputs.batch
    place = f"layer {target.layer}" if target.layer else "the explained output"
    checks.check_batch(value.shape, samples, place)
    xp: Any = value.node.xp
    y = value.array
    weights, index = target.weights(xp, y, arguments)
    axes = tuple(range(1, len(value.shape)))
    score = xp.sum(weights * y, axis=axes) if axes else weights * y
    places, names = _places(tape, job.at)
    held = {k: v.array for k, v in names.items()}
    plans = [plan(tape, w.choose, [value], places, w.ways_out) for w in walks]
    shown = None
    if target.head is None:
        kept = tape.outputs[tape.main if target.layer else targets.pick(target, tape.outputs)]
        shown = kept.array if isinstance(kept, Value) else kept
    rectifiers = sum(n.kind is Op.RELU for n in tape.nodes)
    done = []
    for number, (spec, rules) in enumerate(zip(walks, plans, strict=True)):
        seed = weights * y if spec.seed == "output" else weights
        found = walk(
            tape, rules, {value: seed}, places, samples=samples, ledger=keep_books,
            consume=number == len(walks) - 1,
        )  # fmt: skip
        if not found.relevance:
            raise TargetError(
                f"{target.describe()} does not depend on "
                f"{'layer ' + job.at if job.at else 'the input'}: no path of operations leads there"
            )
        done.append({
            "attribution": {k: found.relevance.get(v) for k, v in names.items()},
            "rows": [vars(row) for row in found.rows],
            "seed": xp.sum(seed, axis=axes) if axes else seed,
            "notes": _guessed(tape, rules),
        })  # fmt: skip
    return {
        "walks": done, "score": score, "index": index, "y": shown, "places": held,
        "notes": list(tape.notes), "axes": _axes(tape, job.at, names), "rectifiers": rectifiers,
        "shape": value.shape,
    }  # fmt: skip


def _guessed(tape: Tape, rules: Mapping[int, Rule]) -> list[str]:
    """Which ops relevance was handed through without a rule, by the user's choice."""
    nodes = [tape.nodes[place] for place, rule in rules.items() if rule is proportional]
    ops = list(dict.fromkeys(f"{n.op} at {n.layer or '(top)'}" for n in reversed(nodes)))
    if not ops:
        return []
    shown = ", ".join(ops[:4]) + (f" and {len(ops) - 4} more" if len(ops) > 4 else "")
    return [f'unknown="gradient": no rule for {shown}; handed on in proportion to input x gradient']


def _places(tape: Tape, at: str | None) -> tuple[list[Value], dict[str, Value]]:
    """The values where the attribution is read, and their names."""
    if at is not None:
        value = tape.at(at)
        return [value], {"at": value}
    names = {k: v for k, v in tape.inputs.items() if v.tracked}
    whole = [k for k, v in tape.inputs.items() if not v.tracked]
    embedded = [n for n in tape.nodes if n.kind is Op.EMBEDDING]
    for number, node in enumerate(embedded):
        # One embedding of one whole-number input stands for that input.
        name = (
            whole[0]
            if len(embedded) == 1 and len(whole) == 1
            else (node.layer or f"embedding{number}")
        )
        names[name] = node.out[0]
    return list(names.values()), names


def _axes(tape: Tape, at: str | None, names: Mapping[str, Value]) -> tuple[str, ...] | None:
    """Axis names where the tape knows better than the rank: embeddings, and layers."""
    value = next(iter(names.values()))
    if value.node.kind is Op.EMBEDDING and len(value.shape) == 3:
        return ("batch", "token", "feature")
    if at is None:
        return None
    rank = len(value.shape)
    if rank == 3:
        return ("batch", "token", "feature")
    if rank in (4, 5):
        space = ["height", "width"] if rank == 4 else ["depth", "height", "width"]
        space.insert(0 if targets.channel_axis(value, tape.channels) == 1 else rank - 2, "channel")
        return ("batch", *space)
    return ("batch", "feature") if rank == 2 else None


@dataclass(frozen=True, repr=False)
class _Rectified(Method):
    """The gradient walk with another rule at rectifiers."""

    table: ClassVar[Table]

    @classmethod
    def run(cls, methods: Sequence[_Rectified], job: Job) -> list[Found]:
        found = run_walks([m.table for m in methods], job, keep_books=False, in_units=False)
        for method, one in zip(methods, found, strict=True):
            if not (one.extras or {}).get("rectifiers"):
                one.notes += (f"no rectifier on the tape: {method.name} equals the gradient here",)
        return found


@dataclass(frozen=True, repr=False)
class Deconvolution(_Rectified):
    """The signal carried back and rectified at every rectifier [zeiler2014]."""

    name: ClassVar[str] = "deconvolution"
    table: ClassVar[Table] = DECONVOLUTION


@dataclass(frozen=True, repr=False)
class GuidedBackpropagation(_Rectified):
    """The gradient, let back only where both it and the unit are positive [springenberg2015]."""

    name: ClassVar[str] = "guided-backpropagation"
    table: ClassVar[Table] = GUIDED


_COMPOSITES: dict[str, Callable[[float], Table]] = {"epsilon": epsilon_table}
_SEEDS = ("output", "one")


@dataclass(frozen=True, repr=False)
class LRP(Method):
    """Layer-wise relevance propagation: the answer shared out op by op, to the input [bach2015].

    composite: which op gets which rule, by name ("epsilon"; "auto" chooses and records it), or one
    rule such as ``whence.rules.Epsilon(1e-3)`` for every linear op.
    eps: the stabiliser of the named composites, in units of each op's output.
    seed: "output" starts with the explained number, so that relevance adds up to it; "one" with 1.
    unknown: what to do at an op without a rule: None raises MissingRule; "gradient" hands relevance
    on in proportion to input x gradient.
    Raises OptionError for any other word, or eps < 0.
    """

    name: ClassVar[str] = "lrp"
    complete: ClassVar[bool] = True

    composite: str | Epsilon = "auto"
    eps: float = 1e-6
    seed: str = "output"
    unknown: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.composite, Epsilon) and self.composite not in (*_COMPOSITES, "auto"):
            raise OptionError(
                f"no composite named {self.composite!r}; there are "
                f"{', '.join(map(repr, ('auto', *_COMPOSITES)))}"
            )
        if self.seed not in _SEEDS:
            raise OptionError(f"seed is one of {', '.join(map(repr, _SEEDS))}; got {self.seed!r}")
        if self.unknown not in (None, "gradient"):
            raise OptionError(f'unknown is None or "gradient"; got {self.unknown!r}')
        Epsilon(self.eps)

    @property
    def options(self) -> dict[str, Any]:
        """The options by name, with the composite that was chosen."""
        return super().options | {
            "composite": "epsilon" if self.composite == "auto" else self.composite
        }

    def table(self) -> Table:
        """The rule of each kind of op."""
        eps = self.composite.eps if isinstance(self.composite, Epsilon) else self.eps
        table = dict(epsilon_table(eps))
        if self.unknown == "gradient":
            table[Op.OPAQUE] = proportional
        return table

    @classmethod
    def run(cls, methods: Sequence[LRP], job: Job) -> list[Found]:
        """One recording, one walk a method."""
        return run_walks(
            [m.table() for m in methods], job, keep_books=job.ledger, in_units=True,
            seeds=[m.seed for m in methods], key=tuple(methods),
        )  # fmt: skip
