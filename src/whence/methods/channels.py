"""The channels of a layer, ranked by the relevance that went through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError, OptionError
from ..frameworks import to_numpy
from .explain import explain

__all__ = ["ChannelRanking", "channels"]

_BY: dict[str, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]] = {
    "sum": lambda a, axes: a.sum(axis=axes),
    "abs": lambda a, axes: np.abs(a).sum(axis=axes),
    "max": lambda a, axes: a.max(axis=axes),
}
_SHOWN = 10


@dataclass(frozen=True, eq=False)
class ChannelRanking:
    """A layer's channels by relevance, for each sample.

    layer, by: what was asked. scores: of every channel, (sample, channel), in units of the
    explained output. order: the channels, the most relevant first, (sample, rank), as many as were
    asked for. samples: over how many samples each row goes: 1, or more after ``mean``. names: what
    was explained, in words, one a row. Prints as a table.
    """

    layer: str
    by: str
    scores: np.ndarray
    order: np.ndarray
    samples: int = 1
    names: list[str] = field(default_factory=list)

    def mean(self) -> ChannelRanking:
        """The ranking by the mean score over all samples, as one row."""
        scores = self.scores.mean(axis=0, keepdims=True)
        same = len(set(self.names)) == 1
        name = self.names[0] if same else "mean"
        count = self.samples * len(self.scores)
        order = _order(scores, self.order.shape[1])
        return ChannelRanking(self.layer, self.by, scores, order, count, [name])

    def top(self, count: int) -> ChannelRanking:
        """The same with fewer channels in ``order``. Raises OptionError."""
        order = self.order[:, : _checked(count, self.order.shape[1])]
        return ChannelRanking(self.layer, self.by, self.scores, order, self.samples, self.names)

    def __len__(self) -> int:
        return len(self.scores)

    def __str__(self) -> str:
        over = f", mean of {self.samples} samples" if self.samples > 1 else ""
        lines = [f"channels of {self.layer} by relevance ({self.by}){over}"]
        for row in range(min(len(self), _SHOWN)):
            ranked = self.order[row][:_SHOWN]
            cells = "  ".join(f"{c}: {self.scores[row, c]:.3g}" for c in ranked)
            more = self.order.shape[1] - len(ranked)
            name = f"{self.names[row]}  " if row < len(self.names) else ""
            lines.append(f"  {name}{cells}" + (f"  ... {more} more" if more else ""))
        if len(self) > _SHOWN:
            lines.append(f"  ... {len(self) - _SHOWN} more samples")
        return "\n".join(lines)

    __repr__ = __str__


def channels(
    model: object, x: Any, layer: str, *, target: Any = None, method: Any = "lrp", by: str = "sum",
    top: int | None = None, **options: Any,
) -> ChannelRanking:  # fmt: skip
    """Rank the channels of a layer by the relevance that arrives at them.

    model, target, method, options: as for ``whence.explain``; any method that can be read at a
        layer.
    x: one batch, as for ``whence.explain``; or an iterable of batches, such as a list of arrays, a
        generator, a DataLoader or a tf.data.Dataset: it is gone through once, and of each batch
        only the scores are kept. A batch that is a pair (x, labels) counts as x. Targets one a
        sample go on from batch to batch.
    layer: a name from ``whence.layers``.
    by: "sum" over the positions of a channel; "abs", the sum of sizes, where opposite signs would
        cancel; "max", the strongest position.
    top: how many channels to list, None for all.

    Returns a ``ChannelRanking``: scores and order for each sample, and ``.mean()`` over all of
    them. Give ``through={layer: channels}`` to ``whence.explain`` to see the part of the answer
    that went through some.
    Raises OptionError, InputError where there is no sample, and what ``whence.explain`` raises.

    Example:
        >>> import torch, whence
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 1))
        >>> _ = net.load_state_dict({"0.weight": torch.eye(3)[:, :2], "1.bias": torch.zeros(1),
        ...                          "1.weight": torch.tensor([[1.0, 3.0, 5.0]])})
        >>> whence.channels(net, torch.ones(1, 2), "0")
        channels of 0 by relevance (sum)
          class 0  1: 3  0: 1  2: 0
    """
    if by not in _BY:
        raise OptionError(f"by is one of {', '.join(map(repr, _BY))}; got {by!r}")
    if top is not None:
        _checked(top, None)
    found: list[np.ndarray] = []
    names: list[str] = []
    for batch, goal in _aimed(_batches(x), target):
        e = explain(model, batch, method, target=goal, at=layer, ledger=False, **options)
        found.append(_scores(e, by))
        names += e.target_names
    if not found:
        raise InputError("x holds no batch: there is nothing to rank channels by")
    scores = np.concatenate(found)
    count = scores.shape[1] if top is None else _checked(top, scores.shape[1])
    return ChannelRanking(layer, by, scores, _order(scores, count), 1, names)


def _checked(count: Any, most: int | None) -> int:
    whole = isinstance(count, (int, np.integer)) and not isinstance(count, bool)
    if not whole or count < 1 or (most is not None and count > most):
        of = "" if most is None else f" to {most}"
        raise OptionError(f"top is how many channels to list, from 1{of}; got {count!r}")
    return int(count)


def _order(scores: np.ndarray, count: int) -> np.ndarray:
    """Channels by falling score; of equals the first comes first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def _scores(explanation: Any, by: str) -> np.ndarray:
    """One number a channel, (sample, channel), in double precision."""
    array = np.asarray(explanation.to_numpy(), np.float64)
    axes = explanation.axes
    named = [i for i, a in enumerate(axes) if a in ("channel", "feature")]
    axis = named[0] if len(axes) == array.ndim and named else array.ndim - 1
    rest = tuple(i for i in range(1, array.ndim) if i != axis)
    return _BY[by](array, rest) if rest else np.abs(array) if by == "abs" else array


