"""Composites: which operation gets which rule, as data that prints as a table.

A composite is an ordered list of (where, rule); the first line that matches an op counts, and ops
that no line matches get the rules that are the same for all composites (activations pass, sums
share in proportion, pooling and moves carry to the source...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from ..backward import Rule, name_of
from ..errors import OptionError, nearest, unknown
from ..ops import Op
from ..tape import Node, Tape
from .affine import Epsilon, Norm
from .attention import halves, norm, product, softmax
from .flow import passed, proportional, transported
from .gates import signal, stopped, values_only
from .rooted import Box, Flat, WSquare
from .signed import AlphaBeta, Gamma, ZPlus

__all__ = [
    "BASE", "NAMES", "Composite", "auto", "chooser", "epsilon_table", "named", "positive_net",
]  # fmt: skip

BASE: dict[Op, Rule] = {
    Op.AFFINE: Epsilon(),
    Op.ADD: Epsilon(),
    Op.AVGPOOL: Norm(),
    Op.RELU: passed,
    Op.ACTIVATION: passed,
    Op.MAXPOOL: transported,
    Op.SHAPE: transported,
    Op.MUL: halves,
    Op.MATMUL: product,
    Op.SOFTMAX: softmax,
    Op.NORM: norm,
}
"""What every composite does where it says nothing else."""

_WEIGHTED = (Op.DENSE, Op.CONV)
_RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True)
class Composite:
    """Which op gets which rule.

    lines: (where, rule) in order; the first that matches counts. ``where`` is ``"first"`` (the first
    dense or convolution op that ran), an op kind (``"conv"``), ``"*"`` (every dense, convolution or
    elementwise affine op), a layer name (its child layers included) or a glob over layer names.
    """

    lines: tuple[tuple[str, Rule], ...]
    name: str = ""

    def __str__(self) -> str:
        rows = [("where", "rule"), *((w, name_of(r)) for w, r in self.lines)]
        rows += [(str(k), name_of(r)) for k, r in BASE.items() if str(k) not in dict(self.lines)]
        width = max(len(w) for w, _ in rows)
        return "\n".join(f"{w:<{width}}  {r}" for w, r in rows)


def epsilon_table(eps: float = 1e-6) -> dict[Op, Rule]:
    """The epsilon composite as a plain table, one rule a kind."""
    rule = Epsilon(eps)
    return BASE | dict.fromkeys((Op.DENSE, Op.CONV, Op.AFFINE, Op.ADD, Op.AVGPOOL), rule)


def _lines(**kinds: Rule) -> tuple[tuple[str, Rule], ...]:
    return tuple((k.rstrip("_"), r) for k, r in kinds.items())


def _fixed(name: str, **kinds: Rule) -> Composite:
    return Composite(_lines(**kinds), name)


def epsilon(eps: float = 1e-6) -> Composite:
    """Epsilon everywhere, with one stabiliser for all linear ops."""
    rule = Epsilon(eps)
    return _fixed("epsilon", conv=rule, dense=rule, affine=rule, add=rule, avgpool=rule)


NAMES: dict[str, Callable[..., Composite]] = {
    "epsilon": epsilon,
    "epsilon-plus": lambda eps=1e-6: _fixed("epsilon-plus", conv=ZPlus(), dense=Epsilon(eps)),
    "epsilon-plus-flat": lambda eps=1e-6: _fixed(
        "epsilon-plus-flat", first=Flat(), conv=ZPlus(), dense=Epsilon(eps)
    ),
    "epsilon-alpha2-beta1": lambda eps=1e-6: _fixed(
        "epsilon-alpha2-beta1", conv=AlphaBeta(2, 1), dense=Epsilon(eps)
    ),
    "epsilon-alpha2-beta1-flat": lambda eps=1e-6: _fixed(
        "epsilon-alpha2-beta1-flat", first=Flat(), conv=AlphaBeta(2, 1), dense=Epsilon(eps)
    ),
    "epsilon-gamma-box": lambda eps=1e-6, low=None, high=None: _fixed(
        "epsilon-gamma-box", first=Box(low, high), conv=Gamma(), dense=Epsilon(eps)
    ),
    "gamma": lambda gamma=0.25: _fixed("gamma", conv=Gamma(gamma), dense=Gamma(gamma)),
    "attn-lrp": lambda eps=1e-6: _fixed("attn-lrp", conv=Epsilon(eps), dense=Epsilon(eps)),
    "cp-lrp": lambda eps=1e-6: _fixed(
        "cp-lrp",
        conv=Epsilon(eps),
        dense=Epsilon(eps),
        softmax=stopped,
        matmul=values_only,
        mul=signal,
    ),
    "excitation-backprop": lambda: _fixed("excitation-backprop", conv=ZPlus(), dense=ZPlus()),
    "deep-taylor": lambda low=None, high=None: _fixed(
        "deep-taylor",
        first=WSquare() if low is None else Box(low, high),
        conv=ZPlus(bias="ignore"),
        dense=ZPlus(bias="ignore"),
    ),
}
"""The composites that people know, by name."""


def named(name: str, **options: Any) -> Composite:
    """A composite by its name.

    Raises UnknownName for another name, OptionError for an option that it has not got.
    """
    if name not in NAMES:
        raise unknown("composite", name, [*NAMES, "auto"])
    given = {k: v for k, v in options.items() if v is not None}
    try:
        return NAMES[name](**given)
    except TypeError:
        raise OptionError(f"composite {name!r} does not take {', '.join(sorted(given))}") from None


def auto(tape: Tape) -> str:
    """The name of the composite that suits the ops on a tape: ``epsilon-plus-flat`` for convolutional
    ones, ``attn-lrp`` where there is attention, ``epsilon`` otherwise.
    """
    products = {id(v) for n in tape.nodes if n.kind is Op.MATMUL for v in n.into}
    if products and any(n.kind is Op.SOFTMAX and len(n.out[0].shape) > 2 for n in tape.nodes):
        return "attn-lrp"
    return "epsilon-plus-flat" if any(n.kind is Op.CONV for n in tape.nodes) else "epsilon"


def chooser(
    tape: Tape,
    composite: Composite,
    overrides: Mapping[str, Rule] | None = None,
    unknown_rule: str | None = None,
) -> Callable[[Node], Rule | None]:
    """The rule for a node: overrides first, then the composite's lines, then ``BASE``.

    unknown_rule: ``"gradient"`` hands relevance on at OPAQUE ops in proportion to input x gradient.
    Raises UnknownName for a pattern that matches no op on the tape, with the nearest names.
    """
    lines = [*(overrides or {}).items(), *composite.lines]
    first = next((n for n in tape.nodes if n.kind in _WEIGHTED), None)
    for where, _ in (overrides or {}).items():
        if not any(_matches(where, n, first) for n in tape.nodes):
            raise _no_match(where, tape.nodes)
    gated = _recurrent_layers(tape)
    scores = _scores(tape)

    def choose(node: Node) -> Rule | None:
        for where, rule in lines:
            if _matches(where, node, first) and _applies(where, rule, node):
                return _for_scores(rule) if id(node) in scores else rule
        if node.kind is Op.OPAQUE and unknown_rule == "gradient":
            return proportional
        if node.kind is Op.MUL and any(_within(node.layer, layer) for layer in gated):
            return signal
        rule = BASE.get(node.kind)
        return _for_scores(rule) if id(node) in scores else rule

    return choose


def _scores(tape: Tape) -> set[int]:
    """Sums whose result reaches a softmax by moves alone: a mask of -inf may be among their terms."""
    found: set[int] = set()
    waiting = [v.node for n in tape.nodes if n.kind is Op.SOFTMAX for v in n.into]
    while waiting:
        node = waiting.pop()
        if node.kind in (Op.ADD, Op.AFFINE):
            found.add(id(node))
        if node.kind in (Op.ADD, Op.AFFINE, Op.SHAPE):
            waiting += [v.node for v in node.into]
    return found


def _for_scores(rule: Rule | None) -> Rule | None:
    return replace(rule, masked=True) if isinstance(rule, Epsilon) else rule


def _within(layer: str, outer: str) -> bool:
    return layer == outer or layer.startswith(outer + ".")


def _recurrent_layers(tape: Tape) -> list[str]:
    """Layers whose products are gates, by the name of their class."""
    return [
        name for name, records in tape.layers.items()
        if any(word in records[0].type.upper() for word in _RECURRENT)
    ]  # fmt: skip


def _matches(where: str, node: Node, first: Node | None) -> bool:
    if where == "first":
        return node is first
    if where == "*":
        return node.kind in (*_WEIGHTED, Op.AFFINE)
    if where in tuple(Op):
        return node.kind == where
    return bool(node.layer) and (_within(node.layer, where) or fnmatchcase(node.layer, where))


def _applies(where: str, rule: Rule, node: Node) -> bool:
    """A layer's pattern means the ops with weights in it, not its activations and moves."""
    named_kind = where in ("first", "*") or where in tuple(Op)
    return named_kind or node.kind in getattr(rule, "kinds", (*_WEIGHTED, Op.AFFINE))


