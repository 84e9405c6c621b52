"""The one reverse walk: a tape, a rule for each node, a seed -> relevance at any value.

Gradients, deconvolution, guided backpropagation and every relevance method are this walk with
different rules. Beside the relevance it keeps the books: per operation, how much came in, how much
went on, and what was absorbed and why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .errors import MissingRule
from .layout import Layout, layouts, per_sample
from .ops import Op
from .tape import Array, Node, Tape, Value

__all__ = ["Row", "Rule", "Split", "Total", "Walked", "plan", "reached", "walk"]

Total = Callable[..., Array]
"""``total(a)`` or ``total(a, b)``: the sum of ``a`` or ``a * b`` over each sample's output."""


class Split(NamedTuple):
    """What a rule returns when it can say where relevance went besides its operands."""

    parts: tuple[Array, ...]
    absorbed: Callable[[Total], Mapping[str, Array]]
    """Called only when the books are kept: reason -> per-sample amount."""
    rest: str = ""
    """The reason under which whatever is then still missing is booked, for a rule that cannot know
    its loss; empty for rules that account for everything, so that a mistake shows."""


Rule = Callable[..., "tuple[Array, ...] | Split"]
"""``rule(node, relevance)``: relevance of the result in (a tuple, if the op has several results
that a gradient can reach), one array per tracked operand out."""


@dataclass(frozen=True)
class Row:
    """One operation in the books. Amounts are per sample, (batch,)."""

    index: int
    layer: str
    op: str
    kind: str
    rule: str
    relevance_in: Array
    relevance_out: Array
    absorbed: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Walked:
    """Relevance at the values that were asked for, and the books if they were kept."""

    relevance: dict[Value, Array]
    rows: list[Row]


def reached(tape: Tape, start: Sequence[Value]) -> set[int]:
    """Positions of the nodes that depend on any of ``start``; only they need a rule."""
    live = set(map(id, start))
    nodes = set()
    for place, node in enumerate(tape.nodes):
        if any(id(v) in live for v in node.into):
            nodes.add(place)
            live.update(id(v) for v in node.out)
    return nodes


def plan(
    tape: Tape,
    choose: Callable[[Node], Rule | None],
    seeds: Sequence[Value],
    at: Sequence[Value],
    ways_out: str = "",
) -> dict[int, Rule]:
    """The rule of every node between ``at`` and ``seeds``, by position on the tape.

    Raises MissingRule, before anything is computed, for an op that ``choose`` has none for.
    """
    forward = reached(tape, at)
    wanted = set(map(id, seeds))
    rules: dict[int, Rule] = {}
    for place in range(len(tape.nodes) - 1, -1, -1):
        node = tape.nodes[place]
        if place not in forward or not any(id(v) in wanted for v in node.out):
            continue
        wanted.update(id(v) for v in node.into)
        rule = choose(node)
        if rule is None:
            raise MissingRule(
                f"no rule for {node.kind}.{node.op} at layer {node.layer or '(top)'}, node "
                f"{node.index} of {len(tape.nodes)} on the tape. {ways_out}".rstrip()
            )
        rules[place] = rule
    return rules


def walk(
    tape: Tape,
    rules: Mapping[int, Rule],
    seeds: Mapping[Value, Array],
    at: Sequence[Value],
    *,
    samples: int,
    ledger: bool = False,
    consume: bool = False,
) -> Walked:
    """Carry the seeds back to ``at``.

    rules: by position on the tape, from ``plan``. seeds: relevance at values, in units of the
    explained output. ledger: keep the books. consume: free each node as the walk passes it.
    Values that the seed does not reach are absent from the result.
    """
    arrived: dict[Value, Array] = dict(seeds)
    wanted = set(at)
    leading = wanted.union(*(tape.nodes[place].out for place in rules))
    places = layouts(tape, samples) if ledger else {}
    rows: list[Row] = []
    sums: dict[Value, Array] = {}
    if ledger:
        for value, seed in seeds.items():
            start: Any = value.node.xp
            sums[value] = per_sample(start, seed, None, places.get(value), samples)
    first = min(rules, default=0)
    for place in range(len(tape.nodes) - 1, first - 1, -1):
        node = tape.nodes[place]
        rule = rules.get(place)
        if rule is not None and any(v in arrived for v in node.results):
            incoming = [arrived.get(v) for v in node.results]
            relevance = _complete(node, incoming)
            xp: Any = node.xp
            with xp.after(relevance):
                found = rule(node, relevance[0] if len(relevance) == 1 else relevance)
            parts = found.parts if isinstance(found, Split) else found
            if ledger:
                rows.append(_row(node, rule, incoming, found, places, samples, leading, sums))
            for value, part in zip(node.into, parts, strict=True):
                if value in leading:
                    arrived[value] = arrived[value] + part if value in arrived else part
        for value in node.out:
            if value not in wanted:
                arrived.pop(value, None)
        if consume and node.kind is not Op.INPUT:
            node.free()
            for value in node.out:
                value.release()
    return Walked({v: arrived[v] for v in at if v in arrived}, rows)


def _complete(node: Node, incoming: list[Array | None]) -> tuple[Array, ...]:
    """Zeros where nothing arrived at one of several results."""
    return tuple(
        node.xp.zeros_like(value.array) if r is None else r  # type: ignore[union-attr]
        for value, r in zip(node.results, incoming, strict=True)
    )


def _row(
    node: Node,
    rule: Rule,
    incoming: list[Array | None],
    found: tuple[Array, ...] | Split,
    places: Mapping[Value, Layout | None],
    samples: int,
    leading: set[Value],
    sums: dict[Value, Array],
) -> Row:
    """The books of one op.

    leading: values from which a way leads on; what goes to others passes around ``at``. sums: what
    arrived at each value so far, per sample, so that no array is summed twice.
    """
    xp: Any = node.xp
    split = found if isinstance(found, Split) else Split(found, lambda total: {})
    into = list(zip(node.into, split.parts, strict=True))
    on, around = ([p for p in into if (p[0] in leading) is way] for way in (True, False))

    def sum_of(value: Value, array: Array) -> Array:
        return per_sample(xp, array, None, places.get(value), samples)

    here = places.get(node.results[0])

    def total(a: Array, b: Array | None = None) -> Array:
        if b is None and a is incoming[0]:
            return came  # every rule asks for it
        return per_sample(xp, a, b, here, samples)

    arrived = [sums.pop(v) for v, r in zip(node.results, incoming, strict=True) if r is not None]
    came = sum(arrived[1:], arrived[0])
    went: Any = 0.0
    for value, part in on:
        amount = sum_of(value, part)
        went = went + amount
        sums[value] = sums[value] + amount if value in sums else amount
    absorbed = dict(split.absorbed(total))
    if around:
        absorbed["around"] = sum(sum_of(v, part) for v, part in around)
    if split.rest:
        absorbed[split.rest] = came - went - sum(absorbed.values())
    kind = str(node.kind)
    return Row(node.index, node.layer, node.op, kind, name_of(rule), came, went, absorbed)


def name_of(rule: Rule) -> str:
    """How a rule is called in tables: ``Epsilon(eps=1e-06)``, or a function's name."""
    return getattr(rule, "__name__", None) or repr(rule)
