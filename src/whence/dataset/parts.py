"""Parts: so many samples in a row, the unit of work that is done, written and resumed whole."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..frameworks import to_numpy
from .items import Row, id_of, is_array, leaves, row_at, shape_of, stack
from .records import Failure, reason_of

__all__ = ["Batch", "Block", "Broken", "Part", "cut", "gathered"]


@dataclass(frozen=True, eq=False)
class Block:
    """Samples of one shape: x with a batch axis, and their places in the part."""

    x: Any
    places: list[int]


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples that came together, with a batch axis."""

    x: Any
    count: int
    labels: list[Any]
    ids: list[Any]


@dataclass(frozen=True)
class Broken:
    """An item that raised when it was read."""

    error: BaseException
    id: Any = None


@dataclass(eq=False)
class Part:
    """number: its place. start: the number of its first item. ids, labels: one an item.

    blocks: the samples to be explained; None for a part that was not read since it is finished.
    """

    number: int
    start: int
    count: int
    ids: list[int | str] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    blocks: list[Block] | None = None
    failures: list[Failure] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    @property
    def mark(self) -> int | None:
        """A checksum of its first sample, by which other data, or another order, is noticed."""
        for block in self.blocks or ():
            return checksum(row_at(block.x, 0))
        return None


def checksum(x: Any) -> int:
    """A checksum of the numbers of a structure."""
    found = 0
    for leaf in leaves(x):
        if is_array(leaf):
            found = zlib.crc32(np.ascontiguousarray(to_numpy(leaf)).tobytes(), found)
    return found


def gathered(rows: Iterable[Row | Broken], number: int, start: int) -> Part:
    """A part from single samples: those of one shape become one block."""
    part = Part(number, start, 0, blocks=[])
    groups: dict[Any, tuple[list[Any], list[int]]] = {}
    for place, row in enumerate(rows):
        index = start + place
        name = id_of(row.id, index)
        part.ids.append(name)
        part.count += 1
        if isinstance(row, Broken):
            part.labels.append(None)
            part.failures.append(Failure(index, name, reason_of(row.error), "reading"))
            part.errors.append(row.error)
            continue
        part.labels.append(row.label)
        samples, places = groups.setdefault(shape_of(row.x), ([], []))
        samples.append(row.x)
        places.append(place)
    part.blocks = [Block(stack(samples), places) for samples, places in groups.values()]
    return part


def cut(events: Iterable[Batch | Row | Broken], size: int, number: int = 0) -> Iterator[Part]:
    """Parts of ``size`` items from a stream, counted from ``number``; the last may be shorter.

    A batch that is a part already goes through as it is.
    """
    held: list[Row | Broken] = []
    for event in events:
        if isinstance(event, Batch) and event.count == size and not held:
            yield _whole(event, number, number * size)
            number += 1
            continue
        if isinstance(event, Batch):
            held += [
                Row(row_at(event.x, i), event.labels[i], event.ids[i]) for i in range(event.count)
            ]
        else:
            held.append(event)
        while len(held) >= size:
            yield gathered(held[:size], number, number * size)
            held = held[size:]
            number += 1
    if held:
        yield gathered(held, number, number * size)


def _whole(batch: Batch, number: int, start: int) -> Part:
    ids = [id_of(name, start + i) for i, name in enumerate(batch.ids)]
    block = Block(batch.x, list(range(batch.count)))
    return Part(number, start, batch.count, ids, batch.labels, [block])
