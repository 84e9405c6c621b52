"""The reveal-cancel rule: what raised a number and what lowered it, carried apart [shrikumar2017].

Section 3.5: d = d+ + d-, the parts of a difference by sign. A linear op sends each operand's share
to the part of its sign; a nonlinear f changes by the mean over the two orders in which d+ and d-
can be applied. So where a rise and a fall cancel, both are still seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ...arrays import Array
from ...layout import per_sample
from ...ops import Op
from ...tape import Node, Value
from ..parts import weight_name
from .elementwise import near, slope
from .halves import Halves, wide
from .rescale import DeepRule, Ledgered
from .selection import ORDERED, contributions

__all__ = ["Pair", "RevealCancel", "Revealed"]


@dataclass(frozen=True, eq=False)
class Pair:
    """Multipliers of the rising and of the falling part of a difference, shaped like a value."""

    up: Array
    down: Array

    def __add__(self, other: Any) -> Pair:
        more = pair(other)
        if self.up is self.down and more.up is more.down:
            return pair(self.up + more.up)
        return Pair(self.up + more.up, self.down + more.down)

    __radd__ = __add__


def pair(multiplier: Any) -> Pair:
    """A multiplier as a pair: the same for both where it is one array."""
    return multiplier if isinstance(multiplier, Pair) else Pair(multiplier, multiplier)


def pairs(multiplier: Any) -> list[Pair]:
    """One pair a result."""
    return [pair(m) for m in (multiplier if isinstance(multiplier, tuple) else (multiplier,))]


class RevealCancel:
    """The rules, and the signed parts of every difference that they ask for (halves)."""

    def __init__(self, halves: Halves) -> None:
        self.halves = halves
        self._parts: dict[Value, tuple[Array, Array]] = {}

    def choose(self, node: Node) -> DeepRule | None:
        """The rule of an op; None where the paper's rule is not defined."""
        if node.kind is Op.MAXPOOL:
            return None if node.op in ORDERED else self.selected
        rules: dict[Op, DeepRule] = {
            Op.DENSE: self.weighted, Op.CONV: self.weighted, Op.AFFINE: self.scaled,
            Op.ADD: self.signed, Op.AVGPOOL: self.signed, Op.SHAPE: self.carried,
            Op.RELU: self.revealed, Op.ACTIVATION: self.revealed,
        }  # fmt: skip
        if node.kind in (Op.DENSE, Op.CONV) and "weight" not in node.params:
            return None
        if node.kind is Op.ACTIVATION and node.into[0].shape != node.out[0].shape:
            return None
        return rules.get(node.kind)

    def parts(self, value: Value) -> tuple[Array, Array]:
        """d+ and d- at a value, halves, by the op that made it."""
        if value not in self._parts:
            self._parts[value] = self._made(value)
        return self._parts[value]

    def _made(self, value: Value) -> tuple[Array, Array]:
        node = value.node
        by_kind: dict[Op, Callable[[Node, Value], tuple[Array, Array]]] = {
            Op.DENSE: self._by_weight, Op.CONV: self._by_weight, Op.AFFINE: self._by_scale,
            Op.ADD: self._by_sign, Op.AVGPOOL: self._by_average, Op.SHAPE: self._by_move,
            Op.RELU: self._by_function, Op.ACTIVATION: self._by_function,
        }  # fmt: skip
        made = by_kind.get(node.kind)
        if made is None or len(node.results) != 1 or self.choose(node) is None:
            return signs(node.xp, self.halves.delta(value))
        return made(node, value)

    def _doubled(self, value: Value, half: Array) -> Array:
        xp: Any = value.node.xp
        return self.halves.twice(value, xp.cast(half, xp.dtype(value.array)))

    def _weights(self, node: Node) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The op with the positive, and with the negative, part of its weight, without bias."""
        xp: Any = node.xp
        name = weight_name(node)
        weight = node.params[name]
        none = {"bias": None} if node.offset is not None else {}
        above, below = xp.maximum(weight, 0.0), xp.minimum(weight, 0.0)
        return (
            lambda x: node.rerun(x, **{name: above}, **none),
            lambda x: node.rerun(x, **{name: below}, **none),
        )

    def _by_weight(self, node: Node, value: Value) -> tuple[Array, Array]:
        """d+ = W+ max(d, 0) + W- min(d, 0), and d- with W+ and W- exchanged."""
        above, below = self._weights(node)
        operand = node.into[0]
        rise, fall = (self._doubled(operand, s) for s in signs(node.xp, self.halves.delta(operand)))
        up, down = above(rise)[0] + below(fall)[0], above(fall)[0] + below(rise)[0]
        return wide(node.xp, self.halves.first(value, up)), wide(
            node.xp, self.halves.first(value, down)
        )

    def _by_scale(self, node: Node, value: Value) -> tuple[Array, Array]:
        """One operand: its parts move along, and change places where the factor is negative."""
        xp: Any = node.xp
        scale = node.params.get("scale")
        up, down = self.parts(node.into[0])
        if scale is not None:
            factor = xp.asarray(scale, like=up)
            one, other = factor * up, factor * down
            up, down = xp.where(factor >= 0, one, other), xp.where(factor >= 0, other, one)
        shape = self.halves.half_shape(value)
        return xp.broadcast_to(up, shape), xp.broadcast_to(down, shape)

    def _by_sign(self, node: Node, value: Value) -> tuple[Array, Array]:
        xp: Any = node.xp
        shape = self.halves.half_shape(value)
        up = down = xp.zeros_like(self.halves.delta(value))
        for sign, operand in zip(node.attrs["signs"], node.into, strict=True):
            rise, fall = signs(xp, sign * self.halves.delta(operand))
            up, down = up + xp.broadcast_to(rise, shape), down + xp.broadcast_to(fall, shape)
        return up, down

    def _by_average(self, node: Node, value: Value) -> tuple[Array, Array]:
        """Averages weigh nothing negatively, so rises and falls average apart."""
        operand = node.into[0]
        made = [
            wide(node.xp, self.halves.first(value, node.call(self._doubled(operand, part))))
            for part in signs(node.xp, self.halves.delta(operand))
        ]
        return made[0], made[1]

    def _by_move(self, node: Node, value: Value) -> tuple[Array, Array]:
        """Parts move with their numbers; what is filled in does not differ."""
        xp: Any = node.xp
        zero = node.call(*(xp.zeros_like(v.array) for v in node.into))
        made = []
        for which in (0, 1):
            given = [self._doubled(v, self.parts(v)[which]) for v in node.into]
            moved = node.call(*given) - zero
            moved = xp.where(xp.isfinite(moved), moved, xp.zeros_like(moved))
            made.append(wide(xp, self.halves.first(value, moved)))
        return made[0], made[1]

    def _by_function(self, node: Node, value: Value) -> tuple[Array, Array]:
        """d+ = ((f(x0 + d+) - f(x0)) + (f(x) - f(x0 + d-))) / 2, and d- likewise."""
        xp: Any = node.xp
        operand = node.into[0]
        up, down = self.parts(operand)
        x0 = self.halves.of(operand, operand.array)[1]
        like = xp.dtype(x0)
        mixed = self.halves.join(operand, x0 + xp.cast(up, like), x0 + xp.cast(down, like))
        risen, fallen = (wide(xp, h) for h in self.halves.of(value, node.call(mixed)))
        y, y0 = (wide(xp, h) for h in self.halves.of(value, value.array))
        rise = ((risen - y0) + (y - fallen)) * 0.5
        return rise, (y - y0) - rise

    def weighted(self, node: Node, multiplier: Any, halves: Halves) -> tuple[Any, ...]:
        """Each operand's share goes to the part of the share's sign; half to each where d = 0."""
        (given,) = pairs(multiplier)
        if given.up is given.down:
            return node.pull(given.up)
        xp: Any = node.xp
        above, below = self._weights(node)
        zeros = xp.zeros_like(node.inputs[0])
        pulls = above(zeros)[1], below(zeros)[1]
        rising = pulls[0](given.up)[0] + pulls[1](given.down)[0]
        falling = pulls[0](given.down)[0] + pulls[1](given.up)[0]
        return (self._by_delta(node.into[0], rising, falling),)

    def _by_delta(self, value: Value, rising: Array, falling: Array) -> Array:
        """``rising`` where the operand rose, ``falling`` where it fell, else their mean."""
        xp: Any = value.node.xp
        delta = self.halves.twice(value, self.halves.delta(value))
        mean = (rising + falling) * 0.5
        return xp.where(delta > 0, rising, xp.where(delta < 0, falling, mean))

    def signed(self, node: Node, multiplier: Any, halves: Halves) -> tuple[Any, ...]:
        """Sums and averages: operands by the sign of what they add."""
        (given,) = pairs(multiplier)
        if given.up is given.down:
            return node.pull(given.up)
        parts = []
        signs_ = node.attrs.get("signs") or (1,) * len(node.into)
        pulled = zip(node.pull(given.up), node.pull(given.down), strict=True)
        for value, sign, (up, down) in zip(node.into, signs_, pulled, strict=True):
            parts.append(self._by_delta(value, *((up, down) if sign > 0 else (down, up))))
        return tuple(parts)

    def scaled(self, node: Node, multiplier: Any, halves: Halves) -> tuple[Any, ...]:
        """One operand: multipliers change places where the factor is negative."""
        (given,) = pairs(multiplier)
        if given.up is given.down:
            return node.pull(given.up)
        xp: Any = node.xp
        scale = node.params.get("scale")
        up, down = given.up, given.down
        if scale is not None:
            factor = xp.asarray(scale, like=up) + xp.zeros_like(up)
            up, down = xp.where(factor >= 0, up, down), xp.where(factor >= 0, down, up)
        return (Pair(node.pull(up)[0], node.pull(down)[0]),)

    def carried(self, node: Node, multiplier: Any, halves: Halves) -> tuple[Any, ...]:
        """Moves of data take both multipliers along."""
        given = pairs(multiplier)
        ups = node.pull(*(p.up for p in given))
        if all(p.up is p.down for p in given):
            return ups
        downs = node.pull(*(p.down for p in given))
        return tuple(Pair(up, down) for up, down in zip(ups, downs, strict=True))

    def revealed(self, node: Node, multiplier: Any, halves: Halves) -> tuple[Any, ...]:
        """New m+ = m+ dy+ / dx+, and m- likewise; the mean gradient where that is 0 / 0."""
        xp: Any = node.xp
        (given,) = pairs(multiplier)
        operand, result = node.into[0], node.results[0]
        x, x0 = (wide(xp, h) for h in halves.of(operand, operand.array))
        found = []
        for m, run, rise in zip(
            (given.up, given.down), self.parts(operand), self.parts(result), strict=True
        ):
            close = near(xp, run, operand, x, x0)
            gradient = wide(xp, halves.mean(operand, node.pull(m)[0]))
            half = slope(xp, wide(xp, halves.first(result, m)) * rise, run, close, gradient)
            found.append(halves.twice(operand, xp.cast(half, xp.dtype(m))))
        return (Pair(found[0], found[1]),)

    def selected(self, node: Node, multiplier: Any, halves: Halves) -> tuple[Any, ...]:
        """The largest of several: the whole change goes to the winner, as by the rescale rule."""
        flows = []
        for value, given in zip(node.results, pairs(multiplier), strict=True):
            rise, fall = self.parts(value)
            up, down = (wide(node.xp, halves.first(value, m)) for m in (given.up, given.down))
            flows.append(up * rise + down * fall)
        return contributions(node, flows, halves)


class Revealed(Ledgered):
    """The books, where a multiplier is a pair."""

    def __init__(self, halves: Halves, keep_books: bool) -> None:
        super().__init__(halves, keep_books)
        self.rules = RevealCancel(halves)

    def prepare(self, values: Iterable[Value]) -> None:
        """The signed parts too."""
        for value in values:
            self.halves.delta(value)
            self.rules.parts(value)

    def carried(self, parts: tuple[Any, ...]) -> tuple[Any, ...]:
        """Always pairs, since a pair and an array cannot be told how to add by the array."""
        return tuple(pair(p) for p in parts)

    def contributions(self, value: Value, multiplier: Any) -> Array:
        """m+ d+ + m- d-, a half."""
        multiplier = pair(multiplier)
        if multiplier.up is multiplier.down:
            return super().contributions(value, multiplier.up)
        xp: Any = value.node.xp
        up, down = (wide(xp, self.halves.first(value, m)) for m in (multiplier.up, multiplier.down))
        rise, fall = self.rules.parts(value)
        return up * rise + down * fall

    def of(self, value: Value, multiplier: Any) -> Array:
        """What a pair amounts to, per sample."""
        found = self.contributions(value, multiplier)
        xp: Any = value.node.xp
        return per_sample(xp, found, None, self.halves.layout(value), self.halves.samples)


def signs(xp: Any, delta: Array) -> tuple[Array, Array]:
    """max(d, 0) and min(d, 0)."""
    return xp.maximum(delta, 0.0), xp.minimum(delta, 0.0)
