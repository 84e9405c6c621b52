"""A bar over many pieces of work, each of which may show a bar of its own below it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from whence.render.words import plain

__all__ = ["Step", "pieces"]

Step = Callable[[int, int, str], None]
"""Is told: how many are done, of how many, and words."""

_DELAY = 1.0  # seconds before it is shown at all
_EVERY = 0.1  # seconds between two drawings


@contextmanager
def pieces(alike: bool = True) -> Iterator[Step]:
    """A function to tell (done, of how many, words); a bar shows it on stderr.

    It is drawn when it is told something and stands still in between, so that a bar which a piece
    shows of itself has the line below. alike: the pieces take about as long as each other, so that
    the time that is left can be told. There is none where stderr is not a terminal, and none in the
    first second.
    """
    bar = _Bar(alike) if sys.stderr.isatty() else None
    if bar is None or bar.console.is_dumb_terminal:
        yield lambda done, total, words: None
        return
    late = threading.Timer(_DELAY, bar.appear)
    late.daemon = True
    late.start()
    try:
        yield bar.at
    finally:
        late.cancel()
        late.join()
        bar.vanish()


class _Bar:
    """What was told last, on one line of the terminal, whose end it leaves to others."""

    def __init__(self, alike: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.console = Console(stderr=True)
        self.bar = Progress(
            BarColumn(bar_width=30), MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False), console=self.console,
        )  # fmt: skip
        self.task = self.bar.add_task("", total=None)
        self.pace = _Pace() if alike else None
        self.lock = threading.Lock()
        self.told: tuple[int, int, str] | None = None
        self.hidden = True
        self.there = False
        self.drawn = 0.0

    def at(self, done: int, total: int, words: str) -> None:
        with self.lock:
            if (done, total, words) == self.told:
                return
            self.told = (done, total, words)
            left = self.pace.left(done, total) if self.pace else ""
            said = ", ".join(part for part in (plain(words), left) if part)
            self.bar.update(self.task, completed=done, total=total, description=said)
            if not self.hidden and time.monotonic() - self.drawn >= _EVERY:
                self._draw()

    def appear(self) -> None:
        with self.lock:
            self.hidden = False
            if self.told is not None:
                self._draw()

    def vanish(self) -> None:
        with self.lock:
            self._erase()

    def _draw(self) -> None:
        with self.console:  # one write, so that nothing comes in between
            self._erase()
            self.console.print(self.bar.get_renderable())
        self.there, self.drawn = True, time.monotonic()

    def _erase(self) -> None:
        """Take away its line, and what was left on the one below."""
        from rich.control import Control
        from rich.segment import ControlType

        if self.there:
            line = (ControlType.ERASE_IN_LINE, 2)
            up = (ControlType.CURSOR_UP, 1)
            self.console.control(Control(ControlType.CARRIAGE_RETURN, line, up, line))
            self.there = False


class _Pace:
    """How long it still takes, at the pace since the number of pieces was last another."""

    def __init__(self) -> None:
        self.first, self.total, self.start = 0, -1, 0.0

    def left(self, done: int, total: int) -> str:
        """In words; none before the first piece is done, and none after the last."""
        now = time.monotonic()
        if total != self.total:
            self.first, self.total, self.start = done, total, now
        if not self.first < done < total:
            return ""
        seconds = (now - self.start) / (done - self.first) * (total - done)
        return f"{timedelta(seconds=round(seconds))} left"
