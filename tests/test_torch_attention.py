"""Attention and recurrence: single calls into PyTorch's core, recorded as what they consist of."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from support_tape import exact, lively, record
from whence.ops import Op

D = torch.float64
BOOL = torch.rand(5, 5, generator=torch.Generator().manual_seed(1)) > 0.4
BLIND = BOOL.clone()
BLIND[2] = False
BOOL[:, 0] = True
FLOATS = torch.randn(5, 5, dtype=D, generator=torch.Generator().manual_seed(2))
FLOATS[1, 3] = -torch.inf
PADDED = torch.tensor([[False] * 5, [False, False, False, True, True]])

ATTENTION = {
    "plain": {},
    "bool mask": {"attn_mask": BOOL},
    "float mask": {"attn_mask": FLOATS},
    "mask of one head": {"attn_mask": BOOL[None, None]},
    "fully masked row": {"attn_mask": BLIND},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "gqa": {"enable_gqa": True},
    "gqa causal scaled": {"enable_gqa": True, "is_causal": True, "scale": 1.5},
}


@pytest.mark.parametrize("name", ATTENTION)
def test_scaled_dot_product_attention(name):
    options = ATTENTION[name]
    heads = 2 if options.get("enable_gqa") else 4
    x = (torch.randn(2, 4, 5, 3, dtype=D), *(torch.randn(2, heads, 5, 3, dtype=D) for _ in "kv"))
    tape = exact(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options), x)
    kinds = [n.kind for n in tape]
    assert kinds.count(Op.MATMUL) == 2 and Op.SOFTMAX in kinds and Op.OPAQUE not in kinds


def test_attention_with_three_axes_constant_keys_and_an_additive_mask_of_the_input():
    q = torch.randn(2, 5, 3, dtype=D)
    k, v = torch.randn(2, 2, 5, 3, dtype=D)
    exact(lambda x: F.scaled_dot_product_attention(x, k, v), q)
    exact(lambda x: F.scaled_dot_product_attention(x, x, x, x @ x.mT), q)
    exact(lambda x: F.scaled_dot_product_attention(x, x[:, :3], x[:, :3], is_causal=True), q)


MULTIHEAD = {
    "self": ({}, {}),
    "sequence first": ({"batch_first": False}, {}),
    "no weights": ({}, {"need_weights": False}),
    "a weight per head": ({}, {"average_attn_weights": False}),
    "padding": ({}, {"key_padding_mask": PADDED}),
    "padding, no weights": ({}, {"key_padding_mask": PADDED, "need_weights": False}),
    "mask": ({}, {"attn_mask": ~BOOL}),
    "float mask, no weights": ({}, {"attn_mask": FLOATS, "need_weights": False}),
    "causal": ({}, {"attn_mask": torch.ones(5, 5).triu(1).bool(), "is_causal": True,
                    "need_weights": False}),
    "bias and zero keys": ({"add_bias_kv": True, "add_zero_attn": True}, {}),
    "no bias": ({"bias": False}, {}),
}  # fmt: skip


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", MULTIHEAD)
def test_multihead_attention(name, frozen):
    made, called = MULTIHEAD[name]
    attention = lively(nn.MultiheadAttention(8, 2, **{"batch_first": True, **made}).to(D))
    attention.requires_grad_(not frozen)
    x = torch.randn(2, 5, 8, dtype=D)
    x = x if made.get("batch_first", True) else x.transpose(0, 1)
    tape = exact(lambda t: attention(t, t, t, **called), x)
    assert Op.SOFTMAX in [n.kind for n in tape] and Op.OPAQUE not in [n.kind for n in tape]


def test_multihead_attention_across_with_other_widths():
    attention = lively(nn.MultiheadAttention(8, 2, kdim=6, vdim=7, batch_first=True).to(D))
    x = {
        n: torch.randn(2, s, w, dtype=D)
        for n, s, w in (("query", 3, 8), ("key", 5, 6), ("value", 5, 7))
    }
    exact(attention, x)
    exact(lambda q: attention(q, x["key"], x["value"])[0], x["query"])
    exact(lambda k: attention(x["query"], k, x["value"])[0], x["key"])


def test_multihead_attention_without_a_batch():
    attention = lively(nn.MultiheadAttention(8, 2, batch_first=True).to(D))
    exact(lambda x: attention(x, x, x)[0], torch.randn(5, 8, dtype=D))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_encoder_takes_no_fast_path(norm_first, frozen):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    encoder = lively(nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first).to(D))
    encoder.requires_grad_(not frozen)
    x = torch.randn(2, 5, 8, dtype=D)
    exact(encoder, x)
    tape = exact(lambda t: encoder(t, src_key_padding_mask=PADDED), x)
    assert Op.OPAQUE not in [n.kind for n in tape]
    exact(encoder.layers[0], x)


def test_under_the_callers_no_grad_and_inference_mode_too():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = lively(nn.TransformerEncoder(layer, 2).to(D))
    x = torch.randn(2, 5, 8, dtype=D)
    lines = str(record(encoder, x))
    with torch.no_grad():
        assert str(record(encoder, x)) == lines
    with torch.inference_mode():
        assert str(record(encoder, x.clone())) == lines


def test_a_whole_transformer():
    model = lively(nn.Transformer(8, 2, 1, 1, 16, batch_first=True).to(D))
    exact(model, (torch.randn(2, 5, 8, dtype=D), torch.randn(2, 3, 8, dtype=D)))


RECURRENT = {
    "lstm": (nn.LSTM, {}),
    "lstm, deep, both ways": (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "lstm, batch first": (nn.LSTM, {"batch_first": True}),
    "lstm, projected": (nn.LSTM, {"proj_size": 2, "bidirectional": True, "num_layers": 2}),
    "lstm, projected, no bias": (nn.LSTM, {"proj_size": 2, "bias": False}),
    "lstm, dropout": (nn.LSTM, {"num_layers": 2, "dropout": 0.5}),
    "lstm, no bias": (nn.LSTM, {"bias": False}),
    "gru": (nn.GRU, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    "rnn": (nn.RNN, {"bidirectional": True}),
    "rnn relu": (nn.RNN, {"nonlinearity": "relu", "num_layers": 2}),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers(name):
    kind, options = RECURRENT[name]
    layer = lively(kind(3, 4, **options).to(D))
    x = torch.randn(5, 2, 3, dtype=D)
    tape = exact(layer, x)
    assert Op.OPAQUE not in [n.kind for n in tape]
    exact(layer, x[:, 0])  # without a batch


def test_recurrent_layers_with_a_starting_state():
    x, h, c = (
        torch.randn(5, 2, 3, dtype=D),
        torch.randn(2, 2, 4, dtype=D),
        torch.randn(2, 2, 4, dtype=D),
    )
    lstm, gru = (lively(k(3, 4, num_layers=2).to(D)) for k in (nn.LSTM, nn.GRU))
    exact(lambda x, h, c: lstm(x, (h, c)), (x, h, c))
    exact(gru, (x, h))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_packed_sequences(kind, ordered):
    layer = lively(kind(3, 4, num_layers=2, bidirectional=True, batch_first=True).to(D))
    lengths = torch.tensor([5, 3, 1] if ordered else [3, 5, 1])

    def model(x):
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=ordered
        )
        out, state = layer(packed)
        padded, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
        return padded, state

    exact(model, torch.randn(3, 5, 3, dtype=D))


@pytest.mark.parametrize(
    "kind",
    [nn.LSTMCell, nn.GRUCell, nn.RNNCell, functools.partial(nn.RNNCell, nonlinearity="relu")],
)
def test_cells(kind):
    cell = lively(kind(3, 4).to(D))

    def model(x):
        state = None
        for step in x.unbind(1):
            state = cell(step, state)
        return state

    exact(model, torch.randn(2, 4, 3, dtype=D))
