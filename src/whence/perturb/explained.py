"""What the loop needs to know of the call that is explained."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

from ..arrays import Array
from ..frameworks.base import Framework, Inputs
from ..targets import Target

__all__ = ["Explained"]


class Explained(Protocol):
    """The fields of ``methods.base.Job``."""

    @property
    def framework(self) -> Framework:
        """Whose model it is."""
        ...

    @property
    def model(self) -> object:
        """The user's model."""
        ...

    @property
    def inputs(self) -> Inputs:
        """What it is called with."""
        ...

    @property
    def target(self) -> Target:
        """Which number is explained."""
        ...

    @property
    def at(self) -> str | None:
        """The layer whose output is varied; None for the input."""
        ...

    @property
    def arguments(self) -> Mapping[str, Array]:
        """The target's arrays."""
        ...

    def once(self, key: Hashable | Callable[[], Hashable], make: Callable[[], Any]) -> Any:
        """What ``make`` returns, made once for all methods that explain the call."""
        ...
