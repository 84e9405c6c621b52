"""Words in pictures: numbers, percentages, and strings from elsewhere, shown as they are.

Labels come from files, models and users. None of it is markup: control characters are made
visible, and all text is drawn with mathematical typesetting off.
"""

from __future__ import annotations

import functools
import unicodedata

__all__ = ["families", "number", "percentage", "plain", "width_of", "wrap"]

_JOINERS = "\u200c\u200d"  # invisible, yet part of correct spelling in Persian, Hindi and others
_BREAKS = " -_./,:;"
_SPACE = "\N{NO-BREAK SPACE}"  # keeps a number and its sign on one line
# Fonts with the scripts that DejaVu Sans lacks, used where the machine has them.
_FURTHER = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Hiragino Sans", "Yu Gothic",
    "Microsoft YaHei", "PingFang SC", "Noto Sans Devanagari", "Noto Sans",
)  # fmt: skip


def plain(text: object) -> str:
    r"""The text with line breaks, control and direction-changing characters spelled out.

    Example:
        >>> plain("a\nb $x$")
        'a\\nb $x$'
    """
    return "".join(
        c if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or c in _JOINERS
        else c.encode("unicode_escape").decode()
        for c in str(text)
    )  # fmt: skip


def number(value: float, digits: int = 3) -> str:
    """A few digits, a true minus, a short exponent: ``0.127``, ``−1.2e−5``, ``31416``."""
    value = float(value)
    if value == 0.0:
        return "0"
    text = f"{value:.{digits}g}" if abs(value) >= 1e-3 else f"{value:.{digits - 1}e}"
    if "e" in text:
        head, tail = text.split("e")
        head = head.rstrip("0").rstrip(".") if "." in head else head
        text = f"{value:.0f}" if 0 < int(tail) < 5 else f"{head}e{int(tail)}"
    return text.replace("-", "\N{MINUS SIGN}")


def percentage(part: float) -> str:
    """A part of one: ``0.973 -> "97 %"``, small ones with digits, ``2500 -> "2500×"`` beyond 10."""
    part = float(part)
    size = abs(part)
    if size != size or size == float("inf"):
        return "undefined"
    if 0.0 < size < 0.001:
        return f"<{_SPACE}0.1{_SPACE}%"
    if size > 10.0:
        return f"{number(part)}×"
    if 0.995 <= size < 1.0:
        digits = f"{min(size, 0.999) * 100:.1f}"  # never rounds up to certainty
    else:
        digits = f"{size * 100:.1f}" if 0.0 < size < 0.1 else f"{size * 100:.0f}"
    return ("\N{MINUS SIGN}" if part < 0 else "") + f"{digits}{_SPACE}%"


@functools.cache
def families() -> tuple[str, ...]:
    """The font families to draw with, in order, all of them installed."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return ("DejaVu Sans", *(name for name in _FURTHER if name in installed))


@functools.lru_cache(maxsize=8192)
def width_of(text: str, size: float, bold: bool = False) -> float:
    """How wide one line is, in inches, at ``size`` points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=list(families()), size=size, weight="bold" if bold else "normal")
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0]) / 72.0 * 1.02


def _lines(text: str, width: float, size: float, bold: bool) -> list[str]:
    """Greedy line breaking: at spaces and punctuation, inside a word only where it must be."""
    lines, line, cut = [], "", 0  # cut: how much of `line` may stay when it grows too wide
    for i, letter in enumerate(text):
        line += letter
        if len(line) > 1 and width_of(line.rstrip(), size, bold) > width:
            cut = cut or len(line) - 1
            lines.append(line[:cut].rstrip())
            line, cut = line[cut:], 0
        if letter in _BREAKS and not (letter in ".,:" and text[i + 1 : i + 2].isdigit()):
            cut = len(line)
    return [*lines, line.rstrip()] if line.strip() or not lines else lines


@functools.lru_cache(maxsize=8192)
def wrap(text: str, width: float, size: float, lines: int = 2, bold: bool = False) -> str:
    """The text in at most ``lines`` lines of ``width`` inches; too long, its middle becomes "…".

    The middle, since layer names and paths are told apart by how they begin and end.
    """
    text = plain(text).strip()[:2000]
    broken = _lines(text, width, size, bold)
    low, high = 0, len(text) - 1  # characters kept
    while len(broken) > lines and low < high:
        keep = (low + high + 1) // 2
        trial = _lines(_middle(text, keep), width, size, bold)
        low, high = (keep, high) if len(trial) <= lines else (low, keep - 1)
    if len(broken) > lines:
        broken = _lines(_middle(text, low), width, size, bold)[:lines]
    return "\n".join(broken)


def _middle(text: str, keep: int) -> str:
    tail = keep // 2
    return text[: keep - tail] + "…" + (text[-tail:] if tail else "")
