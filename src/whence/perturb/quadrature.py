"""Where along a path to look, and how much each look counts."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..errors import OptionError

__all__ = ["RULES", "quadrature"]

RULES = ("gauss-legendre", "trapezoid", "left", "middle", "right")
"""The last three are Riemann sums, which look at the left end, middle or right end of each step."""


@lru_cache(maxsize=32)
def quadrature(rule: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(places in 0..1, weights that add up to 1), each (steps,), float64.

    rule: one of ``RULES``; "riemann" is "middle". Raises OptionError for another rule, for fewer
    than one step, or two for the trapezoid, which looks at both ends.

    Example:
        >>> places, weights = quadrature("trapezoid", 3)
        >>> places.tolist(), weights.tolist()
        ([0.0, 0.5, 1.0], [0.25, 0.5, 0.25])
    """
    check_steps(rule, steps)
    if rule == "gauss-legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return (nodes + 1) / 2, weights / 2
    if rule == "trapezoid":
        weights = np.full(steps, 1 / (steps - 1))
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, steps), weights
    shift = {"left": 0.0, "middle": 0.5, "riemann": 0.5, "right": 1.0}[rule]
    return (np.arange(steps) + shift) / steps, np.full(steps, 1 / steps)


def check_steps(rule: str, steps: int) -> None:
    """Raise OptionError for a rule that there is not, or too few steps for it."""
    if rule not in (*RULES, "riemann"):
        raise OptionError(f"quadrature is one of {', '.join(map(repr, RULES))}; got {rule!r}")
    least = 2 if rule == "trapezoid" else 1
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < least:
        raise OptionError(f"steps is a whole number, {least} or more for {rule!r}; got {steps!r}")
