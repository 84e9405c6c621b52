"""Which layer is running: a path for every operation, and what came out of every layer.

Uses PyTorch's hooks for all modules at once, registered for the length of one recording and taken
away in ``finally``; no module is touched.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks
from torch.utils._pytree import tree_flatten

from ...tape import LayerRecord, Value
from .guard import Modules
from .recorder import Recorder

__all__ = ["following"]


class _Follower:
    def __init__(self, modules: Modules, recorder: Recorder) -> None:
        self.recorder = recorder
        self.names: dict[int, str] = {}
        for name, module in modules:
            self.names.setdefault(id(module), _plain(name))
        self.sizes = sizes_of(modules)
        self.unnamed: list[nn.Module] = []
        """Kept for the length of the recording, so that no other module takes over its ``id``."""
        self.thread = threading.get_ident()
        self.stack: list[str] = []
        self.records: dict[str, list[LayerRecord]] = {}

    def enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() != self.thread:
            return
        self.stack.append(self.recorder.layer)
        name = self.names.get(id(module))
        self.recorder.layer = self.named(module) if name is None else name

    def named(self, module: nn.Module) -> str:
        """A name for one made during the call or out of sight; its children are named under it."""
        own = getattr(module, "name", None)  # Keras layers have one
        plain = own if isinstance(own, str) and own else type(module).__name__.lower()
        plain = f"{self.recorder.layer}.{plain}" if self.recorder.layer else plain
        taken, name, count = set(self.names.values()), plain, 0
        while name in taken:
            count += 1
            name = f"{plain}_{count}"
        self.unnamed.append(module)
        for path, child in module.named_modules():
            self.names.setdefault(id(child), f"{name}.{path}" if path else name)
        return name

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() != self.thread:
            return
        name = self.recorder.layer
        values = tuple(self._values(output)) if name and not hasattr(module, "_orig_mod") else ()
        if values:
            size = self.sizes.get(id(module))
            if size is None:
                size = self.sizes[id(module)] = sum(p.numel() for p in module.parameters())
            record = LayerRecord(name, type(module).__name__, values, size)
            self.records.setdefault(name, []).append(record)
        if self.stack:
            self.recorder.layer = self.stack.pop()

    def _values(self, output: Any) -> Iterator[Value]:
        for item in flattened(output):
            if isinstance(item, torch.Tensor):
                track = self.recorder.track_of(item)
                if track is not None and track.value is not None:
                    yield track.value


def _plain(path: str) -> str:
    """Without the steps that ``torch.compile`` adds to a path."""
    return ".".join(step for step in path.split(".") if step != "_orig_mod")


def sizes_of(modules: Modules) -> dict[int, int]:
    """How many numbers each module and its children hold; a shared one counts once in each."""
    held: dict[str, dict[int, int]] = {}
    for name, module in modules:
        for parameter in module._parameters.values():
            if parameter is not None:
                path = name
                while True:
                    held.setdefault(path, {})[id(parameter)] = parameter.numel()
                    if not path:
                        break
                    path = path.rpartition(".")[0]
    return {id(module): sum(held.get(name, {}).values()) for name, module in modules}


def flattened(output: Any) -> list[Any]:
    """The leaves of a tuple, list, dict or dataclass."""
    if isinstance(output, torch.Tensor):
        return [output]
    if hasattr(output, "to_tuple"):  # the outputs of Hugging Face models
        output = output.to_tuple()
    elif hasattr(output, "__dataclass_fields__"):
        output = [getattr(output, name) for name in output.__dataclass_fields__]
    return list(tree_flatten(output)[0])


@contextmanager
def following(modules: Modules, recorder: Recorder) -> Iterator[dict[str, list[LayerRecord]]]:
    """Keep ``recorder.layer`` true while the model runs; yields the records by layer name."""
    follower = _Follower(modules, recorder)
    before = hooks.register_module_forward_pre_hook(follower.enter)
    after = hooks.register_module_forward_hook(follower.leave, always_call=True)
    try:
        yield follower.records
    finally:
        before.remove()
        after.remove()
