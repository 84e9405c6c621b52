"""PyTorch behind the waist: find, run and record ``nn.Module``s, callables, exported programs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...errors import ModelError
from ...tape import Array, Tape, Value
from ..base import Expectation, Framework, Inputs, Program, Score
from . import expectation
from .custom import in_sight
from .fold import folded
from .functions import TorchFunctions
from .guard import Modules, inference, modules_of, parameters_of, refuse_scripted, uncollected
from .layers import following
from .outputs import named_outputs
from .recognise import recognised
from .recorder import Recorder

__all__ = ["Torch"]


class Torch(Framework):
    """``whence.frameworks.base.Framework`` for PyTorch."""

    name = "torch"
    channels = "first"
    xp = TorchFunctions()

    def accepts(self, model: object) -> bool:
        kinds = (nn.Module, torch.export.ExportedProgram, torch.jit.ScriptFunction)
        return isinstance(model, kinds)

    def owns(self, array: object) -> bool:
        return isinstance(array, torch.Tensor)

    def convert(self, array: Any, model: object) -> torch.Tensor:
        if isinstance(array, torch.Tensor):
            return array
        tensor = torch.as_tensor(array)
        held = next((p for p in parameters_of(modules_of(model)) if p.is_floating_point()), None)
        if held is None:
            return tensor.float() if tensor.dtype is torch.float64 else tensor
        return tensor.to(held.device, held.dtype if tensor.is_floating_point() else None)

    def call_style(self, model: object, x: Any) -> str:
        call = model.forward if isinstance(model, nn.Module) else model
        try:
            signature = inspect.signature(call)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            if isinstance(x, dict):
                return "kwargs"
            return "args" if isinstance(x, (tuple, list)) else "one"
        try:
            if isinstance(x, dict):
                signature.bind(**x)
                return "kwargs"
            if isinstance(x, (tuple, list)):
                signature.bind(*x)
                return "args"
        except TypeError:
            return "one"
        return "one"

    def record(
        self,
        model: object,
        inputs: Inputs,
        *,
        head: Callable[[Any], Array] | None = None,
        lean: bool = False,
        fold: bool = False,
        keep: Sequence[str] = (),
    ) -> Tape:
        run = runnable(model)
        tape, blocked = _record(run, inputs, head, lean, through_no_grad=False)
        if blocked and not any(isinstance(v, Value) for v in tape.outputs.values()):
            tape, _ = _record(run, inputs, head, lean, through_no_grad=True)
            tape.notes.append("the model runs under no_grad; the tape goes through it")
        if not fold:
            return tape
        kept = [tape.at(name) for name in keep]
        return folded(recognised(tape, kept), kept)

    def compute(
        self,
        model: object,
        inputs: Inputs,
        program: Program,
        *,
        key: Hashable,
        arguments: Mapping[str, Array] | None = None,
        head: Callable[[Any], Array] | None = None,
        lean: bool = False,
        fold: bool = False,
        keep: Sequence[str] = (),
    ) -> Any:
        with uncollected():
            tape = self.record(model, inputs, head=head, lean=lean, fold=fold, keep=keep)
            try:
                with torch.inference_mode(False), torch.no_grad():
                    return program(tape, **(arguments or {}))
            finally:
                tape.free()

    def gradient(
        self,
        model: object,
        inputs: Inputs,
        score: Score,
        *,
        key: Hashable,
        arguments: Mapping[str, Array] | None = None,
        head: Callable[[Any], Array] | None = None,
    ) -> tuple[dict[str, Array | None], Array, dict[str, Array]]:
        run = runnable(model)
        modules = modules_of(run)
        with inference(modules), torch.enable_grad(), _frozen_writes(modules):
            given = {k: plain(v) for k, v in inputs.arrays.items()}
            floats = {k: v.requires_grad_() for k, v in given.items() if v.is_floating_point()}
            args, kwargs = inputs.call({**given, **{k: _passed(v) for k, v in floats.items()}})
            result = run(*args, **kwargs)
            outputs, _ = named_outputs(result if head is None else head(result))
            scores, extras = score(outputs, **(arguments or {}))
            extras = {k: v.detach() for k, v in extras.items()}
            if not scores.requires_grad:
                return dict.fromkeys(floats), scores.detach(), extras
            grads = torch.autograd.grad(scores.sum(), list(floats.values()), allow_unused=True)
        return dict(zip(floats, grads, strict=True)), scores.detach(), extras

    def predict(self, model: object, inputs: Inputs) -> dict[str, Array]:
        run = runnable(model)
        modules = modules_of(run)
        with inference(modules), torch.no_grad(), _frozen_writes(modules):
            args, kwargs = inputs.call({k: _passed(plain(v)) for k, v in inputs.arrays.items()})
            outputs, _ = named_outputs(run(*args, **kwargs))
        return {k: v.detach() for k, v in outputs.items()}

    def expectation(self, model: object) -> Expectation:
        return expectation.of(modules_of(model))

    def summary(self, model: object) -> str:
        tensors = [p for _, m in modules_of(model) for p in m._parameters.values() if p is not None]
        unique = {id(p): p for p in tensors}
        kinds = sorted({str(p.dtype).removeprefix("torch.") for p in unique.values()})
        count = sum(p.numel() for p in unique.values())
        name = getattr(model, "__name__", type(model).__name__)
        return f"{name} (torch), {count:,} parameters" + (f", {'/'.join(kinds)}" if kinds else "")

    def passive(self) -> torch.no_grad:
        return torch.no_grad()

    def version(self) -> str:
        return str(torch.__version__)


def plain(array: torch.Tensor) -> torch.Tensor:
    """A leaf of our own on the caller's numbers."""
    return array.clone() if array.is_inference() else array.detach()


