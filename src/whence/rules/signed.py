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
from .parts import check_bias, negative, positive, signed_run, spread_evenly, weights_of

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
    mode: str,
) -> _Term:  # fmt: skip
    """R shared out over one sum of terms and its bias."""
    shares = shares_of(node, relevance, output)
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
        term = _finish(node, sides.back, sides.output, relevance, above, self.bias)

        def absorbed(total: Total) -> Mapping[str, Array]:
            books = term.books(total, relevance)
            lost = total(xp.where(term.output == 0, relevance, xp.zeros_like(relevance)))
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
        xp: Any = node.xp
        weight, bias = weights_of(node)
        zero = xp.zeros_like(relevance)
        biases = (None, None) if bias is None else (positive(xp, bias), negative(xp, bias))
        used = (None, None) if self.bias == "ignore" else biases
        up = signed_run(node, weight, used[0])
        down = signed_run(node, weight, used[1], up=False)
        no_up, no_down = up.output == 0, down.output == 0
        for_up, for_down = relevance * self.alpha, relevance * -self.beta
        if self.empty == "conserve":
            for_up = xp.where(no_down, relevance, for_up)
            for_down = xp.where(no_up, relevance, for_down)
        for_up, for_down = xp.where(no_up, zero, for_up), xp.where(no_down, zero, for_down)
        terms = [
            (_finish(node, s.back, s.output, r, b, self.bias), r)
            for s, r, b in ((up, for_up, biases[0]), (down, for_down, biases[1]))
        ]

        def absorbed(total: Total) -> Mapping[str, Array]:
            books = _sum_books([t.books(total, r) for t, r in terms])
            books["empty"] = total(relevance) - total(for_up + for_down)
            return books

        return Split((terms[0][0].part + terms[1][0].part,), absorbed)


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
        """Relevance of the output in, of the operand out."""
        xp: Any = node.xp
        (x,), g = node.inputs, self.gamma
        weight, bias = weights_of(node)
        free = node.output if node.offset is None else node.output - xp.asarray(node.offset, like=x)
        up = signed_run(node, weight, None)
        # With P what pushed up and N = xW - P what pushed down, z > 0 shares over xW + gamma P and
        # z < 0 over xW + gamma N: one modified run and two ways back serve both.
        above = self._side(node, relevance, free + g * up.output, bias, positive)
        below = self._side(node, relevance, free + g * (free - up.output), bias, negative)
        whole = node.pull(above.shares + (1 + g) * below.shares)[0]
        part = x * whole + g * up.back(above.shares - below.shares)
        for side in (above, below):
            if side.offset is not None and self.bias == "distribute":
                part = part + spread_evenly(node, side.shares * side.offset)

        def absorbed(total: Total) -> Mapping[str, Array]:
            sides = [
                s if self.bias == "absorb" else replace(s, offset=None) for s in (above, below)
            ]
            books = _sum_books([s.books(total, s.part) for s in sides])
            books["clipped"] = total(relevance) - total(above.part) - total(below.part)
            return books

        return Split((part,), absorbed)

    def _side(
        self,
        node: Node,
        relevance: Array,
        output: Array,
        bias: Array | None,
        sign: Callable[..., Array],
    ) -> _Term:
        """What arrives at outputs of one sign, and its shares; ``part`` holds what arrived."""
        xp: Any = node.xp
        z = node.output
        here = z > 0 if sign is positive else z < 0
        arrived = xp.where(here, relevance, xp.zeros_like(relevance))
        offset = None
        if bias is not None and self.bias != "ignore":
            offset = _aligned(node, bias + self.gamma * sign(xp, bias))
            output = output + offset
        return _Term(output, arrived, shares_of(node, arrived, output), offset)
