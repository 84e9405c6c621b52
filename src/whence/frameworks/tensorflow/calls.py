"""One operation of a graph as a Python function of its operands, through ``tf.raw_ops``."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import tensorflow as tf

from ...errors import ModelError
from ...tape import Array

__all__ = ["attribute", "caller", "jitted"]

Call = Callable[..., list[Array]]
"""Operands, one after the other -> results, one after the other."""


@cache
def raw(op: str) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """The function of ``tf.raw_ops`` for an op, and the names of its parameters."""
    function = getattr(tf.raw_ops, op, None)
    if function is None:
        raise ModelError(
            f"cannot run the operation {op!r} on its own: it is not in tf.raw_ops of TensorFlow "
            f"{tf.__version__}. Gradient methods, which run the model as a whole, still work."
        )
    return function, tuple(inspect.signature(function).parameters)


def attribute(value: Any) -> Any:
    """An attribute of a graph's node as the Python object that ``tf.raw_ops`` takes."""
    kind = value.WhichOneof("value")
    if kind == "type":
        return tf.dtypes.as_dtype(value.type)
    if kind == "shape":
        return tf.TensorShape(value.shape)
    if kind == "tensor":
        return tf.make_ndarray(value.tensor)
    if kind == "func":
        return value.func.name
    if kind == "list":
        entries = value.list
        for name in ("s", "i", "f", "b"):
            if len(getattr(entries, name)):
                return list(getattr(entries, name))
        if len(entries.type):
            return [tf.dtypes.as_dtype(t) for t in entries.type]
        return [tf.TensorShape(s) for s in entries.shape]
    return getattr(value, kind) if kind else None


def caller(node: Any, definition: Any) -> Call:
    """The Python function that runs ``node`` (a NodeDef) on given operands.

    definition: the op's OpDef, which says how operands and results are grouped into lists.
    Raises ModelError where the op has no public function.
    """
    function, parameters = raw(node.op)
    groups: list[tuple[str, int, int, bool]] = []
    start = 0
    free = [p for p in parameters if p not in {a.name for a in definition.input_arg}]
    for argument in definition.input_arg:
        count, many = 1, False
        if argument.number_attr:
            count, many = node.attr[argument.number_attr].i, True
        elif argument.type_list_attr:
            count, many = len(node.attr[argument.type_list_attr].list.type), True
        # A few operands were renamed in Python; they keep their place.
        name = argument.name if argument.name in parameters else free.pop(0)
        groups.append((name, start, start + count, many))
        start += count
    fixed = {
        a.name: attribute(node.attr[a.name])
        for a in definition.attr
        if a.name in parameters and a.name in node.attr
    }

    def call(*operands: Array) -> list[Array]:
        given = {name: list(operands[i:j]) if many else operands[i] for name, i, j, many in groups}
        return flat(function(**given, **fixed))

    return call


COMPILED: OrderedDict[Any, Any] = OrderedDict()
"""Functions that XLA compiled, the one used longest ago first."""

COMPILED_LIMIT = 64


def jitted(node: Any, definition: Any) -> Call:
    """The same as ``caller``, compiled by XLA once per attributes, shapes and types."""
    plain = caller(node, definition)
    attributes = tuple(sorted((k, v.SerializeToString()) for k, v in node.attr.items()))

    def call(*operands: Array) -> list[Array]:
        key = node.op, attributes, tuple((tuple(o.shape), o.dtype.name) for o in operands)
        if key not in COMPILED:
            specs = [tf.TensorSpec(o.shape, o.dtype) for o in operands]
            function = tf.function(plain, jit_compile=True, autograph=False)
            COMPILED[key] = function.get_concrete_function(*specs)
        COMPILED.move_to_end(key)
        while len(COMPILED) > COMPILED_LIMIT:
            COMPILED.popitem(last=False)
        return flat(COMPILED[key](*operands))

    return call


def flat(results: Any) -> list[Array]:
    """What a raw op returned (a tensor, a list, a named tuple of both, nothing) as one list."""
    if results is None or isinstance(results, tf.Operation):
        return []
    if isinstance(results, Sequence):
        return [tensor for part in results for tensor in flat(part)]
    return [results]
