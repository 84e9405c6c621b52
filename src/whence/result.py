"""What comes out: an explanation, its books, and how both are kept in a file.

Results are data. They know their axes, units and how they were made; they do not know how to draw
(``whence.render`` draws them; ``Explanation.show`` reaches it through ``doors``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .arrays import Array
from .errors import InputError, unknown
from .frameworks import to_numpy
from .ledger import Ledger

__all__ = ["Explanation", "Explanations", "doors"]

_REDUCTIONS: dict[str, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]] = {
    "sum": lambda a, axes: a.sum(axis=axes),
    "mean": lambda a, axes: a.mean(axis=axes),
    "max": lambda a, axes: a.max(axis=axes),
    "l2": lambda a, axes: np.sqrt((a**2).sum(axis=axes)),
    "maxabs": lambda a, axes: np.abs(a).max(axis=axes),
}


class _Doors:
    """What can be done with a result, put here by the package: data imports no drawing code."""

    figure: Callable[..., Any]
    png: Callable[..., bytes]
    save: Callable[..., Any]
    tokens: Callable[..., Any]
    text: Callable[..., Any]
    run: Callable[..., Any]
    """Opens the store of a whole data set."""


doors = _Doors()


@dataclass(eq=False)
class Explanation:
    """Where an answer came from: one number for each element of the input.

    Arrays are in the caller's type and shape; per-sample numbers are NumPy, (batch,).
    """

    attribution: Any
    """Like the input: one array, or a tuple or dict of them; with ``at=``, like that layer's."""
    raw: Any
    """The map at its own resolution, before it is brought to the input's; here the same."""
    target: np.ndarray | str
    """The class of each sample, (batch,), or the words for a target that is not a class."""
    output: np.ndarray
    """The explained number of each sample."""
    method: str
    options: dict[str, Any]
    ledger: Ledger | None = None
    gap: np.ndarray | None = None
    """|sum of the attribution - (f(x) - f(x0))| / |f(x) - f(x0)| of each sample, for methods whose
    attributions should add up; None for the others."""
    layer: str = ""
    """Where the attribution was read; empty for the input."""
    channels: str | None = None
    """``"first"`` or ``"last"`` for maps, None for sequences and tables."""
    axes: tuple[str, ...] = ()
    """Names of the attribution's axes: ``("batch", "channel", "height", "width")``."""
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    model_summary: str = ""
    target_names: list[str] = field(default_factory=list)
    """The target in words, one a sample."""
    answer: np.ndarray | None = None
    """The model's top class of each sample, where its output is one number a class."""
    probability: np.ndarray | None = None
    """The model's probability for that class (softmax of the output, if it is not one already)."""
    inputs: Any = None
    """What was explained, for overlays."""
    signed: bool = True
    """Whether the sign means something: for and against."""
    reduce: str = "sum"
    """How ``heatmap`` brings channels together: sum, mean, max, maxabs or l2."""
    notes: list[str] = field(default_factory=list)
    """What a reader should know: a rule that had nothing to act on, a gradient that was chosen."""
    extras: dict[str, Any] = field(default_factory=dict)
    """What a method reports besides: a Taylor remainder, a root."""

    kept: dict[str, Any] = field(default_factory=dict)
    """The relevance at the layers that ``keep=`` named."""

    def at(self, layer: str) -> Any:
        """The relevance at a layer that was kept (``keep=[layer]``), without a second walk.

        Raises UnknownName for a layer that was not.
        """
        if layer not in self.kept:
            hint = f"Ask for it beforehand: keep=[{layer!r}], or explain with at={layer!r}."
            raise unknown("kept layer", layer, self.kept, hint)
        return self.kept[layer]

    @property
    def batch(self) -> int:
        """How many samples."""
        return len(self.output)

    def to_numpy(self) -> Any:
        """The attribution as NumPy arrays, in the input's structure."""
        return _mapped(to_numpy, self.attribution)

    def heatmap(self, reduce: str | None = None, name: str | int | None = None) -> np.ndarray:
        """The attribution with channels (or features) brought together, as NumPy.

        (batch, height, width) for maps, (batch, tokens) for sequences, (batch, features) else.
        reduce: "sum", "mean", "max", "maxabs" or "l2"; default the method's own (``self.reduce``).
        name: which of several inputs; default the first.
        """
        chosen = reduce or self.reduce
        if chosen not in _REDUCTIONS:
            raise InputError(f"reduce is one of {', '.join(_REDUCTIONS)}; got {chosen!r}")
        array = to_numpy(_one(self.attribution, name))
        axes = self.axes if len(self.axes) == array.ndim else guess_axes(array.shape, self.channels)
        merged = tuple(
            i for i, a in enumerate(axes) if a in ("channel", "feature") and array.ndim > 2
        )
        return _REDUCTIONS[chosen](array, merged) if merged else array

    def show(self, **options: Any) -> Any:
        """A picture: a matplotlib figure, which a notebook displays. Needs matplotlib."""
        return doors.figure(self, **options)

    def save(self, path: Any) -> Any:
        """Write everything to an ``.npz`` file with a JSON header; ``whence.load`` reads it back.

        The file is written whole or not at all. Returns its path. Raises FileError.
        """
        return doors.save(self, path)

    def tokens(self, tokenizer: Any = None, **options: Any) -> Any:
        """The tokens of one sample with a score each; ``whence.tokens.tokens_of`` says more.

        tokenizer: turns ids into text: any with the usual interface, a function, a dict, or a list
        of the tokens. options: ``ids``, ``sample``, ``merge``, ``name``, ``reduce``.
        """
        return doors.tokens(self, tokenizer, **options)

    def _repr_png_(self) -> bytes:
        return doors.png(self)

    def __repr__(self) -> str:
        shape = _mapped(lambda a: tuple(a.shape), self.attribution)
        at = f" at {self.layer}" if self.layer else ""
        head = f"Explanation by {self.method}{at}: {shape}, {self.batch} sample(s)"
        lines = [f"{head}, {self.seconds:.2f} s"]
        for i in range(min(self.batch, 4)):
            name = self.target_names[i] if i < len(self.target_names) else self.target
            line = f"  {name}: {self.output[i]:.4g}"
            if self.gap is not None:
                line += f", gap {self.gap[i]:.2g}"
            lines.append(line)
        if self.batch > 4:
            lines.append(f"  ... {self.batch - 4} more")
        worst = self.ledger.worst() if self.ledger is not None else None
        if worst is not None and worst.share > 0.05:
            lines.append(f"  {worst}")
        return "\n".join([*lines, *(f"  note: {n}" for n in self.notes)])


