"""The rescale rule of elementwise functions, and products by their midpoint [shrikumar2017].

m is the multiplier: (change of the answer) / (change of this number), the same for input and
reference. A rule takes m at an op's result and gives m at each of its operands, such that
``sum of m * delta`` over the operands is ``m * delta`` of the result.
"""

from __future__ import annotations

from typing import Any

from ...arrays import Array
from ...ops import Op
from ...tape import Node, Value
from ..attention import summed_to
from .halves import Halves, narrow, wide

__all__ = [
    "inner", "is_inverse", "midpoint", "moved", "near", "quotient", "rescale",
    "scaled_by_inverse", "slope",
]  # fmt: skip

_NEAR = 1e-7
_EPS = {"float16": 9.8e-4, "bfloat16": 7.9e-3, "float64": 2.3e-16}


def near(xp: Any, delta: Array, value: Value, one: Array, other: Array) -> Array:
    """Where a difference is too small to divide by.

    Below 1e-7, or within four units in the last place of the numbers that it was taken of: there
    the quotient would be rounding, and the gradient says what it should be.
    """
    eps = _EPS.get(value.dtype, 1.2e-7)
    size = xp.maximum(xp.abs(one), xp.abs(other))
    # Infinite numbers (a mask) have difference 0 and count as near.
    return ~(xp.abs(delta) > _NEAR + 4 * eps * size)


def slope(xp: Any, rise: Array, run: Array, close: Array, instead: Array) -> Array:
    """The quotient rise / run, and ``instead`` where run is close to zero."""
    safe = xp.where(close, 1.0, run)
    return xp.where(close, instead, rise / safe)


def inner(node: Node, halves: Halves) -> tuple[Array, Array]:
    """(difference of the operand, where it is too small to divide by), halves."""
    (value,) = node.into
    xp: Any = node.xp
    one, other = (wide(xp, a) for a in halves.of(value, value.array))
    delta = halves.delta(value)
    return delta, near(xp, delta, value, one, other)


def _is_plain(node: Node) -> bool:
    """Whether it is max(x, 0) and nothing else."""
    slope_ = node.attrs.get("slope", 0.0)
    flat = isinstance(slope_, int | float) and slope_ == 0
    same = node.into[0].shape == node.results[0].shape
    return node.kind is Op.RELU and flat and "cap" not in node.attrs and same


def _rectified(node: Node, multiplier: Array, halves: Halves) -> Array:
    """The rescale rule of max(x, 0).

    Its quotient is 1, 0 or well in between, so that only differences of next to nothing need the
    gradient, which is 1 where x > 0.
    """
    xp: Any = node.xp
    (value,), result = node.into, node.results[0]
    run, rise = halves.delta(value), halves.delta(result)
    size = xp.abs(run)
    if xp.known_one_sided(xp.maximum(size - _NEAR, 0.0)):  # nowhere close, as is usual
        return halves.times(value, multiplier, narrow(xp, rise / run, multiplier))
    close = size <= _NEAR
    on = xp.cast(wide(xp, halves.first(value, value.array)) > 0, xp.dtype(run))
    ratio = xp.where(close, on, rise) / xp.where(close, 1.0, run)
    return halves.times(value, multiplier, narrow(xp, ratio, multiplier))


def rescale(node: Node, multiplier: Array, halves: Halves) -> tuple[Array, ...]:
    """Each element's m * (y - y0) / (x - x0); the mean gradient where x is next to x0."""
    xp: Any = node.xp
    (value,), result = node.into, node.results[0]
    if _is_plain(node):
        return (_rectified(node, multiplier, halves),)
    run, close = inner(node, halves)
    rise = halves.delta(result)
    m = wide(xp, halves.first(result, multiplier))
    if value.shape == result.shape:
        gradient = wide(xp, halves.mean(value, node.pull(multiplier)[0]))
        found = slope(xp, m * rise, run, close, gradient)
        return (halves.twice(value, narrow(xp, found, multiplier)),)
    # The function stretched its operand by broadcasting: divide first, then sum.
    shape = tuple(xp.shape(rise))
    run, close = xp.broadcast_to(run, shape), xp.broadcast_to(close, shape)
    found = summed_to(
        xp, slope(xp, m * rise, run, close, xp.zeros_like(rise)), halves.half_shape(value)
    )
    still = narrow(xp, xp.where(close, m, 0.0), multiplier)
    gradient = halves.mean(value, node.pull(halves.twice(result, still))[0])
    return (halves.twice(value, narrow(xp, found, multiplier) + gradient),)


def midpoint(node: Node, multiplier: Any, halves: Halves) -> tuple[Array, ...]:
    """Products: each operand's multiplier by the other's mean of x and x0.

    Exact for whatever is linear in each operand alone: d(ab) = (mean of a) db + (mean of b) da.
    """
    given = multiplier if isinstance(multiplier, tuple) else (multiplier,)
    pulled = node.pull(*given)
    return tuple(
        halves.twice(v, halves.mean(v, p)) if halves.knows(v) else p
        for v, p in zip(node.into, pulled, strict=True)
    )


