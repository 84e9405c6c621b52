"""The recorder: a torch-function mode that runs each operation by itself and writes it down.

Every public call of PyTorch passes through ``Recorder.__torch_function__``. An operation on
tracked tensors is run on detached leaves, so that it owns a small autograd graph of its own, and
its backward rule is one ``torch.autograd.grad``. Nothing is written in place: see ``memory.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ...errors import ModelError
from ...ops import Op
from ...tape import Node, Value
from . import decompose
from .calls import Call, Kinded, Spec, flatten, rebuild, tensors_in
from .closed import closed_form, closed_pull, way_back
from .functions import TorchFunctions
from .holding import hold_operands, holds
from .kinds import classify, moves
from .memory import Memory, Track, address
from .names import ABOUT, CUT, LEARNS, LIKE, READ, VIEWS_IN_PLACE, plain_name
from .nodes import AutogradPull, LatePull, Rerun, leaf_of, released
from .writes import out_of_place, without_learning, written_to

__all__ = ["Recorder"]

Tensor = torch.Tensor
_XP = TorchFunctions()
_OVERWRITES = frozenset({"copy", "fill", "set data"})
"""Of the first operand only shape and type matter."""


class Recorder(TorchFunctionMode):
    """Writes nodes while active; ``track_of`` says what a tensor stands for.

    lean: hold only what gradients need. through_no_grad: record under the model's own ``no_grad``
    too. foreign: parameters, buffers and inputs, which must never be written to.
    """

    def __init__(self, *, lean: bool, through_no_grad: bool, foreign: Sequence[Tensor]) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.layer = ""
        self.lean = lean
        self.through_no_grad = through_no_grad
        self.blocked = False
        """Whether a tracked tensor went through the model's own ``no_grad`` and was cut there."""
        self._foreign = {id(t) for t in foreign}
        self._theirs = {address(t): t for t in foreign}
        """Memory that must not be written to: the model's, the caller's, constants on the tape."""
        self._theirs.pop(0, None)
        self._memory = Memory(self._run)

    def watch(self, name: str, array: Tensor) -> tuple[Tensor, Value]:
        """Start the tape at an input; returns the tensor to give to the model."""
        tracked = _is_number(array)
        node = Node(Op.INPUT, name, "", (), index=len(self.nodes), xp=_XP)
        leaf = leaf_of(array) if tracked else array.detach()
        value = Value(node, 0, array.detach(), array.shape, _XP.dtype(array), tracked)
        node.out = (value,)
        self.nodes.append(node)
        given = array.detach()
        track = Track(leaf, value) if tracked else Track(leaf, ids=name)
        self._memory.put(given, track)
        return given, value

    def track_of(self, tensor: Tensor) -> Track | None:
        """The track of a tensor object, or None for a constant."""
        with torch._C.DisableTorchFunction():
            return self._memory.find(tensor)

    def close(self) -> None:
        """The recording is over; only the nodes are needed from here on."""
        self._memory.close()
        self._theirs.clear()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = plain_name(func)
        kwargs = kwargs or {}
        if name in ABOUT:
            return func(*args, **kwargs)
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False), torch.no_grad():
                return self._called(func, name, args, kwargs)
        return self._called(func, name, args, kwargs)

    def _called(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("out") is not None:
            return self._into_out(func, name, args, kwargs)
        target = written_to(func, args, kwargs)
        if target is not None:
            return self._write(func, name, args, kwargs, target)
        return self._dispatch(func, name, args, kwargs)

    def _dispatch(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        flat, spec = flatten(args, kwargs)
        tracks = self._among(flat)
        if not tracks:
            if self._memory.hides(flat):
                raise self._refused(name, _TRANSFORMED)
            return func(*args, **kwargs)
        if all(t.value is None for t in tracks.values()):
            return self._constant(func, name, flat, spec, tracks)
        if name in READ:
            return self._plainly(func, flat, spec, tracks)
        if name in CUT or not (torch.is_grad_enabled() or self.through_no_grad):
            self.blocked = self.blocked or name not in CUT
            return self._cut(func, flat, spec, tracks)
        if name in _UNRECORDABLE:
            raise self._refused(name, _INNER_GRADIENT)
        spelled_out = decompose.find(func, name)
        if spelled_out is not None:
            with self:
                return spelled_out(*args, **kwargs)
        return self._apply(func, name, flat, spec, tracks)

    def _among(self, flat: Sequence[Any]) -> dict[int, Track]:
        """The tracks of the arguments that have one, by position."""
        found, find = {}, self._memory.find
        for i, argument in enumerate(flat):
            if isinstance(argument, Tensor):
                track = find(argument)
                if track is not None:
                    found[i] = track
        return found

    def _refused(self, name: str, reason: str) -> ModelError:
        here = f"the layer {self.layer!r}" if self.layer else "the model"
        return ModelError(f"{here} calls {name} {reason}")

    def _plainly(self, func: Any, flat: list[Any], spec: Spec, tracks: dict[int, Track]) -> Any:
        """Run on the numbers that the tensors stand for, and record nothing."""
        for i, track in tracks.items():
            flat[i] = track.content.detach() if track.value is not None else track.content
        args, kwargs = rebuild(flat, spec)
        return func(*args, **kwargs)

    def _cut(self, func: Any, flat: list[Any], spec: Spec, tracks: dict[int, Track]) -> Any:
        """A call through which no gradient leads; its results may still share memory."""
        with torch.no_grad():
            result = self._plainly(func, flat, spec, tracks)
        items, put_back = tensors_in(result)
        for place, item in enumerate(items):
            if isinstance(item, Tensor):
                items[place] = item = item.detach()
                sharing = [i for i in tracks if address(flat[i]) == address(item) != 0]
                if sharing:
                    self._memory.put(item, Track(item))
                    rerun = Rerun(func, flat, spec, sharing[:1], None)
                    step = rerun.view(place, single=len(items) == 1)
                    self._memory.share(item, tracks[sharing[0]], step, cut=True)
        return put_back(items)

    def _constant(
        self, func: Any, name: str, flat: list[Any], spec: Spec, tracks: dict[int, Track]
    ) -> Any:
        """A call on constants that stand for something else, or on whole-number input."""
        ids = next((t.ids for t in tracks.values() if t.ids), "")
        given = list(flat)
        for i, track in tracks.items():
            flat[i] = track.content
        args, kwargs = rebuild(flat, spec)
        if ids and name in _LOOKS_UP:
            with torch.no_grad():
                out = func(*args, **kwargs)
            if _is_number(out):
                table = next((a for a in flat if isinstance(a, Tensor) and _is_number(a)), None)
                node = Node(
                    Op.EMBEDDING, name, self.layer, (), params={"weight": table},
                    attrs={"ids": ids}, xp=_XP,
                )  # fmt: skip
                return self._place(node, [out], [True], held=True)[0]
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor):
            return out
        if ids and moves(name) and not _is_number(out):
            out = out.detach()
            self._memory.put(out, Track(out, ids=ids))
            return out
        return next((given[i] for i, t in tracks.items() if out is t.content), out)

    def custom(self, call: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call out of the mode's sight, as one opaque op with its own backward."""
        with torch._C.DisableTorchFunction():
            return self._dispatch(call, name, args, kwargs)

    def _apply(
        self, func: Any, name: str, flat: list[Any], spec: Spec, tracks: dict[int, Track]
    ) -> Any:
        """Run the op on leaves and record it; returns what the model gets."""
        given = list(flat)
        ignored = range(1) if name in _OVERWRITES else range(1, len(flat) if name in LIKE else 1)
        places = [i for i, t in tracks.items() if t.value is not None and i not in ignored]
        for i, track in tracks.items():
            flat[i] = track.content.detach() if i in ignored else track.content
        leaves: list[Tensor] = []
        for i in places:  # one operand given twice needs a leaf for each slot
            if any(flat[i] is leaf for leaf in leaves):
                flat[i] = leaf_of(flat[i])
            leaves.append(flat[i])
        for i, a in enumerate(flat):
            if i not in tracks and isinstance(a, Tensor):
                flat[i] = self._kept(a)
        args, kwargs = rebuild(flat, spec)
        kinded = classify(Call(name, args, kwargs, frozenset(map(id, leaves))))
        if kinded.kind is Op.OPAQUE:
            args, kwargs = rebuild(given, spec)
            spelled_out = decompose.instead(name, args, kwargs)
            if spelled_out is not None:
                with self:
                    return spelled_out(*args, **kwargs)
            args, kwargs = rebuild(flat, spec)
        if name in LEARNS and kinded.kind is Op.NORM:
            func = partial(without_learning, func)
        closed = closed_form(kinded, name, leaves)
        with torch.set_grad_enabled(not closed):
            out = func(*args, **kwargs)
        aliases = {id(flat[i]): given[i] for i in places}
        if id(out) in aliases:  # dropout at inference, contiguous: the same tensor
            return aliases[id(out)]
        rerun = Rerun(func, flat, spec, places, kinded)
        into = [tracks[i] for i in places]
        return self._record(kinded, name, out, leaves, into, rerun, aliases, closed)

    def _kept(self, constant: Tensor) -> Tensor:
        """A constant that a node will hold on to: nobody may write to it from here on."""
        if id(constant) not in self._foreign:
            whole = constant._base if constant._is_view() else None
            self._theirs.setdefault(address(constant), constant if whole is None else whole)
        if constant.is_inference():
            return constant.clone()
        # With a weight that asks for a gradient, an op would keep its input for that gradient.
        return constant.detach() if constant.requires_grad else constant

    def _run(
        self, kinded: Kinded, name: str, function: Callable[..., Tensor], operands: Sequence[Track]
    ) -> Track:
        """Record a function of our own (a view read again, a write) on some tracks."""
        places = [i for i, t in enumerate(operands) if t.value is not None]
        flat: list[Any] = [t.content for t in operands]
        if len(places) == 2 and flat[places[0]] is flat[places[1]]:
            flat[places[1]] = leaf_of(flat[places[1]])
        closed = closed_form(kinded, name, [flat[i] for i in places])
        with torch.set_grad_enabled(bool(places) and not closed):
            out = function(*flat)
        if not places:
            return Track(out)
        leaves, into = [flat[i] for i in places], [operands[i] for i in places]
        if any(out is leaf for leaf in leaves):
            return next(t for t, leaf in zip(into, leaves, strict=True) if out is leaf)
        rerun = Rerun(function, flat, (len(flat), (), ()), places, kinded)
        tensor = self._record(kinded, name, out, leaves, into, rerun, {}, closed)
        track = self._memory.find(tensor)
        return Track(out) if track is None else Track(track.content, track.value)

    def _record(
        self, kinded: Kinded, name: str, out: Any, leaves: list[Tensor], into: list[Track],
        rerun: Rerun, aliases: dict[int, Tensor], closed: bool,
    ) -> Any:  # fmt: skip
        items, put_back = tensors_in(out)
        reached = [
            isinstance(o, Tensor)
            and (o.grad_fn is not None or (closed and not i))
            and id(o) not in aliases
            for i, o in enumerate(items)
        ]
        if not any(reached):
            return put_back([aliases.get(id(o), o) for o in items])
        values = tuple(t.value for t in into)
        node = Node(
            kinded.kind, name, self.layer, values,
            params=kinded.params, attrs=kinded.attrs, xp=_XP, _call=rerun,
        )  # fmt: skip
        if closed:
            node._pull = closed_pull(kinded, items[0], leaves)
            if kinded.kind in (Op.CONV, Op.DENSE):
                node._way_back = way_back(kinded)
        elif node.kind is Op.MATMUL and not self.lean:
            node._pull = LatePull(rerun, values)
        else:
            pull = AutogradPull([o for o, r in zip(items, reached, strict=True) if r], leaves)
            node._pull, node._free = pull, pull.free
        hold_operands(node, lean=self.lean)
        given = self._place(node, items, reached, held=holds(node, lean=self.lean))
        for place, (item, r) in enumerate(zip(items, reached, strict=True)):
            if id(item) in aliases:
                given[place] = aliases[id(item)]
            elif r and not closed and item._is_view():
                memory, single = address(item), len(items) == 1
                slot = next((i for i, leaf in enumerate(leaves) if address(leaf) == memory), None)
                if slot is not None:
                    step = rerun.view(place, single=single, slot=slot)
                    self._memory.share(given[place], into[slot], step)
        return put_back(given)

    def _place(self, node: Node, items: list[Any], reached: list[bool], *, held: bool) -> list[Any]:
        """Put a node on the tape; returns the tensors that the model gets."""
        node.index = len(self.nodes)
        self.nodes.append(node)
        values: list[Value] = []
        given: list[Any] = []
        for item, tracked in zip(items, reached, strict=True):
            if not isinstance(item, Tensor):
                given.append(item)
                continue
            leaf = leaf_of(item) if tracked else item.detach()
            array = item.detach() if held or not tracked else released(leaf, node, len(given))
            value = Value(node, len(values), array, item.shape, _XP.dtype(item), tracked)
            values.append(value)
            tensor = item.detach()
            self._memory.put(tensor, Track(leaf, value if tracked else None))
            given.append(tensor)
        node.out = tuple(values)
        return given

    def _write(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], target: Tensor
    ) -> Any:
        """An in-place call: run out of place, then let the target stand for the result."""
        if not self._among(flatten(args, kwargs)[0]) and address(target) not in self._theirs:
            return func(*args, **kwargs)  # a constant that the model made for itself
        function, args, kwargs = out_of_place(func, name, args, kwargs)
        if name in VIEWS_IN_PLACE or name == "detach":
            result = self._dispatch(function, name, args, kwargs)
            self._memory.put(target, self._memory.find(result) or Track(result))
            return self._renewed(target, result)
        self._memory.adopt(target, self._theirs.get(address(target)))
        result = self._dispatch(function, name, args, kwargs)
        self._stands_for(target, result, data=name == "set data")
        return None if name in ("setitem", "set data") else target

    def _stands_for(self, target: Tensor, result: Tensor, *, data: bool = False) -> None:
        """``result`` was written to ``target``, which is followed already."""
        if result.dtype != target.dtype:
            result = self._dispatch(Tensor.to, "to", (result, target.dtype), {})
        if result.shape != target.shape:
            result = self._dispatch(Tensor.expand, "expand", (result, *target.shape), {})
        fresh, track = self._memory.find(result), self._memory.adopt(target)
        if fresh is None:  # what it was computed from may yet be written to
            fresh = Track(result.clone())
        silent = data or not (torch.is_grad_enabled() or self.through_no_grad)
        self.blocked = self.blocked or (silent and not data and track.value is not None)
        self._memory.rebind(track, fresh, silent=silent)
        self._renewed(target, track.content)

    def _renewed(self, target: Tensor, content: Tensor) -> Tensor:
        """The target's own numbers, for who keeps it; not those of a parameter, buffer or input."""
        if id(target) not in self._foreign and address(target) not in self._theirs:
            target.data = content.detach()
        return target

    def _into_out(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``out=``: the given tensor stands for the result from here on."""
        flat, _ = flatten(args, kwargs)
        outs, put_back = tensors_in(kwargs["out"])
        theirs = any(address(o) in self._theirs for o in outs)
        if not (theirs or self._among(flat) or self._among(outs)):
            return func(*args, **kwargs)
        kwargs = {k: v for k, v in kwargs.items() if k != "out"}
        results, _ = tensors_in(self._dispatch(func, name, args, kwargs))
        for out, result in zip(outs, results, strict=True):
            if out.shape != result.shape:  # PyTorch would resize it
                self._memory.put(out, self._memory.find(result) or Track(result))
                self._renewed(out, result)
                continue
            self._memory.adopt(out, self._theirs.get(address(out)))
            self._stands_for(out, result)
        return put_back(outs)


_UNRECORDABLE = frozenset({"autograd.grad", "backward"})
_INNER_GRADIENT = (
    "on the way to its output. A gradient inside the model is not on the tape; give the part of "
    "the model before it as a function."
)
_TRANSFORMED = (
    "inside torch.vmap or another torch.func transform, which hides the operations from the tape. "
    "Write that part with a batch axis."
)
_LOOKS_UP = frozenset(
    {"embedding", "embedding_bag", "getitem", "index_select", "index", "gather", "take"}
)
"""With whole numbers of the input for places: an embedding, if a table of numbers is looked up."""


def _is_number(array: Any) -> bool:
    """Whether a gradient can arrive here: floating or complex, as opposed to whole numbers."""
    return isinstance(array, Tensor) and (array.is_floating_point() or array.is_complex())
