"""One operation that ran, with what it takes to pull a cotangent through it or to run it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from ...tape import Array
from .cells import differentiable

__all__ = ["Params", "Step", "dense", "step_of"]


class Params(Mapping[str, Array]):
    """Parameters by name, each computed when it is first asked for (it may never be)."""

    def __init__(self, makers: Mapping[str, Callable[[], Array]]) -> None:
        self.makers = dict(makers)

    def __getitem__(self, name: str) -> Array:
        return self.makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


class Step:
    """An operation that ran: its tracked operands (slots), the results they reach (targets).

    The operation ran under a GradientTape of its own, so that its vector-Jacobian product is the
    framework's, and nothing else is kept alive by it.
    """

    __slots__ = (
        "function",
        "operands",
        "own_pull",
        "params",
        "results",
        "slots",
        "tape",
        "targets",
    )

    def __init__(
        self,
        function: Callable[..., Sequence[Array]],
        operands: Sequence[Array],
        slots: Sequence[int],
        results: Sequence[Array],
        targets: Sequence[int],
        tape: Any = None,
    ) -> None:
        self.function: Callable[..., Sequence[Array]] | None = function
        self.operands = list(operands)
        self.slots = list(slots)
        self.results = list(results)
        self.targets = list(targets)
        self.tape = tape
        self.params: dict[str, int] = {}
        """Which operand holds a parameter."""
        self.own_pull: Callable[..., tuple[Array, ...]] | None = None

    def pull(self, *cotangents: Array) -> tuple[Array, ...]:
        """One cotangent per target in, one array per slot out; zeros where nothing leads there."""
        if self.own_pull is not None:
            return self.own_pull(*cotangents)
        found = self.tape.gradient(
            [self.results[i] for i in self.targets],
            [self.operands[i] for i in self.slots],
            output_gradients=list(cotangents),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return tuple(dense(g) for g in found)

    def call(self, *inputs: Array, **params: Array) -> Array:
        """Run it again with other tracked operands, and the named parameters replaced.

        None leaves a parameter out, which only those can be that are not there.
        """
        operands = list(self.operands)
        for slot, array in zip(self.slots, inputs, strict=True):
            operands[slot] = array
        for name, array in params.items():
            if array is None and name not in self.params:
                continue  # There is none to leave out.
            if array is None or name not in self.params:
                raise TypeError(f"this operation has no parameter {name!r}")
            operands[self.params[name]] = array
        if self.function is None:
            raise RuntimeError("this operation was released already")
        return self.function(*operands)[self.targets[0]]

    def free(self) -> None:
        """Let the arrays go."""
        self.tape = self.function = self.own_pull = None
        self.operands, self.results = [], []


def dense(gradient: Any) -> Array:
    """A gradient as a tensor; that of a gather comes as indices and rows."""
    return tf.convert_to_tensor(gradient) if isinstance(gradient, tf.IndexedSlices) else gradient


def step_of(
    function: Callable[..., Sequence[Array]], operands: Sequence[Array], slots: Sequence[int]
) -> Step:
    """Run ``function`` on its operands under a tape that watches the slots."""
    operands = list(operands)
    seen: set[int] = set()
    for slot in slots:
        # One tensor in two places: each place needs a gradient of its own.
        if id(operands[slot]) in seen:
            operands[slot] = tf.identity(operands[slot])
        seen.add(id(operands[slot]))
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch([operands[i] for i in slots])
        results = list(function(*operands))
    targets = [i for i, r in enumerate(results) if differentiable(r)]
    return Step(function, operands, slots, results, targets, tape)
