"""A store read back: what is in it by item, without reading more than is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError, InputError, UnknownName, unknown
from ..images import Preprocess, read
from ..result import Explanation, doors
from ..targets.base import named
from .records import Failure, Record, Records
from .store import head_of, zarr_module
from .work import DONE, Facts

__all__ = ["DatasetRun", "load_run"]


def load_run(path: Any) -> DatasetRun:
    """Open a store that ``explain_dataset`` wrote, finished or not; arrays are read when asked for.

    Raises FileError, FileFormatError, MissingFramework.
    """
    return DatasetRun(Path(path).expanduser())


class DatasetRun(Sequence[Explanation]):
    """The explanations of a data set, in a store on disk.

    ``run[i]`` is the explanation of item i, a batch of one; ``run["cat.png"]`` by id; ``run[a:b]``
    one of several items. Iterating gives those that succeeded, one after another; ``len`` counts
    all items, failed ones too. ``run.attribution`` is the zarr array over all items, not read yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.head = head_of(path)
        self.zarr = zarr_module()
        self.records = Records(path)
        self._held: dict[str, Any] = {}
        try:
            run = self.head["run"]
            self.method: str = run["method"]
            self.batch_size: int = run["batch_size"]
            self.classes: list[str] | None = run["classes"]
            self.complete: bool = self.head["complete"]
            self.facts = Facts(**self.head["facts"]) if "facts" in self.head else None
            self.options: dict[str, Any] = self.facts.options if self.facts else run["options"]
        except (KeyError, TypeError) as error:
            raise FileFormatError(f"{path} is damaged: {error} is missing or wrong") from error
        self._parts = set(self.records.numbers())

    def __len__(self) -> int:
        if self.complete:
            return int(self.head["length"])
        last = self.records.read(max(self._parts)) if self._parts else None
        return 0 if last is None else last.start + last.count

    @cached_property
    def failures(self) -> list[Failure]:
        """The items that could not be explained, each with its id and the reason."""
        return [failure for record in self._records for failure in record.failures]

    @cached_property
    def done(self) -> int:
        """How many items were explained."""
        return sum(record.done for record in self._records)

    @cached_property
    def seconds(self) -> float:
        """What explaining took, over all processes that worked on it."""
        return sum(record.seconds for record in self._records)

    @cached_property
    def notes(self) -> list[str]:
        """What a reader should know; where it is of some parts only, of which items."""
        said: dict[str, list[Record]] = {}
        for record in self._records:
            for note in record.notes:
                said.setdefault(note, []).append(record)
        found = []
        for note, records in said.items():
            every = len(records) == len(self._parts)
            spans = [f"{r.start} to {r.start + r.count - 1}" for r in records[:3]]
            more = ", ..." if len(records) > 3 else ""
            found.append(note if every else f"items {', '.join(spans)}{more}: {note}")
        return found

    @cached_property
    def _records(self) -> list[Record]:
        return list(self.records.each())

    @property
    def ids(self) -> list[Any]:
        """The id of every item."""
        found: list[Any] = self._column("id").tolist()
        return found

    @property
    def attribution(self) -> Any:
        """The attributions as zarr arrays, (items, ...), in the input's structure.

        NaN where there is none, and beyond the end of samples smaller than the largest.
        """
        return self._structured(lambda k: self._array(f"attribution_{k}"))

    @property
    def target(self) -> Any:
        """The explained class of every item, (items,), -1 where there is none.

        The target in words where it is no class.
        """
        facts = self._facts()
        return self._column("target") if facts.target is None else facts.target

    @property
    def output(self) -> np.ndarray:
        """The explained number of every item, (items,), NaN where there is none."""
        return self._column("output")

    @property
    def answer(self) -> np.ndarray | None:
        """The model's top class of every item, -1 where there is none; None without classes."""
        return self._column("answer") if self._has("answer") else None

    @property
    def probability(self) -> np.ndarray | None:
        """The model's probability for its top class; None without classes."""
        return self._column("probability") if self._has("probability") else None

    @property
    def gap(self) -> np.ndarray | None:
        """How far each attribution is from adding up; None for methods that need not."""
        return self._column("gap") if self._has("gap") else None

    @property
    def labels(self) -> np.ndarray | None:
        """The labels that came with the data; None where there were none."""
        return self._column("label") if self._has("label") else None

    @property
    def finished(self) -> np.ndarray:
        """Which items were explained, (items,) bool."""
        parts = np.isin(np.arange(len(self)) // self.batch_size, list(self._parts))
        return (self._column("status") == DONE) & parts

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """The number of the item with an id. Raises UnknownName."""
        found = np.flatnonzero(self._column("id")[start:stop] == value)
        if not len(found):
            raise unknown("item", value, self.ids if len(self) <= 10_000 else [])
        return int(found[0]) + start

    def __contains__(self, value: object) -> bool:
        return bool((self._column("id") == value).any())

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return self._explanation(range(*key.indices(len(self))))
        if isinstance(key, str):
            key = self.index(key)
        place = int(key) + (len(self) if key < 0 else 0)
        if not 0 <= place < len(self):
            raise IndexError(f"item {key} was asked for; {self.path} holds {len(self)}")
        return self._explanation([place])

    def __iter__(self) -> Iterator[Explanation]:
        for place in np.flatnonzero(self.finished):
            yield self._explanation([int(place)])

    def show(self, item: Any = 0, **options: Any) -> Any:
        """A picture of one item, or of a slice; laid over the image where its file is still there.

        options go to the drawing. Needs matplotlib.
        """
        explanation = self[item]
        places = range(*item.indices(len(self))) if isinstance(item, slice) else [
            self.index(item) if isinstance(item, str) else range(len(self))[item]
        ]  # fmt: skip
        options.setdefault("names", [str(self._rows("id", p)) for p in places])
        options.setdefault("classes", self.classes)
        images = self._images(places)
        if images is not None:
            options.setdefault("images", images)
        return doors.figure(explanation, **options)

    def _images(self, places: Sequence[int]) -> list[np.ndarray] | None:
        """The pictures of image files, as far as the model saw them; None where they are gone."""
        folder = self.head["run"]["data"].get("folder")
        held = self.head["run"]["preprocess"]
        if folder is None or held is None:
            return None
        files = [Path(folder) / str(self._rows("id", p)) for p in places]
        if not all(file.is_file() for file in files):
            return None
        held = {k: tuple(v) if isinstance(v, list) else v for k, v in held.items()}
        preprocess = Preprocess(**held)
        return [read(f, preprocess).seen[0] for f in files]

    def _explanation(self, places: Sequence[int]) -> Explanation:
        if not len(places):
            raise InputError("the slice holds no items")
        facts, places = self._facts(), list(places)
        self._check(places)
        arrays = [self._sample_arrays(k, places) for k in range(len(facts.shapes))]
        target = facts.target if facts.target is not None else self._rows("target", places)
        parts = {p // self.batch_size for p in places}
        records = [r for r in map(self.records.read, sorted(parts)) if r is not None]
        count = sum(r.done for r in records) or 1
        structure = self._structured(lambda k: arrays[k])
        return Explanation(
            attribution=structure, raw=structure, target=target,
            output=self._rows("output", places), method=self.method, options=self.options,
            gap=self._rows("gap", places) if self._has("gap") else None, layer=facts.layer,
            channels=facts.channels, axes=tuple(facts.axes),
            seconds=sum(r.seconds for r in records) * len(places) / count,
            versions=records[0].versions or facts.versions, model_summary=facts.summary,
            target_names=self._names(target, len(places)),
            answer=self._rows("answer", places) if self._has("answer") else None,
            probability=self._rows("probability", places) if self._has("probability") else None,
            signed=facts.signed, reduce=facts.reduce,
        )  # fmt: skip

    def _names(self, target: Any, count: int) -> list[str]:
        if isinstance(target, str):
            return [target] * count
        return [named(int(index), self.classes) for index in target]

    def _check(self, places: Sequence[int]) -> None:
        """Raise UnknownName for an item that failed or was not reached."""
        for place in places:
            if place // self.batch_size not in self._parts:
                raise UnknownName(f"item {place} of {self.path} is not explained yet")
        status = self._rows("status", places)
        for place in np.asarray(places)[status != DONE]:
            reason = next((f for f in self.failures if f.index == place), f"item {place}")
            raise UnknownName(f"there is no explanation of {reason}. run.failures lists such items")

    def _sample_arrays(self, k: int, places: list[int]) -> np.ndarray:
        numbers = self._rows(f"attribution_{k}", places)
        shapes = {self._shape(k, place) for place in places}
        if len(shapes) > 1:
            raise InputError(
                f"the items differ in shape ({', '.join(map(str, sorted(shapes)[:3]))}...): take "
                "them one by one"
            )
        inner = tuple(slice(0, n) for n in shapes.pop())
        found: np.ndarray = numbers[(slice(None), *inner)]
        if np.isnan(found.reshape(len(places), -1)).any():
            raise FileFormatError(
                f"{self.path} is damaged: numbers of item {places[0]} are missing"
            )
        return found

    def _shape(self, k: int, place: int) -> tuple[int, ...]:
        usual = tuple(self._facts().shapes[k])
        if not self._has(f"shape_{k}"):
            return usual
        if place >= self._array(f"shape_{k}").shape[0]:
            return usual
        own = tuple(int(n) for n in self._rows(f"shape_{k}", place))
        return own if any(own) else usual

    def _structured(self, leaf: Any) -> Any:
        structure = self._facts().structure
        if structure == "one":
            return leaf(0)
        if "dict" in structure:
            return {k: None if n is None else leaf(n) for k, n in structure["dict"].items()}
        return tuple(None if n is None else leaf(n) for n in structure["tuple"])

    def _facts(self) -> Facts:
        if self.facts is None:
            raise InputError(f"{self.path} holds no explanation yet")
        return self.facts

    def _has(self, name: str) -> bool:
        return (self.path / name / "zarr.json").is_file()

    def _array(self, name: str) -> Any:
        if name not in self._held:
            try:
                self._held[name] = self.zarr.open_array(self.path / name, mode="r")
            except Exception as error:
                raise FileFormatError(
                    f"{self.path} is damaged: {name} cannot be read ({error})"
                ) from error
        return self._held[name]

    def _column(self, name: str) -> np.ndarray:
        """A column of one number or word an item, whole."""
        return self._read(name, slice(0, len(self)))

    def _rows(self, name: str, places: Any) -> Any:
        """Rows of an array: at one place, or at several, read in one go where they are in a row."""
        if isinstance(places, (int, np.integer)):
            row = self._read(name, int(places))
            return row.item() if row.ndim == 0 else row
        if list(places) == list(range(places[0], places[0] + len(places))):
            return self._read(name, slice(places[0], places[0] + len(places)))
        return np.stack([self._read(name, place) for place in places])

    def _read(self, name: str, which: Any) -> np.ndarray:
        array = self._array(name)
        try:
            return np.asarray(array[which])
        except Exception as error:  # a codec may raise anything on damaged bytes
            raise FileFormatError(
                f"{self.path} is damaged: {name} cannot be read ({error})"
            ) from error

    def __repr__(self) -> str:
        state = "" if self.complete else ", not complete"
        failed = len(self.failures)
        head = f"DatasetRun by {self.method}: {len(self)} items in {self.path}{state}"
        lines = [f"{head}, {self.seconds:.2f} s"]
        if self.facts is not None:
            shapes: Mapping[str, Any] | Any = self._structured(
                lambda k: tuple(self._array(f"attribution_{k}").shape)
            )
            lines.append(f"  attribution {shapes}, {self.facts.summary}")
        if failed:
            lines.append(f"  {failed} failed, the first: {self.failures[0]}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes[:4])])
