"""Calls that write into a tensor: which they are, and the same calls without writing."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["out_of_place", "without_learning", "written_to"]

Tensor = torch.Tensor
_NOT_WRITES = frozenset({"requires_grad_", "retain_grad_", "__index__", "__int__", "__invert__"})
_DRAWS = frozenset(
    "normal bernoulli uniform exponential cauchy log_normal geometric random".split()
)
"""Their namesakes without the underscore mean something else."""


@cache
def _place(func: Any) -> int | str | None:
    """Which argument a function always writes to: a position, a keyword, or None."""
    if isinstance(func, torch._ops.OpOverload):
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                return argument.name if argument.kwarg_only else place
        return None
    name = getattr(func, "__name__", "")
    if name in _NOT_WRITES:
        return None
    dunder = name.startswith("__")
    if name in ("__setitem__", "_index_put_impl_") or (dunder and name.startswith("__i")):
        return 0
    if name == "__set__" and getattr(getattr(func, "__self__", None), "__name__", "") == "data":
        return 0
    return 0 if name.endswith("_") and not dunder else None


@cache
def _inplace_switch(func: Any) -> int | None:
    """The position of an ``inplace`` option, in Python functions of PyTorch that have one."""
    if not isinstance(func, types.FunctionType):
        return None
    names = func.__code__.co_varnames[: func.__code__.co_argcount]
    return names.index("inplace") if "inplace" in names else None


def written_to(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The tensor that a call writes to (``out=`` apart), or None."""
    place = _place(func)
    if place is None:
        switch = _inplace_switch(func)
        if switch is None:
            return None
        on = kwargs.get("inplace", args[switch] if switch < len(args) else False)
        found = args[0] if args else kwargs.get("input")
        return found if on is True and isinstance(found, Tensor) else None
    if isinstance(place, str):
        found = kwargs.get(place)
    else:
        found = args[place] if place < len(args) else next(iter(kwargs.values()), None)
    return found if isinstance(found, Tensor) else None


def out_of_place(
    func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The call that computes what a call would write, and its arguments."""
    switch = _inplace_switch(func)
    if switch is not None:
        kwargs = {k: v for k, v in kwargs.items() if k != "inplace"}
        return func, (*args[:switch], False, *args[switch + 1 :])[: len(args)], kwargs
    if name in _OWN:
        return _OWN[name], args, kwargs
    return _counterpart(func, name) or partial(_on_a_copy, func), args, kwargs


@cache
def _counterpart(func: Any, name: str) -> Callable[..., Any] | None:
    """PyTorch's own function that returns what this one writes."""
    if name in _DRAWS:
        return None
    if isinstance(func, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        if "aten" not in str(func):
            return None
        packet = getattr(torch.ops.aten, name, None)
        overload = getattr(func, "_overloadname", "")
        return getattr(packet, overload, packet) if overload else packet
    raw = func.__name__
    if raw.startswith("__i") and name == raw:  # one without a plain name: __iand__ -> __and__
        return getattr(Tensor, f"__{raw[3:]}", None)
    for holder in (Tensor, torch, F):
        found = getattr(holder, name, None)
        if callable(found):
            return found
    return None


def _on_a_copy(func: Callable[..., Any], target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    copy = target.clone()
    func(copy, *args, **kwargs)
    return copy


def without_learning(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A normalisation by batch statistics, with copies of the running ones that it writes to."""

    def copied(a: Any) -> Any:
        return a.clone() if isinstance(a, Tensor) and a.dim() == 1 else a

    return func(*map(copied, args), **{k: copied(v) for k, v in kwargs.items()})


def setitem(target: Tensor, index: Any, value: Any) -> Tensor:
    """``target[index] = value`` on a copy."""
    copy = target.clone()
    copy[index] = value
    return copy


def copy(target: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
    """What ``target.copy_(src)`` leaves in the target."""
    return src.to(target.dtype).expand(target.shape)


def fill(target: Tensor, value: Any) -> Tensor:
    """What ``target.fill_(value)`` leaves in the target."""
    if isinstance(value, Tensor):
        return value.to(target.dtype).expand(target.shape)
    return torch.full_like(target, value)


def zero(target: Tensor) -> Tensor:
    """What ``target.zero_()`` leaves in the target."""
    return torch.zeros_like(target)


def set_data(target: Tensor, data: Tensor) -> Tensor:
    """What ``target.data = data`` leaves in the target."""
    return data.detach()


_OWN: dict[str, Callable[..., Any]] = {
    "setitem": setitem, "copy": copy, "fill": fill, "zero": zero, "set data": set_data,
}  # fmt: skip
