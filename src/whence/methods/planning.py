"""Which rule every op of a model gets, seen before anything is explained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .. import checks, frameworks, targets
from ..backward import name_of
from ..errors import OptionError, WhenceError
from ..rules.ahead import fold_ahead
from ..tape import Tape
from .catalogue import make
from .lrp import LRP, DeepTaylor
from .walks import _places, kept_layers, planned

__all__ = ["PlanRow", "PlanTable", "plan"]


@dataclass(frozen=True)
class PlanRow:
    """One op between the input and what is explained."""

    index: int
    """Its place on the tape, as in the ledger."""
    layer: str
    op: str
    """The framework's name for it."""
    kind: str
    rule: str
    """The rule that it gets, as the ledger names it."""


class PlanTable(tuple[PlanRow, ...]):
    """The ops in the order in which they ran, each with its rule; prints as a table."""

    composite: str
    """The composite's name: what "auto" chose, or the method's own."""

    def __new__(cls, rows: Iterable[PlanRow], composite: str = "") -> PlanTable:
        """From rows, and the composite's name."""
        table = super().__new__(cls, rows)
        table.composite = composite
        return table

    def __str__(self) -> str:
        head = ("index", "layer", "op", "kind", "rule")
        lines = [head] + [(str(r.index), r.layer, r.op, r.kind, r.rule) for r in self]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        table = [
            "  ".join(
                cell.rjust(w) if i == 0 else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*([f"composite {self.composite}"] if self.composite else []), *table])

    __repr__ = __str__


def plan(
    model: object, x: Any, method: Any = "lrp", *, target: Any = None, at: str | None = None,
    classes: Any = None, **options: Any,
) -> PlanTable:  # fmt: skip
    """The rule that each op would get, without explaining anything: the model runs once.

    model, x, target, at, classes: as for ``whence.explain``; the ops listed lie between the input
        (or ``at``) and the target.
    method: "lrp" or "deep-taylor", or an object such as ``whence.LRP("gamma")``.
    options: the method's own.
    Raises OptionError for a method that has no rules to show, and what ``whence.explain`` raises:
    UnknownName for a pattern in ``rules=`` that matches nothing, MissingRule for an op without one.

    Example:
        >>> import torch, whence
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
        >>> whence.plan(net, torch.ones(1, 3), rules={"first": whence.rules.Flat()})
        composite epsilon
        index  layer  op      kind   rule
            1  0      linear  dense  Flat()
            2  1      relu    relu   Pass()
            3  2      linear  dense  Epsilon(eps=1e-06)
    """
    chosen = make(method, options)
    if not isinstance(chosen, (LRP, DeepTaylor)):
        raise OptionError(
            f"whence.plan shows the rules of relevance methods, lrp and deep-taylor; {chosen.name} "
            "has none"
        )
    framework = frameworks.find(model, x)
    inputs = frameworks.gather(framework, model, x)
    checks.check_inputs(framework, model, inputs)
    goal = targets.make(target, classes)
    keep = kept_layers([chosen.walk()], goal, at)
    with framework.passive():
        try:
            tape = framework.record(model, inputs, head=goal.head, fold=True, keep=keep)
        except WhenceError:
            raise
        except Exception:
            checks.blame(framework, model, inputs)
            raise
        try:
            return _table(tape, chosen, goal, at, keep)
        finally:
            tape.free()


def _table(
    tape: Tape, method: LRP | DeepTaylor, goal: targets.Target, at: str | None, keep: list[str]
) -> PlanTable:
    fold_ahead(tape, keep)
    _, value = targets.find(goal, tape)
    places, _ = _places(tape, at)
    spec = method.walk()
    every = [*places, *(tape.at(name) for name in spec.keep)]
    rules = planned(tape, spec, value, every)
    name = method.resolve(tape).name if isinstance(method, LRP) else method.name
    rows = [(tape.nodes[place], rules[place]) for place in sorted(rules)]
    return PlanTable(
        (PlanRow(n.index, n.layer, n.op, str(n.kind), name_of(r)) for n, r in rows), name
    )
