"""Targets inside the model: a unit, a channel or a whole layer."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays import Array, Functions
from ..errors import TargetError
from ..ops import Op
from ..tape import Node, Value
from .base import Target

__all__ = ["Neuron", "channel_axis"]


@dataclass(frozen=True)
class Neuron(Target):
    """A unit of a layer, or all of a channel.

    ``position``: None sums over all positions, "mean" averages, "max" takes the strongest one,
    a place (an int for sequences and tokens, a tuple for maps) takes that one.
    """

    layer: str = ""
    channel: int | None = None
    position: str | int | tuple[int, ...] | None = None
    channel_axis: int | None = None
    """Where channels stand in the layer's output; None lets the tape say."""

    @property
    def key(self) -> Hashable:
        """Names the computation: a unit is part of it."""
        return ("neuron", self.layer, self.channel, self.position, self.channel_axis)

    def axis(self, rank: int) -> int:
        """The axis of the channels in an array of so many axes."""
        axis = self.channel_axis
        return (1 if axis is None else axis) % rank

    def check(self, shape: Sequence[int]) -> None:
        """Raise TargetError where the layer has no such channel or position."""
        if len(shape) < 2:
            raise TargetError(
                f"layer {self.layer} has output shape {tuple(shape)}, without units to choose from"
            )
        axis = self.axis(len(shape))
        if self.channel is not None and not -shape[axis] <= self.channel < shape[axis]:
            raise TargetError(
                f"channel {self.channel} of layer {self.layer} was asked for; its output is "
                f"{tuple(shape)}, so channels go from 0 to {shape[axis] - 1} (axis {axis})"
            )
        spatial = [s for i, s in enumerate(shape) if i not in (0, axis)]
        place = self._place()
        if place is None:
            if self.position not in (None, "mean", "max"):
                raise TargetError(
                    f'position is None, "mean", "max" or a place; got {self.position!r}'
                )
            return
        inside = len(place) == len(spatial) and all(
            -s <= p < s for p, s in zip(place, spatial, strict=True)
        )
        if not inside:
            raise TargetError(
                f"position {self.position} of layer {self.layer} was asked for; its positions are "
                f"{'x'.join(map(str, spatial)) or 'none (one unit a channel)'}"
            )

    def _place(self) -> tuple[int, ...] | None:
        if isinstance(self.position, (int, np.integer)):
            return (int(self.position),)
        return tuple(self.position) if isinstance(self.position, (tuple, list)) else None

    def weights(
        self, xp: Functions, y: Array, arguments: Mapping[str, Array]
    ) -> tuple[Array, Array | None]:
        """1 at the unit; over the positions that were asked for."""
        shape = xp.shape(y)
        axis = self.axis(len(shape))
        spatial = [i for i in range(1, len(shape)) if i != axis]
        weights: np.ndarray = np.ones((1, *shape[1:]), np.float32)
        if self.channel is not None:
            weights = weights * _only(self.channel, axis, shape)
        place = self._place()
        if place is not None:
            for i, p in zip(spatial, place, strict=True):
                weights = weights * _only(p, i, shape)
        elif self.position == "mean":
            weights /= max(int(np.prod([shape[i] for i in spatial])), 1)
        mask = xp.zeros_like(y) + xp.cast(xp.asarray(weights, like=y), xp.dtype(y))
        return (_strongest(xp, y, mask), None) if self.position == "max" else (mask, None)

    def describe(self) -> str:
        """In words: layer, channel, position."""
        words = [self.layer] + ([f"channel {self.channel}"] if self.channel is not None else [])
        if self.position is not None:
            words.append(f"at {self.position}")
        return " ".join(words)


def _only(place: int, axis: int, shape: Sequence[int]) -> np.ndarray:
    """1 at one place of an axis, broadcasting over the others."""
    line = np.zeros(shape[axis], np.float32)
    line[place] = 1
    return line.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _strongest(xp: Functions, y: Array, mask: Array) -> Array:
    """Weight 1 at the largest masked value of each sample, shared between equals."""
    axes = tuple(range(1, len(xp.shape(y))))
    inside = xp.where(mask > 0, y, xp.zeros_like(y) - float("inf"))
    peak = xp.max(inside, axis=axes, keepdims=True)
    hit = xp.where(inside >= peak, xp.ones_like(y), xp.zeros_like(y))
    return hit / xp.sum(hit, axis=axes, keepdims=True)


def channel_axis(value: Value, channels: str) -> int:
    """Where channels stand in an array of the tape.

    The op that made the array says so, or one before it that its axes can be followed back to; if
    none does, it goes by rank: maps as the framework keeps them, tokens with their features last.

    channels: ``"first"`` or ``"last"``, the framework's habit.
    """
    rank = len(value.shape)
    moves: list[Sequence[int]] = []
    seen = value
    while rank > 2:
        node = seen.node
        axis = _said(node, rank, channels)
        if axis is not None:
            for order in reversed(moves):
                axis = list(order).index(axis)
            return axis
        before = max(node.into, key=lambda v: len(v.shape), default=None)
        if before is None or len(before.shape) != rank:
            break
        move = node.attrs.get("move") if node.kind is Op.SHAPE else None
        if move == "reshape":
            break
        if isinstance(move, tuple) and move[0] == "transpose":
            moves.append(move[1])
        seen = before
    return 1 if rank <= 2 or (channels == "first" and rank > 3) else rank - 1


def _said(node: Node, rank: int, channels: str) -> int | None:
    """Where an op itself keeps channels, None where it does not say."""
    if "channel_axis" in node.attrs:
        return int(node.attrs["channel_axis"]) % rank
    if node.kind is Op.DENSE:
        return rank - 1
    if node.kind is not Op.NORM:
        return None
    if "groups" in node.attrs:
        return 1 if channels == "first" else rank - 1
    axes = {a % rank for a in node.attrs.get("axes", ())}
    kept = [a for a in range(1, rank) if a not in axes]
    if kept == [1] and rank > 3:  # an instance norm, over the positions of each channel
        return 1
    return rank - 1 if axes == {rank - 1} else None
