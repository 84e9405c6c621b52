"""Text with each token coloured by its score: for a page, a terminal and as a picture."""

from __future__ import annotations

import html as markup
import os
import sys
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whence.errors import unknown
from whence.render.flat import _tokens, token_rows
from whence.render.page import BODY, FAINT, INK, LINE, SMALL, TITLE, Box, Page
from whence.render.palette import srgb_to_oklab
from whence.render.scale import Scale, fit_scale, legend
from whence.render.words import number, plain, wrap
from whence.tokens import Tokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "draw_tokens", "tokens_html", "tokens_terminal"]

_MARGIN, _WIDTH, _ROW = 0.25, 6.5, 0.27
_DARK = 0.62  # lightness below which white letters are read better than dark ones


def draw(kind: str, tokens: Tokens | Sequence[Tokens], **options: Any) -> Any:
    """Tokens as a ``"figure"``, ``"html"`` or ``"terminal"`` text."""
    ways: dict[str, Callable[..., Any]] = {
        "figure": draw_tokens,
        "html": tokens_html,
        "terminal": tokens_terminal,
    }
    if kind not in ways:
        raise unknown("way to draw tokens", kind, ways)
    return ways[kind](tokens, **options)


def _listed(tokens: Tokens | Sequence[Tokens]) -> list[Tokens]:
    return [tokens] if isinstance(tokens, Tokens) else list(tokens)


def _scale(tokens: Tokens, percent: float) -> Scale:
    return fit_scale(tokens.score, signed=tokens.signed, percent=percent, what="the text")


def _words(tokens: Tokens) -> str:
    return plain(" · ".join(w for w in (tokens.method, tokens.target) if w))


def _shown(text: str) -> str:
    """A token to look at: control characters spelled out, blanks made visible."""
    return plain(text) if text.strip() else plain(text).replace(" ", "␣") or "␣"


def _hex(colour: NDArray[Any]) -> str:
    return "#" + "".join(f"{round(float(c) * 255):02x}" for c in colour)


def tokens_html(
    tokens: Tokens | Sequence[Tokens], *, percent: float = 100.0, title: str | None = None
) -> str:
    """Coloured text as a piece of HTML that needs nothing else: no script, style sheet or font.

    Every text is escaped. Each token's score is in its ``title``, which browsers show on hovering.

    tokens: one text or several, each with its own scale. percent: the percentile of |score| at
        which colours are clipped. title: above the text; default method and target; "" for none.
    Raises NotFinite for NaN or infinity.

    Example:
        >>> import numpy as np
        >>> from whence.tokens import Tokens
        >>> "&lt;b&gt;" in tokens_html(Tokens(("<b>",), np.ones(1)))
        True
    """
    blocks = []
    for item in _listed(tokens):
        scale = _scale(item, percent)
        head = _words(item) if title is None else title
        spans = "".join(_span(t, s, c) for t, s, c in _coloured(item, scale))
        named = f'<div style="font-weight:600;margin-bottom:.4em">{markup.escape(head)}</div>'
        blocks.append(
            '<div class="whence-tokens" style="font:14px/1.9 system-ui,sans-serif;'
            f'color:{INK};background:#fff;padding:.8em;max-width:48em;overflow-wrap:anywhere">'
            f"{named if head else ''}<div>{spans}</div>{_bar(scale)}</div>"
        )
    return "\n".join(blocks)


def _coloured(tokens: Tokens, scale: Scale) -> list[tuple[str, float, NDArray[np.float64]]]:
    colours = scale.colours(tokens.score)
    return [(t, s, c) for (t, s), c in zip(tokens, colours, strict=True)]


def _span(text: str, score: float, colour: NDArray[np.float64]) -> str:
    ink = "#fff" if srgb_to_oklab(colour)[0] < _DARK else INK
    style = f"background:{_hex(colour)};color:{ink};padding:.1em .25em;border-radius:.2em"
    shown = markup.escape(_shown(text))
    return f'<span style="{style}" title="{markup.escape(number(score))}">{shown}</span> '


def _bar(scale: Scale) -> str:
    """The colours and what they mean."""
    low, high = scale.ends
    stops = ",".join(_hex(c) for c in scale.colours(scale.ramp(9)))
    style = (
        f"display:inline-block;width:9em;height:.5em;background:linear-gradient(to right,{stops})"
    )
    said = legend([scale]) if scale.limit else "All zero."
    said += f" Colours {scale.text}." if scale.clipped else ""
    return (
        f'<div style="font-size:11px;color:{FAINT};margin-top:.6em">{low} '
        f'<span style="{style}"></span> {high} &#160; {markup.escape(said)}</div>'
    )


