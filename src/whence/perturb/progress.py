"""A progress bar with the time left: on a terminal only, and only for what takes a while."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

__all__ = ["Progress"]

PATIENCE = 1.0
"""Seconds after which a bar appears."""


class Progress:
    """Shows how far a run is. Nothing is imported or printed for a run that is over in a second.

    show: True always shows, False never, None on a terminal.
    """

    def __init__(self, label: str, total: int, show: bool | None = None) -> None:
        self.label = label
        self.total = total
        self.show = sys.stderr.isatty() if show is None else show
        self.start = time.monotonic()
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> Progress:
        return self

    def at(self, done: int) -> None:
        """So many are done."""
        if not self.show:
            return
        if self.bar is None:
            if time.monotonic() - self.start < PATIENCE or done >= self.total:
                return
            self.bar = _bar()
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.total)
        self.bar.update(self.task, completed=done)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
