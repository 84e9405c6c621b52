"""The narrow waist: what a framework must give, so that everything else is written once.

``Framework`` runs and records models; the array functions that go with it are
``arrays.Functions``. A new framework is one class of each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from ..arrays import Array, Functions
from ..tape import Tape

__all__ = ["Expectation", "Framework", "Functions", "Inputs", "Program", "Score"]


@dataclass(frozen=True)
class Inputs:
    """What a model is called with: the arrays by name, and how to put them back in place.

    ``arrays`` keeps only arrays, already the framework's own; other arguments (``use_cache=False``)
    stay in ``call``. A single array is named ``input``, items of a tuple ``input0``, ``input1``...,
    items of a dict by their keys.
    """

    arrays: Mapping[str, Array]
    call: Callable[[Mapping[str, Array]], tuple[tuple[Any, ...], dict[str, Any]]]
    """Arrays by name -> (args, kwargs) of the model's call."""
    restore: Callable[[Mapping[str, Any]], Any]
    """Results by name -> the structure and array type that the caller used."""

    @property
    def batch(self) -> int:
        """How many samples: the length of the first array's first axis."""
        return int(next(iter(self.arrays.values())).shape[0])

    def replaced(self, arrays: Mapping[str, Array]) -> Inputs:
        """The same call with other arrays under the same names."""
        return Inputs({**self.arrays, **arrays}, self.call, self.restore)


@dataclass(frozen=True)
class Expectation:
    """What a model's first layer says about the input it wants; None where it does not say."""

    rank: int | None = None
    """Number of axes, the batch included."""
    channels: int | None = None
    channel_axis: int | None = None
    layer: str = ""
    tokens: bool = False
    """Whether the model starts at an embedding and wants whole numbers."""
    vocabulary: int | None = None
    """How many tokens that embedding holds."""


Program = Callable[..., Any]
"""``program(tape, **arguments) -> dict, list, tuple or array``: pure, traceable array code.

In the result, arrays come back as arrays; everything that is not an array must not depend on the
numbers (names, kinds), since a compiling framework keeps it from the first run.
"""

Score = Callable[..., Any]
"""``score(outputs, **arguments) -> (scores, extras)``: outputs by name -> (batch,) numbers and a
dict of further arrays to return."""


class Framework(ABC):
    """One framework: finds, runs and records its models, and never changes them.

    Every method leaves the model exactly as it was, also when it raises: mode, gradients, hooks,
    buffers, weights, random state.
    """

    name: str
    channels: str
    """Where this framework's convolutions keep channels by default: ``"first"`` or ``"last"``."""
    xp: Functions

    @abstractmethod
    def accepts(self, model: object) -> bool:
        """Whether ``model`` is one of this framework's models (or a callable of its arrays)."""

    @abstractmethod
    def owns(self, array: object) -> bool:
        """Whether ``array`` is this framework's array type."""

    @abstractmethod
    def convert(self, array: Any, model: object) -> Array:
        """A NumPy array (or another's) as this framework's, on the model's device.

        Floating arrays take the model's floating type; arrays that are already this framework's are
        returned as they are.
        """

    @abstractmethod
    def call_style(self, model: object, x: Any) -> str:
        """How the model takes ``x``.

        ``"args"`` spreads a tuple, ``"kwargs"`` spreads a dict, ``"one"`` is one argument.
        """

    @abstractmethod
    def record(
        self,
        model: object,
        inputs: Inputs,
        *,
        head: Callable[[Any], Array] | None = None,
        lean: bool = False,
        fold: bool = False,
        keep: Sequence[str] = (),
    ) -> Tape:
        """Run the model in inference mode and write down what ran.

        head: called on what the model returned, and recorded too; its result replaces the outputs.
        lean: let go of outputs that only relevance rules read (they are computed again on demand).
        fold: join an AFFINE op (inference batch-norm) to the CONV, DENSE or AFFINE before it.
        keep: layers whose outputs must stay on the tape, so are not folded away.
        Raises ModelError where a call cannot be recorded, naming the way out.
        """

    @abstractmethod
    def compute(
        self,
        model: object,
        inputs: Inputs,
        program: Program,
        *,
        key: Hashable,
        arguments: Mapping[str, Array] | None = None,
        head: Callable[[Any], Array] | None = None,
        lean: bool = False,
        fold: bool = False,
        keep: Sequence[str] = (),
    ) -> Any:
        """``program(record(model, inputs, head), **arguments)``, compiled where that is possible.

        key: names the program; two calls with the same model, key, head, input and argument shapes
        run the same compiled graph. The tape is used up.
        """

    @abstractmethod
    def gradient(
        self,
        model: object,
        inputs: Inputs,
        score: Score,
        *,
        key: Hashable,
        arguments: Mapping[str, Array] | None = None,
        head: Callable[[Any], Array] | None = None,
    ) -> tuple[dict[str, Array | None], Array, dict[str, Array]]:
        """The framework's own gradient of ``sum(score)`` with respect to every floating input.

        head: called on what the model returned; ``score`` then sees its result as ``output``.
        Returns (gradients by input name, None where there is no path; scores (batch,); extras).
        No tape is made.
        """

    @abstractmethod
    def predict(self, model: object, inputs: Inputs) -> dict[str, Array]:
        """The model's outputs by name, in inference mode.

        ``output`` for a single array, the names of a dict or dataclass, ``output0``, ``output1``...
        for a tuple.
        """

    @abstractmethod
    def expectation(self, model: object) -> Expectation:
        """What the model's first layer says about its input."""

    @abstractmethod
    def summary(self, model: object) -> str:
        """One line: class of the model, number of parameters, floating type."""

    def passive(self) -> AbstractContextManager[Any]:
        """While this is active, arithmetic on arrays remembers nothing for a later gradient."""
        return nullcontext()

    @abstractmethod
    def version(self) -> str:
        """The framework's version."""
