"""Relevance rules for products of two tracked operands, softmax and normalisation.

After AttnLRP [achtibat2024]: a product gives half to each factor; softmax is expanded to first
order with its constant term; normalisation is linear once the spread is held constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..backward import Split, Total
from ..tape import Array, Node
from .affine import shares_of

__all__ = ["halves", "norm", "product", "softmax", "summed_to"]


def summed_to(xp: Any, array: Array, shape: tuple[int, ...]) -> Array:
    """Undo a broadcast: sum over the axes along which ``shape`` was stretched."""
    here = tuple(xp.shape(array))
    if here == tuple(shape):
        return array
    lead = len(here) - len(shape)
    stretched = [i for i in range(len(here)) if i < lead or shape[i - lead] != here[i]]
    return xp.reshape(xp.sum(array, axis=tuple(stretched), keepdims=True), shape)


def halves(node: Node, relevance: Array) -> tuple[Array, ...]:
    """Elementwise product: half of the relevance to each factor [achtibat2024, Prop. 3.3].

    Of a quotient the numerator takes all: the denominator is held constant, as in a norm.
    """
    xp: Any = node.xp
    shapes = [v.shape for v in node.into]
    if node.attrs.get("divide"):
        return summed_to(xp, relevance, shapes[0]), xp.zeros_like(node.inputs[1])
    half = relevance * 0.5
    return tuple(summed_to(xp, half, shape) for shape in shapes)


def product(node: Node, relevance: Array) -> Split:
    """Matrix product of two tracked operands: half to each, there in proportion.

    R_A = A * (R / (2 s(O)) B^T), R_B = B * (A^T R / (2 s(O))) [achtibat2024, Prop. 3.3].
    """
    z, offset = node.output, node.offset
    if offset is not None:  # a mask of -inf may be added in the same call (baddbmm)
        xp: Any = node.xp
        z, offset = _finite(node, z), _finite(node, xp.asarray(offset, like=z))
    shares = shares_of(node, relevance, z)
    pulled = node.pull(shares * 0.5)
    parts = tuple(x * p for x, p in zip(node.inputs, pulled, strict=True))

    def absorbed(total: Total) -> Mapping[str, Array]:
        books = {"epsilon": total(relevance) - total(shares, z)}
        if offset is not None:
            books["bias"] = total(shares, offset)
        return books

    return Split(parts, absorbed)


def _finite(node: Node, array: Array) -> Array:
    """An array with 0 for what is infinite: the softmax after it hands those places nothing."""
    xp: Any = node.xp
    return xp.where(xp.isfinite(array), array, xp.zeros_like(array))


def softmax(node: Node, relevance: Array) -> Split:
    """R_i = x_i (R_i - s_i sum_j R_j) along the softmax's axis [achtibat2024, Prop. 3.1].

    The expansion's constant term keeps the rest. Inputs of -inf (a mask) get none. For log-softmax
    z_i = x_i - log sum_j exp x_j the same expansion reads R_i = x_i (R_i/z_i - s_i sum_j R_j/z_j).
    """
    xp: Any = node.xp
    (x,) = node.inputs
    z = node.output
    axis = node.attrs["axis"]
    x = _finite(node, x)
    if node.attrs.get("log"):
        s, weight = xp.exp(z), shares_of(node, relevance, z)
    else:
        s, weight = z, relevance
    part = x * (weight - s * xp.sum(weight, axis=axis, keepdims=True))
    mean = xp.sum(x * s, axis=axis, keepdims=True)

    def absorbed(total: Total) -> Mapping[str, Array]:
        return {"softmax": total(relevance) - total(weight, x - mean)}

    return Split((part,), absorbed)


def norm(node: Node, relevance: Array) -> Split | tuple[Array, ...]:
    """Layer, group and instance norm: the epsilon rule, with the spread held constant.

    The map is then x -> (x - mean) * scale / spread + shift [achtibat2024, ali2022]. A norm that
    does not centre (RMS) only rescales each element, and hands its relevance on.
    """
    if not node.attrs.get("centre", True):
        return (relevance,)
    xp: Any = node.xp
    (x,) = node.inputs
    z = node.output
    scale, shift = node.params.get("scale"), node.params.get("shift")
    shares = shares_of(node, relevance, z)
    split, axes = _grouped(node)

    def centred(array: Array) -> Array:
        return array - xp.mean(array, axis=axes, keepdims=True)

    grouped = centred(xp.reshape(x, split))
    spread = xp.sqrt(xp.mean(grouped * grouped, axis=axes, keepdims=True) + node.attrs["epsilon"])
    back = shares if scale is None else shares * xp.asarray(scale, like=shares)
    part = x * xp.reshape(centred(xp.reshape(back, split) / spread), tuple(xp.shape(x)))

    def absorbed(total: Total) -> Mapping[str, Array]:
        books = {"epsilon": total(relevance) - total(shares, z)}
        if shift is not None:
            books["bias"] = total(shares, xp.asarray(shift, like=shares))
        return books

    return Split((part,), absorbed)


def _grouped(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape and axes over which one mean and spread are taken."""
    shape = node.into[0].shape
    groups = node.attrs.get("groups")
    if groups is None:
        return shape, tuple(a % len(shape) for a in node.attrs["axes"])
    axis = node.attrs.get("channel_axis", 1) % len(shape)
    split = (*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
    return split, tuple(i for i in range(1, len(split)) if i != axis)
