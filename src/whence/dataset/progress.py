"""How far a run is, as one line on a terminal: only for what takes a while."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Shown", "shown"]

Shown = Callable[[int, int | None, str], None]

_PATIENCE, _EVERY = 1.0, 0.2  # seconds


@contextmanager
def shown(progress: bool | Shown, total: int | None) -> Iterator[Shown]:
    """A function to tell (items done, of how many, words); see ``explain_dataset``."""
    if callable(progress):
        yield progress
        return
    if not progress or not sys.stderr.isatty():
        yield lambda done, total, words: None
        return
    line = _Line()
    try:
        yield line.at
    finally:
        line.clear()


class _Line:
    """A line that is written over. Bars of single parts may come and go on it."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()
        self.first: int | None = None

    def at(self, done: int, total: int | None, words: str) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first, self.start = done, now  # what was finished before says nothing of the pace
        if now - self.start < _PATIENCE or now - self.last < _EVERY:
            return
        self.last = now
        parts = [f"{done:,} of {total:,} items" if total is not None else f"{done:,} items", words]
        if total is not None and done > self.first:
            left = (now - self.start) / (done - self.first) * (total - done)
            parts.append(f"{_time(left)} left")
        sys.stderr.write("\r\x1b[K" + ", ".join(p for p in parts if p))
        sys.stderr.flush()

    def clear(self) -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
