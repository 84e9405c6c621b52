"""What ran: a model call written down as a list of operations on arrays.

A ``Tape`` holds ``Node``s in the order in which they ran. Each node is one operation of a known
kind (``whence.ops.Op``); the arrays that flow between nodes are ``Value``s. Only what depends on
the model's input is here: whatever else the model computed is a constant of the node that used it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .arrays import Array, Functions
from .errors import unknown
from .ops import Op

__all__ = ["Array", "LayerRecord", "Lazy", "Node", "Tape", "Value"]


class Value:
    """One array on the tape: which node made it, and its shape.

    ``array`` is the number content. A recorder may let go of an array that no rule needs; reading
    it then runs the node again.
    """

    __slots__ = ("_array", "_node", "dtype", "index", "shape", "tracked")

    def __init__(
        self, node: Node, index: int, array: Array, shape: Sequence[int], dtype: str, tracked: bool
    ) -> None:
        self.node = node
        self.index = index
        self.shape = tuple(shape)
        self.dtype = dtype
        self.tracked = tracked
        """Whether a gradient leads from here back to an input (False for whole numbers)."""
        self._array = array

    @property
    def node(self) -> Node:
        """The node that made it, while the tape lives.

        The link is weak: a node holds its results, and a ring would keep the arrays of a dropped
        tape in memory until the garbage collector comes by.
        """
        node = self._node()
        if node is None:
            raise RuntimeError("the tape that this value belongs to is gone; keep it in a variable")
        return node

    @node.setter
    def node(self, node: Node) -> None:
        self._node = weakref.ref(node)

    @property
    def array(self) -> Array:
        """The numbers, held or made again."""
        held = self._array
        return held() if callable(held) and not hasattr(held, "shape") else held

    def hold(self) -> None:
        """Keep the array from here on, even if no rule would."""
        self._array = self.array

    def release(self) -> None:
        """Let the array go; the walk calls this when nothing further needs it."""
        self._array = None

    def __repr__(self) -> str:
        return f"%{self.node.index}" + (f".{self.index}" if len(self.node.out) > 1 else "")


@dataclass(eq=False, slots=True, weakref_slot=True)
class Node:
    """One operation that ran.

    ``into`` are the tracked operands and ``out`` the results. ``inputs`` and ``output`` are their
    arrays. ``pull`` is the op's own vector-Jacobian product and ``call`` runs it again with other
    operands or parameters: with these two, rules are written once for every framework.
    """

    kind: Op
    op: str
    """The framework's name for it: ``conv2d``, ``Conv2D``."""
    layer: str
    """Where in the model it ran: ``layer3.0.conv2``; empty at the top."""
    into: tuple[Value, ...]
    out: tuple[Value, ...] = ()
    params: Mapping[str, Array] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    index: int = -1
    xp: Functions | None = None
    """The framework's array functions."""
    parts: tuple[Node, ...] = ()
    """The nodes that were folded into this one, in order."""
    _pull: Callable[..., tuple[Array, ...]] | None = None
    _call: Callable[..., Array] | None = None
    _free: Callable[[], None] | None = None
    _way_back: Callable[..., Callable[..., tuple[Array, ...]]] | None = None
    """``_way_back(weight, operand)``: the pull of a run with that weight, where it needs no run."""

    @property
    def inputs(self) -> tuple[Array, ...]:
        """The arrays of the tracked operands, in operand order."""
        return tuple(v.array for v in self.into)

    @property
    def output(self) -> Array:
        """The array of the only result that a gradient can reach."""
        return self.results[0].array

    @property
    def results(self) -> tuple[Value, ...]:
        """The results that a gradient can reach (``topk`` also returns places, which are not)."""
        return tuple(v for v in self.out if v.tracked)

    @property
    def offset(self) -> Array | None:
        """The part of the output that does not depend on the operand (a bias), or None.

        It broadcasts against the output.
        """
        offset = self.attrs.get("offset")
        return offset() if callable(offset) else offset

    def pull(self, *cotangents: Array) -> tuple[Array, ...]:
        """The vector-Jacobian product: one cotangent a result in, one array an operand out."""
        if self._pull is None:
            raise RuntimeError(f"the {self.op} at {self.layer or 'the top'} was released already")
        return self._pull(*cotangents)

    @property
    def pulls_any_batch(self) -> bool:
        """Whether ``pull`` also takes a cotangent of another number of samples."""
        return getattr(self._pull, "any_batch", False)

    def call(self, *inputs: Array, **params: Array) -> Array:
        """Run the op again on other operands, with the named parameters replaced."""
        if self._call is None:
            raise RuntimeError(f"{self.op} at {self.layer or 'the top'} cannot be run again")
        return self._call(*(inputs or self.inputs), **params)

    def rerun(
        self, *inputs: Array, **params: Array
    ) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
        """Run the op again as ``call`` does; returns its output and the way back through that run.

        A parameter given as None is left out.
        """
        if self.xp is None:
            raise RuntimeError(f"{self.op} has no array functions")
        if self._way_back is not None:
            weight = params["weight"] if "weight" in params else self.params["weight"]
            return self.call(*inputs, **params), self._way_back(weight, *inputs)
        return self.xp.vjp(lambda *arrays: self.call(*arrays, **params), inputs)

    def free(self) -> None:
        """Give back the memory that the op held for its backward pass."""
        if self._free is not None:
            self._free()
        if isinstance(self.params, Lazy):
            self.params.forget()
        self._pull = self._call = self._free = self._way_back = None
        self.parts = ()

    def __str__(self) -> str:
        shapes = ", ".join(f"{v!r}:{shown(v)}" for v in self.out)
        args = ", ".join(repr(v) for v in self.into)
        where = f"  @ {self.layer}" if self.layer else ""
        return f"{shapes} = {self.kind}.{self.op}({args}){where}"

    def __repr__(self) -> str:
        return (
            f"<Node {self.index} {self.kind}.{self.op}{' @ ' + self.layer if self.layer else ''}>"
        )


