"""Composites: which operation gets which rule, as data that prints as a table.

A composite is an ordered list of (where, rule); the first line that matches an op counts, and ops
that no line matches get the rules that are the same for all composites (activations pass, sums
share in proportion, pooling and moves carry to the source...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from inspect import signature
from typing import Any

from ..backward import Rule, name_of
from ..errors import OptionError, UnknownName, nearest, unknown
from ..ops import Op
from ..tape import Node, Tape
from .affine import Epsilon, Norm
from .attention import halves, norm, product, softmax
from .domain import Domain, Raised
from .flow import passed, proportional, transported
from .gates import signal, stopped, values_only
from .rooted import Box, Flat
from .signed import AlphaBeta, Gamma, ZPlus

__all__ = [
    "BASE", "NAMES", "Composite", "auto", "chooser", "named", "rectified",
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
_KINDS = frozenset(map(str, Op))
_RECURRENT = ("LSTM", "GRU", "RNN")
_RECTIFIED_NET = (
    Op.DENSE, Op.CONV, Op.AFFINE, Op.ADD, Op.AVGPOOL, Op.MAXPOOL, Op.SHAPE, Op.INPUT, Op.EMBEDDING,
)  # fmt: skip


@dataclass(frozen=True)
class Composite:
    """Which op gets which rule.

    lines: (where, rule) in order; the first that matches counts. ``where`` is ``"first"`` (the
        first dense or convolution op that ran), an op kind (``"conv"``), ``"*"`` (every dense,
        convolution or elementwise affine op), a layer name (its child layers included) or a glob
        over layer names. A word that is an op kind means the kind, also where a layer is called so.
        A dict will do as well.
    name: for tables and results.
    demands: looks at each op, and raises for one that the composite is not derived for.

    Ops that no line matches get the rules that are the same for all composites; they are printed
    too. A rule may choose by the op: one with a method ``for_node(node) -> rule`` stands for what
    that returns. Raises OptionError for lines of another form.

    Example:
        >>> import whence
        >>> from whence.rules import Epsilon, ZPlus
        >>> mine = whence.Composite((("layer4", Epsilon()), ("conv", ZPlus())), "mine")
        >>> print(mine)  # doctest: +ELLIPSIS
        where       rule
        layer4      Epsilon(eps=1e-06)
        conv        ZPlus(bias='absorb')
        affine      Epsilon(eps=1e-06)
        ...
    """

    lines: tuple[tuple[str, Rule], ...]
    name: str = ""
    demands: Callable[[Node], None] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        lines = self.lines.items() if isinstance(self.lines, Mapping) else self.lines
        for line in lines:
            pair = isinstance(line, (tuple, list)) and len(line) == 2
            if not (pair and isinstance(line[0], str) and callable(line[1])):
                raise OptionError(
                    "a composite is a list of (where, rule): a layer name, a glob, an op kind, "
                    f"'first' or '*', and a rule such as whence.rules.ZPlus(); got {line!r}"
                )
        object.__setattr__(self, "lines", tuple((where, rule) for where, rule in lines))

    def __str__(self) -> str:
        rows = [("where", "rule"), *((w, name_of(r)) for w, r in self.lines)]
        rows += [(str(k), name_of(r)) for k, r in BASE.items() if str(k) not in dict(self.lines)]
        width = max(len(w) for w, _ in rows)
        return "\n".join(f"{w:<{width}}  {r}" for w, r in rows)


def _lines(**kinds: Rule) -> tuple[tuple[str, Rule], ...]:
    return tuple((k.rstrip("_"), r) for k, r in kinds.items())


def _fixed(name: str, **kinds: Rule) -> Composite:
    return Composite(_lines(**kinds), name)


def epsilon(eps: float = 1e-6) -> Composite:
    """Epsilon everywhere, with one stabiliser for all linear ops."""
    rule = Epsilon(eps)
    return _fixed("epsilon", conv=rule, dense=rule, affine=rule, add=rule, avgpool=rule)


def _deep_taylor(rule: Domain) -> Composite:
    lines = _lines(conv=rule, dense=rule, affine=rule, add=Raised(), avgpool=Raised())
    return Composite(lines, "deep-taylor", rectified)


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
    "deep-taylor": lambda low=None, high=None: _deep_taylor(Domain(low, high)),
}
"""The composites that people know, by name."""


def named(name: str, **options: Any) -> Composite:
    """A composite by its name.

    Raises UnknownName for another name, OptionError for an option that it has not got.
    """
    if name not in NAMES:
        raise unknown("composite", name, [*NAMES, "auto"])
    given = {k: v for k, v in options.items() if v is not None}
    takes = list(signature(NAMES[name]).parameters)
    strange = [k for k in given if k not in takes]
    if strange:
        raise OptionError(
            f"composite {name!r} does not take {', '.join(strange)}; its options: "
            f"{', '.join(takes) or 'none'}"
        )
    return NAMES[name](**given)


def auto(tape: Tape) -> str:
    """The name of the composite that suits the ops on a tape.

    ``attn-lrp`` where there is attention, else ``epsilon-plus-flat`` where there are convolutions,
    ``epsilon`` otherwise.
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
    given = list((overrides or {}).items())
    first = next((n for n in tape.nodes if n.kind in _WEIGHTED), None)
    for where, rule in given:
        _check_pattern(where, rule, tape.nodes, first)
    gated = _recurrent_layers(tape)
    scores = _scores(tape)

    def listed(lines: Iterable[tuple[str, Rule]], node: Node) -> Rule | None:
        for where, rule in lines:
            if _matches(where, node, first) and _applies(where, rule, node):
                return rule
        return None

    def standard(node: Node) -> Rule | None:
        if node.kind is Op.OPAQUE and unknown_rule == "gradient":
            return proportional
        if node.kind is Op.MUL and any(_within(node.layer, layer) for layer in gated):
            return signal
        return BASE.get(node.kind)

    def choose(node: Node) -> Rule | None:
        rule = listed(given, node)
        if rule is None:
            if composite.demands is not None:
                composite.demands(node)
            rule = listed(composite.lines, node) or standard(node)
        by_node: Any = getattr(rule, "for_node", None)
        if by_node is not None:
            rule = by_node(node)
        return _for_scores(rule) if id(node) in scores else rule

    return choose


