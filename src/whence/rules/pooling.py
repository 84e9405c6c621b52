"""Max pooling that shares relevance among all of a window, in proportion [bach2015]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from ..backward import Split, Total
from ..tape import Array, Node
from .affine import shares_of
from .flow import transported
from .parts import nonnegative, positive

__all__ = ["ProportionalPool"]


@dataclass(frozen=True)
class ProportionalPool:
    """R_i = x_i R / s(sum of x over the window), summed over the windows that see i; x = max(x, 0).

    For pooling over windows of a fixed size. Where a window holds nothing above zero, and for other
    selections (a maximum over a whole axis, top-k, adaptive pooling), the winner takes all.

    The pool itself says which windows see an element: it is run once for each place in a window,
    with all else set to zero, so that a window of 3 x 3 costs nine runs.
    """

    def __call__(self, node: Node, relevance: Any) -> tuple[Array, ...] | Split:
        """Relevance of the result in, of the operand out."""
        window = _window(node)
        if window is None or isinstance(relevance, tuple) or len(node.into) != 1:
            return transported(node, relevance)
        xp: Any = node.xp
        (x,) = node.inputs
        raised = x if nonnegative(node.into[0]) else positive(xp, x)
        runs, z = [], xp.zeros_like(relevance)
        for mask in _masks(window, tuple(xp.shape(x))):
            only = raised * xp.cast(xp.asarray(mask, like=x), xp.dtype(x))
            found, pull = node.rerun(only)
            runs.append((only, pull))
            z = z + found
        nothing = xp.zeros_like(relevance)
        shares = xp.where(z > 0, shares_of(node, relevance, z), nothing)
        rest = xp.where(z > 0, nothing, relevance)
        (part,) = node.pull(rest)
        for only, pull in runs:
            part = part + only * pull(shares)[0]

        def absorbed(total: Total) -> Mapping[str, Array]:
            return {"epsilon": total(relevance) - total(shares, z) - total(rest)}

        return Split((part,), absorbed)


def _window(node: Node) -> tuple[int, ...] | None:
    """How far a window reaches along each axis of the operand, gaps included."""
    rank = len(node.into[0].shape) if node.into else 0
    if "kernel_size" in node.attrs:
        kernel, gaps = node.attrs["kernel_size"], node.attrs.get("dilation", 1)
        dims = int(node.attrs["dims"])
        kernel, gaps = ((v,) * dims if isinstance(v, int) else tuple(v) for v in (kernel, gaps))
        kernel, gaps = (v * dims if len(v) == 1 else v for v in (kernel, gaps))
        reach = tuple((k - 1) * g + 1 for k, g in zip(kernel, gaps, strict=True))
        return (1,) * (rank - dims) + reach
    sizes = node.attrs.get("ksize")
    return None if sizes is None or len(sizes) != rank else tuple(int(n) for n in sizes)


def _masks(window: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    """Masks that together hold each element once, and of each window one element at most."""
    for offsets in product(*(range(min(n, size)) for n, size in zip(window, shape, strict=True))):
        mask = np.ones((1,) * len(shape), np.float32)
        for axis, (offset, reach) in enumerate(zip(offsets, window, strict=True)):
            if reach > 1:
                line = (np.arange(shape[axis]) % reach == offset).astype(np.float32)
                mask = mask * line.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        yield mask
