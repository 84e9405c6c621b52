"""Whether two methods vary the input alike: a name for arrays by what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..arrays import Functions

__all__ = ["content"]


def content(xp: Functions, parts: Iterable[Any]) -> bytes:
    """Equal for equal shapes, types and numbers, and for no others.

    parts: arrays of the framework or NumPy, dicts of them by name, and plain numbers.
    """
    name = hashlib.blake2b(digest_size=16)
    for part in parts:
        named = part.items() if isinstance(part, Mapping) else [("", part)]
        for key, array in named:
            own = isinstance(array, np.ndarray | np.generic | int)
            numbers = np.ascontiguousarray(array if own else xp.to_numpy(array))
            name.update(repr((key, numbers.shape, numbers.dtype.str)).encode())
            name.update(numbers.tobytes())
    return name.digest()
