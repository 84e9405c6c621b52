"""One call of a PyTorch function: its arguments, what it is found to be, how it ran."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from ...ops import Op

__all__ = [
    "Call", "Kinded", "Spec", "circumstances", "flatten", "offset_of", "rebuild", "roles",
    "tensors_in",
]  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One call of a PyTorch function: its arguments, and which of them are tracked tensors."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tracked: frozenset[int]
    """``id`` of every tracked tensor among the arguments (they are leaves made for this call)."""

    def get(self, place: int, *names: str, default: Any = None) -> Any:
        """The argument at a place or under one of its names."""
        for name in names:
            if name in self.kwargs:
                return self.kwargs[name]
        return self.args[place] if place < len(self.args) else default

    def is_tracked(self, argument: Any) -> bool:
        return isinstance(argument, torch.Tensor) and id(argument) in self.tracked

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Every tensor among the arguments, those in one list included."""
        found: list[torch.Tensor] = []
        for a in (*self.args, *self.kwargs.values()):
            items = a if isinstance(a, (tuple, list)) else (a,)
            found += [t for t in items if isinstance(t, torch.Tensor)]
        return found

    @property
    def is_complex(self) -> bool:
        """Whether a complex number is among the arguments."""
        return any(t.is_complex() for t in self.tensors) or any(
            isinstance(a, complex) for a in self.args
        )


@dataclass(frozen=True)
class Kinded:
    """A call's kind, its constants by role, and what rules may want to know."""

    kind: Op
    params: Mapping[str, Any] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)


Spec = Any
"""How to put a flat list back: (number of positions, keywords, lists spread out), or a tree."""

_NESTS = (list, tuple, dict)


def flatten(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], Spec]:
    """All arguments in one list, tensors in lists among them.

    Lists of numbers stay whole; lists of tensors are spread out; anything deeper is a tree.
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


def roles(**params: Any) -> dict[str, Any]:
    """The constants that are there, by role."""
    return {k: v for k, v in params.items() if v is not None}


def offset_of(bias: Any) -> dict[str, Any]:
    """A bias as the ``offset`` of a node, if there is one."""
    return {} if bias is None else {"offset": bias.detach()}