class Lazy(Mapping[str, Array]):
    """Parameters that are made when first asked for, each by a function, and then kept."""

    def __init__(self, makers: Mapping[str, Callable[[], Array]]) -> None:
        self._makers = dict(makers)
        self._made: dict[str, Array] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __contains__(self, name: object) -> bool:
        return name in self._makers  # without making it, as Mapping would

    def __getitem__(self, name: str) -> Array:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def forget(self) -> None:
        """Let go of what was made; it is made anew if it is asked for again."""
        self._made.clear()


def shown(value: Value) -> str:
    """A value's type and shape, short: ``float32[2,64,8,8]``."""
    return f"{value.dtype}[{','.join(map(str, value.shape))}]"


@dataclass(frozen=True)
class LayerRecord:
    """One call of one layer: what came out of it, and which nodes ran inside."""

    name: str
    type: str
    """The class of the layer: ``Conv2d``."""
    values: tuple[Value, ...]
    parameters: int
    """How many numbers the layer itself holds (its children included)."""


@dataclass(eq=False)
class Tape:
    """A recorded model call.

    Iterating gives the nodes in the order they ran; ``str(tape)`` prints them as a program.
    """

    nodes: list[Node]
    inputs: dict[str, Value]
    """The arrays that the caller gave, by name (``input``, or the keys of a dict)."""
    outputs: dict[str, Value | Array]
    """The arrays that the model returned, by name; one that is not tracked is a plain array."""
    layers: dict[str, list[LayerRecord]]
    """Per layer name, one record a call."""
    framework: str
    channels: str = "first"
    """Where channels stand unless an op says otherwise: ``"first"`` or ``"last"``."""
    notes: list[str] = field(default_factory=list)
    """What a reader should know: a ``no_grad`` that was passed through, and the like."""
    structure: Callable[[dict[str, Array]], Any] | None = None
    """Puts arrays by output name back into the model's own structure (tuple, dict, dataclass)."""

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def sources(self) -> list[Value]:
        """Where attributions can be read: float inputs, and the embeddings of whole-number ones."""
        floats = [v for v in self.inputs.values() if v.tracked]
        return floats + [n.out[0] for n in self.nodes if n.kind is Op.EMBEDDING]

    @property
    def main(self) -> str:
        """The name of the output that is meant when none is named: ``logits``, or the first."""
        return "logits" if "logits" in self.outputs else next(iter(self.outputs))

    @property
    def output(self) -> Array:
        """The array of the main output, exactly what the model returned."""
        value = self.outputs[self.main]
        return value.array if isinstance(value, Value) else value

    def at(self, layer: str) -> Value:
        """The (last) output of a layer; ``name#2`` means the layer's second call.

        Raises UnknownName, with the nearest names, where there is no such layer on the tape.
        """
        name, _, call = layer.partition("#")
        records = self.layers.get(layer) or self.layers.get(name)
        if (
            not records
            or (call and not call.isdigit())
            or (call and not 0 < int(call) <= len(records))
        ):
            raise unknown(
                "layer on the tape", layer, self.layers, "whence.layers(model, x) lists them."
            )
        values = records[int(call) - 1 if call else -1].values
        tracked = [v for v in values if v.tracked]
        return (tracked or list(values))[0]

    def __str__(self) -> str:
        lines = [str(node) for node in self.nodes]
        width = len(str(len(self.nodes)))
        program = "\n".join(f"{i:>{width}}  {line}" for i, line in enumerate(lines))
        returned = ", ".join(
            f"{k}={v!r}" if isinstance(v, Value) else f"{k}=constant"
            for k, v in self.outputs.items()
        )
        return f"{program}\n{' ' * width}  return {returned}"

    def free(self) -> None:
        """Give back everything that the tape holds; it cannot be walked afterwards."""
        for node in self.nodes:
            node.free()
            for value in node.out:
                value.release()