def quotient(node: Node, multiplier: Array, halves: Halves) -> tuple[Array, ...]:
    """Divide: from a = y b by its midpoint, dy = (da - ymean db) / bmean.

    Where b changes its sign (and so has no mean to divide by) it is a times u = 1 / b, with
    du/db = -1 / (b b0), which is exact as well.
    """
    xp: Any = node.xp
    top, bottom = node.into
    result = node.results[0]
    m = wide(xp, halves.first(result, multiplier))
    a, a0 = (wide(xp, h) for h in halves.of(top, top.array))
    b, b0 = (wide(xp, h) for h in halves.of(bottom, bottom.array))
    y, y0 = (wide(xp, h) for h in halves.of(result, result.array))
    same = b * b0 > 0
    twice = xp.where(same, b + b0, xp.ones_like(b))
    over = m * xp.where(same, 2.0 / twice, 0.5 / b + 0.5 / b0)
    under = -m * xp.where(same, (y + y0) / twice, (a + a0) * (0.5 / (b * b0)))
    return _shared(node, multiplier, halves, over, under)


def _shared(node: Node, multiplier: Array, halves: Halves, *parts: Array) -> tuple[Array, ...]:
    """Halves at the result's shape, as multipliers of the operands that were stretched to it."""
    xp: Any = node.xp
    found = []
    for value, part in zip(node.into, parts, strict=True):
        half = summed_to(xp, part, halves.half_shape(value))
        found.append(halves.twice(value, narrow(xp, half, multiplier)))
    return tuple(found)


_INVERSES = frozenset(("rsqrt", "reciprocal", "inv"))


def is_inverse(value: Value) -> bool:
    """Whether a number is spelled as one over another: a norm's inverse spread."""
    node = value.node
    while node.kind is Op.SHAPE and len(node.into) == 1:
        node = node.into[0].node
    return node.kind is Op.ACTIVATION and node.op.lower() in _INVERSES


def scaled_by_inverse(node: Node, multiplier: Array, halves: Halves) -> tuple[Array, ...]:
    """Scale: a times s = 1 / r as the quotient a / r: dy = s~ da + 2 ymean ds / (s + s0).

    s~ = 2 s s0 / (s + s0), the harmonic mean, is small where one of the two is, as the inverse
    spread of a reference of zeros is large. Needs s and s0 positive, else the midpoint.
    """
    xp: Any = node.xp
    place = 0 if is_inverse(node.into[0]) else 1
    factor, result = node.into[place], node.results[0]
    other = node.into[1 - place]
    m = wide(xp, halves.first(result, multiplier))
    s, s0 = (wide(xp, h) for h in halves.of(factor, factor.array))
    a, a0 = (wide(xp, h) for h in halves.of(other, other.array))
    y, y0 = (wide(xp, h) for h in halves.of(result, result.array))
    good = (s > 0) & (s0 > 0)
    both = xp.where(good, s + s0, xp.ones_like(s))
    over = m * xp.where(good, s * (2.0 * s0 / both), (s + s0) * 0.5)
    under = m * xp.where(good, (y + y0) / both, (a + a0) * 0.5)
    return _shared(node, multiplier, halves, *((under, over) if place == 0 else (over, under)))


def moved(node: Node, multiplier: Any, halves: Halves) -> tuple[Array, ...]:
    """An op whose constants depend on the input where no gradient can see it: where, a gather.

    Linear in its operands, but not with the same numbers for x and x0: by the midpoint, scaled so
    that a switch between two branches that meet (a rectifier spelled ``where(x > 0, x, 0)``, or
    ``x * (x > 0)``) is exact. What the switch itself did is left over.
    """
    xp: Any = node.xp
    parts = midpoint(node, multiplier, halves)
    result = node.results[0]
    alike = all(v.shape == result.shape and halves.knows(v) for v in node.into)
    if not alike or len(node.results) > 1 or not halves.knows(result):
        return parts
    firsts = [wide(xp, halves.first(v, p)) for v, p in zip(node.into, parts, strict=True)]
    got = sum(p * halves.delta(v) for v, p in zip(node.into, firsts, strict=True))
    wanted = wide(xp, halves.first(result, multiplier)) * halves.delta(result)
    ratio = wanted / xp.where(got == 0, xp.ones_like(got), got)
    # Between the two slopes, the factor on their mean lies between 0 and 2.
    fits = (got != 0) & (ratio >= 0) & (ratio <= 2)
    factor = xp.where(fits, ratio, xp.ones_like(ratio))
    return tuple(
        halves.twice(v, narrow(xp, p * factor, part))
        for v, p, part in zip(node.into, firsts, parts, strict=True)
    )
