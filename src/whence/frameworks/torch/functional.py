"""Custom autograd functions: ``MyFunction.apply`` is recorded as one opaque op.

Its own backward may differ from what its forward does (straight-through estimators), so looking
into it would be wrong. ``Function.apply`` is replaced for the length of a recording only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .recorder import Recorder

__all__ = ["custom_functions"]


@contextmanager
def custom_functions(recorder: Recorder) -> Iterator[None]:
    """Let the recorder see calls of custom autograd functions."""
    original = torch.autograd.Function.__dict__["apply"]

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        call = original.__get__(None, cls)
        if recorder not in _active():
            return call(*args, **kwargs)

        return recorder.custom(call, cls.__name__, args, kwargs)

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        torch.autograd.Function.apply = original  # type: ignore[method-assign]


def _active() -> list[Any]:
    from torch.overrides import _get_current_function_mode_stack

    return list(_get_current_function_mode_stack())
