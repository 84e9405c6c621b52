"""What can be said of a TensorFlow model without running it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from ..base import Expectation

__all__ = ["describe", "expected", "floating_type", "style", "variables_of"]


def keras_kind(model: object, name: str) -> bool:
    """Whether ``model`` is of a class of Keras, if Keras is there."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, getattr(keras, name))


def is_functional(model: object) -> bool:
    """Whether this is a Keras model that takes one nest of arrays: functional or sequential."""
    if not keras_kind(model, "Model"):
        return False
    keras = sys.modules["keras"]
    if isinstance(model, keras.Sequential):
        return True
    # A functional model keeps the call of Keras; a subclass of it writes its own.
    call: Any = type(model).call  # type: ignore[attr-defined]
    own = getattr(call, "__module__", "").startswith("keras.")
    return own and getattr(model, "inputs", None) is not None


def variables_of(model: object) -> list[Any]:
    """The model's variables; none where it does not say."""
    try:
        return list(getattr(model, "weights", None) or getattr(model, "variables", None) or [])
    except (AttributeError, ValueError):
        return []


def floating_type(model: object) -> Any:
    """The floating type that the model takes: its first input's, else its first weight's."""
    for tensor in getattr(model, "inputs", None) or []:
        dtype = tf.dtypes.as_dtype(tensor.dtype)
        if dtype.is_floating:
            return dtype
    for variable in variables_of(model):
        dtype = tf.dtypes.as_dtype(variable.dtype)
        if dtype.is_floating:
            return dtype
    return tf.float32


def style(model: object, x: Any) -> str:
    """How ``x`` goes into the call: spread over parameters, or as one argument."""
    if not isinstance(x, list | tuple | Mapping) or is_functional(model):
        return "one"
    names = parameters_of(model)
    if names is None:
        return "kwargs" if isinstance(x, Mapping) else "args"
    plain = [n for n in names if n not in ("self", "training", "mask")]
    if isinstance(x, Mapping):
        return "kwargs" if x and all(k in plain for k in x) else "one"
    return "args" if len(plain) >= len(x) and len(x) > 1 else "one"


def parameters_of(model: object) -> list[str] | None:
    """The names of the call's parameters; None where it takes any, or does not say."""
    if isinstance(model, tf.types.experimental.ConcreteFunction):
        return None
    call: Any = model
    if keras_kind(model, "Layer"):
        call = model.call  # type: ignore[attr-defined]
    elif not callable(model):
        return None
    elif not inspect.isroutine(model):
        call = getattr(model, "python_function", None) or type(model).__call__
        call = getattr(call, "python_function", call)
    try:
        found = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in found):
        return None
    return [p.name for p in found if p.kind is not p.VAR_KEYWORD]


def first_layers(model: Any) -> list[Any]:
    """A Keras model's layers in order, nested models opened."""
    found: list[Any] = []
    for layer in getattr(model, "layers", None) or [model]:
        nested = getattr(layer, "layers", None)
        found += first_layers(layer) if nested and layer is not model else [layer]
    return found


def expected(model: object) -> Expectation:
    """What a Keras model's input and first layer say."""
    if not keras_kind(model, "Layer"):
        return Expectation()
    shape = input_shape(model)
    rank = len(shape) if shape else None
    for layer in first_layers(model):
        kind = type(layer).__name__
        if kind == "Embedding":
            held = getattr(layer, "input_dim", None)
            return Expectation(rank, layer=layer.name, tokens=True, vocabulary=held)
        if "Conv" in kind and getattr(layer, "kernel_size", None):
            axis = -1 if getattr(layer, "data_format", "channels_last") == "channels_last" else 1
            rank = rank or len(layer.kernel_size) + 2
            channels = channels_of(layer) or (shape[axis] if shape else None)
            return Expectation(rank, channels, axis % rank, layer.name)
        if kind == "Dense" and getattr(layer, "kernel", None) is not None:
            last = None if rank is None else rank - 1
            return Expectation(rank, int(layer.kernel.shape[0]), last, layer.name)
    return Expectation(rank)


def input_shape(model: Any) -> tuple[int | None, ...] | None:
    """The shape of the only input, None for one that is not said."""
    inputs = getattr(model, "inputs", None)
    if inputs and len(inputs) == 1:
        return tuple(inputs[0].shape)
    return None


def channels_of(layer: Any) -> int | None:
    """How many channels a built convolution takes."""
    kernel = getattr(layer, "kernel", None)
    if kernel is None or not hasattr(kernel, "shape"):
        return None
    transposed = "Transpose" in type(layer).__name__
    count = int(kernel.shape[-1 if transposed else -2])
    return count * int(getattr(layer, "groups", 1) or 1)


def describe(model: object) -> str:
    """One line: name or class, parameters, floating type."""
    name = type(model).__name__
    if keras_kind(model, "Model") and name in ("Functional", "Sequential", "Model"):
        name = f"{getattr(model, 'name', name)} ({name})"
    variables = variables_of(model)
    count = sum(int(tf.TensorShape(v.shape).num_elements() or 0) for v in variables)
    return f"{name}, {count:,} parameters, {floating_type(model).name}"
