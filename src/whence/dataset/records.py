"""The record of a finished part: written after its data, whole or not at all.

With it the part is finished; without it the part was never done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..storage import write_whole

__all__ = ["FOLDER", "Failure", "Record", "Records", "reason_of"]

FOLDER = "parts"
_A_FOLDER = 1000  # records; a folder of very many files is slow to list


@dataclass(frozen=True)
class Failure:
    """An item that could not be explained.

    index: its number in the data. reason: the error. stage: "reading" or "explaining".
    """

    index: int
    id: Any
    reason: str
    stage: str

    def __str__(self) -> str:
        return f"item {self.index} ({self.id}): {self.reason}"


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@dataclass
class Record:
    """What is known of a finished part.

    start, count: its items. done: how many were explained. files: each file of its data and its
    bytes. mark: a checksum of its first sample. seconds: what explaining took.
    """

    part: int
    start: int
    count: int
    done: int
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    mark: int | None = None
    seconds: float = 0.0
    versions: dict[str, str] | None = None
    """Where they are not those that the run began with."""


class Records:
    """The records of a store, by part number."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.root = store / FOLDER

    def path(self, part: int) -> Path:
        """The file of a part's record."""
        return self.root / f"{part // _A_FOLDER:06d}" / f"{part:09d}.json"

    def numbers(self) -> list[int]:
        """The parts that have a record, in order; nothing is opened."""
        found = []
        for folder in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if folder.is_dir():
                names = (name for name in os.listdir(folder) if name.endswith(".json"))
                found += [int(n[:-5]) for n in names if n[:-5].isdigit()]
        return sorted(found)

    def read(self, part: int) -> Record | None:
        """A record; None where there is none, or it cannot be read."""
        try:
            held = json.loads(self.path(part).read_bytes())
            held["failures"] = [Failure(**f) for f in held["failures"]]
            return Record(**held)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, record: Record) -> None:
        """With this the part is finished. Raises FileError."""
        path = self.path(record.part)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(record), indent=1).encode())

    def drop(self, part: int) -> None:
        """The part is not finished after all."""
        self.path(part).unlink(missing_ok=True)

    def is_sound(self, record: Record) -> bool:
        """Whether the part's files are all there, in full length."""
        try:
            return all((self.store / f).stat().st_size == n for f, n in record.files.items())
        except OSError:
            return False

    def each(self) -> Iterator[Record]:
        """The records, one after another; those that cannot be read are left out."""
        for number in self.numbers():
            record = self.read(number)
            if record is not None:
                yield record

    def tidy(self) -> None:
        """Take away what a killed process left half written."""
        for folder in self.root.glob("*/"):
            for path in folder.glob(".*"):
                with suppress(OSError):
                    path.unlink()
