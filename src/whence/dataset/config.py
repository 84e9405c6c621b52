"""What a run is: all that its numbers depend on, as JSON, and how two of them differ."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import numpy as np

from .. import frameworks
from ..errors import FileFormatError, ModelError
from ..frameworks import to_numpy
from ..images import Preprocess
from ..targets import Target
from .items import is_array
from .work import Work

__all__ = ["described", "differences", "plain", "refused"]

_FEW = 64  # targets that are written out
_LARGE = 1 << 16  # numbers of one array of weights that are looked at


def described(
    work: Work, size: int, preprocess: Preprocess | None, source: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """Everything that the numbers of a run depend on.

    name: what the model was loaded by, empty where that is not known.
    """
    try:
        summary = frameworks.find(work.model).summary(work.model)
    except ModelError:
        if not callable(work.model) or isinstance(work.model, type):
            raise
        summary = str(plain(work.model))  # a function of arrays: only the first of them will tell
    return {
        "method": work.method.name,
        "options": {k: plain(v) for k, v in work.method.options.items()},
        "target": _in_short(plain(work.target)),
        "at": work.at,
        "classes": None if work.classes is None else [str(c) for c in work.classes],
        "batch_size": size,
        "model": name,
        "model_summary": summary,
        "weights": weights_mark(work.model),
        "preprocess": None if preprocess is None else plain(asdict(preprocess)),
        "data": dict(source),
    }


def _in_short(target: Any) -> Any:
    """A target a sample, of very many samples, by a checksum."""
    if not isinstance(target, list) or len(target) <= _FEW:
        return target
    return f"{len(target)} targets {zlib.crc32(repr(target).encode()):08x}"


def plain(value: Any) -> Any:
    """A value as JSON, such that equal values, and no others, give the same in every process."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if is_array(value):
        numbers = np.ascontiguousarray(to_numpy(value))
        return f"array{numbers.shape} {numbers.dtype} {zlib.crc32(numbers.tobytes()):08x}"
    if isinstance(value, Target) or is_dataclass(value):
        if is_dataclass(value) and not isinstance(value, type):
            held = {f.name: plain(getattr(value, f.name)) for f in fields(value)}
            return {"kind": type(value).__name__, **held}
    named = getattr(value, "__qualname__", None)
    if named is not None:
        return f"{getattr(value, '__module__', '?')}.{named}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def weights_mark(model: object) -> str | None:
    """A mark that other weights would not have; None where a model does not show its weights.

    Of a large array some tens of thousands of numbers, evenly spread, are looked at.
    """
    digest, count = hashlib.blake2b(digest_size=8), 0
    for name, array in _weights(model):
        step = max(int(np.prod(array.shape)) // _LARGE, 1)
        flat = array.reshape(-1) if hasattr(array, "reshape") else to_numpy(array).reshape(-1)
        digest.update(f"{name} {tuple(array.shape)}".encode())
        digest.update(np.ascontiguousarray(to_numpy(flat[::step])).tobytes())
        count += 1
    return digest.hexdigest() if count else None


def _weights(model: object) -> Iterator[tuple[str, Any]]:
    state = getattr(model, "state_dict", None)
    if callable(state):
        held = state()
        yield from ((k, v.detach()) for k, v in sorted(held.items()) if hasattr(v, "detach"))
        return
    variables = getattr(model, "weights", None) or getattr(model, "variables", None)
    if isinstance(variables, (list, tuple)):
        for place, variable in enumerate(variables):
            if hasattr(variable, "numpy"):
                yield str(place), variable.numpy()


def differences(held: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """How a run in a store differs from the one that is asked for, a line each."""
    found: list[str] = []
    for key in dict.fromkeys([*held, *asked]):
        a, b = held.get(key), asked.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += [line if key == "options" else f"{key}: {line}" for line in differences(a, b)]
        elif key == "weights":
            if a != b:
                found.append("the model's weights are others")
        elif a != b:
            found.append(f"{key} is {_short(a)} in the store, {_short(b)} was asked for")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:45]}... ({zlib.crc32(text.encode()):08x})"


def refused(where: Any, found: Sequence[str]) -> FileFormatError:
    """The error for a store that holds another run."""
    return FileFormatError(
        f"{where} holds another run: {'; '.join(found)}. Ask for the same to go on with it, or "
        "give another out="
    )
