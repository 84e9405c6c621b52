"""The recorder: a torch-function mode that runs each operation by itself and writes it down.

Every public call of PyTorch passes through ``Recorder.__torch_function__``. An operation on
tracked tensors is run on detached leaves, so that it owns a small autograd graph of its own, and
its backward rule is one ``torch.autograd.grad``. Nothing is written in place: see ``alias.py``.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.weak import WeakIdKeyDictionary

from ...ops import Op
from ...tape import Node, Value
from . import decompose
from .alias import Cell, Track, flat_places, strided_view
from .functions import TorchFunctions
from .kinds import CUT, MOVES, Call, Kinded, classify, known, plain_name
from .nodes import AutogradPull, Rerun, add_pull, affine_pull, relu_pull

__all__ = ["Recorder"]

_XP = TorchFunctions()

_ABOUT = frozenset(
    "shape size dim ndim dtype device layout numel nelement is_floating_point is_complex stride "
    "is_cuda is_contiguous get_device storage_offset requires_grad is_leaf element_size itemsize "
    "nbytes names is_sparse is_quantized is_meta is_mkldnn is_nested is_signed is_inference "
    "is_tensor __len__ __hash__ __repr__ __format__ grad grad_fn _base is_cpu is_xpu is_mps "
    "has_names register_hook retain_grad requires_grad_ _is_view is_same_size is_storage "
    "__set__ __delete__ _version data_ptr untyped_storage __dlpack_device__ is_conj is_neg "
    "is_set_to is_shared __class__ __deepcopy__ result_type promote_types can_cast "
    "broadcast_shapes iinfo finfo is_nonzero is_grad_enabled is_pinned set_data".split()
)
"""Calls about a tensor, not on its numbers."""

_HELD = frozenset({Op.DENSE, Op.CONV, Op.AFFINE, Op.ADD, Op.AVGPOOL, Op.MUL, Op.MATMUL, Op.NORM})
"""Kinds whose outputs relevance rules read: held unless the recording is lean."""


class Recorder(TorchFunctionMode):
    """Writes nodes while active. ``nodes`` in order; ``track_of`` says what a tensor stands for."""

    def __init__(self, *, lean: bool, through_no_grad: bool, foreign: set[int]) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.layer = ""
        self.lean = lean
        self.through_no_grad = through_no_grad
        self.blocked = False
        """Whether a tracked tensor went through the model's own ``no_grad`` and was cut there."""
        self._foreign = foreign
        """``id`` of the model's parameters and buffers, which must never be written to."""
        self._tracks: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._consts_aliased = False

    # ---- what a tensor stands for

    def watch(self, name: str, array: torch.Tensor) -> tuple[torch.Tensor, Value]:
        """Start the tape at an input; returns the tensor to give to the model."""
        tracked = array.is_floating_point() or array.is_complex()
        node = Node(Op.INPUT, name, "", (), index=len(self.nodes), xp=_XP)
        leaf = array.detach()
        if tracked:
            leaf.requires_grad_()
        value = Value(node, 0, leaf, array.shape, _XP.dtype(array), tracked)
        node.out = (value,)
        self.nodes.append(node)
        given = array.detach()
        self._tracks[given] = Track(leaf, value if tracked else None, ids=not tracked)
        return given, value

    def track_of(self, tensor: torch.Tensor) -> Track | None:
        """The track of a tensor object, or None for a constant."""
        track = self._tracks.get(tensor)
        if track is None and self._consts_aliased and tensor._is_view():
            base = self._tracks.get(tensor._base)
            if base is not None:  # a view that was made before its base was written to
                cell = self._cell(base)
                track = Track(None, cell=cell, chain=(strided_view(tensor._base, tensor),), version=-1)
                self._tracks[tensor] = track
        if track is not None and track.stale:
            self._read_again(track)
        return track

    def _cell(self, track: Track) -> Cell:
        if track.cell is None:
            track.cell = Cell(track)
            track.version = 0
        return track.cell

    def _read_again(self, track: Track) -> None:
        if track.cell is None:
            return
        root: Track = track.cell.root
        track.version = track.cell.version
        if not track.chain:
            track.content, track.value = root.content, root.value
            return
        chain = track.chain

        def read(leaf: torch.Tensor) -> torch.Tensor:
            for step in chain:
                leaf = step(leaf)
            return leaf

        fresh = self._run(Kinded(Op.SHAPE, attrs={"move": "other"}), "view", read, [root])
        track.content, track.value = fresh.content, fresh.value

    # ---- every call

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = plain_name(func)
        if name in _ABOUT:
            return func(*args, **kwargs)
        flat, spec = tree_flatten((args, kwargs))
        tracks = {i: t for i, a in enumerate(flat)
                  if isinstance(a, torch.Tensor) and (t := self.track_of(a)) is not None}  # fmt: skip
        target = written_place(func, args, kwargs)
        if target is not None and target is not _OUT:
            return self._write(func, name, flat, spec, tracks, target)
        if not tracks:
            return func(*args, **kwargs)
        if target is _OUT:
            out = kwargs.pop("out")
            return self._bind(out, self.__torch_function__(func, types, args, kwargs))
        if not any(t.value is not None for t in tracks.values()):
            return self._whole_numbers(func, name, flat, spec, tracks)
        if name in CUT:
            return func(*(tracks[i].content if i in tracks else a for i, a in enumerate(flat))).detach()
        spelled_out = decompose.find(func, name)
        if spelled_out is not None:
            with self:
                return spelled_out(*args, **kwargs)
        return self._apply(func, name, flat, spec, tracks)

    def _whole_numbers(self, func: Any, name: str, flat: list[Any], spec: Any, tracks: Any) -> Any:
        """A call on constants that stand for something else, or on whole-number input."""
        ids = any(t.ids for t in tracks.values())
        if ids and name == "embedding":
            return self._embedding(func, flat, spec, tracks)
        for i, track in tracks.items():
            flat[i] = track.content
        args, kwargs = tree_unflatten(flat, spec)
        out = func(*args, **kwargs)
        moved = ids and name in MOVES
        if moved and isinstance(out, torch.Tensor) and not out.is_floating_point():
            out = out.detach() if any(out is t.content for t in tracks.values()) else out
            self._tracks[out] = Track(out, ids=True)
        elif isinstance(out, torch.Tensor):
            for i, track in tracks.items():
                if out is track.content:
                    return tree_flatten((args, kwargs))[0][i]
        return out

    def _embedding(self, func: Any, flat: list[Any], spec: Any, tracks: Any) -> torch.Tensor:
        for i, track in tracks.items():
            flat[i] = track.content
        args, kwargs = tree_unflatten(flat, spec)
        table = kwargs.get("weight", args[1] if len(args) > 1 else None)
        with torch.no_grad():
            out = func(*args, **kwargs)
        node = Node(Op.EMBEDDING, "embedding", self.layer, (), params={"weight": table}, xp=_XP)
        return self._place(node, [out], [True])[0]

    def custom(self, call: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A custom autograd function: one opaque op with its own backward."""
        flat, spec = tree_flatten((args, kwargs))
        with torch._C.DisableTorchFunction():
            tracks = {i: t for i, a in enumerate(flat)
                      if isinstance(a, torch.Tensor) and (t := self.track_of(a)) is not None}  # fmt: skip
            if any(t.value is not None for t in tracks.values()):
                return self._apply(call, name, flat, spec, tracks)
        return call(*args, **kwargs)

    # ---- running one op

    def _apply(self, func: Any, name: str, flat: list[Any], spec: Any, tracks: dict[int, Track]) -> Any:
        """Run the op on leaves and record it; returns what the model gets."""
        if not torch.is_grad_enabled() and not self.through_no_grad:
            self.blocked = True
            for i, track in tracks.items():
                flat[i] = track.content
            args, kwargs = tree_unflatten(flat, spec)
            return func(*args, **kwargs)
        places = [i for i, t in tracks.items() if t.value is not None]
        given = list(flat)
        for i, track in tracks.items():
            flat[i] = track.content
        seen: set[int] = set()
        for i in places:  # one operand given twice needs a leaf for each slot
            if id(flat[i]) in seen:
                flat[i] = flat[i].detach().requires_grad_()
            seen.add(id(flat[i]))
        for i, a in enumerate(flat):
            if i not in tracks and isinstance(a, torch.Tensor) and a.is_inference():
                flat[i] = a.clone()
        args, kwargs = tree_unflatten(flat, spec)
        leaves = [flat[i] for i in places]
        kinded = classify(Call(name, args, kwargs, frozenset(id(a) for a in leaves)))
        with torch.set_grad_enabled(not closed_form(kinded, name)):
            out = func(*args, **kwargs)
        for i in places:
            if out is flat[i]:  # dropout at inference, contiguous: the same tensor
                return given[i]
        rerun = Rerun(func, flat, spec, places, kinded)
        return self._record(kinded, name, out, leaves, [tracks[i] for i in places], rerun)

    def _run(self, kinded: Kinded, name: str, function: Callable[..., Any], operands: list[Track]) -> Track:
        """Record a function of our own (a view read again, a write) on some tracks."""
        values = [t for t in operands if t.value is not None]
        leaves, arguments = [], []
        for track in operands:
            leaf = track.content
            if track.value is not None:
                leaf = leaf.detach().requires_grad_() if any(leaf is x for x in leaves) else leaf
                leaves.append(leaf)
            arguments.append(leaf)
        with torch.set_grad_enabled(not closed_form(kinded, name)):
            out = function(*arguments)
        if not leaves:
            return Track(out)
        flat, spec = tree_flatten((tuple(arguments), {}))
        places = [i for i, t in enumerate(operands) if t.value is not None]
        rerun = Rerun(function, flat, spec, places, kinded)
        tensor = self._record(kinded, name, out, leaves, values, rerun)
        track = self._tracks.get(tensor)
        return Track(out) if track is None else Track(track.content, track.value)

    def _record(
        self, kinded: Kinded, name: str, out: Any, leaves: list[Any], into: list[Track], rerun: Rerun
    ) -> Any:
        single = isinstance(out, torch.Tensor)
        items, structure = ([out], None) if single else tree_flatten(out)
        tensors = [isinstance(o, torch.Tensor) for o in items]
        closed = closed_form(kinded, name)
        reached = [t and (closed or o.grad_fn is not None) for t, o in zip(tensors, items, strict=True)]
        if not any(reached):
            return out
        node = Node(
            kinded.kind, name, self.layer, tuple(t.value for t in into),
            params=kinded.params, attrs=kinded.attrs, xp=_XP, _call=rerun,
        )  # fmt: skip
        edges = [o for o, r in zip(items, reached, strict=True) if r]
        if closed:
            node._pull = _closed_pull(kinded, edges[0], leaves)
        else:
            pull = AutogradPull(edges, leaves)
            node._pull, node._free = pull, pull.free
        given = self._place(node, items, reached)
        if kinded.kind is Op.SHAPE:
            self._share(given, items, leaves, into, rerun)
        return given[0] if single else tree_unflatten(given, structure)

    def _place(self, node: Node, items: list[Any], reached: list[bool]) -> list[Any]:
        """Put a node on the tape; returns the tensors that the model gets."""
        node.index = len(self.nodes)
        self.nodes.append(node)
        held = node.kind in _HELD and not self.lean
        values, given = [], []
        for item, tracked in zip(items, reached, strict=True):
            if not isinstance(item, torch.Tensor):
                given.append(item)
                continue
            leaf = item.detach()
            if tracked:
                leaf.requires_grad_()
            array = leaf if held or not tracked else released(leaf, node, len(values))
            value = Value(node, len(values), array, item.shape, _XP.dtype(item), tracked)
            values.append(value)
            tensor = item.detach()
            self._tracks[tensor] = Track(leaf, value) if tracked else Track(leaf)
            given.append(tensor)
        node.out = tuple(values)
        if node.kind is Op.AFFINE and not self.lean and node.into:
            _let_go(node.into[0])
        return given

    def _share(
        self, given: list[Any], items: list[Any], leaves: list[Any], into: list[Track], rerun: Rerun
    ) -> None:
        """Remember that the results of a view op share their operand's memory."""
        if len(leaves) != 1:
            return
        memory = leaves[0].untyped_storage().data_ptr()
        for place, (tensor, item) in enumerate(zip(given, items, strict=True)):
            if not isinstance(tensor, torch.Tensor) or item.untyped_storage().data_ptr() != memory:
                continue
            parent, track = into[0], self._tracks[tensor]
            track.cell = self._cell(parent)
            track.version = track.cell.version
            track.chain = (*parent.chain, rerun.view(place, single=len(items) == 1))

    # ---- writing

    def _write(
        self, func: Any, name: str, flat: list[Any], spec: Any, tracks: dict[int, Track], target: torch.Tensor
    ) -> Any:
        """An in-place call: run out of place, then let the target stand for the result."""
        ours = self._tracks.get(target) is not None
        reaches = any(t.value is not None for t in tracks.values())
        base = target._base if target._is_view() else target
        owned_by_model = id(target) in self._foreign or id(base) in self._foreign
        if not reaches and not ours and not owned_by_model:
            args, kwargs = tree_unflatten(flat, spec)
            return func(*args, **kwargs)  # a constant that the model made for itself
        where = next(i for i, a in enumerate(flat) if a is target)
        track = tracks.get(where) or self._adopt(target, base)
        operands = [tracks[i] for i in sorted(tracks) if i != where]
        rest = [i for i in sorted(tracks) if i != where]
        blocked = not torch.is_grad_enabled() and not self.through_no_grad
        if blocked:
            self.blocked = self.blocked or reaches
            track = Track(track.content.detach(), None, track.cell, track.chain, track.version)
            self._tracks[target] = track
            operands = [Track(t.content.detach()) for t in operands]
        outcome, kinded = decompose.out_of_place(func, name, flat, spec, where, rest, target)
        fresh = self._run_written(kinded, name, outcome, [track, *operands])
        self._rebind(track, fresh)
        if not owned_by_model and self._is_ours(target):
            with torch._C.DisableTorchFunction():
                target.data = fresh.content.detach()
        return None if name == "setitem" else target

    def _run_written(self, kinded: Any, name: str, function: Any, operands: list[Track]) -> Track:
        leaves = [t for t in operands if t.value is not None]
        if not leaves:
            with torch.no_grad():
                return Track(function(*(t.content for t in operands)))
        return self._run(kinded(operands), name, function, operands)

    def _adopt(self, target: torch.Tensor, base: torch.Tensor) -> Track:
        """Begin to follow a constant that is about to be written to."""
        self._consts_aliased = True
        found = self.track_of(target)
        if found is not None:
            return found
        if base is target:
            track = Track(target.detach().clone())
            self._tracks[target] = track
            self._cell(track)
            return track
        self._adopt(base, base)
        found = self.track_of(target)
        return found if found is not None else Track(target.detach().clone())

    def _rebind(self, track: Track, fresh: Track) -> None:
        if track.cell is None:
            track.content, track.value = fresh.content, fresh.value
            return
        cell, root = track.cell, track.cell.root
        if track.chain:
            places = flat_places(root.content.shape, track.chain, root.content.device)

            def put(whole: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
                kept = whole.reshape(-1).index_put((places.reshape(-1),), part.reshape(-1))
                return kept.reshape(whole.shape)

            kinded = Kinded(Op.SHAPE, attrs={"move": "same"})
            whole = self._run(kinded, "write_back", put, [root, fresh])
        else:
            whole = fresh
        cell.version += 1
        cell.root = Track(whole.content, whole.value)
        track.content, track.value, track.version = fresh.content, fresh.value, cell.version

    def _is_ours(self, tensor: torch.Tensor) -> bool:
        track = self._tracks.get(tensor)
        return track is not None and track.content is not None and tensor.grad_fn is None

    def _bind(self, out: Any, result: Any) -> Any:
        """``out=``: the given tensor stands for the result from here on."""
        track = self.track_of(result) if isinstance(result, torch.Tensor) else None
        if track is not None:
            self._tracks[out] = Track(track.content, track.value)
            return out
        return result


_OUT = object()


def written_place(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The tensor that a call writes to, ``_OUT`` for ``out=``, None if it writes to none."""
    if isinstance(func, torch._ops.OpOverload):
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                if argument.is_out:
                    return _OUT
                return args[place] if place < len(args) else kwargs.get(argument.name)
        return None
    if isinstance(kwargs.get("out"), torch.Tensor):
        return _OUT
    name = getattr(func, "__name__", "")
    if kwargs.get("inplace") is True:
        return args[0] if args else kwargs.get("input")
    in_place = name in ("__setitem__", "_index_put_impl_") or (
        name.endswith("_") and not name.startswith("_") and name not in ("requires_grad_", "retain_grad_")
    ) or (name.startswith("__i") and name not in ("__index__", "__int__", "__invert__"))  # fmt: skip
    return args[0] if in_place and args and isinstance(args[0], torch.Tensor) else None


def closed_form(kinded: Kinded, name: str) -> bool:
    """Ops whose backward is a line of arithmetic: no graph is made, so their input can go."""
    return kinded.kind in (Op.AFFINE, Op.ADD) or (kinded.kind is Op.RELU and name == "relu")


def _closed_pull(kinded: Kinded, out: torch.Tensor, leaves: list[Any]) -> Callable[..., Any]:
    if kinded.kind is Op.AFFINE:
        return affine_pull(kinded.params.get("scale"), leaves[0])
    if kinded.kind is Op.ADD:
        return add_pull(kinded.attrs["signs"], leaves)
    return relu_pull(out)


def released(leaf: torch.Tensor, node: Node, place: int) -> Callable[[], Any]:
    """A way back to an array that nothing need hold: its leaf while it lives, else the op again."""
    alive = weakref.ref(leaf)

    def array() -> Any:
        held = alive()
        if held is None:
            result = node.call()
            held = result if isinstance(result, torch.Tensor) else tree_flatten(result)[0][place]
        return held

    return array


def _let_go(value: Value) -> None:
    """An affine op's input is not read again once the two are folded: hold it weakly."""
    if value.node.kind in (Op.CONV, Op.DENSE, Op.AFFINE) and isinstance(value._array, torch.Tensor):
        value._array = released(value._array, value.node, value.index)