def _passed(leaf: torch.Tensor) -> torch.Tensor:
    """What the model is given: not the leaf itself, which the model might write to."""
    return leaf.clone() if leaf.is_floating_point() else leaf


def runnable(model: Any) -> Any:
    """What can be called and recorded: an exported program's module, one under a compiled one.

    Raises ModelError for a scripted module, whose operations run out of Python's sight.
    """
    if isinstance(model, torch.export.ExportedProgram):
        return model.module()
    model = getattr(model, "_orig_mod", model)
    if isinstance(model, torch.jit.ScriptFunction):
        raise ModelError(
            f"{model.name} is a TorchScript function, whose operations cannot be seen. Give the "
            "Python function that it was scripted from."
        )
    for _, module in modules_of(model):
        refuse_scripted(module)
    if not callable(model):
        raise ModelError(f"a model, something to be called, is wanted; got {type(model).__name__}")
    return model


@contextmanager
def _frozen_writes(modules: Modules) -> Iterator[None]:
    """Put back the numbers of buffers that the model writes to while it runs (counters, caches)."""
    held = [(t, t._version, t.detach().clone()) for _, m in modules
            for t in m._buffers.values() if t is not None]  # fmt: skip
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, version, before in held:
                if tensor._version != version:
                    tensor.copy_(before)


def _record(
    model: Any, inputs: Inputs, head: Any, lean: bool, *, through_no_grad: bool
) -> tuple[Tape, bool]:
    modules = modules_of(model)
    foreign = [*parameters_of(modules), *inputs.arrays.values()]
    recorder = Recorder(lean=lean, through_no_grad=through_no_grad, foreign=foreign)
    with inference(modules), torch.enable_grad(), uncollected():
        watched = {k: recorder.watch(k, plain(v)) for k, v in inputs.arrays.items()}
        args, kwargs = inputs.call({k: tensor for k, (tensor, _) in watched.items()})
        try:
            with in_sight(recorder), following(modules, recorder) as layers, recorder:
                result = model(*args, **kwargs)
                if head is not None:
                    result = head(result)
            arrays, structure = named_outputs(result)
            outputs: dict[str, Any] = {}
            for name, array in arrays.items():
                track = recorder.track_of(array)
                made = None if track is None else track.value
                outputs[name] = made or (array if track is None else track.content).detach()
        finally:
            recorder.close()
    tape = Tape(
        recorder.nodes, {k: v for k, (_, v) in watched.items()}, outputs, dict(layers), "torch",
        channels="first", structure=structure,
    )  # fmt: skip
    for value in outputs.values():
        if isinstance(value, Value):
            value.hold()
    return tape, recorder.blocked
