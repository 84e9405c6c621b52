"""A TensorFlow model that takes the output of a layer, or an embedding, as one more input.

The model's trace is run operation by operation inside a graph of its own; where the place's array
is made, the array that was handed in takes its stead.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ...arrays import Array
from ...ops import Op
from ...tape import Tape
from ..base import Inputs
from .fuse import finished
from .graph import Body, Instruction
from .layers import patching
from .reader import Reader
from .source import Source, call_key

__all__ = ["wrap"]


def wrap(job: Any, places: Mapping[str, Any], inside: Callable[[Tape], Array] | None) -> Any:
    """The model with more inputs, as one that takes (their arrays, args, kwargs).

    places: name of the new input -> a layer's name, or the number of an embedding on the tape.
    inside: reads the explained place off the tape, where that is no output of the model; the result
    is then the model's only output.
    """
    # Kept with the user's model, so that its graphs are found again on the next call.
    key = (
        "places",
        tuple(places.items()),
        job.target.key if inside else None,
        call_key(job.inputs),
    )
    return job.framework.sources.get(job.model, key, lambda: WithPlaces(job, places, inside))


class WithPlaces:
    """``model(...)`` with the arrays at some places replaced.

    With ``inside`` it returns what that reads off the tape, else the model's own outputs.
    """

    def __init__(self, job: Any, places: Mapping[str, Any], inside: Any) -> None:
        self.framework = job.framework
        # The store must not keep the model alive; whoever calls this holds it.
        bound = inspect.ismethod(job.model)
        self.model = weakref.WeakMethod(job.model) if bound else weakref.ref(job.model)
        self.inputs: Inputs = job.inputs
        self.places = places
        self.inside = inside
        keras = sys.modules.get("keras")
        self.plain = None if keras is None else keras.Layer.__call__

    def __call__(self, swaps: Mapping[str, Any], args: Any, kwargs: Any) -> Any:
        arrays = self._arrays(args, kwargs)
        with _unwatched(self.plain):
            source = self.framework.source(self.model(), self.inputs.replaced(arrays), None)
        # Run once to see which operation makes each array; what is not used of it is not compiled.
        first = _Watched(source.scopes, {})
        tape = _tape(source, first, arrays)
        wanted: dict[tuple[int, int], Array] = {}
        for name, place in self.places.items():
            value = (
                tape.at(place)
                if isinstance(place, str)
                else [n for n in tape.nodes if n.kind is Op.EMBEDDING][place].out[0]
            )
            wanted[first.made[id(value)]] = swaps[name]
        tape = _tape(source, _Watched(source.scopes, wanted), arrays)
        if self.inside is not None:
            return self.inside(tape)
        found = {k: getattr(v, "array", v) for k, v in tape.outputs.items()}
        return tape.structure(found) if tape.structure is not None else found

    def _arrays(self, args: Any, kwargs: Any) -> dict[str, Array]:
        """Names for the arrays of a call, by where the original call puts its own."""
        import tensorflow as tf

        marks = {k: _Mark(k) for k in self.inputs.arrays}
        there = tf.nest.flatten(self.inputs.call(marks))
        here = tf.nest.flatten((args, kwargs))
        return {m.name: a for m, a in zip(there, here, strict=True) if isinstance(m, _Mark)}


@contextmanager
def _unwatched(plain: Any) -> Iterator[None]:
    """Keras layers as they are outside a trace: this call is traced within another one's watch."""
    if plain is None:
        yield
        return
    with patching:
        layer = sys.modules["keras"].Layer
        watched = layer.__call__
        layer.__call__ = plain
        try:
            yield
        finally:
            layer.__call__ = watched


@dataclass(frozen=True)
class _Mark:
    name: str


class _Watched(Reader):
    """A reader that knows which operation made a value, and exchanges some."""

    def __init__(self, scopes: bool, swaps: Mapping[tuple[int, int], Array]) -> None:
        super().__init__(scopes=scopes)
        self.swaps = swaps
        self.count = 0
        self.made: dict[int, tuple[int, int]] = {}
        self.kept: list[Any] = []

    def execute(self, body: Body, instruction: Instruction, inputs: list[Any]) -> list[Any]:
        self.count += 1
        number = self.count
        cells = super().execute(body, instruction, inputs)
        for place, cell in enumerate(cells):
            if cell.value is not None and id(cell.value) not in self.made:
                self.made[id(cell.value)] = (number, place)
                self.kept.append(cell.value)
            if (number, place) in self.swaps:
                cell.array = self.swaps[number, place]
                if cell.value is not None:
                    cell.value._array = cell.array
        return cells


def _tape(source: Source, reader: Reader, arrays: Mapping[str, Array]) -> Tape:
    cells = source.cells(reader, arrays)
    inputs = {n: node.out[0] for n, node in zip(source.names, reader.nodes, strict=True)}
    results = reader.run(source.body, cells)
    outputs = {n: c.value or c.array for n, c in zip(source.outputs, results, strict=True)}
    return finished(reader, inputs, outputs, source.structure, False, ())
