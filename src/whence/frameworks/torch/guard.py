"""Run a model in inference mode and give it back exactly as it was, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["inference", "modules_of", "parameters_of"]


def modules_of(model: object) -> list[tuple[str, nn.Module]]:
    """Every module in the model by its path; a callable's modules are looked for in its closure."""
    if isinstance(model, nn.Module):
        root = getattr(model, "_orig_mod", model)
        return list(root.named_modules())
    found: list[tuple[str, nn.Module]] = []
    for name, held in _held(model):
        if isinstance(held, nn.Module):
            found += [(".".join(filter(None, (name, n))), m) for n, m in held.named_modules()]
    roots = [n for n, m in _held(model) if isinstance(m, nn.Module)]
    if len(roots) == 1:  # a wrapper around one model: its layers keep their own names
        found = [(n.removeprefix(roots[0]).removeprefix("."), m) for n, m in found]
    return found


def _held(model: Any) -> list[tuple[str, Any]]:
    """What a callable holds: its bound object, its partial arguments, its closure, its globals."""
    function = model
    held: list[tuple[str, Any]] = []
    if hasattr(function, "func"):  # functools.partial
        held += [("func", function.func)]
        held += [(f"arg{i}", a) for i, a in enumerate(function.args)] + list(function.keywords.items())
        held += _held(function.func) if not isinstance(function.func, nn.Module) else []
        return held
    if hasattr(function, "__self__"):
        held.append(("", function.__self__))
    code = getattr(function, "__code__", None)
    if code is not None:
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                held.append((name, cell.cell_contents))
            except ValueError:  # a cell that is not filled yet
                continue
        held += [(n, function.__globals__[n]) for n in code.co_names if n in function.__globals__]
    elif not hasattr(function, "__self__"):
        held += list(getattr(function, "__dict__", {}).items())
    unique: dict[int, tuple[str, Any]] = {}
    for name, thing in held:
        unique.setdefault(id(thing), (name, thing))
    return list(unique.values())


def parameters_of(model: object) -> Iterator[torch.Tensor]:
    """Parameters and buffers of the model."""
    for _, module in modules_of(model):
        for tensors in (module._parameters, module._buffers):
            yield from (t for t in tensors.values() if t is not None)


@contextmanager
def inference(model: object) -> Iterator[None]:
    """Evaluation mode, forked random state, ``grad`` and registries put back on the way out.

    The modes are set on each module by itself, not by ``model.eval()``, which a user may have
    overridden and which would forget a mixture of modes.
    """
    modules = [m for _, m in modules_of(model)]
    modes = [(m, m.training) for m in modules]
    registries = [(m, dict(m._parameters), dict(m._buffers)) for m in modules]
    devices = sorted({t.device.index or 0 for t in parameters_of(model) if t.is_cuda})
    try:
        for module in modules:
            module.training = False
        with (
            torch.random.fork_rng(devices=devices),
            torch.inference_mode(False),
            torch.compiler.set_stance("force_eager"),
        ):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, parameters, buffers in registries:
            if _changed(module._parameters, parameters) or _changed(module._buffers, buffers):
                _put_back(module, parameters, buffers)


def _changed(now: dict[str, Any], before: dict[str, Any]) -> bool:
    return now.keys() != before.keys() or any(now[k] is not before[k] for k in before)


def _put_back(module: nn.Module, parameters: dict[str, Any], buffers: dict[str, Any]) -> None:
    """Undo ``self.buffer = self.buffer + x``: the registered objects are the ones from before."""
    module._parameters.clear()
    module._parameters.update(parameters)
    module._buffers.clear()
    module._buffers.update(buffers)
