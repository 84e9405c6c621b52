"""Explanations in files: ``.npz`` with a JSON header, no pickle, written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import FileError, FileFormatError
from .frameworks import to_numpy
from .ledger import Entry, Ledger
from .result import Explanation, doors

__all__ = ["FORMAT", "load", "save", "write_whole"]

FORMAT = 1
"""Version of the file's layout."""

_PLAIN = (
    "method", "options", "layer", "channels", "axes", "seconds", "versions", "model_summary",
    "target_names", "signed", "reduce", "notes",
)  # fmt: skip
_ARRAYS = ("output", "gap", "answer", "probability")


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file under a temporary name and rename it: whole or not at all. Raises FileError."""
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error
    except BaseException:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise
    return path


def save(explanation: Explanation, path: Any) -> Path:
    """Write an explanation to an ``.npz`` file; the suffix is added where it is missing."""
    target = Path(path)
    if target.suffix != ".npz":
        target = target.with_name(target.name + ".npz")
    arrays: dict[str, np.ndarray] = {}
    header: dict[str, Any] = {"whence": FORMAT}
    header |= {name: _jsonable(getattr(explanation, name)) for name in _PLAIN}
    for name in ("attribution", "raw", "inputs"):
        header[name] = _flatten(name, getattr(explanation, name), arrays)
    for name in _ARRAYS:
        if (value := getattr(explanation, name)) is not None:
            arrays[name] = np.asarray(value)
    if isinstance(explanation.target, str):
        header["target"] = explanation.target
    else:
        arrays["target"] = np.asarray(explanation.target)
    header["kept"] = _flatten("kept", explanation.kept, arrays)
    header["extras"] = {
        k: _flatten(f"extras.{k}", v, arrays) for k, v in explanation.extras.items()
    }
    if explanation.ledger is not None:
        header["ledger"] = _ledger_out(explanation.ledger, arrays)
    buffer = io.BytesIO()
    encoded = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez_compressed(buffer, header=encoded, **arrays)  # type: ignore[arg-type]
    return write_whole(target, buffer.getvalue())


def load(path: Any) -> Any:
    """Read an explanation that ``Explanation.save`` wrote; its arrays come back as NumPy's.

    The store of a data set (``whence.explain_dataset``) opens as a ``DatasetRun``, read lazily.

    Raises FileError where there is no such file, FileFormatError where it holds something else, is
    damaged, or was written by a newer whence.
    """
    source = Path(path)
    if not source.exists():
        raise FileError(f"no file {source}")
    if (source / "zarr.json").is_file():
        return doors.run(source)
    if source.is_dir():
        raise FileError(f"{source} is a folder, not a file")
    try:
        content = io.BytesIO(source.read_bytes())
    except OSError as error:
        raise FileError(f"cannot read {source}: {error.strerror or error}") from error
    if not zipfile.is_zipfile(content):
        raise FileFormatError(
            f"{source} is not an explanation: whence.load reads the .npz files that "
            "Explanation.save writes"
        )
    content.seek(0)
    try:
        with np.load(content, allow_pickle=False) as held:
            arrays = {k: held[k] for k in held.files}
    except _DAMAGE as error:
        raise FileFormatError(f"{source} is not an explanation, or is damaged: {error}") from error
    if "header" not in arrays:
        raise FileFormatError(
            f"{source} is not an explanation: it has no header (arrays: {sorted(arrays)[:6]})"
        )
    try:
        header = json.loads(arrays.pop("header").tobytes())
        version = header["whence"]
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(
            f"{source} is not an explanation: its header cannot be read ({error})"
        ) from error
    if version != FORMAT:
        raise FileFormatError(
            f"{source} has format {version!r}, this whence reads {FORMAT}; it was written by "
            f"whence {_writer(header)}: {_way_out(version)}"
        )
    try:
        return _build(header, arrays)
    except (*_DAMAGE, TypeError, AttributeError, IndexError, StopIteration) as error:
        raise FileFormatError(f"{source} is damaged: {error} is missing or wrong") from error


_DAMAGE = (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError,
           RuntimeError)  # fmt: skip
"""What NumPy and the zip reader raise on bytes that are not, or no longer, what they should be."""


def _writer(header: Mapping[str, Any]) -> str:
    versions = header.get("versions")
    return str(versions.get("whence", "?")) if isinstance(versions, Mapping) else "?"


def _way_out(version: Any) -> str:
    newer = isinstance(version, int) and version > FORMAT
    return "upgrade whence to read it" if newer else "read it with that version, or explain again"


def _build(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Explanation:
    plain: dict[str, Any] = {name: header[name] for name in _PLAIN}
    plain["axes"] = tuple(plain["axes"])
    structured: dict[str, Any] = {
        name: _unflatten(header[name], arrays) for name in ("attribution", "raw", "inputs")
    }
    numbers: dict[str, Any] = {name: arrays.get(name) for name in _ARRAYS if name != "output"}
    return Explanation(
        **plain,
        **structured,
        **numbers,
        output=arrays["output"],
        target=header["target"] if "target" in header else arrays["target"],
        kept=_unflatten(header["kept"], arrays),
        extras={k: _unflatten(v, arrays) for k, v in header["extras"].items()},
        ledger=_ledger_in(header["ledger"], arrays) if "ledger" in header else None,
    )


def _flatten(name: str, thing: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Arrays go to ``arrays``; what is returned says how to put them back."""
    if thing is None:
        return None
    if isinstance(thing, Mapping):
        return {"dict": {str(k): _flatten(f"{name}.{k}", v, arrays) for k, v in thing.items()}}
    if isinstance(thing, (tuple, list)):
        return {"tuple": [_flatten(f"{name}.{i}", v, arrays) for i, v in enumerate(thing)]}
    if isinstance(thing, (str, int, float, bool)):
        return {"plain": thing}
    arrays[name] = to_numpy(thing)
    return {"array": name}


