"""Results to draw, small and made by hand, and what the render tests measure on figures."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from whence.ledger import Entry
from whence.render.page import drawing
from whence.result import Explanation


class Explained(Explanation):
    """An explanation whose map is at hand; its channel axis, if it has one, has size one."""

    @property
    def _channel(self):
        return self.axes.index("channel") if "channel" in self.axes else None

    @property
    def maps(self):
        where = self._channel
        return self.attribution if where is None else np.moveaxis(self.attribution, where, 0)[0]

    @maps.setter
    def maps(self, values):
        where = self._channel
        self.attribution = values if where is None else np.expand_dims(values, where)


def row(index, layer, op, absorbed):
    """An entry of a ledger, of which only what was absorbed matters here."""
    return Entry(index, layer, op, op.upper(), "epsilon", np.zeros(1), np.zeros(1), absorbed)


def explained(n=2, shape=(8, 8), picture=(1, 8, 8), seed=0, **changes):
    """An explanation of ``n`` random images with everything filled in."""
    rng = np.random.default_rng(seed)
    given: dict[str, Any] = {
        "maps": rng.normal(size=(n, *shape)),
        "inputs": rng.uniform(size=(n, *picture)),
        "target": np.arange(n),
        "output": np.linspace(3, 9, n),
        "answer": np.arange(n),
        "probability": np.linspace(0.99, 0.4, n),
        "gap": np.full(n, 0.012),
        "target_names": [f"class {i}" for i in range(n)],
    }
    given = {**given, "channels": "first", "method": "lrp", "options": {}, **changes}
    maps = given.pop("maps")
    space = {2: ("position",), 3: ("height", "width"), 4: ("depth", "height", "width")}[maps.ndim]
    order = (
        ("batch", *space, "channel")
        if given["channels"] == "last"
        else ("batch", "channel", *space)
    )
    one = Explained(attribution=None, raw=None, **{"axes": order, **given})
    one.maps = maps
    return one


def words(figure):
    """Every text in the figure that is not empty, with ordinary spaces."""
    found = list(figure.texts)
    for axes in figure.axes:
        found += axes.texts
    return [t.get_text().replace("\u00a0", " ") for t in found if t.get_text()]


def misplaced(figure):
    """Texts that leave the page, and pairs that overlap each other or a picture's frame."""
    with drawing():
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        sheet = figure.axes[0]
        texts = [t for axes in figure.axes for t in axes.texts if t.get_text()]
        boxes = [(t.get_text(), t.get_window_extent(renderer), t.get_rotation()) for t in texts]
        pictures = [(f"picture {i}", im.get_window_extent(renderer), 0) for i, im in
                    enumerate(sheet.images)]  # fmt: skip
    width, height = figure.canvas.get_width_height()
    wrong = [name for name, b, _ in boxes
             if b.x0 < 0 or b.y0 < 0 or b.x1 > width or b.y1 > height]  # fmt: skip
    upright = [(name, b) for name, b, turned in boxes if not turned]
    pairs = [*combinations(upright, 2), *((t, p[:2]) for t in upright for p in pictures)]
    for (a, one), (b, two) in pairs:
        # a hair's breadth: boxes of text include room that its letters may not fill
        across = min(one.x1, two.x1) - max(one.x0, two.x0)
        down = min(one.y1, two.y1) - max(one.y0, two.y0)
        if across > 1.0 and down > 1.5:
            wrong.append((a, b))
    return wrong
