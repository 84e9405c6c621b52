"""What each tensor stands for, and which tensors share memory.

The recorder never writes into memory: ``x += 1``, ``x[0] = y`` and ``relu_(view)`` are run out of
place, and from then on the tensor stands for the result. For that to be right with views, all
tensors that share memory belong to one ``Cell``: the present value of the whole memory (its root)
and a version. A view remembers how it is read out of the root; when the root has a newer version
than the view, the view is read again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...ops import Op
from .calls import Kinded

__all__ = ["Memory", "Track", "address"]

Tensor = torch.Tensor
View = Callable[[Tensor], Tensor]


@dataclass(eq=False, slots=True)
class Cell:
    """The memory that several tensors share: its present content and how often it was written."""

    root: Track
    version: int = 0


@dataclass(eq=False, slots=True)
class Track:
    """What the recorder knows of one tensor object.

    ``content`` is the tensor that it stands for at present: a leaf on the tape's value, or a
    constant that replaced what the model would have overwritten.
    """

    content: Tensor
    value: Any = None
    """The tape's Value, or None for a constant."""
    cell: Cell | None = None
    chain: tuple[View, ...] = ()
    version: int = 0
    ids: str = ""
    """For whole numbers that come from an input, and only moved since: the input's name."""
    cut: bool = False
    """Shares memory with a tracked tensor, but no gradient leads through (``detach``)."""


class _Name(weakref.ref[Tensor]):
    """A tensor object, by which its track is found for as long as it lives."""

    __slots__ = ("key",)
    key: int


class Memory:
    """Tracks by tensor object.

    ``run(kinded, name, function, tracks) -> Track`` records a function of the memory's own.
    """

    def __init__(
        self, run: Callable[[Kinded, str, Callable[..., Tensor], Sequence[Track]], Track]
    ) -> None:
        self._run = run
        known: dict[int, tuple[_Name, Track]] = {}
        self._known = known

        def forget(name: weakref.ref[Tensor]) -> None:
            if isinstance(name, _Name) and known.get(name.key, (None,))[0] is name:
                del known[name.key]

        self._forget = forget
        self._adopted: list[Tensor] = []
        """Constants that were written to; views of them may have been made before."""

    def put(self, tensor: Tensor, track: Track) -> None:
        """From now on the tensor object stands for the track."""
        name = _Name(tensor, self._forget)
        name.key = id(tensor)
        self._known[name.key] = (name, track)

    def close(self) -> None:
        """Forget everything; what the model keeps of a recording must not keep the tape."""
        self._known.clear()
        self._adopted.clear()
        del self._run, self._forget

    def find(self, tensor: Tensor) -> Track | None:
        """The up-to-date track of a tensor object, or None for a constant."""
        entry = self._known.get(id(tensor))
        track = entry[1] if entry is not None else None
        if track is None and self._adopted and tensor._is_view():
            track = self._older_view(tensor)
        if track is not None and track.cell is not None and track.cell.version != track.version:
            self._read_again(track)
        return track

    def hides(self, arguments: Sequence[Any]) -> bool:
        """Whether a tracked tensor is inside one of the arguments, wrapped by ``torch.func``."""
        functorch = torch._C._functorch
        if functorch.peek_interpreter_stack() is None:
            return False
        for argument in arguments:
            if isinstance(argument, Tensor):
                while functorch.is_functorch_wrapped_tensor(argument):
                    argument = functorch.get_unwrapped(argument)
                track = self.find(argument)
                if track is not None and track.value is not None:
                    return True
        return False

    def _older_view(self, tensor: Tensor) -> Track | None:
        """A view of a constant, made before the constant was written to."""
        base = tensor._base
        entry = self._known.get(id(base))
        if base is None or entry is None:
            return None
        track = Track(
            tensor, cell=self.cell(entry[1]), chain=(strided_view(base, tensor),), version=-1
        )
        self.put(tensor, track)
        return track

    def cell(self, track: Track) -> Cell:
        """The memory of a track, which is the whole of it if nothing shares it yet."""
        if track.cell is None:
            track.cell = Cell(Track(track.content, track.value))
            track.version = 0
        return track.cell

    def _read_again(self, track: Track) -> None:
        cell, chain = self.cell(track), track.chain
        track.version = cell.version
        fresh = cell.root
        if chain:

            def read(whole: Tensor) -> Tensor:
                for step in chain:
                    whole = step(whole)
                return whole

            fresh = self._run(Kinded(Op.SHAPE, attrs={"move": "view"}), "view", read, [cell.root])
        track.content, track.value = fresh.content, fresh.value
        if track.cut:
            track.content, track.value = track.content.detach(), None

    def share(self, tensor: Tensor, parent: Track, step: View | None, *, cut: bool = False) -> None:
        """A tensor reads its parent's memory, through one more step."""
        track = self._known[id(tensor)][1]
        track.cell = self.cell(parent)
        track.version = track.cell.version
        track.chain = parent.chain if step is None else (*parent.chain, step)
        track.cut = cut or parent.cut

    def adopt(self, tensor: Tensor, owner: Tensor | None = None) -> Track:
        """Begin to follow a constant that is about to be written to, and all that share its memory.

        owner: a tensor known to have the same memory, where the constant is another name for it
        that PyTorch does not call a view (``weight.data``).
        """
        found = self.find(tensor)
        if found is not None:
            return found
        base = tensor._base if tensor._is_view() else None
        if base is None and owner is not None and owner is not tensor and _covers(owner, tensor):
            track = self.adopt(owner)
            self.put(tensor, Track(tensor, version=-1))
            self.share(tensor, track, strided_view(owner, tensor))
            self._read_again(self._known[id(tensor)][1])
        else:
            root = tensor if base is None else base
            track = Track(root.detach().clone())
            self._adopted.append(root)
            self.put(root, track)
            self._follow(track.content, self.cell(track))
        return self.find(tensor) or self._alone(tensor)

    def _alone(self, tensor: Tensor) -> Track:
        """For a view whose base cannot be told."""
        track = Track(tensor.detach().clone())
        self.put(tensor, track)
        return track

    def _follow(self, content: Tensor, cell: Cell) -> None:
        """The model may be given views of the constant that stands for an overwritten one."""
        self._adopted.append(content)
        self.put(content, Track(content, cell=cell, version=cell.version))

    def rebind(self, track: Track, fresh: Track, *, silent: bool = False) -> None:
        """The track's tensor was written to and now stands for ``fresh``; others see it too.

        silent: written under ``no_grad`` or through ``detach``: new numbers, the old gradient.
        """
        silent = silent or track.cut
        cell = track.cell
        if cell is None:
            fresh = self._silent(Track(track.content, track.value), fresh) if silent else fresh
            track.content, track.value = fresh.content, fresh.value
            return
        whole = fresh
        if track.chain:
            root = Track(cell.root.content.detach()) if silent else cell.root
            whole = self._written_back(root, track, fresh)
        if silent:
            whole = self._silent(cell.root, whole)
        cell.version += 1
        cell.root = Track(whole.content, whole.value)
        if whole.value is None:
            self._follow(whole.content, cell)
        if silent:
            self._read_again(track)
        else:
            track.content, track.value, track.version = fresh.content, fresh.value, cell.version

    def _silent(self, before: Track, after: Track) -> Track:
        """The numbers of ``after`` with the gradient of ``before``."""
        if before.value is None:
            return Track(after.content.detach())
        shift = after.content.detach() - before.content.detach()
        kinded = Kinded(Op.AFFINE, {"shift": shift}, {"offset": shift})
        return self._run(kinded, "write_without_gradient", lambda x: x + shift, [before])

    def _written_back(self, root: Track, track: Track, fresh: Track) -> Track:
        """The whole memory, after a view of it became ``fresh``."""
        places = flat_places(root.content, track.chain)

        def put(whole: Tensor, part: Tensor) -> Tensor:
            kept = whole.reshape(-1).index_put((places,), part.reshape(-1).to(whole.dtype))
            return kept.reshape(whole.shape)

        return self._run(Kinded(Op.SHAPE, attrs={"move": "same"}), "write_back", put, [root, fresh])


