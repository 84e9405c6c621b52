"""Maps of one axis: features of a table, moments of a series, tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whence.errors import InputError
from whence.render.page import BODY, FAINT, INK, LINE, RULE, SMALL, TITLE, Box, Page
from whence.render.palette import srgb_to_oklab
from whence.render.scale import Scale, fit_scale, legend
from whence.render.view import View, notes
from whence.render.words import number, plain, width_of, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["flat_panel", "fold", "profile", "token_rows"]

_MOST_BARS, _MOST_COLUMNS = 40, 256
_MARGIN, _WIDTH = 0.25, 6.5
_ROW = 0.19  # one feature's bar with its surroundings
_TOKEN = 9.0  # points


def fold(values: NDArray[Any], most: int = _MOST_COLUMNS) -> tuple[NDArray[np.float64], int]:
    """A long line (position,) in at most ``most`` columns, each the value of largest size in it.

    Returns the columns and how many positions each stands for.

    Example:
        >>> import numpy as np
        >>> columns, each = fold(np.array([1.0, -3.0, 0.0, 2.0]), most=2)
        >>> columns.tolist(), each
        ([-3.0, 2.0], 2)
    """
    values = np.asarray(values, dtype=np.float64)
    each = max(1, -(-len(values) // most))
    padded = np.concatenate([values, np.zeros(-len(values) % each)]).reshape(-1, each)
    strongest = np.abs(padded).argmax(axis=1)
    return padded[np.arange(len(padded)), strongest], each


def profile(
    page: Page, box: Box, values: NDArray[Any], scale: Scale, line: NDArray[Any] | None = None
) -> str:
    """Columns along a line, as tall as their value; returns what has to be stated.

    line: the input's own values, drawn thinly over the columns on a scale of its own.
    """
    from matplotlib.collections import PolyCollection

    columns, each = fold(values)
    place = scale.positions(columns)
    zero = box.top + box.height * (0.5 if scale.signed else 1.0)
    reach = box.height * (0.48 if scale.signed else 0.96)
    step = box.width / len(columns)
    left = box.left + step * np.arange(len(columns))
    wide = step * (0.85 if len(columns) <= 64 else 1.0)
    tops = zero - reach * place
    corners = np.stack(
        [
            np.stack([left, np.full_like(left, zero)], -1),
            np.stack([left, tops], -1),
            np.stack([left + wide, tops], -1),
            np.stack([left + wide, np.full_like(left, zero)], -1),
        ],
        axis=1,
    )
    page.block(box, "none", lw=0.5, ec=RULE)
    page.sheet.add_collection(
        PolyCollection(
            list(corners), facecolors=scale.colours(columns), edgecolors=RULE, linewidths=0.2
        ),
        autolim=False,
    )
    page.rule((box.left, box.left + box.width), (zero, zero), color=FAINT, lw=0.5)
    if line is not None and np.ndim(line) == 1 and len(line) > 1:
        low, high = float(line.min()), float(line.max())
        part = (line - low) / (high - low) if high > low else np.full(len(line), 0.5)
        x = box.left + (np.arange(len(line)) + 0.5) / len(line) * box.width
        y = box.top + box.height * (0.95 - 0.9 * part)
        page.rule(x, y, color=INK, lw=0.7, alpha=0.75)
    return f"each column the strongest of {each}" if each > 1 else ""


def token_rows(tokens: Sequence[str], width: float) -> list[list[tuple[int, float, float, str]]]:
    """Tokens laid out as running text: rows of (position, left, width, words), in inches."""
    rows: list[list[tuple[int, float, float, str]]] = [[]]
    x = 0.0
    for i, token in enumerate(tokens):
        words = wrap(token, width - 0.1, _TOKEN, 1) or "␣"
        wide = width_of(words, _TOKEN) + 0.1
        if x + wide > width and rows[-1]:
            rows.append([])
            x = 0.0
        rows[-1].append((i, x, wide, words))
        x += wide + 0.04
    return rows


def _tokens(page: Page, box: Box, rows: Sequence[Any], values: NDArray[Any], scale: Scale) -> None:
    colours = scale.colours(values)
    dark = srgb_to_oklab(colours)[:, 0] < 0.62
    for k, row in enumerate(rows):
        for i, x, wide, words in row:
            y = box.top + k * 0.27
            page.block(Box(box.left + x, y, wide, 0.23), colours[i], lw=0.4, ec=RULE)
            page.write(
                box.left + x + wide / 2, y + 0.16, words, _TOKEN,
                color="white" if dark[i] else INK, ha="center", va="baseline",
            )  # fmt: skip


def _bars(page: Page, box: Box, names: Sequence[str], values: NDArray[Any], scale: Scale) -> None:
    """A horizontal bar for each feature: name, bar from zero, number."""
    label = min(2.2, max(width_of(wrap(n, 2.2, BODY, 1), BODY) for n in names)) + 0.1
    figures = [number(v) for v in values.tolist()]
    tail = max(width_of(f, SMALL) for f in figures) + 0.08
    room = box.width - label - tail * (2 if scale.signed else 1)
    start = box.left + label + (tail + room / 2 if scale.signed else 0.0)
    reach = room / 2 if scale.signed else room
    place, colours = scale.positions(values), scale.colours(values)
    for i, name in enumerate(names):
        y = box.top + i * _ROW
        page.write(
            box.left + label - 0.1, y + _ROW / 2, wrap(name, 2.2, BODY, 1), BODY,
            ha="right", va="center_baseline",
        )  # fmt: skip
        end = start + place[i] * reach
        bar = Box(min(start, end), y + 0.03, abs(end - start), _ROW - 0.06)
        page.block(bar, colours[i], lw=0.4, ec=FAINT)
        side = -1 if place[i] < 0 else 1
        page.write(
            end + 0.04 * side, y + _ROW / 2, figures[i], SMALL, color=FAINT,
            ha="right" if side < 0 else "left", va="center_baseline",
        )  # fmt: skip
    page.rule((start, start), (box.top, box.top + len(names) * _ROW), color=FAINT)


class _Panel(NamedTuple):
    view: View
    sample: int
    scale: Scale
    names: list[str] | None
    rows: Sequence[Any]
    deep: float
    words: str


def _names(features: Sequence[Any] | None, sample: int, count: int) -> list[str] | None:
    if features is None:
        return None
    nested = len(features) > 0 and not isinstance(features[0], str)
    if nested and sample >= len(features):
        raise InputError(f"features holds {len(features)} lists; sample {sample} has none")
    names = [plain(f) for f in (features[sample] if nested else features)]
    if len(names) != count:
        raise InputError(f"features holds {len(names)} names for {count} positions")
    return names


def _panel(
    view: View,
    i: int,
    label: list[str],
    features: Sequence[Any] | None,
    percent: float,
    inner: float,
) -> _Panel:
    """How one sample will be shown, and how much room it takes."""
    values = view.maps[i]
    scale = fit_scale(values, signed=view.signed, percent=percent, what=view.title)
    names = _names(features, i, len(values))
    rows: Sequence[Any] = ()
    if names is not None and "token" in view.explanation.axes:
        rows = token_rows(names, inner)
        deep = len(rows) * 0.27
    elif len(values) <= _MOST_BARS:
        names = names or [str(k) for k in range(len(values))]
        deep = len(values) * _ROW
    else:
        names, deep = None, 1.2
    return _Panel(view, i, scale, names, rows, deep, wrap(" · ".join(label), inner, BODY, 2, True))


def flat_panel(
    samples: Sequence[tuple[View, int]],
    labels: Sequence[list[str]],
    features: Sequence[Any] | None,
    percent: float,
    title: str,
) -> Figure:
    """Samples one below the other: tokens as running text, few features as bars, else a profile."""
    inner = _WIDTH - 2 * _MARGIN
    jobs = [_panel(view, i, labels[i], features, percent, inner) for view, i in samples]
    head = wrap(title, inner, TITLE, 2, True)
    top = _MARGIN + (head.count("\n") + 1) * TITLE * LINE + 0.1
    extra = [(w.count("\n") + 1) * BODY * LINE + 0.06 + 0.5 for w in (j.words for j in jobs)]
    told = [legend(job.scale for job in jobs), *notes([view for view, _ in samples])]
    foot = wrap(" ".join(told), inner, SMALL, 8)
    tail = (foot.count("\n") + 1) * SMALL * LINE + _MARGIN
    page = Page(_WIDTH, top + sum(j.deep for j in jobs) + sum(extra) + tail)
    page.write(_MARGIN, _MARGIN, head, TITLE, weight="bold")
    for (view, i, scale, names, rows, deep, words), more in zip(jobs, extra, strict=True):
        y = page.write(_MARGIN, top, words, BODY, weight="bold") + 0.06
        box = Box(_MARGIN, y, inner, deep)
        note = ""
        if rows:
            _tokens(page, box, rows, view.maps[i], scale)
        elif names is not None:
            _bars(page, box, names, view.maps[i], scale)
        else:
            line = view.pictures[i] if view.pictures is not None else None
            note = profile(page, box, view.maps[i], scale, line)
            note += " · thin line: the input" if line is not None else ""
        page.colour_bar(_MARGIN, y + deep + 0.08, 1.8, scale)
        facts = [scale.text if scale.clipped else "", note.strip(" ·"), view.gap(i)]
        said = wrap(" · ".join(f for f in facts if f), inner - 2.0, SMALL, 2)
        page.write(_MARGIN + 2.0, y + deep + 0.06, said, SMALL, color=FAINT)
        top += deep + more
    page.write(_MARGIN, top, foot, SMALL, color=FAINT)
    return page.figure
