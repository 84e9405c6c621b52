"""Methods beside each other: a row for each input, a column for each method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from whence.errors import InputError, OptionError
from whence.render.flat import profile
from whence.render.heatmap import ZERO, Style, bar_colours, check_style, paint
from whence.render.page import BODY, FAINT, LINE, SMALL, TITLE, Box, Page, drawing
from whence.render.scale import PERCENT, Scale, fit_scale, legend
from whence.render.view import (
    View,
    answers,
    choose,
    notes,
    numpy_of,
    options_text,
    outputs,
    same_samples,
    targets,
    views,
)
from whence.render.words import plain, width_of, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from whence.result import Explanation

__all__ = ["Sharing", "draw_grid"]

Sharing = Literal["map", "method", "row"]
SHARINGS = ("map", "method", "row")

_MARGIN, _GUTTER, _LABEL = 0.25, 0.16, 1.75
_BAR = 0.085 + SMALL * LINE  # a colour bar with its numbers


@dataclass(frozen=True)
class _Column:
    view: View
    style: Style
    head: str
    scales: list[Scale]
    first: bool
    """Whether this is the first of the styles in which one map is shown."""

    def bar(self, page: Page, left: float, top: float, width: float, row: int) -> float:
        """The colour bar of a row's map, in the colours of the style; returns where it ends."""
        scale = self.scales[row]
        style = "map" if self.view.flat else self.style
        return page.colour_bar(left, top, width, scale, bar_colours(scale, style))


@dataclass(frozen=True)
class _Plan:
    """Where everything goes, in inches."""

    size: float
    deep: float
    label: float
    top: float
    row: float
    under: float
    shown: bool

    def left(self, column: int) -> float:
        lead = self.label + (self.size + _GUTTER if self.shown else 0.0)
        return _MARGIN + lead + column * (self.size + _GUTTER)


def draw_grid(
    explanations: Sequence[Explanation],
    *,
    style: Style | Sequence[Style] = "map",
    sharing: Sharing = "map",
    images: Any = None,
    names: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    truth: Sequence[Any] | None = None,
    titles: Sequence[str] | None = None,
    rows: Sequence[int] | None = None,
    size: float | None = None,
    percent: float = PERCENT,
    title: str | None = None,
) -> Figure:
    """A grid: the input first, then one column for each explanation (and each style asked for).

    Row labels carry the sample's name, the model's answer with its probability, the right answer if
    given, and what is explained; under each map stand its colour bar and the gap, if known.

    style: "map", "overlay", "contour", or several of them. sharing: whose colours mean the same:
    each "map" has its own limit, or all of a "method", or all of a "row". names, truth: one a
    sample. classes: class names by index. titles: instead of the methods' names. rows: the samples
    to show, all if not given. size: of one map, in inches. percent: where colours are clipped.
    Raises InputError for explanations of different samples, OptionError, NotFinite.
    """
    styles: list[Style] = [style] if isinstance(style, str) else list(style)
    for each in styles:
        check_style(each)
    if sharing not in SHARINGS:
        raise OptionError(f"sharing={sharing!r}: known are {', '.join(map(repr, SHARINGS))}")
    if not explanations or not styles:
        raise InputError("a grid needs at least one explanation and one style")
    found = [view for e in explanations for view in views(e, images)]
    count = same_samples(found)
    for what, given in (("names", names), ("truth", truth)):
        if given is not None and len(given) != count:
            raise InputError(f"{what} holds {len(given)} entries for {count} samples")
    chosen = choose(rows, count)
    with drawing():
        columns = _columns(found, styles, chosen, titles, sharing, percent)
        words = _row_words(found, chosen, names, classes, truth)
        return _compose(columns, chosen, words, sharing, size, percent, title, count)


def _columns(
    found: Sequence[View],
    styles: Sequence[Style],
    chosen: Sequence[int],
    titles: Sequence[str] | None,
    sharing: Sharing,
    percent: float,
) -> list[_Column]:
    heads = _heads(found) if titles is None else [plain(t) for t in titles]
    if len(heads) != len(found):
        raise InputError(f"titles holds {len(heads)} titles for {len(found)} methods")
    made = [
        [fit_scale(v.maps[i], signed=v.signed, percent=percent, what=f"{v.title}, sample {i}")
         for i in chosen]
        for v in found
    ]  # fmt: skip
    if sharing == "method":
        made = [
            [fit_scale(v.maps[list(chosen)], signed=v.signed, percent=percent)] * len(chosen)
            for v in found
        ]
    elif sharing == "row":
        for k, i in enumerate(chosen):
            for signed in (True, False):
                like = [c for c, scales in enumerate(made) if scales[k].signed == signed]
                values = [found[c].maps[i].ravel() for c in like]
                for c in like:
                    made[c][k] = fit_scale(np.concatenate(values), signed=signed, percent=percent)
    return [
        _Column(view, style, head if s == 0 else f"{head}\n({style})", scales, s == 0)
        for view, head, scales in zip(found, heads, made, strict=True)
        for s, style in enumerate(styles if not view.flat else styles[:1])
    ]


