"""One method's maps: a map alone, laid over the input, or as contours on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from whence.errors import InputError, OptionError
from whence.render.flat import flat_panel
from whence.render.page import BODY, FAINT, LINE, SMALL, TITLE, Box, Page, drawing
from whence.render.scale import PERCENT, Scale, fit_scale, legend, tint
from whence.render.view import View, answers, choose, notes, outputs, targets, views
from whence.render.words import wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from whence.result import Explanation

__all__ = ["Style", "bar_colours", "draw_heatmap", "over", "paint", "resize"]

Style = Literal["map", "overlay", "contour"]
STYLES = ("map", "overlay", "contour")
ZERO = {
    "map": "white is zero",
    "overlay": "uncoloured is zero (opacity is |value|)",
    "contour": "lines at 25, 50 and 75\N{NO-BREAK SPACE}% of the limit",
}
"""How zero, and with it the rest, looks in each style."""

_MARGIN, _GUTTER = 0.25, 0.22


def resize(values: NDArray[Any], height: int, width: int) -> NDArray[np.float64]:
    """A map (h, w) brought to (height, width) by bilinear interpolation between pixel centres.

    Beyond the outermost centres the edge value continues, so no value outside the map's own range
    appears.

    Example:
        >>> import numpy as np
        >>> resize(np.array([[0.0, 1.0]]), 1, 4).tolist()
        [[0.0, 0.25, 0.75, 1.0]]
    """
    values = np.asarray(values, dtype=np.float64)
    for axis, size in enumerate((height, width)):
        old = values.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.minimum(np.floor(place).astype(int), max(old - 2, 0))
        part = (place - low).reshape((-1, 1) if axis == 0 else (1, -1))
        high = np.minimum(low + 1, old - 1)
        values = values.take(low, axis) * (1 - part) + values.take(high, axis) * part
    return values


def grey(picture: NDArray[Any]) -> NDArray[np.float64]:
    """A picture (h, w) or (h, w, 3) as luminance (h, w), 0 to 1."""
    if picture.ndim == 2:
        return np.asarray(picture, dtype=np.float64)
    return np.asarray(picture @ np.array([0.2126, 0.7152, 0.0722]))


def over(values: NDArray[Any], picture: NDArray[Any], scale: Scale) -> NDArray[np.float64]:
    """The map (h, w) over the greyscale input (h, w) or (h, w, 3): sRGB (h, w, 3).

    Opacity is |value| / limit, so where there is no evidence the input is seen as it is, with its
    contrast lowered to leave room for colour.
    """
    place = scale.positions(values)
    opacity = np.abs(place)[..., None]
    # the pale half of the palette is left out: paleness is already told by the opacity
    colour = tint(np.sign(place) * (0.45 + 0.55 * np.abs(place)), scale.signed)
    paper = np.repeat(0.22 + 0.73 * grey(picture)[..., None], 3, axis=2)
    return paper * (1.0 - opacity) + colour * opacity


def paint(page: Page, box: Box, view: View, sample: int, scale: Scale, style: Style) -> str:
    """Put one map into a box; returns what has to be stated about it (empty if nothing)."""
    values = view.maps[sample]
    if style == "map":
        page.picture(box.holding(*values.shape), scale.colours(values))
        return ""
    picture = view.pictures[sample] if view.pictures is not None else None
    if picture is None or picture.ndim == 1:
        raise InputError(
            f"style={style!r} lays the map over its input, and {view.title} has no image as "
            "its input; give images=, or style='map'"
        )
    height, width = picture.shape[:2]
    note = ""
    if values.shape != (height, width):
        was = "×".join(map(str, values.shape))
        note = f"map {was} → {height}×{width}, bilinear"
        values = resize(values, height, width)
    place = box.holding(height, width)
    if style == "overlay":
        page.picture(place, over(values, picture, scale))
    else:
        page.picture(place, np.repeat(0.35 + 0.65 * grey(picture)[..., None], 3, axis=2))
        _contours(page, place, values, scale)
    return note


def _contours(page: Page, box: Box, values: NDArray[Any], scale: Scale) -> None:
    """Lines at a quarter, a half and three quarters of the limit, on both sides of zero."""
    place = scale.positions(values)
    steps = np.array([-0.75, -0.5, -0.25, 0.25, 0.5, 0.75])
    levels = steps[(steps > place.min()) & (steps < place.max())]
    if not len(levels) or min(values.shape) < 2:
        return
    height, width = values.shape
    x = box.left + (np.arange(width) + 0.5) / width * box.width
    y = box.top + (np.arange(height) + 0.5) / height * box.height
    colours = _line_colours(levels, scale)
    page.sheet.contour(x, y, place, levels=levels, colors=colours, linewidths=1.1, linestyles="-")
    page.sheet.set(xlim=(0, page.width), ylim=(page.height, 0))


def bar_colours(scale: Scale, style: Style) -> NDArray[np.float64]:
    """The colours (steps, 3) that values from end to end have in a style, on a middling grey."""
    ramp = scale.ramp()
    if style == "map":
        return scale.colours(ramp)
    if style == "overlay":
        return np.asarray(over(ramp[None], np.full((1, len(ramp)), 0.5), scale)[0])
    place = scale.positions(ramp)
    passed = np.trunc(place * 4.0).clip(-3, 3) / 4.0  # the outermost contour that a value is inside
    lines = _line_colours(passed, scale)
    return np.where(passed[:, None] == 0.0, 0.8, lines)


def _line_colours(levels: NDArray[Any], scale: Scale) -> NDArray[np.float64]:
    return tint(np.sign(levels) * (0.4 + 0.6 * np.abs(levels)), scale.signed)


def check_style(style: str) -> None:
    """Raise OptionError unless ``style`` is one that exists."""
    if style not in STYLES:
        raise OptionError(f"style={style!r}: known styles are {', '.join(map(repr, STYLES))}")


def draw_heatmap(
    explanation: Explanation,
    *,
    style: Style = "map",
    images: Any = None,
    names: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    features: Sequence[Any] | None = None,
    rows: Sequence[int] | None = None,
    percent: float = PERCENT,
    columns: int | None = None,
    title: str | None = None,
) -> Figure:
    """The maps of one explanation side by side, each with its colour bar and limit.

    style: "map" alone, "overlay" (over the greyscale input, opacity following |value|) or "contour"
    (lines on the input). images: see ``views``. names: one for each sample. classes: class names by
    index. features: names of positions for maps of one axis, or one list of tokens for each sample.
    rows: the samples to show, all if not given. percent: where colours are clipped, a percentile of
    |value| of each map. columns: how many maps stand in a row.
    Raises InputError, OptionError, NotFinite; never draws half a picture.
    """
    check_style(style)
    found = views(explanation, images)
    labels = _labels(explanation, names, classes)
    chosen = choose(rows, len(labels))
    with drawing():
        head = title if title is not None else _heading(found[0])
        if len(chosen) < len(labels):
            head += f" ({len(chosen)} of {len(labels)} samples)"
        jobs = [(view, i) for view in found for i in chosen]
        if found[0].flat:
            return flat_panel(jobs, labels, features, percent, head)
        return _mosaic(jobs, labels, style, percent, columns, head)


def _heading(view: View) -> str:
    layer = view.explanation.layer
    return f"{view.explanation.method} at {layer}" if layer else view.explanation.method


def _labels(
    explanation: Explanation, names: Sequence[str] | None, classes: Sequence[str] | None
) -> list[list[str]]:
    """The lines above each sample's map: name, answer, target and output, gap."""
    said = answers(explanation, classes)
    aims, numbers = targets(explanation), outputs(explanation)
    if names is not None and len(names) != len(aims):
        raise InputError(f"names holds {len(names)} names for {len(aims)} samples")
    found = []
    for i, (aim, value) in enumerate(zip(aims, numbers, strict=True)):
        lines = [names[i]] if names is not None else []
        if said is not None:
            lines.append(f"answer: {said[i]}")
        lines.append(f"explained: {aim}, {value}")
        found.append(lines)
    return found


