"""Write the README's table of methods from the catalogue.

``python scripts/make_method_table.py`` replaces what stands between the marks
``<!-- methods:begin -->`` and ``<!-- methods:end -->``; a test compares it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import whence
from whence.methods.catalogue import MethodRow

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- methods:begin -->\n", "\n<!-- methods:end -->"
FRAMEWORKS = {"torch": "PyTorch", "tensorflow": "TensorFlow / Keras"}


def table(rows: Iterable[MethodRow]) -> str:
    """One line a method: its name, and in which frameworks it works."""
    lines = [["method", *FRAMEWORKS.values()], ["---"] * (1 + len(FRAMEWORKS))]
    for row in rows:
        works = ["yes" if name in row.frameworks else "no" for name in FRAMEWORKS]
        lines.append([f"`{row.name}`", *works])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def written(readme: str, rows: Iterable[MethodRow]) -> str:
    """The README with the table in its place. Raises ValueError unless each mark is there once."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"{BEGIN!r} and {END!r} must each be in the README once")
    before, _, rest = readme.partition(BEGIN)
    return before + BEGIN + table(rows) + END + rest.partition(END)[2]


if __name__ == "__main__":
    README.write_text(written(README.read_text("utf-8"), whence.methods()), encoding="utf-8")
    print(f"wrote {README}")
