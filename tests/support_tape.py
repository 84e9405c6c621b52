"""Is a tape exact? A reverse walk of its own, in a few lines, and autograd to hold it against.

The walk here is not the library's: what the recorder says is checked with as little as possible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from whence.frameworks import find, gather
from whence.frameworks.torch.outputs import named_outputs
from whence.tape import Tape, Value

Tensor = torch.Tensor


class Errors(NamedTuple):
    """Largest difference over largest number, of the outputs and of the input gradients."""

    output: float
    gradient: float


def record(model: Any, x: Any, *, lean: bool = False, head: Any = None) -> Tape:
    """The tape of a model call, made as the library makes it."""
    framework = find(model, x)
    return framework.record(model, gather(framework, model, x), lean=lean, head=head, fold=not lean)


def walk(tape: Tape, seeds: Mapping[Value, Tensor]) -> dict[Value, Tensor]:
    """Cotangents at every value that one reaches, from seeds at some values."""
    found = dict(seeds)
    for node in reversed(tape.nodes):
        here = [found.get(v) for v in node.results]
        if node.into and any(c is not None for c in here):
            for value, pulled in zip(node.into, node.pull(*here), strict=True):
                found[value] = found[value] + pulled if value in found else pulled
    return found


def seeds_of(tape: Tape) -> dict[str, Tensor]:
    """One random cotangent for each output, the same on every call for the same tape."""
    generator = torch.Generator().manual_seed(7)
    out = {}
    for name, value in tape.outputs.items():
        array = value.array if isinstance(value, Value) else value
        if array.is_floating_point() or array.is_complex():
            out[name] = torch.randn(array.shape, generator=generator, dtype=array.dtype)
    return out


def gradients(tape: Tape, seeds: Mapping[str, Tensor] | None = None) -> dict[str, Tensor | None]:
    """Input gradients by name, through the tape; None where nothing leads back."""
    given: dict[Value, Tensor] = {}
    for name, seed in (seeds_of(tape) if seeds is None else seeds).items():
        value = tape.outputs[name]
        if isinstance(value, Value):
            given[value] = given[value] + seed if value in given else seed
    found = walk(tape, given)
    return {name: found.get(value) for name, value in tape.inputs.items() if value.tracked}


def autograd(
    model: Any, x: Any, seeds: Mapping[str, Tensor], head: Callable[[Any], Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """The framework's own outputs and input gradients, by name."""
    framework = find(model, x)
    inputs = gather(framework, model, x)
    leaves = {
        k: v.detach().clone().requires_grad_(v.is_floating_point() or v.is_complex())
        for k, v in inputs.arrays.items()
    }
    # A model may write to what it is given, and a leaf cannot be written to.
    given = {k: v.mul(1) if v.requires_grad else v for k, v in leaves.items()}
    args, kwargs = inputs.call(given)
    run = model.module() if isinstance(model, torch.export.ExportedProgram) else model
    result = run(*args, **kwargs)
    outputs, _ = named_outputs(result if head is None else head(result))
    reached = {k: v for k, v in outputs.items() if k in seeds and v.requires_grad}
    floats = {k: v for k, v in leaves.items() if v.requires_grad}
    grads: Any = [None] * len(floats)
    if reached:
        grads = torch.autograd.grad(
            list(reached.values()), list(floats.values()), [seeds[k] for k in reached],
            allow_unused=True,
        )  # fmt: skip
    return {k: v.detach() for k, v in outputs.items()}, dict(zip(floats, grads, strict=True))


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over largest number; infinite where shapes or types differ."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return float("inf")
    if not theirs.numel():
        return 0.0
    wide = torch.complex128 if theirs.is_complex() else torch.float64
    ours, theirs = ours.detach().to(wide), theirs.detach().to(wide)
    scale = theirs.abs().max().item()
    difference = (ours - theirs).abs().max().item()
    if difference != difference:
        return float("inf")
    # A gradient of nothing but zeros shows nothing: tests must not compare those by accident.
    return difference / scale if scale else (0.0 if difference == 0 else float("inf"))


def errors(
    model: Any, x: Any, *, lean: bool = False, head: Any = None, tape: Tape | None = None,
    like: Any = None,
) -> Errors:  # fmt: skip
    """How far the tape is from autograd (of ``like``); both start at the same random state."""
    state = torch.random.get_rng_state()
    tape = record(model, x, lean=lean, head=head) if tape is None else tape
    seeds = seeds_of(tape)
    torch.random.set_rng_state(state)
    outputs, theirs = autograd(model if like is None else like, x, seeds, head)
    ours = gradients(tape, seeds)
    if outputs.keys() != tape.outputs.keys() or ours.keys() != theirs.keys():
        raise AssertionError(
            f"names differ: {outputs.keys()} {tape.outputs.keys()} {ours} {theirs}"
        )
    off = [
        apart(v.array if isinstance(v, Value) else v, outputs[k]) for k, v in tape.outputs.items()
    ]
    for name, gradient in theirs.items():
        mine = ours[name]
        if gradient is None or mine is None:
            # Autograd says None only where no path leads; the tape may say zero there, no more.
            left = [g for g in (gradient, mine) if g is not None]
            off.append(max((g.abs().max().item() for g in left), default=0.0))
    shifts = [apart(ours[k], g) for k, g in theirs.items() if g is not None and ours[k] is not None]
    return Errors(max(off), max(shifts, default=0.0))