def _batches(x: Any) -> Iterator[Any]:
    """The batches in x: x itself where it is one."""
    if _is_array(x) or isinstance(x, (Mapping, tuple)) or _is_numbers(x):
        yield x
        return
    if not hasattr(x, "__iter__"):
        raise InputError(f"x is {type(x).__name__}: give a batch, or an iterable of batches")
    for item in x:
        yield item[0] if _is_pair(item) else item


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _is_numbers(x: Any) -> bool:
    """Whether a list is one batch that was spelled out."""
    first = x
    while isinstance(first, list) and first:
        first = first[0]
    return first is not x and isinstance(first, (int, float))


def _is_pair(item: Any) -> bool:
    """Whether a batch comes with its labels: whole numbers, one a sample."""
    if not isinstance(item, (tuple, list)) or len(item) != 2 or not all(map(_is_array, item)):
        return False
    x, labels = item
    whole = "int" in str(labels.dtype)
    return whole and len(labels.shape) == 1 and len(x.shape) > 1 and len(x) == len(labels)


def _aimed(batches: Iterator[Any], target: Any) -> Iterator[tuple[Any, Any]]:
    """Each batch with its target; targets one a sample are dealt out."""
    listed = to_numpy(target) if _is_array(target) else target
    several = isinstance(listed, (list, tuple, np.ndarray)) and np.size(listed) > 1
    if not several:
        for batch in batches:
            yield batch, target
        return
    done = 0
    for batch in batches:
        count = _length(batch)
        if done + count > len(listed):
            raise OptionError(
                f"target names {len(listed)} classes, one a sample; x holds {done + count} or more"
            )
        yield batch, list(listed[done : done + count])
        done += count
    if done != len(listed):
        raise OptionError(f"target names {len(listed)} classes, one a sample; x holds {done}")


def _length(batch: Any) -> int:
    while isinstance(batch, (Mapping, tuple)):
        batch = next(iter(batch.values() if isinstance(batch, Mapping) else batch))
    return len(batch)