def _scores(tape: Tape) -> set[int]:
    """Sums whose result reaches a softmax by moves alone: a mask of -inf may be among the terms."""
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
    if where in _KINDS:
        return node.kind == where
    return bool(node.layer) and (_within(node.layer, where) or fnmatchcase(node.layer, where))


def _applies(where: str, rule: Rule, node: Node) -> bool:
    """A layer's pattern means the ops with weights in it, not its activations and moves."""
    named_kind = where in ("first", "*") or where in _KINDS
    return named_kind or node.kind in _kinds(rule)


def _check_pattern(where: str, rule: Rule, nodes: Sequence[Node], first: Node | None) -> None:
    """Is the pattern of some use?

    Raises UnknownName where it matches nothing, OptionError where its rule is not for what it
    matches.
    """
    matched = [n for n in nodes if _matches(where, n, first)]
    if not matched:
        raise _no_match(where, nodes)
    if not any(_applies(where, rule, n) for n in matched):
        here = ", ".join(dict.fromkeys(str(n.kind) for n in matched))
        raise OptionError(
            f"the pattern {where!r} in rules= matches {here} only, and a layer's pattern gives "
            f"{name_of(rule)} to {', '.join(_kinds(rule))} ops. Name the op kind instead"
        )


def _kinds(rule: Rule) -> Sequence[Op]:
    """The kinds of op that a rule is for where a layer is named."""
    kinds: Sequence[Op] = getattr(rule, "kinds", (*_WEIGHTED, Op.AFFINE))
    return kinds


def _no_match(where: str, nodes: Iterable[Node]) -> UnknownName:
    nodes = list(nodes)
    layers = dict.fromkeys(n.layer for n in nodes if n.layer)
    kinds = dict.fromkeys(str(n.kind) for n in nodes if n.kind is not Op.INPUT)
    close = nearest(where, [*layers, *kinds, "first", "*"])
    hint = f" Nearest: {', '.join(map(repr, close))}." if close else ""
    return UnknownName(
        f"the pattern {where!r} in rules= matches no layer and no op kind on the tape.{hint} A "
        "pattern is a layer name, a glob over layer names, an op kind, 'first' or '*'; "
        f"whence.layers(model, x) lists layers, and the kinds here are {', '.join(kinds)}"
    )


def rectified(node: Node) -> None:
    """Raise OptionError for an op that deep Taylor is not derived for, naming it."""
    if node.kind is Op.RELU:
        slope = node.attrs.get("slope", 0.0)
        if isinstance(slope, (int, float)) and slope == 0:
            return
    elif node.kind in _RECTIFIED_NET:
        return
    raise OptionError(
        f"deep-taylor is derived for nets of affine ops, ReLUs and pooling; this one has "
        f"{node.kind}.{node.op} at layer {node.layer or '(top)'}, node {node.index}. Use lrp with "
        "another composite"
    )
