"""Is a TensorFlow tape exact? A walk of its own, and ``tf.GradientTape`` to hold it against.

The walk here is not the library's: what the recorder says is checked with as little as possible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from whence.frameworks import find, gather
from whence.ops import Op
from whence.tape import Tape, Value

TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}
LINEAR = (Op.DENSE, Op.CONV, Op.AFFINE)


def record(model: Any, x: Any, **options: Any) -> Tape:
    """The tape of a model call, made as the library makes it."""
    framework = find(model, x)
    return framework.record(model, gather(framework, model, x), **options)


def walk(tape: Tape, seeds: Mapping[Value, tf.Tensor]) -> dict[Value, tf.Tensor]:
    """Cotangents at every value that one reaches, from seeds at some values."""
    found = dict(seeds)
    for node in reversed(tape.nodes):
        if node.into and any(v in found for v in node.results):
            here = [found.get(v, tf.zeros_like(v.array)) for v in node.results]
            for value, pulled in zip(node.into, node.pull(*here), strict=True):
                found[value] = found[value] + pulled if value in found else pulled
    return found


def gradients(tape: Tape, seed: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
    """Input gradients by name, through the tape, of the main output times the seed."""
    value = tape.outputs[tape.main]
    found = walk(tape, {value: tf.ones_like(value.array) if seed is None else seed})
    return {name: found[v] for name, v in tape.inputs.items() if v in found}


def native(model: Any, x: Any, seed: np.ndarray | None) -> tuple[Any, dict[str, tf.Tensor]]:
    """The framework's own main output and input gradients, called as a user calls it."""
    framework = find(model, x)
    inputs = gather(framework, model, x)
    arrays = {k: tf.identity(v) for k, v in inputs.arrays.items()}
    floats = {k: v for k, v in arrays.items() if v.dtype.is_floating}
    with tf.GradientTape() as tape:
        tape.watch(list(floats.values()))
        args, kwargs = inputs.call(arrays)
        if isinstance(model, keras.Layer):
            kwargs = {**kwargs, "training": False}
        outputs = model(*args, **kwargs)
        main = tf.nest.flatten(outputs)[0]
        weights = tf.ones_like(main) if seed is None else tf.constant(seed, main.dtype)
        total = tf.reduce_sum(main * weights)
    found = dict(zip(floats, tape.gradient(total, list(floats.values())), strict=True))
    return main, {k: tf.convert_to_tensor(v) for k, v in found.items() if v is not None}


def apart(ours: Any, theirs: Any) -> float:
    """Largest difference over largest number; infinite where shapes or types differ."""
    ours, theirs = tf.convert_to_tensor(ours), tf.convert_to_tensor(theirs)
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return float("inf")
    wide = np.complex128 if theirs.dtype.is_complex else np.float64
    a, b = (np.asarray(tf.cast(t, wide)) for t in (ours, theirs))
    scale, difference = np.abs(b).max(initial=0.0), np.abs(a - b).max(initial=0.0)
    return float(difference / scale) if scale else (0.0 if difference == 0 else float("inf"))


def seed_for(array: Any) -> np.ndarray:
    """A cotangent of the array's shape, the same on every call."""
    return np.random.default_rng(7).standard_normal(tuple(array.shape))


def exact(model: Any, x: Any, *, compiled: bool = True, tolerance: float | None = None) -> Tape:
    """Record both ways, eagerly and compiled; fail where anything differs from the framework's own.

    Returns the folded tape.
    """
    first = record(model, x)
    seed = seed_for(first.output)
    output, theirs = native(model, x, seed)
    limit = tolerance or TOLERANCE[output.dtype.name]
    if not theirs or not any(np.abs(g.numpy()).max() > 0 for g in theirs.values()):
        raise AssertionError(f"the gradient is zero, which shows nothing:\n{first}")
    for fold in (False, True):
        tape = record(model, x, fold=fold)
        ours = gradients(tape, tf.constant(seed, output.dtype))
        compare(output, theirs, tape.output, ours, limit, tape)
        if compiled:
            again = computed(model, x, seed, fold=fold)
            compare(output, theirs, again["output"], again["gradients"], limit, tape)
    return record(model, x, fold=True)


def compare(output: Any, theirs: Any, mine: Any, ours: Any, limit: float, tape: Tape) -> None:
    """Fail, with the tape, where outputs or gradients are further apart than the limit."""
    off = {"output": apart(mine, output)}
    if set(theirs) - set(ours):
        raise AssertionError(f"no gradient for {set(theirs) - set(ours)}:\n{tape}")
    off |= {k: apart(ours[k], g) for k, g in theirs.items()}
    if not max(off.values()) <= limit:
        raise AssertionError(f"off by {off}, {limit} allowed:\n{tape}")


def computed(model: Any, x: Any, seed: np.ndarray, *, fold: bool = False) -> dict[str, Any]:
    """Output and gradients by the compiled graph."""
    framework = find(model, x)
    inputs = gather(framework, model, x)

    def program(tape: Tape, seed: tf.Tensor) -> dict[str, Any]:
        value = tape.outputs[tape.main]
        return {
            "output": tape.output,
            "gradients": gradients(tape, tf.cast(seed, value.array.dtype)),
        }

    arguments = {"seed": tf.constant(seed)}
    return framework.compute(model, inputs, program, key="exact", arguments=arguments, fold=fold)


def sound(tape: Tape, limit: float = 1e-5) -> Tape:
    """Fail where a node does not keep its promises: call, params, offset, linearity, shapes."""
    for node in tape.nodes:
        if not node.into or len(node.results) != 1:
            continue
        z = node.output
        pulled = node.pull(tf.ones_like(z))
        if [tuple(p.shape) for p in pulled] != [v.shape for v in node.into]:
            raise AssertionError(f"{node} pulls to {[p.shape for p in pulled]}")
        again = {"plain": node.call(*node.inputs)}
        if node.params:
            again["params"] = node.call(*node.inputs, **{k: node.params[k] for k in node.params})
        if node.kind in LINEAR:
            offset = tf.zeros_like(z) if node.offset is None else node.offset + tf.zeros_like(z)
            again["twice"] = (node.call(node.inputs[0] * 2) + offset) / 2
            again["nothing"] = z + node.call(tf.zeros_like(node.inputs[0])) - offset
        for how, array in again.items():
            if not apart(array, z) <= limit:
                raise AssertionError(f"{node} ({how}) is off by {apart(array, z)}:\n{tape}")
    return tape


def kinds(tape: Tape) -> list[str]:
    """The kinds on a tape, in order, the inputs apart."""
    return [str(n.kind) for n in tape.nodes if n.kind is not Op.INPUT]


def lively(model: Any, seed: int = 0) -> Any:
    """The model with BatchNorm statistics and factors that are no longer 0 and 1."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                low, high = (
                    (-0.2, 0.2) if "mean" in weight.name or "beta" in weight.name else (0.7, 1.3)
                )
                weight.assign(rng.uniform(low, high, weight.shape))
    return model


def state(model: Any) -> Callable[[], bool]:
    """Call it later: is every weight, flag and random state what it was?"""

    def look() -> list[Any]:
        weights = model.weights if isinstance(model, keras.Layer) else model.variables
        flags = [layer.trainable for layer in getattr(model, "layers", [])]
        numbers = [np.asarray(w).tobytes() for w in weights]
        seeds = tf.random.get_global_generator().state.numpy().tolist()
        return [numbers, flags, seeds, keras.Layer.__call__]

    before = look()
    return lambda: look() == before
