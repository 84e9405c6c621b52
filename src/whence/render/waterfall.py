"""The ledger as a picture: where, between the output and the input, relevance was absorbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from whence.errors import InputError, NotFinite, OptionError
from whence.render.page import BODY, FAINT, INK, LINE, RULE, SMALL, TITLE, Box, Page, drawing
from whence.render.view import numpy_of, targets
from whence.render.words import number, percentage, plain, width_of, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from whence.ledger import Ledger
    from whence.result import Explanation

__all__ = ["Step", "Waterfall", "draw_ledger", "waterfall"]

_MARGIN = 0.25
_ENDS = "#59636e"
# Okabe and Ito's colours, told apart with every kind of colour vision; each reason keeps its own.
_REASONS = {
    "bias": "#E69F00",
    "epsilon": "#56B4E9",
    "softmax": "#CC79A7",
    "clipped": "#009E73",
    "norm": "#0072B2",
}
_FURTHER = ("#D55E00", "#F0E442", "#8C6BB1", "#7F7F7F", "#A6761D")


@dataclass(frozen=True)
class Step:
    """What one layer (or several small ones) absorbed: reason -> amount, in units of the output."""

    name: str
    absorbed: dict[str, float]

    @property
    def size(self) -> float:
        """How much moved in total, signs aside."""
        return sum(abs(v) for v in self.absorbed.values())

    @property
    def total(self) -> float:
        """What is missing after the layer; negative where relevance was added."""
        return sum(self.absorbed.values())


@dataclass(frozen=True)
class Waterfall:
    """A ledger ready to draw, output first."""

    seed: float
    steps: list[Step]
    total: float
    """What arrived at the input."""
    merged: int = 0
    """How many layers the last step "others" stands for."""
    silent: int = 0
    """How many layers absorbed nothing at all, and have no step."""

    @property
    def unaccounted(self) -> float:
        """What neither arrived nor was absorbed; rounding, or an error in a rule."""
        return self.seed - sum(step.total for step in self.steps) - self.total


def waterfall(ledger: Ledger, sample: int | Literal["mean"] = 0, bars: int = 20) -> Waterfall:
    """The ledger of one sample (or the mean of all) by layer, in the order of the walk.

    Rows of one layer are one step; a row outside any layer goes by its operation. Beyond ``bars``
    steps the smallest are merged into "others", which stands last. Raises OptionError for a sample
    that is not there, and NotFinite.
    """
    seed = np.ravel(numpy_of(ledger.seed))
    if bars < 2:
        raise OptionError(f"bars={bars}: a waterfall needs at least 2")
    if sample != "mean" and not 0 <= sample < len(seed):
        raise OptionError(f"sample={sample!r}: give 0 to {len(seed) - 1}, or 'mean'")

    def one(values: Any, what: str) -> float:
        flat = np.ravel(numpy_of(values)).astype(np.float64)
        value = float(flat.mean() if sample == "mean" else flat[sample if len(flat) > 1 else 0])
        if not np.isfinite(value):
            raise NotFinite(f"the ledger's {what} is {value} for sample {sample} and is not drawn")
        return value

    steps: dict[str, dict[str, float]] = {}
    for row in ledger.rows:
        name = plain(row.layer) if row.layer else f"({plain(row.op)})"
        step = steps.setdefault(name, {})
        for reason, amount in row.absorbed.items():
            step[plain(reason)] = step.get(plain(reason), 0.0) + one(amount, f"entry of {name}")
    heard = [Step(n, a) for n, a in steps.items() if any(a.values())]
    silent, merged = len(steps) - len(heard), 0
    if len(heard) > bars:
        kept = {id(s) for s in sorted(heard, key=lambda s: -s.size)[: bars - 1]}
        rest = [s for s in heard if id(s) not in kept]
        sums: dict[str, float] = {}
        for step_ in rest:
            for reason, part in step_.absorbed.items():
                sums[reason] = sums.get(reason, 0.0) + part
        merged = len(rest)
        heard = [*(s for s in heard if id(s) in kept), Step(f"{merged} others", sums)]
    return Waterfall(one(ledger.seed, "seed"), heard, one(ledger.total, "total"), merged, silent)


def draw_ledger(
    explanation: Explanation | Ledger,
    *,
    sample: int | Literal["mean"] = 0,
    bars: int = 20,
    title: str | None = None,
) -> Figure:
    """The ledger as a waterfall: the output left, what each layer absorbed, the input right.

    explanation: one with a ledger, whose method and target make the title, or a ledger itself.
    Absorbed amounts are stacked by reason; relevance that a layer added rises. Where the amounts
    are small beside the output, they are drawn once more below on a scale of their own.
    Raises InputError for an explanation without a ledger (its method conserves no sum).
    """
    whole: Any = explanation
    ledger = getattr(whole, "ledger", whole)
    if ledger is None:
        raise InputError(
            f"the method {whole.method!r} keeps no ledger, since it conserves no sum; "
            "explain with a relevance method such as 'lrp'"
        )
    data = waterfall(ledger, sample, bars)
    if title is None:
        title = "Where relevance went" if ledger is whole else _heading(whole, sample)
    with drawing():
        return _compose(data, title, len(ledger.rows))


def _heading(explanation: Explanation, sample: int | str) -> str:
    aims = targets(explanation)
    where = (
        f"mean of {len(aims)} samples"
        if sample == "mean"
        else f"{aims[int(sample)]}" + (f", sample {sample} of {len(aims)}" if len(aims) > 1 else "")
    )
    return f"Where relevance went: {explanation.method}, {where}"


def _colours(data: Waterfall) -> dict[str, str]:
    sizes: dict[str, float] = {}
    for step in data.steps:
        for reason, amount in step.absorbed.items():
            sizes[reason] = sizes.get(reason, 0.0) + abs(amount)
    found, spare = {}, list(_FURTHER)
    for reason in sorted((r for r, s in sizes.items() if s), key=lambda r: -sizes[r]):
        colour = _REASONS.get(reason.casefold())
        found[reason] = colour or (spare.pop(0) if spare else _ENDS)
    return found


def _compose(data: Waterfall, title: str, rows: int) -> Figure:
    names = ["output", *(step.name for step in data.steps), "input"]
    figures = _figures(data)
    slot = max(0.45, max(width_of(f, SMALL, True) for f in figures) + 0.06)
    plot = max(len(names) * slot, 4.2)
    labels, prefix = _short(names)
    # turned by 40 degrees, a long name reaches to the left of its bar
    reach = [width_of(t, BODY, True) * 0.77 - (k + 0.5) * slot for k, t in enumerate(labels)]
    left = _MARGIN + max(0.65, *reach)
    width = left + plot + _MARGIN
    colours = _colours(data)
    head = wrap(title, width - 2 * _MARGIN, TITLE, 2, True)
    told = f" Names are without their beginning “{prefix}”." if prefix else ""
    foot = wrap(_footer(data, rows) + told, width - 2 * _MARGIN, SMALL, 5)
    key = _key_rows(list(colours), width - 2 * _MARGIN)
    top = _MARGIN + (head.count("\n") + 1) * TITLE * LINE + 0.08 + len(key) * 0.2 + 0.1
    level = max(abs(data.seed), abs(data.total), 1e-300)
    zoomed = bool(data.steps) and max(s.size for s in data.steps) < 0.08 * level
    second = 1.55 if zoomed else 0.0
    below = max(width_of(t, BODY) for t in labels) * 0.72 + 0.3
    height = top + 2.5 + second + below + (foot.count("\n") + 1) * SMALL * LINE + _MARGIN
    page = Page(width, height)
    y = page.write(_MARGIN, _MARGIN, head, TITLE, weight="bold") + 0.08
    _key(page, key, colours, y)
    first = page.axes(Box(left, top, plot, 2.5))
    _falls(first, data, colours)
    axes = [first]
    if zoomed:
        axes.append(page.axes(Box(left, top + 2.5 + 0.35, plot, second - 0.35)))
        _amounts(axes[-1], data, colours)
    for ax in axes:
        _dress(ax, len(names))
    axes[0].set_ylabel("relevance", fontsize=BODY, color=INK)
    if zoomed:
        axes[1].set_ylabel("absorbed", fontsize=BODY, color=INK)
    base = top + 2.5 + second
    for k, name in enumerate(labels):
        x = left + (k + 0.5) * plot / len(names)
        page.write(
            x + 0.06, base + 0.07, name, BODY, rotation=40, ha="right", rotation_mode="anchor",
            weight="bold" if k in (0, len(names) - 1) else "normal",
        )  # fmt: skip
    page.write(_MARGIN, base + below, foot, SMALL, color=FAINT)
    return page.figure


def _short(names: Sequence[str]) -> tuple[list[str], str]:
    """Names that fit under a bar and stay different, and the beginning that they all lost.

    What all layers share ("model.encoder.") goes first, then the middle; two names that would look
    the same are given more room.
    """
    prefix = ""
    inner = [n for n in names[1:-1] if not n.startswith("(") and not n.endswith(" others")]
    if len(inner) > 1 and max(width_of(n, BODY) for n in inner) > 1.5:
        for parts in zip(*(n.split(".")[:-1] for n in inner), strict=False):
            if len(set(parts)) > 1:
                break
            prefix += parts[0] + "."
    ends = {0, len(names) - 1}
    cut = [n if k in ends else n.removeprefix(prefix) for k, n in enumerate(names)]
    for room in (1.5, 2.2, 3.0):
        labels = [wrap(n, room, BODY, 1) for n in cut]
        if len(set(labels)) == len(set(cut)):
            break
    return labels, prefix


def _segments(step: Step) -> list[tuple[str, float]]:
    """Reasons in drawing order: what was taken, largest first, then what was added."""
    items = [(r, a) for r, a in step.absorbed.items() if a]
    return sorted(items, key=lambda item: (item[1] < 0, -abs(item[1])))


def _figures(data: Waterfall) -> list[str]:
    """The numbers over the bars: what there is at both ends, the change at each step."""
    changes = [-step.total for step in data.steps]
    signed = [("+" if c > 0 else "") + number(c, 2) for c in changes]
    return [number(data.seed), *signed, number(data.total)]


def _falls(ax: Axes, data: Waterfall, colours: dict[str, str]) -> None:
    """The bars proper. A step that both took and added shows the two side by side."""
    level, last = data.seed, len(data.steps) + 1
    ax.bar([0], [data.seed], 0.72, color=_ENDS)
    highs, lows = [max(data.seed, 0.0)], [min(data.seed, data.total, 0.0)]
    for k, step in enumerate(data.steps, start=1):
        ax.plot([k - 1 + 0.36, k - 0.36], [level, level], color=FAINT, lw=0.6)
        segments, high = _segments(step), level
        mixed = len({a < 0 for _, a in segments}) > 1
        for reason, amount in segments:
            x, wide = (k + (0.18 if amount < 0 else -0.18), 0.36) if mixed else (k, 0.72)
            ax.bar([x], [-amount], wide, bottom=level, color=colours[reason])
            level -= amount
            high = max(high, level)
            lows.append(level)
        highs.append(high)
    ax.plot([last - 1 + 0.36, last - 0.36], [level, level], color=FAINT, lw=0.6)
    ax.bar([last], [data.total], 0.72, color=_ENDS)
    highs.append(max(data.total, 0.0))
    for k, (figure, high) in enumerate(zip(_figures(data), highs, strict=True)):
        ax.annotate(
            figure, (k, max(high, 0.0)), (0, 2), textcoords="offset points",
            ha="center", va="bottom", fontsize=SMALL, color=INK if k in (0, last) else FAINT,
            fontweight="bold" if k in (0, last) else "normal", parse_math=False,
        )  # fmt: skip
    low, high = min(lows), max(highs)
    ax.set_ylim(low - 0.06 * (high - low) if low < 0 else 0.0, high + 0.1 * (high - low) or 1.0)


def _amounts(ax: Axes, data: Waterfall, colours: dict[str, str]) -> None:
    """The absorbed amounts alone, taken upwards and added downwards."""
    for k, step in enumerate(data.steps, start=1):
        ends = {False: 0.0, True: 0.0}
        for reason, amount in _segments(step):
            bottom = ends[amount < 0]
            ax.bar([k], [amount], 0.72, bottom=bottom, color=colours[reason])
            ends[amount < 0] += amount
    ax.use_sticky_edges = False
    ax.margins(y=0.12)


def _dress(ax: Axes, count: int) -> None:
    ax.set_xlim(-0.5, count - 0.5)
    ax.set_xticks([])
    ax.axhline(0.0, color=FAINT, lw=0.6)
    ax.tick_params(axis="y", labelsize=SMALL, colors=FAINT, length=2)
    ax.locator_params(axis="y", nbins=5)
    low, high = ax.get_ylim()
    ax.yaxis.set_major_formatter(lambda v, _: number(v if abs(v) > 1e-6 * (high - low) else 0.0))
    ax.grid(axis="y", color=RULE, lw=0.4, alpha=0.7)
    ax.set_axisbelow(True)
    for side in ("top", "right", "bottom"):
        ax.spines[side].set_visible(False)
    ax.spines["left"].set_color(RULE)


def _key_rows(reasons: Sequence[str], width: float) -> list[list[tuple[str, str, float]]]:
    """The legend laid out in rows: (reason, its words, left edge)."""
    rows: list[list[tuple[str, str, float]]] = [[]]
    x = 0.0
    for reason in reasons:
        words = wrap(reason, 2.0, BODY, 1)
        wide = 0.17 + width_of(words, BODY) + 0.2
        if x + wide > width and rows[-1]:
            rows.append([])
            x = 0.0
        rows[-1].append((reason, words, x))
        x += wide
    return rows if rows[0] else []


def _key(page: Page, rows: Sequence[Any], colours: dict[str, str], top: float) -> None:
    for k, row in enumerate(rows):
        y = top + k * 0.2
        for reason, words, x in row:
            page.block(Box(_MARGIN + x, y + 0.02, 0.11, 0.11), colours[reason])
            page.write(_MARGIN + x + 0.17, y + 0.115, words, BODY, va="baseline")


def _footer(data: Waterfall, rows: int) -> str:
    lost = data.seed - data.total
    words = [f"{rows} operations."]
    if data.seed:
        what = "Absorbed" if lost * data.seed >= 0 else "Added"
        share = percentage(abs(lost / data.seed))
        words.append(f"{what} on the way: {number(abs(lost))}, {share} of the output.")
    if data.merged:
        words.append(f"“{data.merged} others” are the layers that absorbed least.")
    if data.silent:
        words.append(f"{data.silent} layers absorbed nothing and are not shown.")
    rest = data.unaccounted
    scale = max(abs(data.seed), abs(data.total))
    if scale and abs(rest) > 1e-4 * scale:
        words.append(f"Unaccounted for: {number(rest)} ({percentage(rest / scale)}).")
    return " ".join(words)
