"""What can go wrong, each an exception that is also the natural built-in.

Every message says what was asked, what came, where, and what to do. Catch ``WhenceError`` for all
of them, or the built-in (``ValueError``, ``LookupError``...) that fits.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "FileError",
    "FileFormatError",
    "InputError",
    "MissingFramework",
    "MissingRule",
    "ModelError",
    "NotFinite",
    "OptionError",
    "TargetError",
    "UnknownName",
    "WhenceError",
    "nearest",
    "unknown",
]


class WhenceError(Exception):
    """The root of every error that whence raises on purpose."""

    def __str__(self) -> str:
        # KeyError and OSError format their arguments their own way; ours is always the message.
        return str(self.args[0]) if self.args else ""


class InputError(WhenceError, ValueError):
    """The input array does not suit the model: rank, channel order, type, emptiness."""


class TargetError(WhenceError, ValueError):
    """The number to explain does not exist, or nothing leads from it back to the input."""


class OptionError(WhenceError, ValueError):
    """An option of a method has a value that it cannot have."""


class UnknownName(WhenceError, LookupError):
    """A method, option, layer, class or model name that is not known; the nearest are listed."""


class ModelError(WhenceError, TypeError):
    """What was given as a model cannot be called, loaded or recorded."""


class MissingRule(WhenceError, LookupError):
    """An operation on the tape has no row in the rule table."""


class MissingFramework(WhenceError, ImportError):
    """A framework or an optional package that is needed is not installed."""


class NotFinite(WhenceError, ArithmeticError):
    """NaN or infinity in the input, an activation or the attribution."""


class FileError(WhenceError, OSError):
    """A file is missing, unreadable, too large, or cannot be written."""


class FileFormatError(WhenceError, ValueError):
    """A file is there but does not hold what it should."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names most like ``name``, best first; empty where none comes close."""
    names = list(dict.fromkeys(str(k) for k in known))
    folded = {n.casefold(): n for n in names}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=count, cutoff=0.6)
    return [folded[c] for c in close]


def unknown(what: str, name: object, known: Iterable[str], hint: str = "") -> UnknownName:
    """The error for a name that is not known, listing the nearest (or, if few, all) known ones.

    Example:
        >>> str(unknown("method", "salincy", ["saliency", "lrp"]))
        "no method named 'salincy'; did you mean 'saliency'? Known: 'lrp', 'saliency'."
    """
    names = sorted({str(k) for k in known})
    close = nearest(str(name), names)
    text = f"no {what} named {name!r}"
    if close:
        text += "; did you mean " + ", ".join(repr(c) for c in close) + "?"
    else:
        text += "."
    if len(names) <= 12:
        text += " Known: " + (", ".join(repr(n) for n in names) or "none") + "."
    if hint:
        text += " " + hint
    return UnknownName(text)