def _unflatten(spec: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if spec is None:
        return None
    kind, held = next(iter(spec.items()))
    if kind == "dict":
        return {k: _unflatten(v, arrays) for k, v in held.items()}
    if kind == "tuple":
        return tuple(_unflatten(v, arrays) for v in held)
    return held if kind == "plain" else arrays[held]


def _ledger_out(ledger: Ledger, arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    arrays["ledger.seed"], arrays["ledger.total"] = ledger.seed, ledger.total
    rows = []
    for i, row in enumerate(ledger.rows):
        arrays[f"ledger.{i}"] = np.stack(
            [np.broadcast_to(a, ledger.seed.shape) for a in
             (row.relevance_in, row.relevance_out, *row.absorbed.values())]
        )  # fmt: skip
        rows.append({"index": row.index, "layer": row.layer, "op": row.op, "kind": row.kind,
                     "rule": row.rule, "absorbed": list(row.absorbed)})  # fmt: skip
    return rows


def _ledger_in(rows: list[dict[str, Any]], arrays: Mapping[str, np.ndarray]) -> Ledger:
    entries = []
    for i, row in enumerate(rows):
        amounts = arrays[f"ledger.{i}"]
        absorbed = dict(zip(row["absorbed"], amounts[2:], strict=True))
        named = {k: row[k] for k in ("index", "layer", "op", "kind", "rule")}
        entries.append(
            Entry(**named, relevance_in=amounts[0], relevance_out=amounts[1], absorbed=absorbed)
        )
    return Ledger(entries, arrays["ledger.seed"], arrays["ledger.total"])


def _jsonable(value: Any) -> Any:
    """Options as JSON keeps them; what JSON has no word for is kept as its text."""
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_jsonable(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if hasattr(value, "shape"):
        return f"array{tuple(value.shape)}"
    return repr(value)
