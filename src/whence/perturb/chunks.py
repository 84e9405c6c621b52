"""Chunks of the line of draws: what a method sees of one, and how many rows fit into one."""

from __future__ import annotations

import math
import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Array, Functions
from ..frameworks.base import Framework
from .seeds import Seeds

if TYPE_CHECKING:
    from .calls import Caller

__all__ = ["Chunk", "first_size", "out_of_memory", "release", "remember"]


class Chunk:
    """Some consecutive rows of the line of draws, and helpers to make their inputs.

    sample, draw: (rows,) whole numbers, NumPy. real: how many rows count; the rest fill up the
    shape and repeat the last real one.
    """

    def __init__(
        self, sample: np.ndarray, draw: np.ndarray, real: int, seeds: Seeds, caller: Caller
    ) -> None:
        self.sample = sample
        self.draw = draw
        self.real = real
        self.seeds = seeds
        self.xp: Functions = caller.xp
        self.like = caller.like
        self._x: Mapping[str, Array] = caller.places

    def __len__(self) -> int:
        return len(self.sample)

    @property
    def single(self) -> bool:
        """Whether all rows are of one sample."""
        return bool(self.sample[0] == self.sample[-1])

    def x(self, name: str | None = None) -> Array:
        """The unvaried array of each row at a place (default the first), (rows, ...)."""
        return self.take(self._x[next(iter(self._x)) if name is None else name])

    def take(self, array: Array, *, own: bool = False) -> Array:
        """A sample's entry for each row: (batch, ...) -> (rows, ...); NumPy stays NumPy.

        A chunk of one sample gets one row that broadcasts, without a copy, unless ``own`` asks for
        memory of its own.
        """
        if isinstance(array, np.ndarray):
            return array[self.sample]
        if self.single and not own:
            one = array[int(self.sample[0]) : int(self.sample[0]) + 1]
            return self.xp.broadcast_to(one, (len(self), *self.xp.shape(array)[1:]))
        return self.xp.take(array, self.xp.asarray(self.sample, like=self.like_index(array)), 0)

    def like_index(self, array: Array) -> Array | None:
        """What places an index beside an array: on its device, in its own whole-number type."""
        return array if self.xp.name == "torch" else None

    def column(self, numbers: np.ndarray, like: Array) -> Array:
        """(rows,) numbers -> (rows, 1, 1...) in the type of ``like``, to multiply its rows."""
        shape = (len(self),) + (1,) * (len(self.xp.shape(like)) - 1)
        return self.array(np.asarray(numbers).reshape(shape), like)

    def array(self, numbers: np.ndarray, like: Array) -> Array:
        """A NumPy array as the framework's, in the type and on the device of ``like``."""
        return self.xp.cast(self.xp.asarray(numbers, like=like), self.xp.dtype(like))

    def random(
        self,
        draw: Callable[[np.random.Generator], np.ndarray],
        *,
        draws: np.ndarray | None = None,
        stream: int = 0,
    ) -> np.ndarray:
        """``draw(generator)`` for each row, from the row's own generator: (rows, ...), NumPy.

        draws: which draw each row counts as, (rows,); rows with equal ones get equal numbers, as
            antithetic pairs do (``chunk.draw // 2``). Default ``chunk.draw``.
        stream: tells independent uses within one draw apart.
        """
        numbers = self.draw if draws is None else np.asarray(draws)
        made: dict[tuple[int, int], np.ndarray] = {}
        rows = []
        for s, d in zip(self.sample.tolist(), numbers.tolist(), strict=True):
            if (s, d) not in made:
                made[s, d] = np.asarray(draw(self.seeds.generator(s, d, stream)))
            rows.append(made[s, d])
        return np.stack(rows)


BYTES_PER_ELEMENT = 4 * 256
"""What one element of an input may cost in activations: about that of a residual network."""
TOKEN_ELEMENTS = 1024
"""What a token counts as: the features of its embedding."""
MOST_ROWS = 256
LEAST_BUDGET = 2**28

_WORKED: weakref.WeakKeyDictionary[Any, dict[Any, int]] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def first_size(caller: Caller, total: int, rows: int | None, kind: str) -> int:
    """How many rows to begin with: what worked before, else what should fit the memory.

    The line is cut into equal parts, so that the last chunk is not a small rest; or into powers of
    two, where the framework compiles a graph for each size.
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
        return most if most == total or rows is not None else 2 ** int(math.log2(most))
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
