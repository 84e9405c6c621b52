"""What is perturbed together: the units of each input, numbered per sample from 0.

``Units`` turns ``features=`` (or what suits the kind of input, where nothing is given) into dense
numbers, spreads one value a unit over the elements, and finds each row's coefficients there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array, Functions
from ..errors import InputError, OptionError, unknown
from ..frameworks import to_numpy
from ..frameworks.base import Framework
from ..segments import grid
from .chunks import Chunk

__all__ = ["Sides", "Units", "by_name", "gathered", "make_units", "mix", "sides_of"]


class Sides(NamedTuple):
    """Which axes of an array are places (rows, columns, steps) and which one holds channels."""

    space: tuple[int, ...]
    channel: int | None

    @property
    def kind(self) -> str:
        """``image``, ``sequence`` or ``table``: what neighbours mean."""
        if len(self.space) > 1:
            return "image"
        return "sequence" if self.channel is not None else "table"


def sides_of(
    framework: Framework, model: object, shape: Sequence[int], axes: Sequence[str] | None = None
) -> Sides:
    """Where the places and the channels of an array stand.

    axes: names of the axes, where they are known; else it goes by rank, as results name their axes:
    maps keep channels as the framework does, sequences keep features last, tables have none.
    """
    rank = len(shape)
    if axes is not None and len(axes) == rank:
        found = [i for i, name in enumerate(axes) if i and name in ("channel", "feature")]
        channel = found[0] if found and rank > 2 else None
    elif rank >= 4 or (rank == 3 and framework.expectation(model).rank == 3):
        channel = 1 if framework.channels == "first" else rank - 1
    else:
        channel = rank - 1 if rank == 3 else None
    return Sides(tuple(i for i in range(1, rank) if i != channel), channel)


def by_name(given: Any, places: Sequence[str], what: str) -> dict[str, Any]:
    """An option given once for all inputs, or as a dict or tuple of one an input -> by name.

    Raises UnknownName for an input that there is not, OptionError for a tuple of another length.
    """
    if isinstance(given, Mapping):
        for name in given:
            if name not in places:
                raise unknown(f"input in {what}", name, places)
        return dict(given)
    if isinstance(given, (tuple, list)) and any(hasattr(g, "shape") for g in given):
        if len(given) != len(places):
            raise OptionError(
                f"{what} has {len(given)} entries for {len(places)} input(s): {', '.join(places)}"
            )
        return {n: g for n, g in zip(places, given, strict=True) if g is not None}
    return dict.fromkeys(places, given)


@dataclass(frozen=True)
class Units:
    """The units of a batch.

    numbers: by input, (1 or batch, ...) with the input's rank and length 1 where it broadcasts;
        -1 where nothing is varied. Inputs that are not there are not varied.
    counts: (batch,), units of each sample. shapes: each input's full shape.
    """

    numbers: Mapping[str, np.ndarray]
    counts: np.ndarray
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def most(self) -> int:
        """The largest number of units of any sample."""
        return int(self.counts.max())

    def sizes(self) -> np.ndarray:
        """How many elements each unit has, (batch, most)."""
        batch, most = len(self.counts), self.most
        found = np.zeros((batch, most))
        for name, numbers in self.numbers.items():
            times = int(np.prod(self.shapes[name][1:])) // max(int(np.prod(numbers.shape[1:])), 1)
            for i in range(batch):
                own = numbers[i % len(numbers)].ravel()
                found[i] += np.bincount(own[own >= 0], minlength=most)[:most] * times
        return found

    def spread(self, values: np.ndarray, *, share: bool = False) -> dict[str, np.ndarray]:
        """One value a unit -> one an element: (batch, units) -> {name: the input's shape}.

        share: divide a unit's value among its elements, so that they add up to it; else each
        element bears the whole. Elements that are never varied get 0.
        """
        if share:
            values = values / np.maximum(self.sizes(), 1)
        padded = np.concatenate([values, np.zeros((len(values), 1))], 1)
        found = {}
        for name, numbers in self.numbers.items():
            flat = numbers.reshape(len(numbers), -1)
            full = np.take_along_axis(
                padded, np.broadcast_to(flat, (len(values), flat.shape[1])), 1
            )
            full = full.reshape(len(values), *numbers.shape[1:])
            found[name] = np.broadcast_to(full, self.shapes[name])
        return found

    def held(self, xp: Functions, like: Array) -> dict[str, Array]:
        """The numbers as the framework's arrays, flat: {name: (1 or batch, elements)}.

        Where nothing is varied stands the number ``most``.
        """
        beside = like if xp.name == "torch" else None  # TensorFlow would take its floating type
        return {
            name: xp.asarray(np.where(n < 0, self.most, n).reshape(len(n), -1), like=beside)
            for name, n in self.numbers.items()
        }


def make_units(
    framework: Framework,
    model: object,
    places: Mapping[str, Array],
    features: Any = None,
    *,
    cells: int = 8,
    axes: Sequence[str] | None = None,
) -> Units:
    """The units of a batch of inputs.

    features: None for what suits each input (cells x cells patches of an image, each step of a
        sequence, each column of a table), an array of whole numbers that broadcasts to the input,
        or a dict or tuple of one an input. Equal numbers in two inputs are one unit, and an input
        that a dict leaves out is not varied.
    Raises OptionError for numbers that are not whole or a shape that does not fit.
    """
    xp = framework.xp
    shapes = {k: tuple(xp.shape(v)) for k, v in places.items()}
    batch = next(iter(shapes.values()))[0]
    given = by_name(features, list(places), "features")
    raw: dict[str, np.ndarray] = {}
    sides = {name: sides_of(framework, model, shapes[name], axes) for name in given}
    for name, numbers in given.items():
        if numbers is not None:
            raw[name] = fitted(numbers, shapes[name], sides[name], name)
    # Units of inputs that came without are numbered on from those that came with.
    start = max((int(n.max()) + 1 for n in raw.values()), default=0)
    for name, numbers in given.items():
        if numbers is None:
            own = default_units(shapes[name], sides[name], cells)
            raw[name] = own + start
            start += int(own.max()) + 1
    return _dense({name: raw[name] for name in given}, batch, shapes)


def default_units(shape: Sequence[int], sides: Sides, cells: int) -> np.ndarray:
    """A grid over an image, each step of a sequence, each column of a table."""
    if not sides.space:
        return np.zeros((1,) * len(shape), np.int64)
    wanted = [shape[a] if len(sides.space) == 1 else min(cells, shape[a]) for a in sides.space]
    lined = grid((1, *(shape[a] for a in sides.space)), wanted, channels=None)
    return lined if sides.channel is None else np.expand_dims(lined, sides.channel)


def fitted(features: Any, shape: Sequence[int], sides: Sides, name: str) -> np.ndarray:
    """Features as an array of the input's rank that broadcasts to it.

    Besides what NumPy broadcasts, an array over the places alone (height, width), or over samples
    and places, is taken for what it is.
    """
    array = np.asarray(to_numpy(features) if hasattr(features, "shape") else features)
    if array.dtype.kind not in "iu":
        raise OptionError(
            f"features are whole numbers, one for each group; got {array.dtype} for {_called(name)}"
        )
    array = array.astype(np.int64)
    space = tuple(shape[a] for a in sides.space)
    if sides.channel is not None and array.ndim == len(shape) - 1 and array.shape[1:] == space:
        array = np.expand_dims(array, sides.channel)
    elif sides.channel is not None and array.shape == space:
        array = np.expand_dims(array[None], sides.channel)
    array = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    fits = array.ndim == len(shape) and all(
        a in (1, s) for a, s in zip(array.shape, shape, strict=True)
    )
    if not fits:
        raise OptionError(
            f"features have shape {np.shape(features)}, {_called(name)} {tuple(shape)}: give one "
            f"number an element, a shape that broadcasts to it, or one number a place {space}"
        )
    return array


def _called(name: str) -> str:
    return "the input" if name == "input" else f"input {name!r}"


def _dense(
    raw: Mapping[str, np.ndarray], batch: int, shapes: Mapping[str, tuple[int, ...]]
) -> Units:
    """Numbers from 0 in each sample, in order of size; negative ones become -1."""
    if not raw:
        raise OptionError("features name no input; nothing would be varied")
    alike = all(len(n) == 1 for n in raw.values())
    made: dict[str, list[np.ndarray]] = {name: [] for name in raw}
    counts = []
    for i in range(1 if alike else batch):
        own = {name: n[i % len(n)] for name, n in raw.items()}
        joined = np.concatenate([n.ravel() for n in own.values()])
        known = np.unique(joined[joined >= 0])
        if not known.size:
            raise InputError(f"features of sample {i} are all negative: nothing would be varied")
        counts.append(known.size)
        for name, n in own.items():
            made[name].append(np.where(n < 0, -1, np.searchsorted(known, n)))
    numbers = {name: np.stack(rows) for name, rows in made.items()}
    return Units(numbers, np.broadcast_to(np.asarray(counts), (batch,)).copy(), dict(shapes))


def mix(mask: Array, x: Array, x0: Array) -> Array:
    """Exactly x where the mask is 1, exactly x0 where it is 0, a mean of the two in between."""
    return mask * x + (1 - mask) * x0


def gathered(
    units: Units, held: Mapping[str, Array], coefficients: np.ndarray, chunk: Chunk,
    x0: Mapping[str, Array],
) -> dict[str, Array]:  # fmt: skip
    """The varied inputs of a chunk: each unit kept by its coefficient, the rest from ``x0``.

    held: ``units.held``. coefficients: (rows, most), 1 keeps x, 0 takes x0. x0: {name: (batch,
    ...)}. Returns {name: (rows, ...)}.
    """
    xp, rows, width = chunk.xp, len(chunk), units.most + 1
    wide = np.concatenate([coefficients, np.ones((rows, 1))], 1).astype(np.float32)
    offset = (np.arange(rows, dtype=np.int64) * width)[:, None]
    made = {}
    for name, numbers in held.items():
        x = chunk.x(name)
        flat = chunk.array(wide.reshape(-1), x)
        own = numbers if xp.shape(numbers)[0] == 1 else chunk.take(numbers)
        place = own + xp.asarray(offset, like=chunk.like_index(numbers))
        mask = xp.take(flat, xp.reshape(place, (rows * xp.shape(numbers)[1],)), 0)
        mask = xp.reshape(mask, (rows, *units.numbers[name].shape[1:]))
        made[name] = mix(mask, x, chunk.take(x0[name]))
    return made
