"""Methods that are a reverse walk over the tape with a table of rules."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .. import checks, targets
from ..arrays import Array
from ..backward import Row, Rule, plan, walk
from ..errors import OptionError, TargetError
from ..ops import Op
from ..perturb.patched import lookups
from ..rules.ahead import fold_ahead
from ..rules.flow import proportional
from ..rules.rectified import DECONVOLUTION, GUIDED
from ..rules.through import Through, channel_mask
from ..tape import Node, Tape, Value
from .base import Found, Job, Method

__all__ = [
    "Deconvolution", "GuidedBackpropagation", "Walk", "kept_layers", "planned", "run_walks",
]  # fmt: skip

Table = Mapping[Op, Rule]


@dataclass(frozen=True)
class Walk:
    """One walk to be done."""

    choose: Callable[[Tape], Callable[[Node], Rule | None]]
    """The rule of each node of a tape."""
    seed: Any = "one"
    """"one" starts with the target's weights (gradients), "output" with weights x output
    (relevance), "contrastive" with the weights less their mean over the other classes; or an array
    to start with."""
    ways_out: str = ""
    keep: tuple[str, ...] = ()
    """Layers whose relevance is wanted besides."""
    through: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Channels of layers, outside which relevance stops."""
    facts: Callable[[Tape], Mapping[str, Any]] = lambda tape: {}
    """What to report that only the tape knows, such as a composite that was chosen."""


def run_walks(
    walks: Sequence[Walk], job: Job, *, keep_books: bool, in_units: bool, key: Any
) -> list[Found]:
    """Record once, walk once for each of ``walks``.

    in_units: relevance rules follow, so fold batch-norm and hold what they read.
    key: names the walks, for the framework's cache of graphs.
    """
    keep = kept_layers(walks, job.target, job.at)
    arguments, kinds = _seeds(walks, job)

    def program(tape: Tape, **given: Array) -> dict[str, Any]:
        if in_units:
            fold_ahead(tape, keep)
        return _program(tape, walks, job, keep_books, given)

    start = time.perf_counter()
    result = job.framework.compute(
        job.model, job.inputs, program,
        key=("walk", key, job.target.key, job.at, keep_books, kinds),
        arguments=arguments, head=job.target.head, lean=not in_units, fold=in_units, keep=keep,
    )  # fmt: skip
    seconds = (time.perf_counter() - start) / len(walks)
    if job.target.layer is None:
        # A compiled graph serves other classes too, so the class is looked at on every call.
        job.target.check(result["shape"])
    return [
        Found(
            w["attribution"], result["score"], result["index"], result["y"],
            rows=[Row(**row) for row in w["rows"]], seed=w["seed"], axes=result["axes"],
            notes=(*result["notes"], *w["notes"]), kept=w["kept"], facts=w["facts"],
            extras={k: result[k] for k in ("places", "rectifiers")}, seconds=seconds,
        )
        for w in result["walks"]
    ]  # fmt: skip


def kept_layers(walks: Sequence[Walk], target: targets.Target, at: str | None) -> list[str]:
    """The layers whose outputs must stay on the tape."""
    layers = {name for w in walks for name in (*w.keep, *w.through)}
    return sorted(layers | {name for name in (target.layer, at) if name})


def _seeds(walks: Sequence[Walk], job: Job) -> tuple[dict[str, Array], tuple[str, ...]]:
    """The target's arrays and those seeds that are arrays; and a word for each walk's seed."""
    arguments, kinds = dict(job.arguments), []
    for number, walk_ in enumerate(walks):
        if not isinstance(walk_.seed, str):
            arguments[f"seed{number}"] = job.framework.convert(walk_.seed, job.model)
        kinds.append(walk_.seed if isinstance(walk_.seed, str) else "array")
    return arguments, tuple(kinds)


def _started(
    spec: Walk, number: int, weights: Array, y: Array, given: Mapping[str, Array], xp: Any
) -> Array:
    """The relevance that a walk starts with, like y."""
    if not isinstance(spec.seed, str):
        seed, shape = given[f"seed{number}"], tuple(xp.shape(y))
        found = tuple(xp.shape(seed))
        if found == shape:
            return xp.cast(seed, xp.dtype(y))
        if found == shape[:1]:
            return weights * xp.reshape(xp.cast(seed, xp.dtype(y)), (-1,) + (1,) * (len(shape) - 1))
        raise OptionError(
            f"the seed has shape {found}; give one number a sample, {shape[:1]}, or the shape of "
            f"what is explained, {shape}"
        )
    if spec.seed == "contrastive":
        shape = tuple(xp.shape(y))
        if len(shape) != 2 or shape[1] < 2:
            raise OptionError(
                f'seed="contrastive" needs one output a class; this target has shape {shape}'
            )
        others = xp.ones_like(y) - weights
        return weights - others / xp.sum(others, axis=1, keepdims=True)
    return weights * y if spec.seed == "output" else weights


