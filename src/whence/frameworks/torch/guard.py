"""Run a model in inference mode and give it back exactly as it was, whatever happens."""

from __future__ import annotations

import gc
import random
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as hooks

from ...errors import ModelError

__all__ = [
    "Modules", "inference", "modules_of", "parameters_of", "refuse_scripted", "uncollected",
]  # fmt: skip

Modules = Sequence[tuple[str, nn.Module]]
_ONE_AT_A_TIME = threading.RLock()
"""Modes are written on modules that threads may share, so one call runs at a time."""


def modules_of(model: object) -> list[tuple[str, nn.Module]]:
    """Every module in the model by its path; a callable's modules are looked for in its closure."""
    if isinstance(model, nn.Module):
        root = getattr(model, "_orig_mod", model)
        return list(root.named_modules())
    roots = [(name, held) for name, held in _held(model) if isinstance(held, nn.Module)]
    if len(roots) == 1:  # a wrapper around one model: its layers keep their own names
        return list(roots[0][1].named_modules())
    return [
        (".".join(filter(None, (name, n))), m)
        for name, root in roots
        for n, m in root.named_modules()
    ]


def _held(model: Any, depth: int = 3) -> list[tuple[str, Any]]:
    """What a callable holds: its bound object, partial arguments, closure, globals, attributes."""
    held: list[tuple[str, Any]] = []
    if hasattr(model, "func"):  # functools.partial
        held += [("func", model.func), *((f"arg{i}", a) for i, a in enumerate(model.args))]
        held += list(model.keywords.items())
    if hasattr(model, "__self__"):
        held.append(("", model.__self__))
    code = getattr(model, "__code__", None)
    if code is not None:
        for name, cell in zip(code.co_freevars, model.__closure__ or (), strict=True):
            try:
                held.append((name, cell.cell_contents))
            except ValueError:  # a cell that is not filled yet
                continue
        held += [(n, model.__globals__[n]) for n in code.co_names if n in model.__globals__]
    elif isinstance(model, (list, tuple)):
        held += [(str(i), item) for i, item in enumerate(model)]
    elif isinstance(model, dict):
        held += [(str(k), item) for k, item in model.items()]
    else:
        held += list(getattr(model, "__dict__", {}).items())
    found: dict[int, tuple[str, Any]] = {}
    for name, thing in held:
        if isinstance(thing, nn.Module):
            found.setdefault(id(thing), (name, thing))
        elif depth and not isinstance(thing, (type, type(sys))):
            for inner, deeper in _held(thing, depth - 1) if _may_hold(thing) else ():
                found.setdefault(id(deeper), (".".join(filter(None, (name, inner))), deeper))
    return list(found.values())


def _may_hold(thing: Any) -> bool:
    """Whether to look for modules inside: functions, containers, objects of the user's own."""
    if isinstance(thing, (list, tuple, dict)):
        return len(thing) <= 1000
    home = (getattr(thing, "__module__", None) or type(thing).__module__ or "").partition(".")[0]
    return home not in {"torch", "numpy", "builtins", *sys.stdlib_module_names} or hasattr(
        thing, "func"
    )


def parameters_of(modules: Modules) -> Iterator[torch.Tensor]:
    """Parameters and buffers."""
    for _, module in modules:
        for tensors in (module._parameters, module._buffers):
            yield from (t for t in tensors.values() if t is not None)


def refuse_scripted(module: nn.Module) -> None:
    """Raise ModelError for a TorchScript module, whose operations run out of Python's sight."""
    if isinstance(module, torch.jit.ScriptModule):
        name = getattr(module, "original_name", type(module).__name__)
        raise ModelError(
            f"{name} is (or contains) a TorchScript module, whose operations cannot be seen. Give "
            "the Python model that it was scripted from, or one made by torch.export "
            "(torch.export.export(model, (x,)), a .pt2 file)."
        )


class _Kept:
    """The state of modules that a call may change, and the way back to it."""

    def __init__(self) -> None:
        self._modes: dict[int, tuple[nn.Module, bool]] = {}
        self._tensors: dict[int, tuple[torch.Tensor, bool, Any]] = {}
        self._registries: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def take(self, module: nn.Module) -> None:
        """Remember a module and put it into evaluation mode.

        By itself, not by ``model.eval()``, which a user may have overridden and which would forget
        a mixture of modes.
        """
        if id(module) in self._modes:
            return
        self._modes[id(module)] = module, module.training
        for registry in (module._parameters, module._buffers):
            if registry:
                self._registries.append((registry, dict(registry)))
        for p in module._parameters.values():
            if p is not None and id(p) not in self._tensors:
                self._tensors[id(p)] = p, p.requires_grad, p.grad
        module.training = False

    def meet(self, module: nn.Module, args: Any) -> None:
        """A module is called: one that nobody knew of (in a list, made on the way) is taken too."""
        if id(module) not in self._modes:
            for part in module.modules():
                refuse_scripted(part)
                self.take(part)

    def put_back(self) -> None:
        for module, mode in self._modes.values():
            if module.training is not mode:
                module.training = mode
        for registry, before in self._registries:
            if _changed(registry, before):
                registry.clear()  # undo ``self.buffer = self.buffer + x``
                registry.update(before)
        for parameter, wanted, gradient in self._tensors.values():
            if parameter.requires_grad is not wanted:
                parameter.requires_grad_(wanted)
            if parameter.grad is not gradient:
                parameter.grad = gradient


def _changed(now: dict[str, Any], before: dict[str, Any]) -> bool:
    return list(now) != list(before) or any(now[k] is not before[k] for k in before)


@contextmanager
def inference(modules: Modules) -> Iterator[None]:
    """Evaluation mode; modes, gradients, registries and random state put back on the way out."""
    thread = threading.get_ident()
    with _ONE_AT_A_TIME:
        kept = _Kept()
        met = hooks.register_module_forward_pre_hook(
            lambda module, args: (
                kept.meet(module, args) if threading.get_ident() == thread else None
            )
        )
        try:
            for _, module in modules:
                kept.take(module)
            with _same_random_state(modules), torch.inference_mode(False), _uncompiled():
                yield
        finally:
            met.remove()
            kept.put_back()


@contextmanager
def _same_random_state(modules: Modules) -> Iterator[None]:
    devices = sorted({t.device.index or 0 for t in parameters_of(modules) if t.is_cuda})
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection for a while.

    A tape is thousands of small objects that live for one walk. It holds no rings, so it goes when
    it is dropped; the collector would only sift them, and with them all else the program holds.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _uncompiled() -> Any:
    """Compiled parts run as the Python that they were compiled from."""
    # Whatever is compiled has loaded the compiler; loading it takes seconds.
    return _eager() if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def _eager() -> Iterator[None]:
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        # The recorder's hooks see a compiled part twice and know it.
        warnings.filterwarnings(
            "ignore", message=r"Using `torch\.compile\(module\)` when there are global"
        )
        yield
