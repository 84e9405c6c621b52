"""Write docs/rules.md: which op gets which rule in which composite, and what each rule does.

Everything on the page comes from the tables and docstrings in whence.rules, and a test compares the
page with them: python scripts/make_rules_page.py
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from whence import rules
from whence.errors import OptionError
from whence.ops import CONTRACTS, Op
from whence.rules import composite
from whence.rules.flow import proportional
from whence.tape import Node

PAGE = Path(__file__).resolve().parent.parent / "docs" / "rules.md"

SOURCES = {Op.INPUT, Op.EMBEDDING}
BOUNDS = {"low": 0.0, "high": 1.0}
"""For composites that cannot be made without the bounds of the input."""

TOP = """\
# Rules of relevance

Written by `scripts/make_rules_page.py` from the tables and docstrings in `whence.rules`; change
those, not this page. How to add a rule of your own: [add-a-rule.md](add-a-rule.md).

`whence.explain(model, x, "lrp", composite=NAME)` gives each operation the rule of one row below.
`rules={where: rule}` comes before the row: a layer's name, a glob over names, an op kind, `"first"`
or `"*"`.
"""


def options_of(rule: Any) -> str:
    """``(eps=1e-06)``: a rule's options and their defaults."""
    if not is_dataclass(rule):
        return ""
    shown = [
        f.name if f.default in (MISSING, None) else f"{f.name}={f.default!r}"
        for f in fields(rule)
        if f.repr
    ]
    return f"({', '.join(shown)})" if shown else ""


def named(rule: Any) -> str:
    """A rule's name in a cell, with the options that are not its defaults; bounds left out."""
    if not is_dataclass(rule):
        return rule.__name__
    other = [
        f"{f.name}={getattr(rule, f.name)!r}"
        for f in fields(rule)
        if f.repr and f.name not in BOUNDS and getattr(rule, f.name) != f.default
    ]
    return type(rule).__name__ + (f"({', '.join(other)})" if other else "")


def made(make: Callable[..., composite.Composite]) -> composite.Composite:
    """A composite with its defaults, and with bounds where it asks for them."""
    try:
        return make()
    except OptionError:
        return make(**BOUNDS)


def summary(thing: Any) -> str:
    """The first line of a docstring."""
    return inspect.getdoc(thing).partition("\n")[0]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def refuses(each: composite.Composite, where: str) -> bool:
    """Whether a composite raises for every op of a kind."""
    if each.demands is None or where not in tuple(Op):
        return False
    try:
        each.demands(Node(Op(where), where, "", ()))
    except OptionError:
        return True
    return False


def composites_table(found: dict[str, composite.Composite]) -> str:
    """Composite x op kind -> rule, for the kinds at which composites differ."""
    where = list(dict.fromkeys(w for c in found.values() for w, _ in c.lines))
    where.sort(key=["first", *map(str, Op)].index)
    rows = []
    for name, each in found.items():
        given = {str(k): rule for k, rule in composite.BASE.items()} | dict(each.lines)
        taken = inspect.signature(composite.NAMES[name]).parameters.values()
        options = ", ".join(f"{p.name}={p.default!r}" for p in taken)
        cells = [code(named(given[w])) if w in given else "" for w in where]
        cells = ["refused" if refuses(each, w) else c for w, c in zip(where, cells, strict=True)]
        rows.append([code(name), code(options), *cells])
    return table(["composite", "options", *where], rows)


def kinds_table() -> str:
    """What each kind of operation is, and its rule where a composite says nothing."""
    rows = []
    for kind, contract in CONTRACTS.items():
        if kind in composite.BASE:
            rule = code(named(composite.BASE[kind]))
        elif kind in SOURCES:
            rule = "relevance is read here"
        elif kind is Op.OPAQUE:
            rule = f'an error; with `unknown="gradient"` {code(proportional.__name__)}'
        else:
            rule = "each composite's own"
        rows.append([code(str(kind)), contract.meaning, rule])
    return table(["op kind", "what it is", "rule"], rows)


def rules_table(found: Iterable[composite.Composite]) -> str:
    """What each rule does, by the first line of its docstring; those of whence.rules first."""
    public = [v for v in vars(rules).values() if inspect.isclass(v) and callable(v)]
    public = [v for v in public if v is not composite.Composite]
    used = [rule for each in found for _, rule in each.lines]
    used += [*composite.BASE.values(), proportional]
    kinds = [type(rule) if is_dataclass(rule) else rule for rule in used]
    listed = dict.fromkeys([*sorted(public, key=lambda v: v.__name__), *kinds])
    return table(
        ["rule", "what it does"],
        ([code(v.__name__ + options_of(v)), summary(v).replace("|", "\\|")] for v in listed),
    )


def page() -> str:
    """The whole page."""
    found = {name: made(make) for name, make in composite.NAMES.items()}
    auto = inspect.getdoc(composite.auto).partition("\n\n")[2].replace("``", "`")
    return "\n".join([
        TOP,
        "## Composites\n",
        "Options that are not shown have their defaults; `first` is the first dense or convolution "
        "op that ran.\n",
        composites_table(found),
        f'`composite="auto"` is {auto}\n',
        f"In {', '.join(composite._RECURRENT)} layers a product is a gate, and gets `signal` where "
        "the row says `halves`.\n",
        "## Op kinds\n",
        "Where a composite has no line for a kind, every composite does the same:\n",
        kinds_table(),
        "## What each rule does\n",
        "x is what came in, z what came out, J the op's Jacobian, W its weights, R the relevance "
        "that arrives and s(z) = z + eps * sign(z). Keys in brackets are those of "
        "[bibliography.bib](bibliography.bib).\n",
        rules_table(found.values()),
    ])  # fmt: skip


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
