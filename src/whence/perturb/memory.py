"""How many rows of the line of draws fit into one call of the model."""

from __future__ import annotations

import math
import os
import sys
import threading
import weakref
from typing import Any

from ..arrays import Array
from ..frameworks.base import Framework
from .calls import Caller

__all__ = ["first_size", "out_of_memory", "release", "remember"]

BYTES_PER_ELEMENT = 4 * 256
"""What one element of an input may cost in activations: about that of a residual network."""
TOKEN_ELEMENTS = 1024
"""What a token counts as: the features of its embedding."""
MOST_ROWS = 256
LEAST_BUDGET = 2**28

_WORKED: weakref.WeakKeyDictionary[Any, dict[Any, int]] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def first_size(
    caller: Caller, total: int, rows: int | None, kind: str, *, few: bool = False
) -> int:
    """How many rows to begin with: what worked before, else what should fit the memory.

    The line is cut into equal parts, so that the last chunk is not a small rest; or into powers of
    two, where the framework compiles a graph for each size.

    few: the total is one of many different ones, so that it is no size worth a graph of its own.
    """
    most = rows
    if most is None:
        most = max(1, min(MOST_ROWS, budget(caller.framework, caller.like) // row_bytes(caller)))
    known = _entries(caller).get(_key(caller, kind))
    if known is not None:
        most = min(most, known)
    most = min(most, total)
    if caller.framework.name != "torch":
        # Each size is a graph to be compiled, so few sizes are used.
        own = not few and (most == total or rows is not None)
        return most if own else 2 ** int(math.log2(most))
    return -(-total // -(-total // most))


def remember(caller: Caller, kind: str, size: int) -> None:
    """Keep the size that a chunk was halved to, for later runs of the model on such inputs."""
    with _LOCK:
        _entries(caller)[_key(caller, kind)] = size


def _entries(caller: Caller) -> dict[Any, int]:
    try:
        return _WORKED.setdefault(caller.job.model, {})
    except TypeError:  # it can be neither watched nor hashed
        return {}


def _key(caller: Caller, kind: str) -> Any:
    xp = caller.xp
    shapes = tuple((k, tuple(xp.shape(v))[1:]) for k, v in caller.inputs.arrays.items())
    return kind, shapes


def row_bytes(caller: Caller) -> int:
    """A guess at the memory that one row takes while the model runs."""
    xp = caller.xp
    elements = 0
    for array in caller.inputs.arrays.values():
        each = math.prod(xp.shape(array)[1:])
        elements += each if xp.is_floating(array) else each * TOKEN_ELEMENTS
    return max(elements, 1) * BYTES_PER_ELEMENT


def budget(framework: Framework, like: Array) -> int:
    """Bytes that a chunk may take: half of what is free on an accelerator, an eighth on a host."""
    torch = sys.modules.get("torch")
    if framework.name == "torch" and torch is not None and like.is_cuda:
        free, _ = torch.cuda.mem_get_info(like.device)
        held = torch.cuda.memory_reserved(like.device) - torch.cuda.memory_allocated(like.device)
        return max(int(free + held) // 2, LEAST_BUDGET)
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        free = 2**33
    return max(min(free // 8, 2**31), LEAST_BUDGET)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, in any framework's words."""
    if isinstance(error, MemoryError):
        return True
    if type(error).__name__ in ("OutOfMemoryError", "ResourceExhaustedError"):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in words or "can't allocate memory" in words
    )


def release(framework: Framework) -> None:
    """Give cached memory back after a failed call."""
    torch = sys.modules.get("torch")
    if framework.name == "torch" and torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
