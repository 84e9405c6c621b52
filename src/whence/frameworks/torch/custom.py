"""What PyTorch runs out of the recorder's sight, made visible for the length of one recording.

``MyFunction.apply`` of a custom autograd function is recorded as one opaque op: its own backward
may differ from what its forward does (straight-through estimators), so looking into it would be
wrong. So are TorchScript functions, which run in C++. Activation checkpointing only saves memory,
so what it runs is run plainly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils import checkpoint

from .recorder import Recorder

__all__ = ["in_sight"]


@contextmanager
def in_sight(recorder: Recorder) -> Iterator[None]:
    """Let the recorder see custom functions and scripted ones, and through checkpoints.

    Other threads see no difference; entered by one recording at a time (see ``guard``).
    """
    original = torch.autograd.Function.__dict__["apply"]
    run_script = torch.jit.ScriptFunction.__dict__["__call__"]
    generator = checkpoint._checkpoint_without_reentrant_generator

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        call = original.__get__(None, cls)
        if recorder not in _get_current_function_mode_stack():
            return call(*args, **kwargs)
        if cls is checkpoint.CheckpointFunction:
            return args[0](*args[2:])
        return recorder.custom(call, f"{cls.__name__}.apply", args, kwargs)

    def plainly(*args: Any, **kwargs: Any) -> Iterator[None]:
        if recorder not in _get_current_function_mode_stack():
            yield from generator(*args, **kwargs)
        else:
            yield

    def script(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = run_script.__get__(self)
        if recorder not in _get_current_function_mode_stack():
            return call(*args, **kwargs)
        return recorder.custom(call, f"{self.name}.script", args, kwargs)

    torch.jit.ScriptFunction.__call__ = script  # type: ignore[method-assign]
    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment, method-assign]
    checkpoint._checkpoint_without_reentrant_generator = plainly
    try:
        yield
    finally:
        torch.jit.ScriptFunction.__call__ = run_script  # type: ignore[method-assign]
        torch.autograd.Function.apply = original  # type: ignore[method-assign]
        checkpoint._checkpoint_without_reentrant_generator = generator