def _no_match(where: str, nodes: Iterable[Node]) -> Exception:
    names: Sequence[str] = [
        *dict.fromkeys(n.layer for n in nodes if n.layer),
        *map(str, Op),
        "first",
        "*",
    ]
    close = nearest(where, names)
    hint = f" Nearest: {', '.join(map(repr, close))}." if close else ""
    error = unknown("layer or op kind to give a rule to,", where, close or names[:12])
    error.args = (
        f"the pattern {where!r} in rules= matches no layer and no op kind on the tape.{hint} A pattern is a "
        "layer name, a glob over layer names, an op kind, 'first' or '*'; whence.layers(model, x) lists layers",
    )
    return error


def positive_net(nodes: Iterable[Node]) -> None:
    """Raise OptionError, naming the op, unless these nodes are a net that deep Taylor is derived for:
    affine ops, ReLUs, pooling, sums and moves.
    """
    fine = (
        Op.DENSE,
        Op.CONV,
        Op.AFFINE,
        Op.ADD,
        Op.AVGPOOL,
        Op.MAXPOOL,
        Op.SHAPE,
        Op.INPUT,
        Op.EMBEDDING,
    )
    for node in nodes:
        slope = node.attrs.get("slope", 0.0)
        if node.kind is Op.RELU and isinstance(slope, (int, float)) and slope == 0:
            continue
        if node.kind not in fine or node.kind is Op.RELU:
            raise OptionError(
                f"deep-taylor is derived for nets of affine ops, ReLUs and pooling; this one has "
                f"{node.kind}.{node.op} at layer {node.layer or '(top)'}, node {node.index}. Use lrp with "
                "another composite"
            )
