"""Which tensors share memory, so that writing to one is seen in the others.

The recorder never writes into memory: ``x += 1``, ``x[0] = y`` and ``relu_(view)`` are run out of
place and the name is bound to the result. For that to be right with views, every tensor that
shares memory with another belongs to one ``Cell``: the value of the whole memory (its root), and a
version. A view remembers how it is read out of the root; when the root has a newer version than
the view, the view is read again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Cell", "Track", "flat_places", "strided_view"]


@dataclass(eq=False, slots=True)
class Cell:
    """The memory that several tensors share: its present content and how often it was written."""

    root: Any
    """A tensor that stands for the whole memory (tracked or not)."""
    version: int = 0


@dataclass(eq=False, slots=True)
class Track:
    """What the recorder knows of one tensor object.

    ``content`` is the tensor that it stands for at present: a leaf on the tape's value, or a
    constant that replaced what the model would have overwritten.
    """

    content: Any
    value: Any = None
    """The tape's Value, or None for a constant."""
    cell: Cell | None = None
    chain: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = ()
    version: int = 0
    ids: bool = False
    """Whole numbers that come from the input, and only moved since."""

    @property
    def stale(self) -> bool:
        return self.cell is not None and self.cell.version != self.version


def flat_places(shape: torch.Size, chain: tuple[Callable[..., torch.Tensor], ...], device: Any) -> torch.Tensor:
    """For every element of a view, its place in the flattened root."""
    count = 1
    for size in shape:
        count *= size
    places = torch.arange(count, device=device).reshape(shape)
    for step in chain:
        places = step(places)
    return places


def strided_view(base: torch.Tensor, view: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """How ``view`` is read out of ``base``, for a view that was made before anything was tracked."""
    offset = view.storage_offset() - base.storage_offset()
    size, stride = view.size(), view.stride()
    base_size, base_stride = base.size(), base.stride()

    def read(root: torch.Tensor) -> torch.Tensor:
        places = torch.empty_strided(base_size, base_stride, dtype=torch.long, device=root.device)
        places.copy_(torch.arange(root.numel(), device=root.device).reshape(base_size))
        picked = places.as_strided(size, stride, offset)
        return root.reshape(-1)[picked]

    return read
