"""What control flow may ask of the reader that meets it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ...tape import Array
from .cells import Cell
from .graph import Body, Instruction

__all__ = ["Mark", "Runner"]

Mark = tuple[int, int, dict[int, Cell]]
"""A place in a recording, to come back to."""


class Runner(Protocol):
    """Runs instructions; ``Reader`` is the one."""

    record: bool
    """Whether what runs is written down."""
    state: dict[int, Cell]
    """What was written into variables in this run, by the id of the resource."""

    def run(self, body: Body, arguments: Sequence[Cell]) -> list[Cell]:
        """Run a body."""
        ...

    def execute(self, body: Body, instruction: Instruction, inputs: list[Cell]) -> list[Cell]:
        """Run one instruction."""
        ...

    def derived(
        self,
        op: str,
        function: Callable[..., list[Array]],
        inputs: Sequence[Cell],
        attrs: Mapping[str, Any] | None = None,
    ) -> list[Cell]:
        """Run what is no instruction but stands for some."""
        ...

    def without_tape(self) -> Runner:
        """A runner in the same state that writes nothing down."""
        ...

    def mark(self) -> Mark:
        """Where things stand."""
        ...

    def rewind(self, mark: Mark) -> None:
        """Forget what was written down since."""
        ...
