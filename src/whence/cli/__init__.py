"""The shell: ``whence demo``, ``explain``, ``layers``, ``tape`` and ``methods``."""

from __future__ import annotations

from whence.cli.main import main

__all__ = ["main"]