def tokens_terminal(
    tokens: Tokens | Sequence[Tokens],
    *,
    colour: bool | None = None,
    width: int = 80,
    percent: float = 100.0,
) -> str:
    """Text for a terminal: coloured by 24-bit escape codes, or with the scores in numbers.

    colour: None asks the terminal: colours where standard output is one, ``NO_COLOR`` is not set
        and ``TERM`` is not "dumb".
    width: columns to break lines at. Control characters in tokens are spelled out.

    Example:
        >>> import numpy as np
        >>> from whence.tokens import Tokens
        >>> print(tokens_terminal(Tokens(("good", "film"), np.array([2.0, -0.5])), colour=False))
        good(2) film(−0.5)
    """
    coloured = _can_colour() if colour is None else colour
    blocks = []
    for item in _listed(tokens):
        scale = _scale(item, percent)
        lines, line, used = [], "", 0
        for text, score, tint in _coloured(item, scale):
            shown = _shown(text)
            cell = _escape(f" {shown} ", tint) if coloured else f"{shown}({number(score)}) "
            columns = _columns(shown) + 2 if coloured else _columns(cell)
            if used and used + columns > width:
                lines.append(line.rstrip() if not coloured else line)
                line, used = "", 0
            line, used = line + cell, used + columns
        lines.append(line if coloured else line.rstrip())
        head = [_words(item)] if _words(item) else []
        blocks.append("\n".join([*head, *lines]))
    return "\n\n".join(blocks)


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes: Chinese letters take two."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _can_colour() -> bool:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(getattr(sys.stdout, "isatty", lambda: False)())


def _escape(text: str, colour: NDArray[np.float64]) -> str:
    paper = ";".join(str(round(float(c) * 255)) for c in colour)
    ink = "255;255;255" if srgb_to_oklab(colour)[0] < _DARK else "31;35;40"
    return f"\x1b[48;2;{paper}m\x1b[38;2;{ink}m{text}\x1b[0m"


def draw_tokens(
    tokens: Tokens | Sequence[Tokens], *, percent: float = 100.0, title: str = ""
) -> Figure:
    """Coloured text as a picture: one text below the other, each with its own scale.

    percent: the percentile of |score| at which colours are clipped. title: above it all.
    Raises NotFinite for NaN or infinity, MissingFramework without matplotlib.
    """
    from whence.render.page import drawing

    with drawing():
        return _sheet(_listed(tokens), percent, title)


def _sheet(items: list[Tokens], percent: float, title: str) -> Figure:
    inner = _WIDTH - 2 * _MARGIN
    scales = [_scale(item, percent) for item in items]
    rows = [token_rows([_shown(t) for t in item.text], inner) for item in items]
    heads = [wrap(_words(item), inner, BODY, 2, True) if _words(item) else "" for item in items]
    name = wrap(title, inner, TITLE, 2, True) if title else ""
    foot = wrap(legend(scales), inner, SMALL, 4)

    def deep(words: str, size: float, gap: float) -> float:
        return (words.count("\n") + 1) * size * LINE + gap if words else 0.0

    bodies = [deep(h, BODY, 0.06) + len(r) * _ROW + 0.5 for h, r in zip(heads, rows, strict=True)]
    tall = 2 * _MARGIN + deep(name, TITLE, 0.1) + sum(bodies) + deep(foot, SMALL, 0.0)
    page = Page(_WIDTH, tall)
    y = _MARGIN
    if name:
        y = page.write(_MARGIN, y, name, TITLE, weight="bold") + 0.1
    for item, scale, laid, head, body in zip(items, scales, rows, heads, bodies, strict=True):
        top = page.write(_MARGIN, y, head, BODY, weight="bold") + 0.06 if head else y
        box = Box(_MARGIN, top, inner, len(laid) * _ROW)
        _tokens(page, box, laid, item.score, scale)
        page.colour_bar(_MARGIN, box.top + box.height + 0.08, 1.8, scale)
        if scale.clipped:
            page.write(_MARGIN + 2.0, box.top + box.height + 0.06, scale.text, SMALL, color=FAINT)
        y += body
    page.write(_MARGIN, y, foot, SMALL, color=FAINT)
    return page.figure
