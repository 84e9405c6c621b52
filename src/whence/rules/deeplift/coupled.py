"""DeepLIFT through softmax and normalisation: taken apart into pieces that are exact one by one."""

from __future__ import annotations

from typing import Any

from ...arrays import Array
from ...errors import MissingRule
from ...tape import Node
from ..attention import summed_to
from .elementwise import inner, near, slope
from .halves import Halves, narrow, wide

__all__ = ["normalised", "softmax"]


def logarithm(xp: Any, array: Array) -> Array:
    """The log of numbers from 1 up to some millions, by Halley's method on exp."""
    found = (array - 1.0) / (array + 1.0) * 2.0
    for _ in range(10):  # each step adds up to 2 and then triples the digits
        power = xp.exp(found)
        found = found + (array - power) / (array + power) * 2.0
    return found


def _peak(xp: Any, x: Array, axis: int) -> Array:
    """The largest number along an axis; 0 where all are minus infinity."""
    top = xp.max(x, axis=axis, keepdims=True)
    return xp.where(xp.isfinite(top), top, 0.0)


def _of_exp(xp: Any, a: Array, a0: Array, run: Array) -> Array:
    """(a - a0) / run where log a - log a0 = run: the rescale rule of exp, steady for a small run.

    a - a0 = (a + a0) tanh(run / 2), and tanh(h) / h has a series.
    """
    square = run * run * 0.25
    series = 1.0 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315)))
    return slope(xp, a - a0, run, xp.abs(run) < 0.05, (a + a0) * 0.5 * series)


def softmax(node: Node, multiplier: Array, halves: Halves) -> tuple[Array, ...]:
    """Softmax as exp(x - L), L = log sum exp x: exp and log rescaled, all else linear.

    dL = sum_j w_j dx_j with w_j = (dL/dS)(da_j/dx_j), a = exp x, S = sum a; a shift of all of x
    changes nothing, as it should. Inputs of minus infinity (a mask) get 0. Log-softmax is x - L.
    """
    xp: Any = node.xp
    (value,), result = node.into, node.results[0]
    axis = int(node.attrs["axis"]) % len(value.shape)
    x, x0 = (wide(xp, h) for h in halves.of(value, value.array))
    run, m = halves.delta(value), wide(xp, halves.first(result, multiplier))

    own, own0 = _peak(xp, x, axis), _peak(xp, x0, axis)
    top = xp.maximum(own, own0)
    a, a0 = xp.exp(x - top), xp.exp(x0 - top)

    def summed(array: Array) -> Array:
        return xp.sum(array, axis=axis, keepdims=True)

    def level(array: Array, peak: Array) -> Array:
        total = summed(xp.exp(array - peak))
        return peak + logarithm(xp, xp.maximum(total, 1.0))

    s, s0 = summed(a), summed(a0)
    gap, both = s - s0, s + s0
    # Where the sums are close, the series of log((1 + r) / (1 - r)) keeps the digits.
    r = gap / both
    alike = xp.abs(r) < 5e-3
    series = 2.0 / both * (1.0 + r * r * (1 / 3 + r * r * (1 / 5 + r * r / 7)))
    by_sum = slope(xp, level(x, own) - level(x0, own0), gap, alike, series)
    lift = by_sum * gap
    weight = by_sum * _of_exp(xp, a, a0, run)
    back = m
    if not node.attrs.get("log"):
        y, y0 = (wide(xp, h) for h in halves.of(result, result.array))
        back = m * _of_exp(xp, y, y0, run - lift)
    found = back - weight * summed(back)
    found = xp.where(xp.isfinite(x) & xp.isfinite(x0), found, 0.0)
    return (halves.twice(value, narrow(xp, found, multiplier)),)


