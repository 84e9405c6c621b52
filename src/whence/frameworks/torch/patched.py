"""A PyTorch model that takes the output of a layer, or an embedding, as one more input.

The model is called as it is; while it runs, what a layer returns (or a table look-up gives) is
exchanged for the array that was handed in. Hooks are registered for all modules at once, for the
length of a call, and taken away in ``finally``; no module is touched.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from ...errors import ModelError
from ...ops import Op
from .framework import runnable
from .guard import modules_of

__all__ = ["wrap"]

_LOOKS_UP = ("embedding", "__getitem__", "index_select", "take", "index")


def wrap(job: Any, places: Mapping[str, Any], inside: Any) -> Any:
    """The model with more inputs, as one that takes (their arrays, args, kwargs).

    places: name of the new input -> a layer's name, or the number of an embedding on the tape.
    inside: not needed here: the layers behind a place are seen on this model's own tape.
    """
    if job.at is not None:
        return WithLayer(job.model, next(iter(places)), job.at)
    tape = job.framework.record(job.model, job.inputs, lean=True)
    try:
        tables = [n.params["weight"] for n in tape.nodes if n.kind is Op.EMBEDDING]
    finally:
        tape.free()
    looked = {}
    for name, number in places.items():
        same = [i for i, t in enumerate(tables) if t is tables[number]]
        looked[name] = (tables[number], same.index(number))
    return WithEmbeddings(job.model, looked)


class WithLayer:
    """``model(...)`` with a layer's output replaced by ``swaps[name]``."""

    def __init__(self, model: Any, name: str, layer: str) -> None:
        self.model = model
        self.name = name
        path, _, call = layer.partition("#")
        modules = dict(modules_of(model))
        if path not in modules:
            raise ModelError(
                f"layer {layer!r} is no module that the model holds from the start, so its output "
                "cannot be varied; choose a layer of model.named_modules()"
            )
        # By its identity: the model is to be the only module here, so that its layers keep their
        # names. It keeps the module alive, too.
        self.place = id(modules[path])
        self.call = int(call) if call else None
        self.calls = 0
        """How many times the layer ran in the last call; the last of them is the one meant."""

    def __call__(self, swaps: Mapping[str, Any], args: Any, kwargs: Any) -> Any:
        thread, seen = threading.get_ident(), 0

        def leave(module: Any, given: Any, output: Any) -> Any:
            nonlocal seen
            if id(module) != self.place or threading.get_ident() != thread:
                return None
            seen += 1
            return None if seen != wanted else _exchanged(output, swaps[self.name])

        run = runnable(self.model)
        wanted = self.call or self.calls
        if not wanted:  # how often it runs is not known before it has run
            wanted = -1
            with _hooked(leave), torch.no_grad():
                run(*args, **kwargs)
            self.calls = wanted = seen
            seen = 0
        with _hooked(leave):
            return run(*args, **kwargs)


def _hooked(leave: Any) -> ExitStack:
    stack = ExitStack()
    stack.callback(hooks.register_module_forward_hook(leave).remove)
    return stack


def _exchanged(output: Any, array: torch.Tensor) -> Any:
    """The layer's output with its first floating tensor replaced."""
    if isinstance(output, torch.Tensor):
        return array
    leaves, spec = tree_flatten(output)
    place = next(
        i for i, a in enumerate(leaves) if isinstance(a, torch.Tensor) and a.is_floating_point()
    )
    leaves[place] = array
    return tree_unflatten(leaves, spec)


class WithEmbeddings:
    """``model(...)`` with look-ups in some tables replaced by ``swaps``."""

    def __init__(self, model: Any, looked: Mapping[str, tuple[torch.Tensor, int]]) -> None:
        self.model = model
        self.looked = looked

    def __call__(self, swaps: Mapping[str, Any], args: Any, kwargs: Any) -> Any:
        run = runnable(self.model)
        with _Exchange(self.looked, swaps):
            return run(*args, **kwargs)


class _Exchange(TorchFunctionMode):
    """Answers look-ups in known tables with the arrays given."""

    def __init__(self, looked: Mapping[str, tuple[Any, int]], swaps: Mapping[str, Any]) -> None:
        super().__init__()
        self.looked = looked
        self.swaps = swaps
        self.seen: dict[int, int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") not in _LOOKS_UP or not isinstance(result, torch.Tensor):
            return result
        given = [*args, *(kwargs or {}).values()]
        for table in {id(t): t for t, _ in self.looked.values()}.values():
            if not any(a is table for a in given):
                continue
            shapes = [s.shape for n, s in self.swaps.items() if self.looked[n][0] is table]
            if result.shape not in shapes:  # positions: not looked up by the input
                continue
            place = self.seen.get(id(table), 0)
            self.seen[id(table)] = place + 1
            for name, (held, number) in self.looked.items():
                if held is table and number == place:
                    return self.swaps[name]
        return result
