"""Recurrent layers written out step by step: LSTM, GRU and plain cells, as their gates.

The formulas are those of PyTorch's documentation. ``torch.lstm`` and its kin take the layer's
weights as one flat list; layers, directions and packed sequences are unrolled here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["RECURRENT"]

Tensor = torch.Tensor
State = tuple[Tensor, ...]
Step = Callable[..., State]


def _lstm_step(
    x: Tensor, state: State, w_ih: Tensor, w_hh: Tensor, b_ih: Any, b_hh: Any, w_hr: Any = None
) -> State:
    h, c = state
    gates = F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh)
    i, f, g, o = gates.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return (h if w_hr is None else F.linear(h, w_hr), c)


def _gru_step(x: Tensor, state: State, w_ih: Tensor, w_hh: Tensor, b_ih: Any, b_hh: Any) -> State:
    (h,) = state
    r_x, z_x, n_x = F.linear(x, w_ih, b_ih).chunk(3, -1)
    r_h, z_h, n_h = F.linear(h, w_hh, b_hh).chunk(3, -1)
    r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
    n = torch.tanh(n_x + r * n_h)
    return ((1 - z) * n + z * h,)


def _plain_step(act: Callable[[Tensor], Tensor]) -> Step:
    def step(x: Tensor, state: State, w_ih: Tensor, w_hh: Tensor, b_ih: Any, b_hh: Any) -> State:
        return (act(F.linear(x, w_ih, b_ih) + F.linear(state[0], w_hh, b_hh)),)

    return step


def _cell(step: Step, pair: bool) -> Callable[..., Any]:
    def cell(
        x: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None
    ) -> Any:
        state = step(x, tuple(hx) if pair else (hx,), w_ih, w_hh, b_ih, b_hh)
        return state if pair else state[0]

    return cell


def _one_way(
    step: Step, xs: Sequence[Tensor], start: State, weights: Sequence[Tensor], reverse: bool
) -> tuple[list[Tensor], State]:
    """One layer in one direction; ``xs`` is one (batch, features) a step.

    Packed sequences are sorted by length, so the batch shrinks along the steps: forwards, the state
    of an ended sequence is set aside; backwards, a sequence joins with its starting state.
    """
    outputs: list[Tensor] = []
    ended: list[State] = []
    live = tuple(s[: xs[-1].shape[0]] for s in start) if reverse else start
    for x in reversed(xs) if reverse else xs:
        n, have = x.shape[0], live[0].shape[0]
        if n < have:
            ended.append(tuple(s[n:] for s in live))
            live = tuple(s[:n] for s in live)
        elif n > have:
            live = tuple(torch.cat([s, f[have:n]]) for s, f in zip(live, start, strict=True))
        live = step(x, live, *weights)
        outputs.append(live[0])
    for state in reversed(ended):
        live = tuple(torch.cat([s, e]) for s, e in zip(live, state, strict=True))
    return (outputs[::-1] if reverse else outputs), live


def _spread(weights: Sequence[Any]) -> list[Any]:
    """One direction's weights as (w_ih, w_hh, b_ih, b_hh[, w_hr]); absent biases become None."""
    if len(weights) in (2, 3):
        return [*weights[:2], None, None, *weights[2:]]
    return list(weights)


def _layers(
    step: Step, xs: list[Tensor], states: State, weights: Sequence[Tensor], count: int, both: bool
) -> tuple[list[Tensor], State]:
    ways = 2 if both else 1
    each = len(weights) // (count * ways)
    finals: list[State] = []
    for layer in range(count):
        sides = []
        for way in range(ways):
            place = layer * ways + way
            own = _spread(weights[place * each : (place + 1) * each])
            outs, final = _one_way(step, xs, tuple(s[place] for s in states), own, way == 1)
            sides.append(outs)
            finals.append(final)
        xs = [torch.cat(pair, -1) for pair in zip(*sides, strict=True)] if both else sides[0]
    return xs, tuple(torch.stack(list(part)) for part in zip(*finals, strict=True))


def _layer(step: Step, pair: bool) -> Callable[..., Any]:
    def run(first: Tensor, second: Any, third: Any, *rest: Any) -> Any:
        if isinstance(second, Tensor) and second.dim() == 1 and not second.is_floating_point():
            return packed(first, second, third, *rest)
        return padded(first, second, third, *rest)

    def padded(
        x: Tensor, hx: Any, weights: Sequence[Tensor], bias: bool, count: int, dropout: float,
        train: bool, both: bool, batch_first: bool,
    ) -> Any:  # fmt: skip
        if batch_first:
            x = x.transpose(0, 1)
        xs, states = _layers(
            step, list(x.unbind(0)), tuple(hx) if pair else (hx,), weights, count, both
        )
        out = torch.stack(xs, 1 if batch_first else 0)
        return (out, *states)

    def packed(
        data: Tensor, sizes: Tensor, hx: Any, weights: Sequence[Tensor], bias: bool, count: int,
        dropout: float, train: bool, both: bool,
    ) -> Any:  # fmt: skip
        xs = list(data.split([int(n) for n in sizes]))
        xs, states = _layers(step, xs, tuple(hx) if pair else (hx,), weights, count, both)
        return (torch.cat(xs), *states)

    return run


_TANH, _RELU = _plain_step(torch.tanh), _plain_step(torch.relu)

RECURRENT: dict[str, Callable[..., Any]] = {
    "lstm": _layer(_lstm_step, pair=True),
    "gru": _layer(_gru_step, pair=False),
    "rnn_tanh": _layer(_TANH, pair=False),
    "rnn_relu": _layer(_RELU, pair=False),
    "lstm_cell": _cell(_lstm_step, pair=True),
    "gru_cell": _cell(_gru_step, pair=False),
    "rnn_tanh_cell": _cell(_TANH, pair=False),
    "rnn_relu_cell": _cell(_RELU, pair=False),
}
