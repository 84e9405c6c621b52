"""A model's outputs by name, and the way back to the structure that it returned."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ...errors import ModelError

__all__ = ["named_outputs"]


def named_outputs(result: Any) -> tuple[dict[str, torch.Tensor], Callable[[dict[str, Any]], Any]]:
    """Tensors by name: ``output``; keys of a dict or dataclass; ``output0``... of a tuple.

    Nested structures join their names with dots. Raises ModelError where there is no tensor.
    """
    found: dict[str, torch.Tensor] = {}
    _walk(result, "", found)
    if not found:
        raise ModelError(f"the model returned {type(result).__name__} without any tensor in it")
    return found, lambda arrays: _rebuild(result, "", arrays)


def _children(result: Any) -> list[tuple[str, Any]] | None:
    """(name, child) of a structure, None for a leaf."""
    if isinstance(result, Mapping):
        return [(str(k), v) for k, v in result.items()]
    if hasattr(result, "__dataclass_fields__") and not isinstance(result, type):
        return [(name, getattr(result, name)) for name in result.__dataclass_fields__]
    if hasattr(result, "_fields"):
        return [(name, getattr(result, name)) for name in result._fields]
    if isinstance(result, (tuple, list)):
        return [(f"output{i}", v) for i, v in enumerate(result)]
    return None


def _walk(result: Any, path: str, found: dict[str, torch.Tensor]) -> None:
    if isinstance(result, torch.Tensor):
        found[path or "output"] = result
        return
    for name, child in _children(result) or []:
        _walk(child, f"{path}.{name}" if path else name, found)


def _rebuild(result: Any, path: str, arrays: Mapping[str, Any]) -> Any:
    if isinstance(result, torch.Tensor):
        return arrays.get(path or "output", result)
    children = _children(result)
    if children is None:
        return result
    built = {n: _rebuild(c, f"{path}.{n}" if path else n, arrays) for n, c in children}
    if isinstance(result, Mapping):
        fresh = copy.copy(result)
        for key in result:
            fresh[key] = built[str(key)]  # type: ignore[index]
        return fresh
    if isinstance(result, (tuple, list)):
        items = list(built.values())
        return type(result)(*items) if hasattr(result, "_fields") else type(result)(items)
    fresh = copy.copy(result)
    for name, child in built.items():
        setattr(fresh, name, child)
    return fresh
