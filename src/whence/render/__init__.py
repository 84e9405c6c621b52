"""Pictures of results. Results never draw; matplotlib is imported only when something is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from whence.render.files import image_bytes as image_bytes
from whence.render.files import save as save
from whence.render.grid import draw_grid as draw_grid
from whence.render.heatmap import draw_heatmap as draw_heatmap
from whence.render.palette import colormap as colormap
from whence.render.view import views as views
from whence.render.waterfall import draw_ledger as draw_ledger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from whence.result import Explanation

__all__ = [
    "colormap",
    "draw",
    "draw_grid",
    "draw_heatmap",
    "draw_ledger",
    "image_bytes",
    "save",
    "to_png",
    "views",
]

_ROWS = 8  # a notebook's picture shows no more samples than this, and says so


def draw(explanation: Explanation | Sequence[Explanation], **options: Any) -> Figure:
    """The picture that suits: a grid for several explanations or for images, else the flat maps.

    One explanation of images: input, map and overlay, a row for each sample. Several explanations
    of the same samples: a row for each sample, a column for each. One explanation of tables, series
    or tokens: bars, profiles or running text. ``options`` go to ``draw_grid`` or ``draw_heatmap``.
    """
    if isinstance(explanation, Sequence):
        return draw_grid(explanation, **options)
    found = views(explanation, options.get("images"))
    if found[0].flat:
        return draw_heatmap(explanation, **options)
    laid = all(view.pictures is not None for view in found)
    return draw_grid([explanation], **{"style": ("map", "overlay") if laid else "map", **options})


def to_png(explanation: Explanation | Sequence[Explanation], **options: Any) -> bytes:
    """The picture as PNG bytes, for notebooks: as ``draw``, at most the first 8 samples, stated."""
    first = explanation[0] if isinstance(explanation, Sequence) else explanation
    count = len(views(first)[0].maps)
    if count > _ROWS:
        options.setdefault("rows", range(_ROWS))
    return image_bytes(draw(explanation, **options))