def _heads(found: Sequence[View]) -> list[str]:
    """Method names, with the options that tell columns of one method apart."""
    times = Counter(view.title for view in found)
    heads = []
    for view in found:
        layer = plain(view.explanation.layer)
        head = view.title + (f"\nat {layer}" if layer else "")
        if times[view.title] > 1:
            twins = [v.explanation.options for v in found if v.title == view.title]
            keys = sorted({k for t in twins for k in t})
            apart = [k for k in keys if len({repr(t.get(k)) for t in twins}) > 1]
            words = options_text(view.explanation.options, apart)
            head += f"\n{words}" if words else ""
        heads.append(head)
    return heads


def _row_words(
    found: Sequence[View],
    chosen: Sequence[int],
    names: Sequence[str] | None,
    classes: Sequence[str] | None,
    truth: Sequence[Any] | None,
) -> list[list[tuple[str, bool]]]:
    """For each row its lines and whether they are bold."""
    said = answers(found[0].explanation, classes)
    aim, value = targets(found[0].explanation), outputs(found[0].explanation)
    words = []
    for i in chosen:
        lines = [(plain(names[i]), True)] if names is not None else []
        if said is not None:
            lines.append((f"answer: {said[i]}", names is None))
        if truth is not None:
            lines.append((f"right: {plain(truth[i])}", False))
        same = not _targets_differ(found, i)
        what = f"{aim[i]}, {value[i]}" if same else "see under each map"
        lines.append((f"explained: {what}", False))
        words.append(lines)
    return words


def _targets_differ(found: Sequence[View], i: int) -> bool:
    """Whether the columns explain different numbers of sample ``i``, rounding aside."""
    values = [float(np.ravel(numpy_of(view.explanation.output))[i]) for view in found]
    same = np.allclose(values, values[0], rtol=1e-3, atol=1e-6)
    return len({targets(view.explanation)[i] for view in found}) > 1 or not same


def _cell_words(columns: Sequence[_Column], i: int, k: int) -> list[str]:
    """What stands under the maps of one row: the target where it differs, the gap."""
    differ = _targets_differ([c.view for c in columns], i)
    found = []
    for column in columns:
        one = column.view.explanation
        facts = [f"{targets(one)[i]}, {outputs(one)[i]}"] if differ else []
        facts.append(column.view.gap(i) if column.first else "")
        if column.scales[k].limit > 0 and not np.any(column.view.maps[i]):
            facts.append("all zero")  # the shared colour bar cannot say so
        found.append(" · ".join(f for f in facts if f))
    return found


def _compose(
    columns: Sequence[_Column],
    chosen: Sequence[int],
    words: Sequence[list[tuple[str, bool]]],
    sharing: Sharing,
    size: float | None,
    percent: float,
    title: str | None,
    count: int,
) -> Figure:
    shown = any(c.view.pictures is not None for c in columns)
    size = size or {1: 2.2, 2: 1.9, 3: 1.6}.get(len(columns), 1.3)
    if size < 0.3:
        raise OptionError(f"size={size!r}: a map needs at least 0.3 inches")
    deep = size * max(_proportion(c, i) for c in columns for i in chosen)
    cells = [
        [wrap(t, size, SMALL, 3) for t in _cell_words(columns, i, k)] for k, i in enumerate(chosen)
    ]
    lines = [[(wrap(t, _LABEL - 0.15, BODY, 3, b), b) for t, b in group] for group in words]
    most = max(c.count("\n") + 1 if c else 0 for row in cells for c in row)
    under = (_BAR if sharing == "map" else 0.0) + most * SMALL * LINE
    tall = max(sum(t.count("\n") + 1 for t, _ in group) for group in lines) * BODY * LINE
    heads = ["\n".join(wrap(h, size, BODY, 3, True) for h in c.head.split("\n")) for c in columns]
    row = max(deep + 0.06 + under, tall) + 0.12
    label = max(width_of(t, BODY, b) for g in lines for w, b in g for t in w.split("\n")) + 0.15
    across = len(columns) + shown
    right = 0.95 if sharing == "row" else 0.0
    width = max(2 * _MARGIN + label + across * (size + _GUTTER) - _GUTTER + right, 4.0)
    name = wrap(title, width - 2 * _MARGIN, TITLE, 2, True) if title else ""
    head_top = _MARGIN + ((name.count("\n") + 1) * TITLE * LINE + 0.08 if name else 0.0)
    top = head_top + max(h.count("\n") + 1 for h in heads) * BODY * LINE + 0.06
    facts = _footer(columns, sharing, percent, len(chosen), count)
    foot = wrap(facts, width - 2 * _MARGIN, SMALL, 12)
    end = (foot.count("\n") + 1) * SMALL * LINE + _MARGIN
    bars = 0.05 + _BAR + 0.04 if sharing == "method" else 0.0
    height = top + len(chosen) * row + bars + end
    page, plan = Page(width, height), _Plan(size, deep, label, top, row, under, shown)
    if name:
        page.write(_MARGIN, _MARGIN, name, TITLE, weight="bold")
    _fill_heads(page, plan, heads)
    for k, i in enumerate(chosen):
        _fill_row(page, plan, columns, k, i, lines[k], cells[k], sharing)
    if sharing == "method":
        y = top + len(chosen) * row - 0.05
        for c, column in enumerate(columns):
            column.bar(page, plan.left(c), y, size, 0)
    page.write(_MARGIN, height - end + 0.06, foot, SMALL, color=FAINT)
    return page.figure


