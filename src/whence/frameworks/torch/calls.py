"""A call's arguments as one flat list and back, and the circumstances under which it ran."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

__all__ = ["Spec", "circumstances", "flatten", "rebuild", "tensors_in"]

Spec = Any
"""How to put a flat list back: (number of positions, keywords, lists spread out), or a tree."""

_NESTS = (list, tuple, dict)


def flatten(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], Spec]:
    """All arguments in one list, tensors in lists among them.

    Lists of numbers stay whole; lists of tensors are spread out; anything deeper is walked as a tree.
    """
    flat: list[Any] = []
    spread: list[tuple[int, int, type]] = []
    for item in (*args, *kwargs.values()):
        if isinstance(item, _NESTS):
            kind = type(item)
            if kind is list or kind is tuple:
                if any(isinstance(i, _NESTS) for i in item):
                    return tree_flatten((tuple(args), dict(kwargs)))
                if any(isinstance(i, torch.Tensor) for i in item):
                    spread.append((len(flat), len(item), kind))
                    flat.extend(item)
                    continue
            elif kind is not torch.Size:
                return tree_flatten((tuple(args), dict(kwargs)))
        flat.append(item)
    return flat, (len(args), tuple(kwargs), tuple(spread))


def rebuild(flat: Sequence[Any], spec: Spec) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``flatten`` undone."""
    if not isinstance(spec, tuple):
        args, kwargs = tree_unflatten(list(flat), spec)
        return args, kwargs
    count, names, spread = spec
    items = flat
    if spread:
        items, end = [], 0
        for start, length, kind in spread:
            items += flat[end:start]
            end = start + length
            items.append(kind(flat[start:end]))
        items += flat[end:]
    return tuple(items[:count]), dict(zip(names, items[count:], strict=True))


def tensors_in(result: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The leaves of a result, and the way to put others in their places."""
    if isinstance(result, torch.Tensor):
        return [result], lambda items: items[0]
    items, spec = tree_flatten(result)
    return items, lambda changed: tree_unflatten(changed, spec)


def circumstances() -> Callable[[], AbstractContextManager[Any]]:
    """A way back to the autocast state of this moment, for running an op again later."""
    if not torch._C._is_any_autocast_enabled():
        return nullcontext
    states = [
        (kind, torch.get_autocast_dtype(kind))
        for kind in ("cpu", "cuda", "mps", "xpu")
        if torch.is_autocast_enabled(kind)
    ]

    @contextmanager
    def again() -> Iterator[None]:
        with ExitStack() as stack:
            for kind, dtype in states:
                stack.enter_context(torch.autocast(kind, dtype=dtype, cache_enabled=False))
            yield

    return again