def exact(
    model: Any, x: Any, *, lean: tuple[bool, ...] = (False, True), head: Any = None,
    tolerance: float | None = None, like: Any = None,
) -> Tape:  # fmt: skip
    """Record, compare with autograd, fail where they differ; returns a tape.

    like: the same function as autograd takes it, where it refuses the model's spelling.
    """
    for each in lean:
        tape = record(model, x, lean=each, head=head)
        first = next(v for v in tape.inputs.values())
        wide = first.dtype in ("float64", "complex128")
        limit = tolerance if tolerance is not None else 1e-12 if wide else 1e-5
        off = errors(model, x, lean=each, head=head, tape=tape, like=like)
        if not max(off) <= limit:
            raise AssertionError(f"off by {off}, {limit} allowed (lean={each}):\n{tape}")
        gradient = [g for g in gradients(tape).values() if g is not None]
        if not any(g.abs().max() > 0 for g in gradient):
            raise AssertionError(f"the gradient is zero, which shows nothing:\n{tape}")
    return record(model, x, lean=lean[0], head=head)


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and statistic random and non-trivial, in evaluation mode.

    Heads and scales that are made as zeros or ones would hide an error behind them; weights keep
    the spread that keeps activations near one.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator).to(tensor) * (high - low) + low)

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2 or parameter.numel() == max(parameter.shape):
                draw(parameter, 0.5, 1.5) if parameter.mean() > 0.3 else draw(parameter, -0.3, 0.3)
            else:
                spread = (3 / parameter[0].numel()) ** 0.5
                draw(parameter, -spread, spread)
        for module in model.modules():
            if isinstance(getattr(module, "running_var", None), torch.Tensor):
                draw(module.running_var, 0.5, 2.0)
                draw(module.running_mean, -0.3, 0.3)
    return model.eval()


class Net(nn.Module):
    """Convolution, batch-norm, a ReLU used twice, a residual, a pool, two heads in one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.again = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.norm(self.conv(x)))
        h = self.act(self.again(h) + h)
        return self.head(self.drop(F.adaptive_avg_pool2d(h, 1).flatten(1)))


def net(dtype: torch.dtype = torch.float64) -> nn.Module:
    return lively(Net()).to(dtype)


def picture(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 2, 5, 5, dtype=torch.float64).to(dtype)


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a recording must leave as it was."""
    return {
        "state": {k: (id(v), v.clone()) for k, v in model.state_dict(keep_vars=True).items()},
        "modes": {n: m.training for n, m in model.named_modules()},
        "needs": {n: p.requires_grad for n, p in model.named_parameters()},
        "grads": {n: p.grad for n, p in model.named_parameters()},
        "hooks": {
            n: tuple(len(held) for a, held in vars(m).items() if a.endswith("_hooks"))
            for n, m in model.named_modules()
        },
        "attributes": {n: sorted(vars(m)) for n, m in model.named_modules()},
        "classes": {n: type(m) for n, m in model.named_modules()},
        "forwards": {n: m.__dict__.get("forward") for n, m in model.named_modules()},
        "buffers": {n: (id(b), b._version, b.clone()) for n, b in model.named_buffers()},
        "globals": tuple(
            len(getattr(nn.modules.module, a))
            for a in dir(nn.modules.module)
            if a.startswith("_global_") and isinstance(getattr(nn.modules.module, a), Mapping)
        ),
        "apply": torch.autograd.Function.__dict__["apply"],
        "random": torch.random.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "modes of torch": tuple(torch.overrides._get_current_function_mode_stack()),
    }


def changed(before: Any, after: Any, where: str = "") -> list[str]:
    """What differs between two states, bit for bit, by path."""
    if isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
        same = before.dtype == after.dtype and torch.equal(before, after)
        return [] if same else [where]
    if isinstance(before, dict) and isinstance(after, dict):
        lost = [f"{where}.{k}" for k in before.keys() ^ after.keys()]
        return lost + [c for k in before.keys() & after.keys()
                       for c in changed(before[k], after[k], f"{where}.{k}")]  # fmt: skip
    if isinstance(before, tuple) and isinstance(after, tuple):
        if len(before) != len(after):
            return [where]
        return [c for a, b in zip(before, after, strict=True) for c in changed(a, b, where)]
    return [] if before is after or before == after else [where]


class Cases(dict[str, tuple[Any, Any]]):
    """Models by the name of their function, each with a twin that autograd takes, or None."""

    def __call__(self, model: Any) -> Any:
        self[model.__name__] = model, None
        return model

    def like(self, twin: Any) -> Callable[[Any], Any]:
        """For a model that autograd refuses as it is spelled."""

        def case(model: Any) -> Any:
            self[model.__name__] = model, twin
            return model

        return case