def _grouping(node: Node, halves: Halves) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of a half, and the axes, over which one mean and spread are taken.

    Raises MissingRule where a norm takes its statistics over the samples of the batch.
    """
    value = node.into[0]
    shape = halves.half_shape(value)
    groups = node.attrs.get("groups")
    if groups is None:
        axes = tuple(a % len(shape) for a in node.attrs["axes"])
        if halves.layout(value).axis in axes:
            raise MissingRule(
                f"{node.kind}.{node.op} at layer {node.layer or '(top)'}, node {node.index} of the "
                "tape, takes its statistics over the samples of the batch, so that an answer "
                "belongs to no sample alone: DeepLIFT is not defined there"
            )
        return shape, axes
    axis = int(node.attrs.get("channel_axis", 1)) % len(shape)
    split = (*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
    return split, tuple(i for i in range(1, len(split)) if i != axis)


def normalised(node: Node, multiplier: Array, halves: Halves) -> tuple[Array, ...]:
    """Layer, group, instance and RMS norm: y = c / r, c = x - mean x, r = (mean c^2 + eps)^(1/2).

    Centring and the mean are linear, the square goes by its midpoint, dr = d(r^2) / (r + r0), and
    the quotient as everywhere: dy = (dc - ymean dr) / rmean. A reference without spread (r0 next to
    nothing) does no harm so, where the midpoint of c times 1 / r would blow up.
    """
    if float(node.attrs.get("power", 2.0)) != 2.0:
        return _by_power(node, multiplier, halves)
    xp: Any = node.xp
    (value,), result = node.into, node.results[0]
    shape, axes = _grouping(node, halves)

    def mean(array: Array) -> Array:
        return xp.mean(array, axis=axes, keepdims=True)

    x, x0 = (xp.reshape(wide(xp, h), shape) for h in halves.of(value, value.array))
    m = wide(xp, halves.first(result, multiplier))
    if node.params.get("scale") is not None:
        m = m * xp.asarray(node.params["scale"], like=m)
    m = xp.reshape(m, shape)
    if node.attrs.get("centre", True):
        x, x0 = x - mean(x), x0 - mean(x0)
    root, root0 = (_spread(node, mean(c * c), axes, shape) for c in (x, x0))
    both = root + root0
    shared = xp.sum(m * (x / root + x0 / root0), axis=axes, keepdims=True) / (both * both)
    back = 2.0 * m / both - (x + x0) * shared / _count(node, axes, shape)
    if node.attrs.get("centre", True):
        back = back - mean(back)
    found = xp.reshape(back, halves.half_shape(value))
    return (halves.twice(value, narrow(xp, found, multiplier)),)


def _count(node: Node, axes: tuple[int, ...], shape: tuple[int, ...]) -> float:
    """How many numbers the square is averaged over; 1 where they are summed (a unit vector)."""
    if "power" in node.attrs:
        return 1.0
    size = 1
    for axis in axes:
        size *= shape[axis]
    return float(size)


def _spread(node: Node, square: Array, axes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """The number that a norm divides by, from the mean square."""
    xp: Any = node.xp
    if "power" not in node.attrs:
        return xp.sqrt(square + node.attrs["epsilon"])
    size = 1
    for axis in axes:
        size *= shape[axis]
    return xp.maximum(xp.sqrt(square * float(size)), 1e-12)


def _by_power(node: Node, multiplier: Array, halves: Halves) -> tuple[Array, ...]:
    """Unit p-norm, x / |x|_p: |x|^p rescaled by element, then their sum's inverse root."""
    xp: Any = node.xp
    (value,), result = node.into, node.results[0]
    power = float(node.attrs["power"])
    _, axes = _grouping(node, halves)
    x, x0 = (wide(xp, h) for h in halves.of(value, value.array))
    run, close = inner(node, halves)
    m = wide(xp, halves.first(result, multiplier))

    def total(array: Array) -> Array:
        return xp.maximum(xp.sum(xp.abs(array) ** power, axis=axes, keepdims=True), 1e-12**power)

    u, u0 = total(x), total(x0)
    s, s0 = u ** (-1 / power), u0 ** (-1 / power)
    bend = slope(xp, s - s0, u - u0, near(xp, u - u0, value, u, u0), -s / (power * u))
    middle = (x + x0) * 0.5
    side = xp.where(middle >= 0, xp.ones_like(x), -xp.ones_like(x))
    steep = power * xp.abs(middle) ** (power - 1) * side
    rise = slope(xp, xp.abs(x) ** power - xp.abs(x0) ** power, run, close, steep)
    pull = summed_to(xp, m * middle, tuple(xp.shape(u))) * bend
    found = m * (s + s0) * 0.5 + rise * pull
    return (halves.twice(value, narrow(xp, found, multiplier)),)
