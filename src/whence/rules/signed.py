"""Rules that treat what pushed the output up and what pushed it down differently.

After [bach2015, montavon2017, montavon2019]. x+ = max(x, 0), x- = min(x, 0), the same for weights W
and bias b; s(z) = z + eps * sign(z) with sign(0) = +1 and eps = 1e-6. All hold for operands,
weights and outputs of either sign.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..backward import Split, Total
from ..errors import OptionError
from ..tape import Array, Node
from .affine import shares_of
from .parts import Change, check_bias, negative, positive, signed_run, spread_evenly, weights_of

__all__ = ["AlphaBeta", "Gamma", "ZPlus"]


@dataclass(frozen=True)
class _Term:
    """One denominator, and what it hands back and absorbs."""

    output: Array
    part: Array
    shares: Array
    offset: Array | None

    def books(self, total: Total, relevance: Array) -> dict[str, Array]:
        books = {"epsilon": total(relevance) - total(self.shares, self.output)}
        if self.offset is not None:
            books["bias"] = total(self.shares, self.offset)
        return books


def _finish(
    node: Node, back: Callable[[Array], Array], output: Array, relevance: Array, bias: Array | None,
    mode: str, side: int = 0,
) -> _Term:  # fmt: skip
    """R shared out over one sum of terms and its bias; side: the sign that all terms have."""
    shares = shares_of(node, relevance, output, side=side)
    part = back(shares)
    offset = None
    if bias is not None and mode != "ignore":
        offset = _aligned(node, bias)
        if mode == "distribute":
            part, offset = part + spread_evenly(node, shares * offset), None
    return _Term(output, part, shares, offset)


def _aligned(node: Node, bias: Array) -> Array:
    """A bias in the shape in which it broadcasts against the output."""
    xp: Any = node.xp
    offset = xp.asarray(node.offset, like=node.output)
    return xp.reshape(bias, xp.shape(offset)) if hasattr(bias, "shape") else bias + offset * 0


def _sum_books(books: list[Mapping[str, Array]]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for each in books:
        for reason, amount in each.items():
            found[reason] = found[reason] + amount if reason in found else amount
    return found


@dataclass(frozen=True)
class ZPlus:
    """LRP-z+: only what pushed the output up takes relevance [montavon2017].

    [x+W+ + x-W-]^T R / s(x+W+ + x-W- + b+), the same as ``AlphaBeta(1, 0)``. For operands that are
    not negative one modified run is enough.
    bias: "absorb" (b+ takes its share), "ignore" or "distribute". Raises OptionError for another
    word.
    """

    bias: str = "absorb"

    def __post_init__(self) -> None:
        check_bias("ZPlus", self.bias)

    def __call__(self, node: Node, relevance: Array) -> Split:
        """Relevance of the output in, of the operand out."""
        xp: Any = node.xp
        weight, bias = weights_of(node)
        above = None if bias is None else positive(xp, bias)
        sides = signed_run(node, weight, None if self.bias == "ignore" else above)
        term = _finish(node, sides.back, sides.output, relevance, above, self.bias, side=1)

        def absorbed(total: Total) -> Mapping[str, Array]:
            books = term.books(total, relevance)
            lost = total(relevance - xp.gated(relevance, term.output))
            return {**books, "epsilon": books["epsilon"] - lost, "empty": lost}

        return Split((term.part,), absorbed)


@dataclass(frozen=True)
class AlphaBeta:
    """LRP-alpha-beta: alpha of what pushed the output up, less beta of what pushed down [bach2015].

    alpha - beta = 1.
    empty: what happens at an output that has no such part: "conserve" lets the other part take all
    of it; "strict" follows the formula, which loses alpha R or keeps -beta R out (reported in the
    ledger as ``empty``). With beta = 0 there is no other part, and both are the same.
    bias: "absorb", "ignore" or "distribute".
    Raises OptionError if alpha - beta is not 1, either is negative, or for another word.
    """

    alpha: float = 2.0
    beta: float = 1.0
    empty: str = "conserve"
    bias: str = "absorb"

    def __post_init__(self) -> None:
        check_bias("AlphaBeta", self.bias)
        if self.empty not in ("conserve", "strict"):
            raise OptionError(
                f"AlphaBeta needs empty to be 'conserve' or 'strict'; got {self.empty!r}"
            )
        if not (abs(self.alpha - self.beta - 1) < 1e-9 and self.beta >= 0):
            raise OptionError(
                "AlphaBeta needs alpha - beta = 1 with beta >= 0, so that relevance is conserved; "
                f"got alpha={self.alpha!r}, beta={self.beta!r}, a difference of "
                f"{self.alpha - self.beta:g}"
            )

    def __call__(self, node: Node, relevance: Array) -> Split:
        """Relevance of the output in, of the operand out."""
        if self.beta == 0:
            return ZPlus(self.bias)(node, relevance)
        weight, bias = weights_of(node)
        xp: Any = node.xp
        biases = (None, None) if bias is None else (positive(xp, bias), negative(xp, bias))
        used = (None, None) if self.bias == "ignore" else biases
        up = signed_run(node, weight, used[0])
        down = signed_run(node, weight, used[1], (negative, positive))
        arriving = self._shared_out(xp, relevance, up.output, down.output)
        terms = [
            (_finish(node, run.back, run.output, r, b, self.bias, side), r)
            for run, r, b, side in zip((up, down), arriving, biases, (1, -1), strict=True)
        ]

        def absorbed(total: Total) -> Mapping[str, Array]:
            books = _sum_books([t.books(total, r) for t, r in terms])
            books["empty"] = total(relevance) - total(arriving[0] + arriving[1])
            return books

        return Split((terms[0][0].part + terms[1][0].part,), absorbed)

    def _shared_out(self, xp: Any, relevance: Array, up: Array, down: Array) -> tuple[Array, Array]:
        """What of the relevance each of the two sums takes."""
        for_up, for_down = relevance * self.alpha, relevance * -self.beta
        if xp.known_one_sided(up) and xp.known_one_sided(down):
            return for_up, for_down
        no_up, no_down = up == 0, down == 0
        if self.empty == "conserve":
            for_up = xp.where(no_down, relevance, for_up)
            for_down = xp.where(no_up, relevance, for_down)
        return xp.where(no_up, 0.0, for_up), xp.where(no_down, 0.0, for_down)


@dataclass(frozen=True)
class Gamma:
    """LRP-gamma: what agrees with the output's sign counts 1 + gamma times [montavon2019].

    In the form that is right for operands and outputs of either sign [andeol2021].
    z > 0: [x+(W + gamma W+) + x-(W + gamma W-)]^T R / s(same sum + b + gamma b+);
    z < 0: W+ and W- exchanged; z = 0: nothing (``clipped`` in the ledger).
    gamma 0 is LRP-0; large gamma approaches z+. bias: "absorb", "ignore" or "distribute".
    Raises OptionError if gamma < 0, or for another word.
    """

    gamma: float = 0.25
    bias: str = "absorb"

    def __post_init__(self) -> None:
        check_bias("Gamma", self.bias)
        if not self.gamma >= 0:
            raise OptionError(f"Gamma needs gamma >= 0; got {self.gamma!r}")

    def __call__(self, node: Node, relevance: Array) -> Split:
        """Relevance of the output in, of the operand out.

        With A the weights for z > 0 and B those for z < 0, A + B = (2 + gamma) W. So one changed
        run serves both signs: its outputs add up to (2 + gamma) z, and so do its ways back. Where
        nothing arrives at z <= 0, as before a ReLU, it is all that is needed.
        """
        xp: Any = node.xp
        (x,), z = node.inputs, node.output
        weight, bias = weights_of(node)
        if bias is not None and self.bias == "ignore":
            z, bias = z - xp.asarray(node.offset, like=x), None
        run = signed_run(
            node, weight, None if bias is None else self._raised(xp, bias),
            (self._raised, self._lowered),
        )  # fmt: skip
        above = xp.gated(relevance, node.output)
        rest = relevance - above
        sides = [self._side(node, above, run.output, bias, self._raised)]
        if xp.known_zero(rest):
            below, part = rest, run.back(sides[0].shares)
        else:
            below = xp.gated(rest, -node.output)
            output = z * (2 + self.gamma) - run.output
            sides.append(self._side(node, below, output, bias, self._lowered))
            part = run.back(sides[0].shares - sides[1].shares)
            part = part + (2 + self.gamma) * x * node.pull(sides[1].shares)[0]
        if self.bias == "distribute" and bias is not None:
            part = part + spread_evenly(node, sum(s.shares * s.offset for s in sides))
            sides = [replace(s, offset=None) for s in sides]

        def absorbed(total: Total) -> Mapping[str, Array]:
            books = _sum_books([s.books(total, s.part) for s in sides])
            return {**books, "clipped": total(rest - below)}

        return Split((part,), absorbed)

    def _raised(self, xp: Any, parameter: Array) -> Array:
        """What is positive counts 1 + gamma times."""
        return xp.raised(parameter, self.gamma)

    def _lowered(self, xp: Any, parameter: Array) -> Array:
        """What is negative counts 1 + gamma times."""
        return parameter + self.gamma * negative(xp, parameter)

    def _side(
        self, node: Node, arrived: Array, output: Array, bias: Array | None, change: Change
    ) -> _Term:
        """What arrives at outputs of one sign, and its shares; ``part`` holds what arrived."""
        offset = None if bias is None else _aligned(node, change(node.xp, bias))
        return _Term(output, arrived, shares_of(node, arrived, output), offset)
