"""Which layer an operation belongs to: the names that users know.

While a Keras model is traced, every layer call is noted: its path, which operations were traced
during it, and which tensors came out. Without Keras layers (``tf.Module``, a loaded SavedModel)
name scopes are all there is.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

__all__ = ["LayerCall", "LayerLog", "scope_of"]


@dataclass(eq=False)
class LayerCall:
    """One call of one layer while tracing."""

    layer: Any
    path: tuple[str, ...]
    type: str
    parameters: int
    graph: Any
    start: int
    end: int = -1
    outputs: list[Any] = field(default_factory=list)
    name: str = ""
    parent: LayerCall | None = None

    @property
    def is_model(self) -> bool:
        """Whether the layer is a model."""
        return isinstance(self.layer, sys.modules["keras"].Model)

    def outputs_in(self, graph: Any) -> list[Any]:
        """The tensors that came out and were made in ``graph``."""
        return [t for t in self.outputs if getattr(t, "graph", None) is graph]


class LayerLog:
    """The layer calls of one trace."""

    def __init__(self, root: object) -> None:
        self.root = root
        self.calls: list[LayerCall] = []
        self.open: list[LayerCall] = []

    @contextmanager
    def watching(self) -> Iterator[LayerLog]:
        """Note the calls of Keras layers in this thread until the context ends."""
        with watched_layers(self):
            yield self
        self.name_all()

    def called(self, layer: Any, run: Any) -> Any:
        """Run a layer's call and note it."""
        graph = tf.compat.v1.get_default_graph()
        if not isinstance(graph, tf.Graph) or tf.executing_eagerly():
            return run()
        parent = self.open[-1] if self.open else None
        above = parent.path if parent else ()
        call = LayerCall(
            layer, (*above, layer.name), type(layer).__name__, 0, graph, len(graph.get_operations())
        )
        call.parent = parent
        self.calls.append(call)
        self.open.append(call)
        try:
            outputs = run()
        finally:
            self.open.pop()
            call.end = len(graph.get_operations())
        call.outputs = [t for t in tf.nest.flatten(outputs) if tf.is_tensor(t)]
        call.parameters = sum(int(w.shape.num_elements() or 0) for w in weights_of(layer))
        return outputs

    def name_all(self) -> None:
        """Leave the model's own name out, as the layers' owner, and join the rest by dots."""
        parents = {id(c.parent) for c in self.calls}
        tops = [c for c in self.calls if c.parent is None]
        owners = [c for c in tops if c.layer is self.root and (id(c) in parents or c.is_model)]
        if not owners and len(tops) == 1 and id(tops[0]) in parents:
            owners = tops
        for call in self.calls:
            top = call
            while top.parent is not None:
                top = top.parent
            call.name = ".".join(call.path[1:] if top in owners else call.path)
        self.calls = [c for c in self.calls if c not in owners]

    def calls_in(self, graph: Any) -> list[LayerCall]:
        """The calls traced in one graph, in the order in which they began."""
        return [c for c in self.calls if c.graph is graph]

    def layers_of(self, graph: Any, operations: list[str]) -> dict[str, str]:
        """Operation name -> the innermost layer whose call traced it, among ``operations``."""
        found: dict[str, str] = {}
        # Inner calls begin later, so they write over the outer ones.
        for call in self.calls_in(graph):
            found.update(dict.fromkeys(operations[call.start : call.end], call.name))
        return found


def weights_of(layer: Any) -> list[Any]:
    """A layer's variables, its children's included; none before it is built."""
    try:
        return list(layer.weights)
    except (AttributeError, ValueError):
        return []


active = threading.local()
patching = threading.RLock()


@contextmanager
def watched_layers(log: LayerLog) -> Iterator[None]:
    """Let every Keras layer call of this thread pass through ``log.called``.

    The method of the class is exchanged while tracing and put back whatever happens; no layer
    object is touched, and calls in other threads go straight through.
    """
    keras = sys.modules.get("keras")
    if keras is None or not hasattr(keras, "Layer"):
        yield  # No Keras imported, no Keras layers.
        return
    with patching:
        before = keras.Layer.__call__

        def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
            current = getattr(active, "log", None)
            if current is None:
                return before(self, *args, **kwargs)
            return current.called(self, lambda: before(self, *args, **kwargs))

        outer = getattr(active, "log", None)
        active.log = log
        keras.Layer.__call__ = watched
        try:
            yield
        finally:
            keras.Layer.__call__ = before
            active.log = outer


def scope_of(name: str) -> str:
    """The name scope of an operation as a layer path: ``block/dense/MatMul`` -> ``block.dense``."""
    return ".".join(name.split("/")[:-1])