class Explanations(Sequence[Explanation]):
    """Explanations of one input by several methods: by place, by name, or one after another."""

    def __init__(self, items: Mapping[str, Explanation]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key not in self._items:
                raise unknown("explanation", key, self._items)
            return self._items[key]
        return list(self._items.values())[key]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Explanation]:
        return iter(self._items.values())

    def __contains__(self, key: object) -> bool:
        return key in self._items or key in self._items.values()

    def keys(self) -> list[str]:
        """The names, in the order asked for."""
        return list(self._items)

    def values(self) -> list[Explanation]:
        """The explanations, in the order asked for."""
        return list(self._items.values())

    def items(self) -> list[tuple[str, Explanation]]:
        """Names and explanations."""
        return list(self._items.items())

    def show(self, **options: Any) -> Any:
        """A grid of pictures, methods x inputs."""
        return doors.figure(self.values(), **options)

    def _repr_png_(self) -> bytes:
        return doors.png(self.values())

    def __repr__(self) -> str:
        return "\n".join(repr(e) for e in self)


def _mapped(function: Callable[[Any], Any], structure: Any) -> Any:
    if isinstance(structure, Mapping):
        return {k: None if v is None else function(v) for k, v in structure.items()}
    if isinstance(structure, (tuple, list)):
        return tuple(None if v is None else function(v) for v in structure)
    return function(structure)


def _one(structure: Any, name: str | int | None) -> Array:
    if isinstance(structure, Mapping):
        found = {k: v for k, v in structure.items() if v is not None}
        if name is not None and name not in found:
            raise unknown("input", name, map(str, found))
        return found[name] if name is not None else next(iter(found.values()))
    if isinstance(structure, (tuple, list)):
        named = {f"input{i}": v for i, v in enumerate(structure) if v is not None}
        wanted = f"input{name % len(structure)}" if isinstance(name, int) else name
        if wanted is not None and wanted not in named:
            raise unknown("input", wanted, named)
        return named[wanted] if wanted is not None else next(iter(named.values()))
    if name not in (None, 0, "input"):
        raise unknown("input", name, ["input"])
    return structure


def guess_axes(shape: Sequence[int], channels: str | None) -> tuple[str, ...]:
    """Names for axes from the rank and where channels stand."""
    rank = len(shape)
    space = {0: (), 1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
    if rank == 1:
        return ("batch",)
    if rank == 2:
        return ("batch", "feature")
    if channels is None and rank == 3:
        return ("batch", "token", "feature")
    inner = space.get(rank - 2, tuple(f"axis{i}" for i in range(rank - 2)))
    return ("batch", "channel", *inner) if channels == "first" else ("batch", *inner, "channel")
