"""Models by name or path, with the preprocessing and class names that belong to them."""

from __future__ import annotations

from whence.models.loaded import LoadedModel
from whence.models.loading import SOURCES, load

__all__ = ["SOURCES", "LoadedModel", "load"]