def _mosaic(
    jobs: Sequence[tuple[View, int]],
    labels: Sequence[list[str]],
    style: Style,
    percent: float,
    columns: int | None,
    title: str,
) -> Figure:
    scales = [
        fit_scale(v.maps[i], signed=v.signed, percent=percent, what=f"the map of sample {i}")
        for v, i in jobs
    ]
    across = min(len(jobs), columns or 6)
    down = -(-len(jobs) // across)
    size = 3.4 if len(jobs) == 1 else 1.9
    deep = size * max(min(_proportion(v, i, style), 1.6) for v, i in jobs)
    words = [
        [wrap(line, size, BODY, 2, n == 0) for n, line in enumerate(labels[i])] for _, i in jobs
    ]
    above = max(sum(w.count("\n") + 1 for w in group) for group in words) * BODY * LINE + 0.06
    below = 0.085 + 3 * SMALL * LINE + 0.12
    width = max(2 * _MARGIN + across * (size + _GUTTER) - _GUTTER, 3.4)
    left = (width - across * (size + _GUTTER) + _GUTTER) / 2
    head = wrap(title, width - 2 * _MARGIN, TITLE, 2, True)
    told = " ".join([legend(scales, ZERO[style]), *notes([v for v, _ in jobs])])
    foot = wrap(told, width - 2 * _MARGIN, SMALL, 8)
    top = _MARGIN + (head.count("\n") + 1) * TITLE * LINE + 0.1
    cell = above + deep + 0.07 + below
    height = top + down * cell + (foot.count("\n") + 1) * SMALL * LINE + _MARGIN
    page = Page(width, height)
    page.write(_MARGIN, _MARGIN, head, TITLE, weight="bold")
    for k, ((view, i), scale) in enumerate(zip(jobs, scales, strict=True)):
        x, y = left + (k % across) * (size + _GUTTER), top + (k // across) * cell
        start = y + above - 0.06 - sum(w.count("\n") + 1 for w in words[k]) * BODY * LINE
        for n, line in enumerate(words[k]):
            start = page.write(x, start, line, BODY, weight="bold" if n == 0 else "normal")
        note = paint(page, Box(x, y + above, size, deep), view, i, scale, style)
        under = page.colour_bar(x, y + above + deep + 0.07, size, scale, bar_colours(scale, style))
        facts = [scale.text if scale.clipped else "", note, view.gap(i)]
        said = wrap(" · ".join(f for f in facts if f), size, SMALL, 2)
        page.write(x, under, said, SMALL, color=FAINT)
    page.write(_MARGIN, top + down * cell, foot, SMALL, color=FAINT)
    return page.figure


def _proportion(view: View, sample: int, style: Style) -> float:
    shape = view.maps[sample].shape
    if style != "map" and view.pictures is not None:
        shape = view.pictures[sample].shape
    return float(shape[0] / shape[1])