def _proportion(column: _Column, sample: int) -> float:
    """Height by width of the tallest thing in a cell."""
    pictures = column.view.pictures
    shapes = [] if column.view.flat else [column.view.maps[sample].shape]
    if pictures is not None and pictures[sample].ndim > 1:
        shapes.append(pictures[sample].shape[:2])
    return float(min(max((s[0] / s[1] for s in shapes), default=0.5), 1.6))


def _fill_heads(page: Page, plan: _Plan, heads: Sequence[str]) -> None:
    """Column titles, standing on one line just above the first row."""
    if plan.shown:
        x = plan.left(-1) + plan.size / 2
        page.write(x, plan.top - 0.09, "input", BODY, ha="center", va="baseline", color=FAINT)
    for c, head in enumerate(heads):
        x = plan.left(c) + plan.size / 2
        page.write(x, plan.top - 0.09, head, BODY, ha="center", va="baseline", weight="bold")


def _fill_row(
    page: Page,
    plan: _Plan,
    columns: Sequence[_Column],
    k: int,
    sample: int,
    lines: Sequence[tuple[str, bool]],
    cells: Sequence[str],
    sharing: Sharing,
) -> None:
    y = plan.top + k * plan.row
    start = y
    for words, bold in lines:
        start = page.write(_MARGIN, start, words, BODY, weight="bold" if bold else "normal")
    if plan.shown:
        _fill_input(page, Box(plan.left(-1), y, plan.size, plan.deep), columns, sample)
    for c, (column, words) in enumerate(zip(columns, cells, strict=True)):
        box = Box(plan.left(c), y, plan.size, plan.deep)
        scale = column.scales[k]
        if column.view.flat:
            profile(page, box, column.view.maps[sample], scale)
        else:
            paint(page, box, column.view, sample, scale, column.style)
        under = y + plan.deep + 0.06
        if sharing == "map":
            under = column.bar(page, box.left, under, plan.size, k)
        page.write(box.left, under, words, SMALL, color=FAINT)
    if sharing == "row":
        x, bar = plan.left(len(columns)), y
        for scale in {c.scales[k].signed: c.scales[k] for c in columns}.values():
            bar = page.colour_bar(x, bar, 0.95 - _GUTTER, scale) + 0.06


def _fill_input(page: Page, box: Box, columns: Sequence[_Column], sample: int) -> None:
    picture = next(c.view.pictures[sample] for c in columns if c.view.pictures is not None)
    if picture.ndim == 1:
        signed = bool((picture < 0).any())
        most = float(np.abs(picture).max(initial=0.0))
        # the palette's colours would look like evidence: an input is drawn as a line
        profile(page, box, np.zeros_like(picture), Scale(0.0, signed), picture if most else None)
        return
    rgb = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    page.picture(box.holding(*picture.shape[:2]), rgb)


def _footer(
    columns: Sequence[_Column], sharing: Sharing, percent: float, shown: int, count: int
) -> str:
    scales = [scale for c in columns for scale in c.scales]
    styles = {"map" if c.view.flat else c.style for c in columns}
    words = [legend(scales, ZERO["map"] if "map" in styles else ZERO[columns[0].style])]
    whose = {"map": "each map", "method": "a method's maps", "row": "a row's maps"}[sharing]
    if any(scale.clipped for scale in scales):
        words.append(f"Colours are clipped at percentile {percent:g} of |value| of {whose}.")
    else:
        words.append(f"Colours end at the largest |value| of {whose}.")
    laid = [c for c in columns if c.style != "map" and not c.view.flat]
    if "map" in styles and any(c.style == "overlay" for c in laid):
        words.append("Overlays: opacity is |value|, the input in grey.")
    if "map" in styles and any(c.style == "contour" for c in laid):
        words.append("Contours at 25, 50 and 75 % of the limit.")
    small = sorted({
        "×".join(map(str, c.view.maps.shape[1:]))
        for c in laid
        if c.view.pictures is not None and c.view.pictures[0].shape[:2] != c.view.maps.shape[1:]
    })  # fmt: skip
    if small:
        words.append(f"Maps of {', '.join(small)} are brought to the input's size, bilinear.")
    if any(c.view.flat and c.view.maps.shape[1] > 256 for c in columns):
        words.append("Long lines: each column is the strongest of its positions.")
    words += [note.rstrip(".") + "." for note in notes([c.view for c in columns])]
    if shown < count:
        words.append(f"{shown} of {count} samples shown.")
    return " ".join(words)
