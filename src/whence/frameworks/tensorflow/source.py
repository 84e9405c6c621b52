"""A model, traced for one kind of input: what the reader reads."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from ...errors import ModelError
from ...tape import Array, Tape
from ..base import Inputs
from .cells import Cell, Level
from .fuse import finished
from .graph import Body
from .layers import LayerLog
from .reader import Reader

__all__ = ["Source", "call_key", "call_model", "flat_outputs", "signature", "trace"]


@dataclass(eq=False)
class Source:
    """A traced model: its instructions, what it captured, and how its outputs are named."""

    function: Any
    """The ConcreteFunction; it keeps what was captured alive."""
    body: Body
    names: list[str]
    """The inputs, in the order of the body's arguments."""
    outputs: list[str]
    structure: Callable[[Mapping[str, Any]], Any]
    scopes: bool
    """Whether the model has no layers, so that name scopes stand for them."""

    def cells(self, reader: Reader, arrays: Mapping[str, Array]) -> list[Cell]:
        """The body's arguments: the inputs, then what the trace captured."""
        given = [reader.input(name, arrays[name]) for name in self.names]
        captured = [
            Cell(a, Level.VARIABLE if a.dtype == tf.resource else Level.FIXED)
            for a in self.function.captured_inputs
        ]
        return given + captured

    def record(
        self, arrays: Mapping[str, Array], *, fold: bool = False, keep: Sequence[str] = ()
    ) -> Tape:
        """Run it, operation by operation, and write down what ran."""
        reader = Reader(scopes=self.scopes)
        cells = self.cells(reader, arrays)
        inputs = {n: node.out[0] for n, node in zip(self.names, reader.nodes, strict=True)}
        results = reader.run(self.body, cells)
        return finished(
            reader,
            inputs,
            {n: c.value or c.array for n, c in zip(self.outputs, results, strict=True)},
            self.structure,
            fold,
            keep,
        )

    def outputs_of(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name, by the traced function itself."""
        found = self.function(*(arrays[name] for name in self.names))
        return dict(zip(self.outputs, found, strict=True))

    def run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name, without changing any variable and without a tape."""
        reader = Reader(record=False)
        results = reader.run(self.body, self.cells(reader, arrays))
        return {n: c.array for n, c in zip(self.outputs, results, strict=True)}


def signature(arrays: Mapping[str, Array]) -> tuple[Any, ...]:
    """Names, shapes and types: what a trace is made for."""
    return tuple((name, tuple(a.shape), a.dtype.name) for name, a in arrays.items())


def call_key(inputs: Inputs) -> tuple[Hashable, ...]:
    """Where the arrays go in the model's call, and its other arguments."""
    args, kwargs = inputs.call(inputs.arrays)
    names = {id(a): name for name, a in inputs.arrays.items()}

    def leaf(x: Any) -> Hashable:
        if id(x) in names:
            return "array", names[id(x)]
        try:
            hash(x)
        except TypeError:
            return type(x).__name__, repr(x)
        return type(x).__name__, x

    return tuple(map(leaf, tf.nest.flatten((args, kwargs)))), repr(
        tf.nest.map_structure(lambda x: 0, (args, kwargs))
    )


def call_model(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call the model in inference mode."""
    kwargs = dict(kwargs)
    if not callable(model):
        model = serving(model)
    if "training" not in kwargs and takes_training(model):
        kwargs["training"] = False
    return model(*args, **kwargs)


def serving(model: Any) -> Callable[..., Any]:
    """The function to call in a loaded model that is not callable itself.

    Raises ModelError where it has none.
    """
    signatures = getattr(model, "signatures", None) or {}
    if callable(getattr(model, "serve", None)):
        return model.serve
    if len(signatures) == 0:
        raise ModelError(
            f"a {type(model).__name__} cannot be called: it has neither __call__ nor signatures. "
            "Give a Keras model, a tf.Module with __call__, a tf.function, or a SavedModel "
            "exported with a serving signature."
        )
    function = (
        signatures["serving_default"]
        if "serving_default" in signatures
        else next(iter(signatures.values()))
    )
    names = list(function.structured_input_signature[1])

    def serve(*args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], Mapping):
            return function(**args[0])
        return function(**dict(zip(names, args, strict=False)), **kwargs)

    return serve


def takes_training(model: Any) -> bool:
    """Whether the call accepts ``training``."""
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(model, keras.Layer):
        return True
    function = getattr(model, "python_function", None)
    if function is None and not inspect.isroutine(model):
        function = getattr(type(model).__call__, "python_function", None) or type(model).__call__
    try:
        return "training" in inspect.signature(function or model).parameters
    except (TypeError, ValueError):
        return False


def flat_outputs(outputs: Any) -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], Any]]:
    """Outputs by name, and how to put them back: ``output``, ``output0``..., or a dict's keys."""
    names: dict[str, Any] = {}

    def walk(x: Any, name: str) -> Callable[[Mapping[str, Any]], Any]:
        if tf.is_tensor(x) or isinstance(x, tf.Variable):
            names[name or "output"] = tf.convert_to_tensor(x)
            return lambda found: found[name or "output"]
        if isinstance(x, Mapping):
            parts = {k: walk(v, f"{name}.{k}" if name else str(k)) for k, v in x.items()}
            return lambda found: {k: part(found) for k, part in parts.items()}
        if isinstance(x, list | tuple):
            items = [walk(v, f"{name}.{i}" if name else f"output{i}") for i, v in enumerate(x)]
            kind = type(x)
            if hasattr(x, "_fields"):
                return lambda found: kind(*(item(found) for item in items))
            return lambda found: kind(item(found) for item in items)
        return lambda found: x

    return names, walk(outputs, "")


def trace(model: Any, inputs: Inputs, head: Callable[[Any], Array] | None = None) -> Source:
    """Trace the model's call for inputs of these shapes and types.

    Raises ModelError where it returns no array, or cannot be traced.
    """
    names = list(inputs.arrays)
    specs = [tf.TensorSpec(a.shape, a.dtype) for a in inputs.arrays.values()]
    kept: dict[str, Any] = {}
    log = LayerLog(model)

    def run(*arrays: Array) -> list[Array]:
        args, kwargs = inputs.call(dict(zip(names, arrays, strict=True)))
        outputs = call_model(model, args, kwargs)
        if head is not None:
            outputs = head(outputs)
        found, kept["structure"] = flat_outputs(outputs)
        kept["names"] = list(found)
        return list(found.values())

    with log.watching():
        function = concrete(run, specs)
    if not kept["names"]:
        raise ModelError(f"the {type(model).__name__} returned no array that could be explained")
    body = Body.of(function.graph, log)
    return Source(function, body, names, kept["names"], kept["structure"], scopes=not log.calls)


def concrete(run: Callable[..., Any], specs: Sequence[Any]) -> Any:
    """A ConcreteFunction of ``run``; Python branches on tensors are converted if there are any."""
    try:
        return tf.function(run, autograph=False).get_concrete_function(*specs)
    except tf.errors.OperatorNotAllowedInGraphError:
        return tf.function(run, autograph=True).get_concrete_function(*specs)
