"""From whatever holds the samples to parts, the same parts on every run."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import InputError, OptionError
from ..images import Images
from .items import Row, id_of, is_array, leaves, length, mapped, row_of, rows_of, scalar
from .parts import Batch, Block, Broken, Part, cut, gathered

__all__ = ["Arrays", "Indexed", "Source", "Stream"]

_PATIENCE = 100  # items that may raise one after another before a stream is given up

Skip = Callable[[int], bool]


class Source(ABC):
    """Data as parts. length: how many items, None where that is not known. kind: for the store."""

    length: int | None
    kind: str

    @abstractmethod
    def parts(self, size: int, skip: Skip) -> Iterator[Part]:
        """The parts in order. Those of which ``skip(number)`` is true need not be read."""

    def classified(self) -> dict[str, Any]:
        """What the store says about where the data came from."""
        return {"kind": self.kind, "length": self.length}


class _Counted(Source):
    """Data in which an item can be reached by its number: finished parts are not read again."""

    length: int

    def parts(self, size: int, skip: Skip) -> Iterator[Part]:
        """Part by part; those that are finished come without samples."""
        for number, start in enumerate(range(0, self.length, size)):
            count = min(size, self.length - start)
            if skip(number):
                yield Part(number, start, count)
            else:
                yield self.part(number, start, count)

    @abstractmethod
    def part(self, number: int, start: int, count: int) -> Part:
        """One part."""


class Arrays(_Counted):
    """Arrays with a batch axis, sliced; they may lie in files (``np.memmap``, zarr, h5py)."""

    kind = "arrays"

    def __init__(self, x: Any, labels: Any = None, ids: Any = None) -> None:
        self.x, self.labels, self.ids = x, labels, ids
        self.length = length(x)
        for what, given in (("labels", labels), ("ids", ids)):
            if given is not None and len(given) != self.length:
                raise InputError(f"{len(given)} {what} were given for {self.length} samples")

    def part(self, number: int, start: int, count: int) -> Part:
        """A slice of everything."""
        stop = start + count
        x = mapped(lambda a: a[start:stop] if is_array(a) and len(a.shape) else a, self.x)
        given = [None] * count if self.ids is None else self.ids[start:stop]
        ids = [id_of(scalar(name), start + i) for i, name in enumerate(given)]
        labels = [None] * count
        if self.labels is not None:
            labels = [scalar(y) for y in self.labels[start:stop]]
        return Part(number, start, count, ids, labels, [Block(x, list(range(count)))])


class Indexed(_Counted):
    """A list, or anything with a length and items by number; an item that raises is one failure.

    name: the id of an item, asked before it is read; None where the item says it itself, or nobody.
    """

    kind = "items"

    def __init__(
        self, items: Any, name: Callable[[int], Any] | None = None, pairs: bool = True
    ) -> None:
        self.items, self.name, self.pairs = items, name, pairs
        self.length = len(items)

    def part(self, number: int, start: int, count: int) -> Part:
        """Item by item."""
        return gathered((self.row(i) for i in range(start, start + count)), number, start)

    def row(self, index: int) -> Row | Broken:
        """One item."""
        name = None if self.name is None else self.name(index)
        try:
            row = row_of(self.items[index], self.pairs)
        except Exception as error:
            return Broken(error, name)
        return row if row.id is not None else Row(row.x, row.label, name)


class Stream(Source):
    """An iterable, read through from its beginning on every run; its length need not be known.

    batched: whether its items have a batch axis.
    """

    kind = "stream"

    def __init__(self, items: Any, batched: bool = False, kind: str = "stream") -> None:
        self.items, self.batched, self.kind = items, batched, kind
        self.length = None

    def parts(self, size: int, skip: Skip) -> Iterator[Part]:
        """All of them: what is finished has to be passed by."""
        yield from cut(self._events(), size)

    def _events(self) -> Iterator[Batch | Row | Broken]:
        stream, missed = iter(self.items), 0
        while True:
            error: Exception | None = None
            try:
                item = next(stream)
                event: Batch | Row = Batch(*rows_of(item)) if self.batched else row_of(item)
            except StopIteration:
                return
            except Exception as raised:
                error = raised
            if error is None:
                missed = 0
                yield event
                continue
            missed += 1
            if self.batched or inspect.isgenerator(stream) or missed >= _PATIENCE:
                # A generator is over once it has raised, and how many a batch held nobody knows.
                raise InputError(
                    f"the data stopped with {type(error).__name__}: {error}. What was explained "
                    "before is kept. To have such an item reported and passed by, give something "
                    "with a length and items by number (a list, a torch Dataset), or an iterator "
                    "that goes on after an error"
                ) from error
            yield Broken(error)


def of_images(images: Images) -> Arrays:
    """Images that ``whence.images.read`` has read, named by their files."""
    return Arrays(images.x, None, list(images.names))


def of_arrays(data: Any) -> Source | None:
    """The source of arrays that hold all samples; None for other data."""
    if is_array(data):
        return Arrays(data)
    if isinstance(data, Mapping):
        if "x" in data:
            strange = set(data) - {"x", "label", "id"}
            if strange:
                raise InputError(f"the data have {sorted(map(str, strange))} besides x, label, id")
            return Arrays(data["x"], data.get("label"), data.get("id"))
        rest = {k: v for k, v in data.items() if k not in ("label", "id")}
        if not any(is_array(leaf) for leaf in leaves(rest)):
            raise InputError(
                "the data are a dict without arrays: give {'x': array, 'label': ..., 'id': ...}, "
                "or a dict of the model's inputs, each with a batch axis"
            )
        return Arrays(rest, data.get("label"), data.get("id"))
    if isinstance(data, tuple) and len(data) == 2 and all(is_array(a) for a in data):
        x, y = data
        if len(y.shape) == 1 and len(x.shape) > 1 and len(y) == len(x):
            return Arrays(x, y)
    return None


def of_anything(data: Any) -> Source:
    """The source of a sequence or an iterable. Raises InputError for what is neither."""
    if isinstance(data, (bytes, str)):
        raise InputError(f"the data are {type(data).__name__}, not samples")
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, Mapping):
        if len(data) == 0:
            raise InputError("the data hold no samples")
        return Indexed(data)
    if hasattr(data, "__iter__") or hasattr(data, "__next__"):
        return Stream(data)
    raise InputError(
        f"the data are {type(data).__name__}: give arrays, a list or iterable of samples, a "
        "DataLoader, a tf.data.Dataset, or a folder of images"
    )


def checked_size(size: Any, default: int) -> int:
    """How many items a part has. Raises OptionError."""
    if size is None:
        return default
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise OptionError(f"batch_size is a whole number, 1 or more; got {size!r}")
    return size


def paths_in(data: Any) -> Sequence[Any] | None:
    """The paths, where the data are a path or a list of them."""
    import os

    if isinstance(data, (str, os.PathLike)):
        return [data]
    if isinstance(data, (list, tuple)) and data:
        if all(isinstance(p, (str, os.PathLike)) for p in data):
            return list(data)
    return None
