"""The store: a Zarr group that grows part by part, and is sound after a kill at any point.

A part's data are written first, in chunks that no other part shares; then its record, under a
temporary name that is renamed. What has no record was never done: what a killed process left of it
is taken away and written again. Every file is replaced whole, so nothing that is finished is ever
half written; growing an array rewrites the few lines that say its shape.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import FileError, FileFormatError, InputError, MissingFramework
from ..storage import write_whole
from .config import differences, plain, refused
from .records import FOLDER, Record, Records
from .work import Done, Facts

__all__ = ["FORMAT", "Store", "head_of", "zarr_module"]

FORMAT = 1
"""Version of the store's layout."""

_CHUNK_BYTES = 32 << 20  # of one chunk's numbers, so that one sample can be read without many more
_FILLS = {"f": float("nan"), "i": -1, "u": 0}


def zarr_module() -> ModuleType:
    """zarr, or MissingFramework with the line that installs it."""
    try:
        import zarr
    except ImportError as error:
        raise MissingFramework(
            'explaining a data set needs zarr 3, which is not installed: pip install "whence[data]"'
        ) from error
    if int(zarr.__version__.partition(".")[0]) < 3:
        raise MissingFramework(
            f"explaining a data set needs zarr 3; {zarr.__version__} is installed: "
            'pip install --upgrade "whence[data]"'
        )
    return zarr


def head_of(path: Path) -> dict[str, Any]:
    """What a store says about its run. Raises FileError, FileFormatError."""
    try:
        held = json.loads((path / "zarr.json").read_bytes())
        head: dict[str, Any] = held["attributes"]["whence"]
        version = head["format"]
    except FileNotFoundError as error:
        there = "holds no zarr.json" if path.exists() else "does not exist"
        raise FileError(f"{path} is no store of explanations: it {there}") from error
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(
            f"{path} is a folder with a zarr.json that whence did not write, or that is damaged"
        ) from error
    if version != FORMAT:
        raise FileFormatError(f"{path} has format {version!r}, this whence reads {FORMAT}")
    return head


