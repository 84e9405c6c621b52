"""How far two attributions are apart, what is missing from a sum, and the tables that show it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["apart", "figure", "missing", "table", "tried"]


def apart(theirs: Any, ours: Any) -> float:
    """The largest difference over our largest value."""
    gap = (theirs.double() - ours.double()).abs().max() / ours.double().abs().max()
    return float(gap)


def missing(attribution: Any, change: Any) -> float:
    """The largest |sum - change| of a sample, over the largest |change| of the batch.

    change: what the attribution should add up to, (batch,).
    """
    sums = attribution.double().flatten(1).sum(1)
    return float((sums - change.double()).abs().max() / change.double().abs().max())


def tried(function: Callable[[], Any]) -> tuple[Any, str]:
    """What a peer returns, or None and its error: a failure is a finding, not an end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(), ""
        except Exception as error:
            said = " ".join(str(error).split()).replace("|", "/")
            cut = said if len(said) <= 70 else said[:70].rsplit(" ", 1)[0] + " ..."
            return None, f"{type(error).__name__}: {cut}"


def figure(number: float | None) -> str:
    """A difference as tables print it; a dash where there is none."""
    return "-" if number is None else f"{number:.1e}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
