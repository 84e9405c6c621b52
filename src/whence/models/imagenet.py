"""The class names of ImageNet, read from what is installed without importing it.

torchvision writes them as a plain list in its sources. Parsing that list takes a hundredth of a
second and gives a Keras user the names without loading PyTorch.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path

__all__ = ["imagenet_classes"]


@functools.cache
def imagenet_classes(count: int = 1000) -> tuple[str, ...] | None:
    """The 1000 names in the usual order; None for another count or where they are not found."""
    if count != 1000:
        return None
    try:
        found = importlib.util.find_spec("torchvision")
        if found is None or not found.submodule_search_locations:
            return None
        source = Path(found.submodule_search_locations[0]) / "models" / "_meta.py"
        tree = ast.parse(source.read_text(encoding="utf-8"))
        names = next(_list_of(node) for node in tree.body if _names_imagenet(node))
    except (ImportError, OSError, ValueError, SyntaxError, StopIteration):
        # Another release may keep them elsewhere; names are a comfort, not a need.
        return None
    return names if len(names) == count else None


def _names_imagenet(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(
        isinstance(t, ast.Name) and t.id == "_IMAGENET_CATEGORIES" for t in node.targets
    )


def _list_of(node: ast.stmt) -> tuple[str, ...]:
    return tuple(ast.literal_eval(node.value)) if isinstance(node, ast.Assign) else ()
