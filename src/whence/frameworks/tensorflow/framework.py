"""TensorFlow: find, run and record its models."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ...tape import Array, Tape
from ..base import Expectation, Framework, Functions, Inputs, Program, Score
from .compiled import Compiled, Store, compiled
from .functions import TensorFlowFunctions
from .models import describe, expected, floating_type, style
from .source import Source, call_key, signature, trace

__all__ = ["TensorFlow"]

Head = Callable[[Any], Array] | None


class TensorFlow(Framework):
    """TensorFlow and Keras models, as ``whence.frameworks.base.Framework`` asks.

    A model is traced once per kind of input; recording runs the traced operations one by one, and
    ``compute`` does so inside one graph of its own, with the rules.
    """

    name = "tensorflow"
    channels = "last"
    xp: Functions = TensorFlowFunctions()

    def __init__(self) -> None:
        self.sources = Store()
        self.graphs = Store()
        self.traces = 0
        """How many graphs were traced so far, the models' own included."""

    def accepts(self, model: object) -> bool:
        """Whether this is a Keras model on TensorFlow, a tf.Module, function or SavedModel."""
        keras = sys.modules.get("keras")
        if keras is not None and isinstance(model, keras.Layer):
            return keras.config.backend() == "tensorflow"
        experimental = tf.types.experimental
        functions = experimental.GenericFunction, experimental.ConcreteFunction
        if isinstance(model, (tf.Module, *functions)):
            return True
        return isinstance(model, tf.__internal__.tracking.AutoTrackable)

    def owns(self, array: object) -> bool:
        """Whether this is a TensorFlow tensor or variable."""
        return isinstance(array, tf.Tensor | tf.Variable)

    def convert(self, array: Any, model: object) -> Array:
        """As a tensor, in the model's floating type where it is floating."""
        if isinstance(array, tf.Tensor):
            return array
        if isinstance(array, tf.Variable):
            return tf.convert_to_tensor(array)
        array = np.asarray(array)
        if np.issubdtype(array.dtype, np.floating):
            return tf.cast(tf.convert_to_tensor(array), floating_type(model))
        return tf.convert_to_tensor(array)

    def call_style(self, model: object, x: Any) -> str:
        """``one`` for functional Keras models; else by what the call's parameters say."""
        return style(model, x)

    def record(
        self,
        model: object,
        inputs: Inputs,
        *,
        head: Head = None,
        lean: bool = False,
        fold: bool = False,
        keep: Sequence[str] = (),
    ) -> Tape:
        """Run the model operation by operation, eagerly, and write down what ran.

        Every output is held, ``lean`` or not: eager TensorFlow keeps most of them in any case.
        """
        return self.source(model, inputs, head).record(inputs.arrays, fold=fold, keep=keep)

    def compute(
        self,
        model: object,
        inputs: Inputs,
        program: Program,
        *,
        key: Hashable,
        arguments: Mapping[str, Array] | None = None,
        head: Head = None,
        lean: bool = False,
        fold: bool = False,
        keep: Sequence[str] = (),
    ) -> Any:
        """The program on the tape, as one compiled graph, traced once per signature."""
        names, given = list(arguments or {}), dict(arguments or {})

        def run(arrays: Mapping[str, Array], others: Mapping[str, Array]) -> Any:
            tape = self.source(model, inputs, head).record(arrays, fold=fold, keep=keep)
            return program(tape, **others)

        place = ("compute", key, head, fold, tuple(keep))
        graph = self.graph(model, inputs, place, names, given, run)
        return graph([*inputs.arrays.values(), *given.values()])

    def gradient(
        self,
        model: object,
        inputs: Inputs,
        score: Score,
        *,
        key: Hashable,
        arguments: Mapping[str, Array] | None = None,
        head: Head = None,
    ) -> tuple[dict[str, Array | None], Array, dict[str, Array]]:
        """TensorFlow's own gradient, by ``tf.GradientTape`` around the model's call."""
        names, given = list(arguments or {}), dict(arguments or {})

        def run(arrays: Mapping[str, Array], others: Mapping[str, Array]) -> Any:
            floating = {n: a for n, a in arrays.items() if a.dtype.is_floating}
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(list(floating.values()))
                scores, extras = score(self.outputs(model, inputs, arrays, head), **others)
                total = tf.reduce_sum(scores)
            found = dict(zip(floating, tape.gradient(total, list(floating.values())), strict=True))
            dense = {n: None if g is None else tf.convert_to_tensor(g) for n, g in found.items()}
            return {n: dense.get(n) for n in arrays}, scores, dict(extras)

        graph = self.graph(model, inputs, ("gradient", key, head), names, given, run)
        return graph([*inputs.arrays.values(), *given.values()])

    def predict(self, model: object, inputs: Inputs) -> dict[str, Array]:
        """The model's outputs by name."""
        source = self.source(model, inputs, None)
        if not source.body.writes:
            return source.outputs_of(inputs.arrays)

        def run(arrays: Mapping[str, Array], others: Mapping[str, Array]) -> Any:
            return source.run(arrays)

        return self.graph(model, inputs, ("predict",), [], {}, run)(list(inputs.arrays.values()))

    def expectation(self, model: object) -> Expectation:
        """What the first layer of a Keras model says about its input."""
        return expected(model)

    def summary(self, model: object) -> str:
        """``ResNet50, 25,636,712 parameters, float32``."""
        return describe(model)

    def version(self) -> str:
        """TensorFlow's version."""
        return str(tf.__version__)

    def source(self, model: object, inputs: Inputs, head: Head) -> Source:
        """The traced model, from the store where it was traced before."""

        def make() -> Source:
            self.traces += 1
            return trace(model, inputs, head)

        key = (signature(inputs.arrays), call_key(inputs), head)
        return self.sources.get(model, key, make)

    def outputs(
        self, model: object, inputs: Inputs, arrays: Mapping[str, Array], head: Head
    ) -> dict[str, Array]:
        """The model's own outputs by name, by its trace.

        A model that writes into its variables (a recurrent state, the seed of a random layer) is
        run operation by operation, with the writing left out.
        """
        source = self.source(model, inputs, head)
        return source.run(arrays) if source.body.writes else source.outputs_of(arrays)

    def graph(
        self,
        model: object,
        inputs: Inputs,
        key: tuple[Hashable, ...],
        names: list[str],
        given: Mapping[str, Array],
        run: Callable[[Mapping[str, Array], Mapping[str, Array]], Any],
    ) -> Compiled:
        """The compiled graph for a key, from the store where it was compiled before."""

        def make() -> Compiled:
            self.traces += 1

            def flat(*arrays: Array) -> Any:
                count = len(inputs.arrays)
                return run(
                    dict(zip(inputs.arrays, arrays[:count], strict=True)),
                    dict(zip(names, arrays[count:], strict=True)),
                )

            return compiled(flat, [*inputs.arrays.values(), *given.values()])

        place = (*key, signature(inputs.arrays), call_key(inputs), signature(given))
        return self.graphs.get(model, place, make)
