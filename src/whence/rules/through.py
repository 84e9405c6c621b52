"""Relevance that passes a layer only in some of its channels [achtibat2023]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backward import Rule, Split, Total, name_of
from ..errors import OptionError
from ..tape import Array, Node

__all__ = ["Through", "channel_mask"]


@dataclass(frozen=True, eq=False)
class Through:
    """A rule behind a mask: what arrives outside the mask ends here (``through`` in the ledger)."""

    rule: Rule
    mask: Array
    layer: str

    def __call__(self, node: Node, relevance: Array) -> Split:
        """The rule on what the mask lets pass."""
        passed = relevance * self.mask
        found = self.rule(node, passed)
        split = found if isinstance(found, Split) else Split(found, lambda total: {})

        def absorbed(total: Total) -> Mapping[str, Array]:
            return {**split.absorbed(total), "through": total(relevance) - total(passed)}

        return Split(split.parts, absorbed, split.rest)

    @property
    def __name__(self) -> str:
        return f"{name_of(self.rule)} through {self.layer}"


def channel_mask(channels: Any, shape: Sequence[int], axis: int, layer: str) -> np.ndarray:
    """1 in the named channels, 0 elsewhere, to broadcast against a layer's output.

    Raises OptionError for a channel that the layer has not got.
    """
    chosen = np.atleast_1d(np.asarray(channels))
    count = shape[axis]
    if (
        chosen.dtype.kind not in "iu"
        or chosen.size == 0
        or (chosen < -count).any()
        or (chosen >= count).any()
    ):
        raise OptionError(
            f"through= names channels {channels!r} of layer {layer}; it has {count}, from 0 to "
            f"{count - 1}"
        )
    mask = np.zeros(count, np.float32)
    mask[chosen] = 1
    return mask.reshape([-1 if i == axis else 1 for i in range(len(shape))])
