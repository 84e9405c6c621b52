"""One sample, and many: what an item of a data set is, taken apart and put together.

A structure is one array, or a tuple or dict of arrays (and of options, which are no arrays).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..frameworks import namespace, to_numpy

__all__ = [
    "Row", "id_of", "is_array", "leaves", "length", "mapped", "row_at", "row_of", "rows_of",
    "scalar", "shape_of", "stack",
]  # fmt: skip

_ITEM = 'an item is a sample, a pair (x, label), or a dict {"x": ..., "label": ..., "id": ...}'


@dataclass(frozen=True, eq=False)
class Row:
    """One sample without a batch axis. id: as the data give it, None where they do not."""

    x: Any
    label: Any = None
    id: Any = None


def is_array(thing: Any) -> bool:
    """Whether a thing is an array of any framework."""
    return hasattr(thing, "shape") and hasattr(thing, "dtype")


def mapped(function: Callable[[Any], Any], x: Any) -> Any:
    """The structure with every leaf replaced."""
    if isinstance(x, Mapping):
        return {k: mapped(function, v) for k, v in x.items()}
    if isinstance(x, tuple):
        return tuple(mapped(function, v) for v in x)
    return function(x)


def leaves(x: Any) -> list[Any]:
    """The leaves of a structure, in order."""
    found: list[Any] = []
    mapped(found.append, x)
    return found


def length(x: Any) -> int:
    """How many samples a structure with a batch axis holds. Raises InputError."""
    sizes = {int(leaf.shape[0]) for leaf in leaves(x) if is_array(leaf) and len(leaf.shape)}
    if len(sizes) != 1:
        what = "no array with a batch axis" if not sizes else f"batches of {sorted(sizes)} samples"
        raise InputError(f"a batch of the data holds {what}; all arrays go sample by sample")
    return sizes.pop()


def row_of(item: Any, pairs: bool = True) -> Row:
    """An item of a data set: its sample, label and id. Raises InputError for another form.

    pairs: a tuple of two is (x, label).
    """
    x, label, name = _parts(item, pairs)
    if x is None:
        raise InputError(f"the item is {type(item).__name__} without a sample: {_ITEM}")
    return Row(mapped(_leaf, x), scalar(label), scalar(name))


def _parts(item: Any, pairs: bool) -> tuple[Any, Any, Any]:
    if isinstance(item, Mapping):
        rest = dict(item)
        label, name = rest.pop("label", None), rest.pop("id", None)
        if "x" not in rest:
            return (rest or None), label, name
        x = rest.pop("x")
        if rest:
            raise InputError(f"the item has {sorted(map(str, rest))} besides x, label and id")
        return x, label, name
    if isinstance(item, tuple) and pairs:
        if len(item) not in (1, 2):
            raise InputError(
                f"the item is a tuple of {len(item)}: {_ITEM}. Several inputs of a model are a "
                "dict of arrays, or (inputs, label) with a tuple for inputs"
            )
        return item[0], (item[1] if len(item) == 2 else None), None
    return item, None, None


def rows_of(item: Any) -> tuple[Any, int, list[Any], list[Any]]:
    """A batch that a loader gave: (x, samples, labels, ids), a None a sample where there are none.

    Raises InputError.
    """
    if isinstance(item, list):
        item = tuple(item)
    x, labels, ids = _parts(item, True)
    if x is None:
        raise InputError(f"a batch is {type(item).__name__} without samples")
    x = mapped(_leaf, x)
    count = length(x)
    return x, count, _listed(labels, count), _listed(ids, count)


def _listed(values: Any, count: int) -> list[Any]:
    if values is None:
        return [None] * count
    array = to_numpy(values) if is_array(values) else list(values)
    return [scalar(v) for v in array] if len(array) == count else [None] * count


def scalar(value: Any) -> Any:
    """A label or an id as Python's own number or string; None for anything longer."""
    if is_array(value):
        value = to_numpy(value)
        value = value.item() if value.ndim == 0 else None
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value if isinstance(value, (str, int, float)) else None


def id_of(value: Any, index: int) -> int | str:
    """An item's id: as it was given, a whole number or words; else its number in the data."""
    if value is None:
        return index
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return str(value)


def _leaf(leaf: Any) -> Any:
    """Lists and numbers as arrays; flags, words and None are options of the model's call."""
    if is_array(leaf) or leaf is None or isinstance(leaf, (str, bool)):
        return leaf
    if hasattr(leaf, "mode") and hasattr(leaf, "getbands"):
        raise InputError(
            "the item is a Pillow image; give a folder or a list of files with preprocess=, or "
            "turn it into the model's array first: whence.images.Preprocess(...)(np.asarray(image))"
        )
    array = np.asarray(leaf)
    if array.dtype.kind not in "biufc":
        raise InputError(f"the item holds {type(leaf).__name__}, which is no array of numbers")
    return array


def row_at(x: Any, place: int) -> Any:
    """One sample of a structure with a batch axis, without it."""
    return mapped(lambda a: a[place] if is_array(a) and len(a.shape) else a, x)


def shape_of(x: Any) -> tuple[Any, ...]:
    """What samples must share to be one batch: shapes and types of arrays, and the options."""
    return tuple(
        (tuple(a.shape), str(a.dtype)) if is_array(a) else repr(a) for a in leaves(x)
    ) + (tuple(map(str, x)) if isinstance(x, Mapping) else (type(x).__name__,))  # fmt: skip


def stack(samples: Sequence[Any]) -> Any:
    """Samples of one shape as a structure with a batch axis."""
    columns = list(zip(*(leaves(s) for s in samples), strict=True))
    made = iter([_stacked(column) for column in columns])
    return mapped(lambda _: next(made), samples[0])


def _stacked(column: Sequence[Any]) -> Any:
    first = column[0]
    if not is_array(first):
        return first
    if isinstance(first, (np.ndarray, np.generic)):
        return np.stack(column)
    xp = namespace(first)
    return xp.concat([xp.reshape(a, (1, *a.shape)) for a in column], 0)
