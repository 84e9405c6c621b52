"""Public checkers: is this rule what a rule has to be?

They raise ``AssertionError`` with what was expected and what came, so they can be called from any
test runner. Each is itself tested on planted errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .backward import Rule, Split, name_of
from .errors import OptionError
from .frameworks import by_name, installed, to_numpy
from .recording import record
from .tape import Node, Tape

__all__ = ["check_rule"]


def check_rule(
    rule: Rule,
    kinds: Sequence[str] = ("dense", "conv"),
    *,
    seed: int = 0,
    tolerance: float = 1e-6,
) -> None:
    """Check a relevance rule on small ops with operands, weights and outputs of either sign.

    rule: ``rule(node, relevance) -> arrays``, or a ``Split`` that also says what it absorbs.
    kinds: the op kinds it is meant for: "dense", "conv", "affine", "relu", "activation", "add".
    seed: for the random ops. tolerance: relative.

    Checked: one array an operand, of its shape; samples do not influence each other; the result is
    linear in the relevance; relevance in equals relevance out plus what the rule says it absorbs;
    nothing that it was given is changed; the result is finite where operand and output are zero.
    Raises AssertionError naming the check, the kind and the rule; needs PyTorch.

    Example:
        >>> import whence
        >>> whence.testing.check_rule(whence.rules.Epsilon())
    """
    if not installed("torch"):
        raise OptionError('check_rule builds its ops in PyTorch: pip install "whence[torch]"')
    by_name("torch")
    for kind in kinds:
        if kind not in _OPS:
            raise OptionError(f"check_rule has no op of kind {kind!r}; it has {', '.join(_OPS)}")
        for zero in (False, True):
            _check_on(rule, kind, seed, tolerance, zero)


def _check_on(rule: Rule, kind: str, seed: int, tolerance: float, zero: bool) -> None:
    import torch

    what = f"{name_of(rule)} on {kind}" + (" at zero" if zero else "")
    torch.manual_seed(seed)
    module, shape = _OPS[kind](torch)
    x = (
        torch.zeros(3, *shape, dtype=torch.double)
        if zero
        else torch.randn(3, *shape, dtype=torch.double)
    )
    tape, node = _node(module, x, kind)
    relevance = torch.randn(node.output.shape, dtype=torch.double)
    before = [a.clone() for a in (*node.inputs, node.output, relevance)]
    weights = [p.detach().clone() for p in module.parameters()]

    found = rule(node, relevance)
    parts = found.parts if isinstance(found, Split) else found
    if not isinstance(parts, tuple) or len(parts) != len(node.into):
        raise AssertionError(
            f"{what}: one array for each of {len(node.into)} operand(s) is wanted; "
            f"got {_kind_of(parts)}"
        )
    for part, operand in zip(parts, node.into, strict=True):
        if tuple(part.shape) != operand.shape:
            raise AssertionError(
                f"{what}: the operand has shape {operand.shape}; "
                f"the rule returned {tuple(part.shape)}"
            )
        if not bool(torch.isfinite(part).all()):
            raise AssertionError(f"{what}: the result is not finite")

    after = [*node.inputs, node.output, relevance, *module.parameters()]
    for old, new in zip([*before, *weights], after, strict=True):
        if not bool(torch.equal(old, new.detach())):
            raise AssertionError(f"{what}: the rule changed an array that it was given")

    _check_linear(rule, node, relevance, parts, what, tolerance)
    _check_alone(rule, module, x, relevance, parts, what, kind, tolerance)
    _check_books(found, parts, relevance, what, tolerance)
    tape.free()


def _check_linear(
    rule: Rule, node: Node, relevance: Any, parts: Any, what: str, tolerance: float
) -> None:
    """rule(2 R + R') = 2 rule(R) + rule(R')."""
    import torch

    other = torch.randn(relevance.shape, dtype=relevance.dtype)
    both, second = _parts(rule(node, 2 * relevance + other)), _parts(rule(node, other))
    for whole, a, b in zip(both, parts, second, strict=True):
        _close(whole, 2 * a + b, f"{what}: the result is not linear in the relevance", tolerance)


def _check_alone(
    rule: Rule,
    module: Any,
    x: Any,
    relevance: Any,
    parts: Any,
    what: str,
    kind: str,
    tolerance: float,
) -> None:
    """Each sample by itself gives what it gives in the batch."""
    for sample in range(len(x)):
        tape, node = _node(module, x[sample : sample + 1], kind)
        alone = _parts(rule(node, relevance[sample : sample + 1]))
        for part, single in zip(parts, alone, strict=True):
            _close(
                part[sample : sample + 1],
                single,
                f"{what}: sample {sample} depends on its batch",
                tolerance,
            )
        tape.free()


def _check_books(found: Any, parts: Any, relevance: Any, what: str, tolerance: float) -> None:
    def total(a: Any, b: Any = None) -> Any:
        product = a if b is None else a * b
        return product.reshape(len(product), -1).sum(1)

    absorbed = dict(found.absorbed(total)) if isinstance(found, Split) else {}
    out = sum(total(p) for p in parts) + sum(absorbed.values())
    missing = to_numpy(total(relevance) - out)
    scale = float(abs(relevance).sum()) + sum(float(abs(p).sum()) for p in parts)
    if np.abs(missing).max() > tolerance * scale:
        books = ", ".join(f"{k} {float(v.sum()):.4g}" for k, v in absorbed.items()) or "nothing"
        raise AssertionError(
            f"{what}: relevance in {float(relevance.sum()):.6g}, "
            f"out {float(sum(p.sum() for p in parts)):.6g}, said to be absorbed: {books}; "
            f"{float(missing.sum()):.4g} is missing"
        )


def _close(a: Any, b: Any, text: str, tolerance: float) -> None:
    gap = float(abs(a - b).max())
    if gap > tolerance * max(float(abs(b).max()), 1.0):
        raise AssertionError(f"{text} (largest difference {gap:.3g})")


def _parts(found: Any) -> tuple[Any, ...]:
    return found.parts if isinstance(found, Split) else found


def _kind_of(parts: Any) -> str:
    return (
        f"{len(parts)} in a {type(parts).__name__}"
        if isinstance(parts, (tuple, list))
        else type(parts).__name__
    )


def _node(module: Any, x: Any, kind: str) -> tuple[Tape, Node]:
    tape = record(module, x)
    return tape, next(n for n in tape if n.kind == kind)


def _two_branches(torch: Any) -> Any:
    class Sum(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Linear(4, 3).double()
            self.b = torch.nn.Linear(4, 3).double()

        def forward(self, x: Any) -> Any:
            return self.a(x) + self.b(x)

    return Sum()


def _scaled(torch: Any) -> Any:
    norm = torch.nn.BatchNorm2d(3).double().eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_()
    return norm


_OPS: dict[str, Callable[[Any], tuple[Any, tuple[int, ...]]]] = {
    "dense": lambda torch: (torch.nn.Linear(5, 4).double(), (5,)),
    "conv": lambda torch: (
        torch.nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2).double(), (2, 5, 4)
    ),
    "affine": lambda torch: (_scaled(torch), (3, 4, 5)),
    "relu": lambda torch: (torch.nn.ReLU(), (3, 4)),
    "activation": lambda torch: (torch.nn.GELU(), (3, 4)),
    "add": lambda torch: (_two_branches(torch), (4,)),
}  # fmt: skip
