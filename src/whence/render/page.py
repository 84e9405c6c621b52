"""A sheet of paper measured in inches from its top left corner, on which pictures are laid out.

One pair of axes covers the sheet; images, bars and words are placed on it by position, so that
what fits where is decided by arithmetic and not by a layout engine. Nothing of matplotlib's global
state is left changed, and the user's own style sheet changes nothing here.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from whence.errors import MissingFramework
from whence.render.scale import Scale
from whence.render.words import families, plain, width_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BODY", "FAINT", "INK", "SMALL", "Box", "Page", "drawing"]

INK, FAINT, RULE = "#1f2328", "#656d76", "#c9ced4"
TITLE, BODY, SMALL = 11.0, 8.5, 7.0
"""Sizes of words, in points."""
LINE = 1.3 / 72.0
"""Inches from line to line for each point of size."""
_DPI, _MOST_PIXELS = 150, 32000  # a picture's side must stay below 2**15 for every PNG reader

_lock = threading.RLock()


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Draw by matplotlib's own settings, whatever the user has set; all is put back afterwards.

    Raises MissingFramework where matplotlib is not installed.
    """
    try:
        import matplotlib.style
    except ImportError as reason:
        raise MissingFramework(
            "pictures need matplotlib, which is not installed; run: pip install matplotlib"
        ) from reason
    with _lock, warnings.catch_warnings(), matplotlib.style.context("default"):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcParams.update(
            {
                "font.family": list(families()),
                # widths independent of the resolution: what was measured to fit does fit
                "text.hinting": "none",
                "text.parse_math": False,
                "svg.fonttype": "path",
                "svg.hashsalt": "whence",  # names inside the file are the same each time
            }
        )
        yield


class Box(NamedTuple):
    """A rectangle on the page, in inches; ``top`` counts downwards."""

    left: float
    top: float
    width: float
    height: float

    def holding(self, height: float, width: float) -> Box:
        """The largest rectangle of that proportion inside this one, centred."""
        factor = min(self.width / width, self.height / height)
        w, h = width * factor, height * factor
        return Box(self.left + (self.width - w) / 2, self.top + (self.height - h) / 2, w, h)


class Page:
    """A figure of ``width`` x ``height`` inches and the marks that can be put on it."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        dpi = max(10.0, min(_DPI, _MOST_PIXELS // max(width, height)))
        self.figure: Figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
        FigureCanvasAgg(self.figure)
        self.sheet: Axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self.sheet.set_axis_off()
        self.sheet.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)

    def axes(self, box: Box) -> Axes:
        """Ordinary axes in a box, for plots with ticks."""
        bottom = self.height - box.top - box.height
        place = (box.left / self.width, bottom / self.height)
        size = (box.width / self.width, box.height / self.height)
        return self.figure.add_axes((*place, *size))

    def write(self, x: float, y: float, text: str, size: float = BODY, **style: Any) -> float:
        """Put words with their top at ``y``; returns where the next line starts.

        ``text`` is drawn as it is, without mathematics; only line breaks count.
        """
        text = "\n".join(plain(line) for line in text.split("\n"))
        style = {"color": INK, "ha": "left", "va": "top", "linespacing": 1.2, **style}
        self.sheet.text(x, y, text, fontsize=size, parse_math=False, usetex=False, **style)
        return y + (text.count("\n") + 1) * size * LINE

    def picture(self, box: Box, rgb: NDArray[Any], *, frame: bool = True) -> None:
        """Put an image (height, width, 3), 0 to 1, to fill a box exactly."""
        from matplotlib.patches import Rectangle

        extent = (box.left, box.left + box.width, box.top + box.height, box.top)
        self.sheet.imshow(
            rgb,
            extent=extent,
            aspect="auto",
            interpolation="antialiased",
            interpolation_stage="rgba",
        )
        # imshow marks its axes for autoscaling; the page stays the page
        self.sheet.set(xlim=(0, self.width), ylim=(self.height, 0))
        if frame:
            edge = Rectangle(box[:2], box.width, box.height, fill=False, lw=0.5, ec=RULE)
            self.sheet.add_patch(edge)

    def block(self, box: Box, colour: Any, **style: Any) -> None:
        """Put a filled rectangle."""
        from matplotlib.patches import Rectangle

        style = {"lw": 0.0, "ec": "none", **style}
        self.sheet.add_patch(Rectangle(box[:2], box.width, box.height, fc=colour, **style))

    def rule(self, x: Any, y: Any, **style: Any) -> None:
        """Put a line through the points ``x``, ``y``."""
        style = {"color": RULE, "lw": 0.6, "scalex": False, "scaley": False, **style}
        self.sheet.plot(x, y, **style)

    def colour_bar(
        self, left: float, top: float, width: float, scale: Scale, ramp: NDArray[Any] | None = None
    ) -> float:
        """A thin colour bar with its ends (and zero) in numbers; returns where it stops.

        ramp: the colours (steps, 3), where they are not the palette's own.
        """
        colours = scale.colours(scale.ramp()) if ramp is None else ramp
        self.picture(Box(left, top, width, 0.055), colours[None])
        low, high = scale.ends
        y = top + 0.085
        if scale.limit == 0.0:
            return self.write(left + width / 2, y, "all zero", SMALL, color=FAINT, ha="center")
        self.write(left, y, low, SMALL, color=FAINT)
        self.write(left + width, y, high, SMALL, color=FAINT, ha="right")
        room = width / 2 - max(width_of(low, SMALL), width_of(high, SMALL)) > 0.12
        if scale.signed and room:
            self.write(left + width / 2, y, "0", SMALL, color=FAINT, ha="center")
        return y + SMALL * LINE
