"""Pictures as files and bytes: written whole or not at all, the same bytes for the same picture."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from whence.errors import FileError, unknown
from whence.render.page import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SUFFIXES", "image_bytes", "save"]

SUFFIXES = (".png", ".svg")
"""The kinds of file that ``save`` writes."""


def image_bytes(figure: Figure, kind: str = "png") -> bytes:
    """The figure as the content of a ``"png"`` or ``"svg"`` file, without time or version in it."""
    if f".{kind}" not in SUFFIXES:
        raise unknown("picture format", kind, [s[1:] for s in SUFFIXES])
    buffer = io.BytesIO()
    silent = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with drawing():
        figure.savefig(buffer, format=kind, dpi=figure.dpi, metadata=silent)
    return buffer.getvalue()


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure to a ``.png`` or ``.svg`` file, by its suffix; returns the path.

    The file appears whole or not at all: it is written under a temporary name beside its place and
    renamed. Raises UnknownName for another suffix and FileError where it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise unknown("picture format", path.suffix, SUFFIXES, f"Asked for: {path}.")
    content = image_bytes(figure, path.suffix.lower()[1:])
    temporary = None
    try:
        temporary = path.parent / f".whence-{secrets.token_hex(8)}"
        with open(temporary, "xb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException as reason:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(reason, OSError):
            why = reason.strerror or str(reason)
            raise FileError(
                f"the picture cannot be written to {path}: {why}; give a path in a folder that "
                "exists and can be written to"
            ) from reason
        raise
    return path
