"""Relevance methods: LRP with any composite, and deep Taylor decomposition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from ..backward import Rule
from ..errors import OptionError
from ..rules.affine import Epsilon
from ..rules.composite import Composite, auto, chooser, named
from ..rules.pooling import ProportionalPool
from ..tape import Node, Tape
from .base import Found, Job, Method
from .walks import Walk, run_walks

__all__ = ["LRP", "DeepTaylor"]

_SEEDS = ("output", "one", "contrastive")

_WAYS_OUT = (
    'Ways out: unknown="gradient" hands it on in proportion to input x gradient (recorded in the '
    "result); rules={layer or kind: rule} with a rule of your own; a gradient method."
)


class _Relevance(Method):
    """What relevance methods share: walks in the output's units, with the books kept."""

    complete: ClassVar[bool] = True

    def walk(self) -> Walk:
        raise OptionError(f"{type(self).__name__} defines no walk")

    @classmethod
    def run(cls, methods: Sequence[Any], job: Job) -> list[Found]:
        return run_walks(
            [m.walk() for m in methods], job, keep_books=job.ledger, in_units=True,
            key=tuple(m.key for m in methods),
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def key(self) -> Any:
        """What tells one walk's graph from another's."""
        return (type(self).__name__, tuple((k, _hashable(v)) for k, v in super().options.items()))


@dataclass(frozen=True, repr=False)
class LRP(_Relevance):
    """Layer-wise relevance propagation: the answer, shared out op by op to the input [bach2015].

    composite: which op gets which rule: a name (``whence.rules.composite.NAMES``; "auto" chooses by
        the ops on the tape and says so in the result), a ``whence.Composite``, or one rule for
        every affine op.
    rules: {pattern: rule} that come before the composite's lines: a layer name, a glob over layer
        names, an op kind, "first" or "*"; the first that matches counts.
    eps, gamma, low, high: passed to the composites that have them; None leaves their defaults.
        ``low`` and ``high`` are the bounds of the input in model units: a number, one a channel, or
        arrays.
    seed: "output" starts with the explained number, so that relevance adds up to it; "one" with 1;
        "contrastive" with 1 for the target and -1/(classes - 1) for the others; or an array, one
        number a sample or of the output's shape.
    unknown: what to do at an op without a rule: None raises MissingRule; "gradient" hands relevance
        on in proportion to input x gradient.
    pool: what max pooling does: "winner" takes all (the framework's own choice of equals), or
        "proportional" shares among what a window holds above zero.
    keep: layers whose relevance to keep too, for ``explanation.at(layer)``.
    through: {layer: channels}: relevance passes that layer only in these channels, so that the
        result is the part of the answer that went through them.
    Raises OptionError for any other value.
    """

    name: ClassVar[str] = "lrp"

    composite: Any = "auto"
    rules: Mapping[str, Rule] = field(default_factory=dict)
    eps: float | None = None
    gamma: float | None = None
    low: Any = None
    high: Any = None
    seed: Any = "output"
    unknown: str | None = None
    pool: str = "winner"
    keep: tuple[str, ...] = ()
    through: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.composite, str) and self.composite != "auto":
            self._named(self.composite)
        if not (isinstance(self.composite, (str, Composite)) or callable(self.composite)):
            raise OptionError(
                f"composite is a name, a whence.Composite or a rule; got {self.composite!r}"
            )
        if isinstance(self.seed, str) and self.seed not in _SEEDS:
            raise OptionError(
                f"seed is one of {', '.join(map(repr, _SEEDS))}, or an array; got {self.seed!r}"
            )
        if self.unknown not in (None, "gradient"):
            raise OptionError(f'unknown is None or "gradient"; got {self.unknown!r}')
        if self.pool not in ("winner", "proportional"):
            raise OptionError(f'pool is "winner" or "proportional"; got {self.pool!r}')
        if self.eps is not None:
            Epsilon(self.eps)
        if isinstance(self.keep, str):
            object.__setattr__(self, "keep", (self.keep,))
        object.__setattr__(self, "keep", tuple(self.keep))

    def _named(self, name: str) -> Composite:
        given = {"eps": self.eps, "gamma": self.gamma, "low": self.low, "high": self.high}
        return named(name, **given)

    __hash__ = _Relevance.__hash__  # options may be dicts and arrays

    def resolve(self, tape: Tape) -> Composite:
        """The composite for this tape."""
        if isinstance(self.composite, Composite):
            return self.composite
        if isinstance(self.composite, Epsilon):
            return named("epsilon", eps=self.composite.eps)
        if not isinstance(self.composite, str):
            return Composite((("*", self.composite),), repr(self.composite))
        name = auto(tape) if self.composite == "auto" else self.composite
        return self._named(name)

    def choose(self, tape: Tape) -> Callable[[Node], Rule | None]:
        """The rule of each node on a tape."""
        composite = self.resolve(tape)
        if self.pool == "proportional":
            lines: Any = (("maxpool", ProportionalPool()), *composite.lines)
            composite = replace(composite, lines=lines)
        return chooser(tape, composite, self.rules, self.unknown)

    def walk(self) -> Walk:
        """The walk that does this."""
        return Walk(
            self.choose, self.seed, _WAYS_OUT, keep=self.keep, through=dict(self.through),
            facts=lambda tape: {"composite": self.resolve(tape).name},
        )  # fmt: skip


@dataclass(frozen=True, repr=False)
class DeepTaylor(_Relevance):
    """Deep Taylor decomposition: a first-order expansion at every op [montavon2017].

    The expansion is about a root point that the op's domain suggests: z+ for activations that are
    not negative; for the first op z^B between ``low`` and ``high`` where these are given (pixels),
    else w^2. Biases take no part, so nothing is absorbed but by eps.
    Raises OptionError, naming the op, for a net that is not made of affine ops, ReLUs and pooling.
    """

    name: ClassVar[str] = "deep-taylor"

    low: Any = None
    high: Any = None
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.keep, str):
            object.__setattr__(self, "keep", (self.keep,))
        object.__setattr__(self, "keep", tuple(self.keep))
        named("deep-taylor", low=self.low, high=self.high)

    def choose(self, tape: Tape) -> Callable[[Node], Rule | None]:
        """The rule of each node on a tape."""
        return chooser(tape, named("deep-taylor", low=self.low, high=self.high))

    def walk(self) -> Walk:
        """The walk that does this."""
        return Walk(self.choose, "output", _WAYS_OUT, keep=self.keep)


def _hashable(value: Any) -> Any:
    """An option as part of a key: arrays by their content, rules and composites as they are."""
    if isinstance(value, Mapping):
        return tuple((k, _hashable(v)) for k, v in value.items())
    if isinstance(value, (list, tuple, set, range)):
        return tuple(_hashable(v) for v in value)
    if hasattr(value, "shape"):
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        return (array.shape, array.tobytes())
    return value