def address(tensor: Tensor) -> int:
    """Where a tensor's memory begins; 0 where it has none."""
    try:
        return int(tensor.untyped_storage().data_ptr())
    except (NotImplementedError, RuntimeError):  # sparse, nested, without numbers
        return 0


def _covers(owner: Tensor, tensor: Tensor) -> bool:
    """Whether every number of a tensor is one of the owner's, which share memory."""

    def span(t: Tensor) -> tuple[int, int]:
        reach = sum((int(n) - 1) * int(s) for n, s in zip(t.shape, t.stride(), strict=True))
        return int(t.storage_offset()), int(t.storage_offset()) + reach

    (start, end), (first, last) = span(owner), span(tensor)
    return start <= first and last <= end and owner.dtype == tensor.dtype and bool(owner.numel())


def flat_places(whole: Tensor, chain: Sequence[View]) -> Tensor:
    """For every element of a view, in order, its place in the flattened root."""
    places = torch.arange(whole.numel(), device=whole.device).reshape(whole.shape)
    for step in chain:
        places = step(places)
    return places.reshape(-1)


def strided_view(base: Tensor, view: Tensor) -> View:
    """How ``view`` is read out of ``base``, for a view made before anything was tracked."""
    offset = view.storage_offset() - base.storage_offset()
    size, stride = view.size(), view.stride()
    base_size, base_stride = base.size(), base.stride()

    def read(root: Tensor) -> Tensor:
        places = torch.empty_strided(base_size, base_stride, dtype=torch.long, device=root.device)
        places.copy_(torch.arange(root.numel(), device=root.device).reshape(base_size))
        picked = places.as_strided(size, stride, offset)
        return root.reshape(-1)[picked]

    return read
