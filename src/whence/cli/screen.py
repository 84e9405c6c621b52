"""What appears on the terminal: tables, JSON, notes and progress."""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from whence.render.words import plain

__all__ = ["progress", "say", "say_json", "say_notes", "table"]

_DELAY = 1.0  # seconds before progress is shown at all


def say(text: str) -> None:
    """A text on stdout; signs that the terminal cannot show become question marks."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.replace("\N{NO-BREAK SPACE}", " ").encode(encoding, "replace").decode(encoding))


def say_notes(notes: Iterable[str], head: str = "note") -> None:
    """What a reader should know, each once, on stderr, behind a word that says what it is."""
    for note in dict.fromkeys(notes):
        print(f"{head}: {plain(note)}", file=sys.stderr)


def say_json(value: Any) -> None:
    """One JSON document on stdout; NaN and infinity, which JSON has no word for, become null."""
    print(json.dumps(_clean(value), allow_nan=False, indent=1))


def _clean(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Columns under their heads; those named in ``right`` flush right.

    Example:
        >>> print(table(("name", "n"), [("a", "1"), ("b", "22")], right=("n",)))
        name   n
        a      1
        b     22
    """
    lines = [tuple(head), *(tuple(plain(cell) for cell in row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(head, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


@contextmanager
def progress() -> Iterator[Callable[[int, int, str], None]]:
    """A function to tell (done, of how many, what comes next); a bar shows it on stderr.

    There is none where stderr is not a terminal, and none in the first second.
    """
    if not sys.stderr.isatty():
        yield lambda done, total, doing: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    task = bar.add_task("", total=None)
    late = threading.Timer(_DELAY, bar.start)
    late.daemon = True
    late.start()
    try:
        yield lambda done, total, doing: bar.update(
            task, completed=done, total=total, description=plain(doing)
        )
    finally:
        late.cancel()
        late.join()  # or it might start the bar after it was stopped
        bar.stop()