class Store:
    """A store that is being written.

    path: its folder. size: items a part. length: of the data, None where it is not known.
    """

    def __init__(self, path: Path, size: int, length: int | None) -> None:
        self.path, self.size, self.length = path, size, length
        self.zarr = zarr_module()
        self.records = Records(path)
        self.head: dict[str, Any] = {}
        self._arrays: dict[str, Any] = {}

    @contextlib.contextmanager
    def opened(self, head: Mapping[str, Any]) -> Iterator[None]:
        """The store for one process at a time, made where there is none.

        Raises FileError, and FileFormatError where it holds another run than ``head`` says.
        """
        with self._errors():
            self.path.mkdir(parents=True, exist_ok=True)
        with _locked(self.path):
            if self.records.numbers():
                self.head = head_of(self.path)
                if found := differences(self.head["run"], head["run"]):
                    raise refused(self.path, found)
            else:  # of a run that finished nothing, nothing is kept
                with self._errors():
                    for name in self._names():
                        shutil.rmtree(self.path / name)
                    _group(self.path / FOLDER, {})
                self.rewrite(head)
            with self._errors():
                self._tidy()
            try:
                yield
            finally:
                self._arrays.clear()

    def rewrite(self, head: Mapping[str, Any]) -> None:
        """Say something else about the run. Raises FileError."""
        self.head = dict(head)
        with self._errors():
            _group(self.path, {"whence": self.head})

    def finished(self) -> dict[int, Record]:
        """The parts that need not be done again; damaged ones are taken out of the store."""
        found = {}
        for number in self.records.numbers():
            record = self.records.read(number)
            if record is None or not self.records.is_sound(record):
                self.records.drop(number)
            else:
                found[number] = record
        return found

    def commit(self, done: Done, versions: dict[str, str] | None = None) -> Record:
        """Write a part: its data, then its record. Raises FileError; then it is not finished."""
        part = done.part
        if done.facts is not None and "facts" not in self.head:
            self.rewrite({**self.head, "facts": plain(vars(done.facts))})
        with self._errors():
            for name in self._names():
                for path in self._leftover(name, part.number):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            files: dict[str, int] = {}
            for name, numbers in self._columns(done).items():
                files |= self._write(name, part.start, numbers)
            record = Record(
                part.number, part.start, part.count, part.count - len(done.failures),
                done.failures, done.notes, files, part.mark, round(done.seconds, 6), versions,
            )  # fmt: skip
            self.records.write(record)
        return record

    def close(self, length: int) -> None:
        """The data are over: arrays are cut to their length, and the run is complete."""
        with self._errors():
            for name in self._names():
                array = self._open(name)
                if array.shape[0] != length:
                    array.resize((length, *array.shape[1:]))
        self.rewrite({**self.head, "length": length, "complete": True})

    def _columns(self, done: Done) -> dict[str, np.ndarray]:
        part, facts = done.part, Facts(**self.head["facts"]) if "facts" in self.head else None
        columns = {"status": done.status, "id": _ids(part.ids, self.head["ids"] == "names")}
        labels = _labels(part.labels)
        if labels is not None:
            columns["label"] = labels
        columns |= {name: _joined(pieces, part.count) for name, pieces in done.pieces.items()}
        for k, usual in enumerate(facts.shapes if facts else ()):
            pieces = done.pieces.get(f"attribution_{k}", [])
            if any(list(a.shape[1:]) != usual for _, a in pieces):
                shapes = np.zeros((part.count, len(usual)), np.uint32)
                for places, array in pieces:
                    shapes[places] = array.shape[1:]
                columns[f"shape_{k}"] = shapes
        return columns

    def _names(self) -> list[str]:
        found = (p.name for p in self.path.iterdir() if (p / "zarr.json").is_file())
        return sorted(name for name in found if name != FOLDER)

    def _open(self, name: str) -> Any:
        if name not in self._arrays:
            self._arrays[name] = self.zarr.open_array(self.path / name, mode="r+")
        return self._arrays[name]

    def _array(self, name: str, numbers: np.ndarray, rows: int) -> Any:
        """The array of a column, made where there is none, and large enough."""
        if not (self.path / name / "zarr.json").is_file():
            return self._made(name, numbers, rows)
        array = self._open(name)
        needed = (rows, *numbers.shape[1:])
        if (numbers.dtype.kind == "O") != (array.dtype.kind not in "biuf"):
            raise InputError(f"{name}s of some samples are numbers, of others words")
        if len(needed) != array.ndim:
            raise InputError(
                f"{name} has samples of {numbers.ndim - 1} axes, where those before had "
                f"{array.ndim - 1}: one store holds samples of one rank"
            )
        if any(n > s for n, s in zip(needed, array.shape, strict=True)):
            grown = [max(n, s) for n, s in zip(needed, array.shape, strict=True)]
            grown[0] = self._rows(rows, array.shape[0])
            array.resize(tuple(grown))
        return array

    def _rows(self, needed: int, now: int = 0) -> int:
        """Rows of an array: doubled, where the length is not known, so that few rewrites do."""
        if self.length is not None:
            return max(self.length, needed)
        return now if now >= needed else max(needed, 2 * now, 64 * self.size)

    def _made(self, name: str, numbers: np.ndarray, rows: int) -> Any:
        from zarr.codecs import BloscCodec, Crc32cCodec

        size = max(prod(numbers.shape[1:]) * numbers.dtype.itemsize, 1)
        most = max(_CHUNK_BYTES // size, 1)
        # A divisor of the part, so that no chunk belongs to two parts.
        each = next(k for k in range(min(self.size, most), 0, -1) if self.size % k == 0)
        text = numbers.dtype.kind == "O"
        blosc = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")
        options: dict[str, Any] = {} if text else {"compressors": [blosc, Crc32cCodec()]}
        if not text and numbers.dtype.kind in _FILLS:
            options["fill_value"] = _FILLS[numbers.dtype.kind]
        array = self.zarr.create_array(
            self.path / name, shape=(self._rows(rows), *numbers.shape[1:]),
            chunks=(each, *(max(n, 1) for n in numbers.shape[1:])),
            dtype=str if text else numbers.dtype, overwrite=True,
            dimension_names=["item", *(None for _ in numbers.shape[1:])], **options,
        )  # fmt: skip
        self._arrays[name] = array
        return array

    def _write(self, name: str, start: int, numbers: np.ndarray) -> dict[str, int]:
        """Put a part's rows in place: {file: bytes} of its chunks."""
        array = self._array(name, numbers, start + len(numbers))
        inner = tuple(slice(0, n) for n in numbers.shape[1:])
        array[(slice(start, start + len(numbers)), *inner)] = numbers
        files = {}
        for path in self._leftover(name, start // self.size):
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    files[file.relative_to(self.path).as_posix()] = file.stat().st_size
        return files

    def _leftover(self, name: str, part: int) -> list[Path]:
        """What there is of a part in one array: its chunks, and what was to become one."""
        folder = self.path / name / "c"
        each = self._open(name).chunks[0]
        found = []
        for chunk in range(part * self.size // each, (part + 1) * self.size // each):
            path = folder / str(chunk)
            found += [path] if path.exists() else []
        return found

    def _tidy(self) -> None:
        """Take away what a killed process left under temporary names."""
        self.records.tidy()
        for name in ("", *self._names()):
            for folder in (self.path / name, self.path / name / "c"):
                for pattern in (".zarr.json.*", "*.partial"):
                    for path in folder.glob(pattern):
                        path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """What the file system says, in our words."""
        try:
            yield
        except FileError:
            raise
        except OSError as error:
            raise FileError(
                f"cannot write {self.path}: {error.strerror or error}. What was finished before is "
                "kept, and the same call goes on with it"
            ) from error


def _group(path: Path, attributes: Mapping[str, Any]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    held = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    write_whole(path / "zarr.json", json.dumps(held, indent=1).encode())


def _joined(pieces: Sequence[tuple[list[int], np.ndarray]], count: int) -> np.ndarray:
    """A part's rows from its pieces; what is missing, or beyond a shorter sample, is filled up."""
    places, first = pieces[0]
    if len(pieces) == 1 and places == list(range(count)):
        return first
    shape = [max(a.shape[k] for _, a in pieces) for k in range(1, first.ndim)]
    numbers = np.full((count, *shape), _FILLS.get(first.dtype.kind, 0), first.dtype)
    for places, array in pieces:
        where: tuple[Any, ...] = (places, *(slice(0, n) for n in array.shape[1:]))
        numbers[where] = array
    return numbers


def _ids(ids: Sequence[Any], names: bool) -> np.ndarray:
    if names:
        return np.array([str(i) for i in ids], object)
    strange = [i for i in ids if not isinstance(i, int)]
    if strange:
        raise InputError(f"the ids were numbers at first, and {strange[0]!r} is none")
    return np.array(ids, np.int64)


def _labels(labels: Sequence[Any]) -> np.ndarray | None:
    """A column of labels; None where there are none."""
    given = [y for y in labels if y is not None]
    if not given:
        return None
    if any(isinstance(y, str) for y in given):
        return np.array(["" if y is None else str(y) for y in labels], object)
    if all(isinstance(y, int) for y in given):
        return np.array([-1 if y is None else int(y) for y in labels], np.int64)
    return np.array([np.nan if y is None else y for y in labels], np.float64)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The folder for this process alone; let go of by its death too. Raises FileError."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileError(f"{path} is being written by another process") from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)
