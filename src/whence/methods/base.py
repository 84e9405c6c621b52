"""What a method is, and what every explanation goes through.

A method says how the attribution is got from the model; the rest (finding the framework, checking
the input, resolving the target, packing the result) is the same for all and is in ``explain.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar

from ..arrays import Array
from ..backward import Row
from ..frameworks.base import Framework, Inputs
from ..targets import Target

__all__ = ["Found", "Job", "Method", "doors", "family_of"]


@dataclass(frozen=True)
class Job:
    """One call to be explained, with everything resolved."""

    framework: Framework
    model: object
    inputs: Inputs
    target: Target
    at: str | None
    """The layer at which the attribution is read; None for the input."""
    arguments: Mapping[str, Array]
    """The target's arrays, in the framework's type."""
    ledger: bool = True
    sample_ids: Sequence[int | str] | None = None
    """Names the random draws of each sample; None counts them from 0."""
    several: bool = False
    """Whether several methods explain this call, so that it pays to keep what they share."""
    made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What they share, for as long as the call to explain lasts; ``replace`` begins a new one."""

    def once(self, key: Hashable | Callable[[], Hashable], make: Callable[[], Any]) -> Any:
        """What ``make`` returns, made once for all methods that ask by an equal key.

        key: or a function that gives it, which is not called where one method is alone.
        Nothing is kept of a ``make`` that raises: the next method tries, and fails, by itself.
        """
        if not self.several:
            return make()
        name = key() if callable(key) else key
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]


@dataclass
class Found:
    """What a method computed, in the framework's arrays."""

    attribution: dict[str, Array | None]
    """By input name; by embedding where the input is whole numbers; ``at`` for a layer."""
    score: Array
    """The explained number of each sample, (batch,)."""
    index: Array | None
    """The class of each sample, where the target is one."""
    outputs: Array | None
    """The model's output at the target's place, for the answer and its probability."""
    reference: Array | None = None
    """f(x0) of each sample, where the attribution should add up to f(x) - f(x0); 0 if None."""
    rows: Sequence[Row] = ()
    seed: Array | None = None
    axes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    kept: dict[str, Array | None] = field(default_factory=dict)
    """Relevance at the layers that were asked to be kept."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Options as they turned out, such as the composite that "auto" chose."""
    extras: dict[str, Any] | None = None
    seconds: float = 0.0


class _Doors:
    """What runs a method, put here by the file that does: a method does not know how it is run."""

    explain: Callable[..., Any]


doors = _Doors()


class Method(ABC):
    """An attribution method: a frozen dataclass of its options.

    Calling it on a model and an input explains; printing it gives the call that makes it.
    """

    name: ClassVar[str]
    signed: ClassVar[bool] = True
    reduce_by: ClassVar[str] = "sum"
    """How heat maps bring channels together, unless the method has an option ``reduce``."""
    complete: ClassVar[bool] = False
    """Whether the attribution should add up to f(x) - f(x0), so that a gap is reported."""

    def __call__(self, model: object, x: Any, **given: Any) -> Any:
        """Explain ``model`` at ``x``.

        given: target, at, classes, ledger and sample_ids, as in ``whence.explain``.
        """
        return doors.explain(model, x, self, **given)

    @classmethod
    @abstractmethod
    def run(cls, methods: Sequence[Any], job: Job) -> list[Found]:
        """Compute several methods of one family at once, sharing what they can."""

    @property
    def options(self) -> dict[str, Any]:
        """The options by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    def __repr__(self) -> str:
        given = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)  # type: ignore[arg-type]
            if not _same(getattr(self, f.name), _default(f))
        ]
        return f"whence.{type(self).__name__}({', '.join(given)})"


def family_of(method: Method) -> type[Method]:
    """The class that defines how a method runs: methods that share it run together."""
    return next(c for c in type(method).__mro__ if "run" in vars(c))


def _default(option: Field[Any]) -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()


def _same(a: object, b: object) -> bool:
    return a is b or (type(a) is type(b) and not hasattr(a, "shape") and a == b)