def _program(
    tape: Tape, walks: Sequence[Walk], job: Job, keep_books: bool, arguments: Mapping[str, Array]
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
    kept = [{name: tape.at(name) for name in w.keep} for w in walks]
    every = [places + [v for v in k.values() if v not in places] for k in kept]
    plans = [planned(tape, w, value, at) for w, at in zip(walks, every, strict=True)]
    facts = [dict(w.facts(tape)) for w in walks]
    shown = None
    if target.head is None:
        main = tape.outputs[tape.main if target.layer else targets.pick(target, tape.outputs)]
        shown = main.array if isinstance(main, Value) else main
    rectifiers = sum(n.kind is Op.RELU for n in tape.nodes)
    done = []
    for number, (spec, rules) in enumerate(zip(walks, plans, strict=True)):
        seed = _started(spec, number, weights, y, arguments, xp)
        found = walk(
            tape, rules, {value: seed}, every[number], samples=samples, ledger=keep_books,
            consume=number == len(walks) - 1,
        )  # fmt: skip
        if not any(v in found.relevance for v in places):
            raise TargetError(
                f"{target.describe()} does not depend on "
                f"{'layer ' + job.at if job.at else 'the input'}: no path of operations leads there"
            )
        done.append({
            "attribution": {k: found.relevance.get(v) for k, v in names.items()},
            "rows": [vars(row) for row in found.rows],
            "seed": xp.sum(seed, axis=axes) if axes else seed,
            "notes": _guessed(tape, rules),
            "kept": {k: found.relevance.get(v) for k, v in kept[number].items()},
            "facts": facts[number],
        })  # fmt: skip
    return {
        "walks": done, "score": score, "index": index, "y": shown, "places": held,
        "notes": list(tape.notes), "axes": _axes(tape, job.at, names), "rectifiers": rectifiers,
        "shape": value.shape,
    }  # fmt: skip


def planned(tape: Tape, spec: Walk, start: Value, at: Sequence[Value]) -> dict[int, Rule]:
    """The rule of every node between ``at`` and ``start``, by position on the tape.

    Ways through named channels are narrowed.
    """
    rules = plan(tape, spec.choose(tape), [start], at, spec.ways_out)
    masked, xp = dict(rules), start.node.xp
    for name, channels in spec.through.items():
        value = tape.at(name)
        place = next((p for p, n in enumerate(tape.nodes) if n is value.node), None)
        if place not in rules:
            raise TargetError(
                f"through= names layer {name}, which does not lead to what is explained"
            )
        axis = targets.channel_axis(value, tape.channels)
        mask: Any = channel_mask(channels, value.shape, axis, name)
        if xp is not None:
            mask = xp.cast(xp.asarray(mask, like=value.array), value.dtype)
        masked[place] = Through(rules[place], mask, name)
    return masked


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
    names |= {name: node.out[0] for name, node in lookups(tape).items()}
    return list(names.values()), names


def _axes(tape: Tape, at: str | None, names: Mapping[str, Value]) -> tuple[str, ...] | None:
    """Axis names where the tape knows better than the rank: embeddings, and layers."""
    value = next(iter(names.values()))
    if value.node.kind is Op.EMBEDDING and len(value.shape) == 3:
        return ("batch", "token", "feature")
    if at is None:
        return None
    rank = len(value.shape)
    if rank == 3 and targets.channel_axis(value, tape.channels) == 1:
        return ("batch", "channel", "length")
    if rank == 3:
        return ("batch", "token", "feature")
    if rank in (4, 5):
        space = ["height", "width"] if rank == 4 else ["depth", "height", "width"]
        space.insert(0 if targets.channel_axis(value, tape.channels) == 1 else rank - 2, "channel")
        return ("batch", *space)
    return ("batch", "feature") if rank == 2 else None


def _by_kind(table: Table) -> Callable[[Tape], Callable[[Node], Rule | None]]:
    return lambda tape: lambda node: table.get(node.kind)


@dataclass(frozen=True, repr=False)
class _Rectified(Method):
    """The gradient walk with another rule at rectifiers."""

    table: ClassVar[Table]

    @classmethod
    def run(cls, methods: Sequence[_Rectified], job: Job) -> list[Found]:
        walks = [Walk(_by_kind(m.table)) for m in methods]
        names = tuple(m.name for m in methods)
        found = run_walks(walks, job, keep_books=False, in_units=False, key=names)
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
