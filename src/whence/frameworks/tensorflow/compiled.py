"""Compiled graphs, one per model, input signature and program; kept while the model lives."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import tensorflow as tf

from ...tape import Array

__all__ = ["Compiled", "Store", "compiled", "packed"]

LIMIT = 24
"""How many graphs are kept per model; the one used longest ago goes first."""


class Store:
    """Least-recently-used entries per model, which are forgotten with the model.

    Entries must not refer to the model, or it would live for ever.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.kept: dict[Hashable, OrderedDict[Hashable, Any]] = {}
        self.lock = threading.RLock()

    def get(self, model: Any, key: Hashable, make: Callable[[], Any]) -> Any:
        """The entry for a model and a key, made where it is missing."""
        with self.lock:
            owner, part = owner_of(model)
            entries = self.entries(owner)
            place = (part, key)
            if place in entries:
                entries.move_to_end(place)
                return entries[place]
            found = make()
            entries[place] = found
            while len(entries) > self.limit:
                entries.popitem(last=False)
            return found

    def entries(self, owner: Any) -> OrderedDict[Hashable, Any]:
        """The entries of one model."""
        name = id(owner)
        if name not in self.kept:
            self.kept[name] = OrderedDict()
            try:
                weakref.finalize(owner, self.kept.pop, name, None).atexit = False
            except TypeError:
                # It cannot be watched, so it is kept: its place must not go to another object.
                self.kept[name]["owner"] = owner
        return self.kept[name]


def owner_of(model: Any) -> tuple[Any, Hashable]:
    """The object that a model lives and dies with; a bound method is made anew on every access."""
    owner = getattr(model, "__self__", None)
    function = getattr(model, "__func__", None)
    return (owner, function) if owner is not None and function is not None else (model, None)


@dataclass(eq=False)
class Compiled:
    """A graph that takes arrays in a fixed order and returns what ``rebuild`` puts together."""

    function: Any
    rebuild: Callable[[Sequence[Array]], Any]

    def __call__(self, arrays: Sequence[Array]) -> Any:
        """Run it."""
        return self.rebuild(list(self.function(*arrays)))


def compiled(run: Callable[..., Any], arrays: Sequence[Array]) -> Compiled:
    """Trace ``run`` for arrays like these; whatever is no array is kept from the trace."""
    kept: dict[str, Any] = {}

    def traced(*given: Array) -> list[Array]:
        leaves: list[Array] = []
        kept["rebuild"] = packed(run(*given), leaves)
        return leaves

    specs = [tf.TensorSpec(a.shape, a.dtype) for a in arrays]
    function = tf.function(traced, autograph=False).get_concrete_function(*specs)
    return Compiled(function, kept["rebuild"])


def packed(result: Any, leaves: list[Array]) -> Callable[[Sequence[Array]], Any]:
    """Collect the tensors of a nest of dicts, lists and tuples; returns how to rebuild the nest."""
    if isinstance(result, tf.Tensor | tf.Variable):
        place = len(leaves)
        leaves.append(tf.convert_to_tensor(result))
        return lambda arrays: arrays[place]
    if isinstance(result, Mapping):
        parts = {k: packed(v, leaves) for k, v in result.items()}
        return lambda arrays: {k: part(arrays) for k, part in parts.items()}
    if isinstance(result, list | tuple):
        items = [packed(v, leaves) for v in result]
        kind = type(result)
        if hasattr(result, "_fields"):
            return lambda arrays: kind(*(item(arrays) for item in items))
        return lambda arrays: kind(item(arrays) for item in items)
    if is_dataclass(result) and not isinstance(result, type):
        held = {f.name: packed(getattr(result, f.name), leaves) for f in fields(result)}
        return lambda arrays: replace(result, **{k: part(arrays) for k, part in held.items()})
    return lambda arrays: result
