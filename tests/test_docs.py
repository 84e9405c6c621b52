"""The documentation is true: its Python runs and prints what it says, its tables are the code's."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

import whence

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """Python on a page: its first line there, and what the page says that it prints, if it does."""

    line: int
    code: str
    printed: str | None


def blocks(page: str) -> list[Block]:
    """The Python of a page in order; a ``text`` block next to one is what that one prints."""
    found: list[Block] = []
    end = -1
    for fence in FENCE.finditer(page):
        if fence[1] == "python":
            line = page.count("\n", 0, fence.start(2)) + 1
            found.append(Block(line, fence[2], None))
            end = fence.end()
        elif fence[1] == "text" and end >= 0 and not page[end : fence.start()].strip():
            found[-1] = found[-1]._replace(printed=fence[2])
            end = -1
    return found


def run(page: str, name: str) -> None:
    """Run a page's Python from top to bottom, in one namespace; compare what each block prints."""
    space: dict[str, object] = {"__name__": "__page__"}
    for line, code, printed in blocks(page):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile("\n" * (line - 1) + code, name, "exec"), space)
        assert printed is None or out.getvalue() == printed, f"{name}, line {line}"


def script(name: str) -> dict[str, object]:
    """What a file in scripts/ defines."""
    return runpy.run_path(str(ROOT / "scripts" / name))


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_a_page_runs_and_prints_what_it_says(path):
    if blocks(path.read_text("utf-8")):
        pytest.importorskip("torch")
    run(path.read_text("utf-8"), str(path))


def test_there_is_something_to_run():
    found = {path.name: blocks(path.read_text("utf-8")) for path in PAGES}
    assert len(found["add-a-rule.md"]) >= 6
    assert sum(b.printed is not None for b in found["add-a-rule.md"]) >= 3


def test_the_page_of_rules_is_what_the_tables_say():
    made = script("make_rules_page.py")["page"]()
    assert (ROOT / "docs" / "rules.md").read_text("utf-8") == made, (
        "docs/rules.md is not what the rules say: python scripts/make_rules_page.py"
    )


def test_the_page_of_rules_names_every_composite_kind_and_rule():
    from whence.ops import Op
    from whence.rules.composite import NAMES

    page = (ROOT / "docs" / "rules.md").read_text("utf-8")
    first_cells = re.findall(r"^\| `([\w-]+)", page, flags=re.MULTILINE)
    public = {n for n, v in vars(whence.rules).items() if isinstance(v, type) and n != "Composite"}
    assert {*NAMES, *map(str, Op), *public} <= set(first_cells)


def test_the_readme_lists_exactly_the_methods_that_there_are():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert script("make_method_table.py")["written"](readme, whence.methods()) == readme, (
        "the README's table is not whence.methods(): python scripts/make_method_table.py"
    )


# Each reader, red on a planted mistake.

PAGE = "# A\n\n```python\na = 1\n```\n\nWords.\n\n```python\nprint(a)\n```\n\n```text\n1\n```\n"


def test_blocks_are_read_with_their_lines_and_prints():
    assert blocks(PAGE) == [Block(4, "a = 1\n", None), Block(10, "print(a)\n", "1\n")]
    assert blocks("```console\n$ ls\n```\n\n```text\n1\n```\n") == []
    assert blocks("```python\na = 1\n```\n\nWords.\n\n```text\n1\n```\n")[0].printed is None


def test_a_page_that_is_wrong_is_found():
    run(PAGE, "page.md")
    with pytest.raises(AssertionError, match=r"page\.md, line 10"):
        run(PAGE.replace("a = 1", "a = 2"), "page.md")
    with pytest.raises(NameError) as error:
        run(PAGE.replace("a = 1", "b = 1"), "page.md")
    assert error.traceback[-1].lineno == 9  # counted from zero


def test_a_method_that_is_missing_from_a_table_is_found():
    made, rows = script("make_method_table.py"), whence.methods()
    page = made["BEGIN"] + made["table"](rows) + made["END"]
    assert made["written"](page, rows) == page
    assert made["written"](page, rows[:-1]) != page
    one = replace(rows[0], frameworks=("torch",))
    assert f"\n| `{one.name}` | yes | no |" in made["written"](page, [one])
    with pytest.raises(ValueError, match="must each be in the README once"):
        made["written"]("nothing", rows)
