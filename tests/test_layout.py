"""Sums per sample, wherever a model has moved its samples: each sample's number is its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import whence
from support_nets import FRAMEWORKS, installed
from whence.frameworks import namespace
from whence.layout import Layout, layouts, per_sample

BATCH = 3


def marked(*shape):
    """A batch whose elements are the number of their sample: 1, 2, 3."""
    x = torch.ones(BATCH, *shape)
    return x * torch.arange(1.0, BATCH + 1).reshape(BATCH, *(1,) * len(shape))


def heads(x):  # (batch, tokens, 2 heads * 4) -> (batch * heads, tokens, 4)
    return x.reshape(BATCH, 5, 2, 4).permute(0, 2, 1, 3).reshape(BATCH * 2, 5, 4)


def heads_first(x):  # -> (heads * batch, tokens, 4)
    return x.reshape(BATCH, 5, 2, 4).permute(2, 0, 1, 3).reshape(-1, 5, 4)


def windows(x):  # (batch, 4, 6, channels) -> (batch * 2 * 3 windows, 2 * 2, channels)
    x = x.view(BATCH, 2, 2, 3, 2, 4).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, 4, 4)


def unwindowed(x):
    return (
        windows(x).reshape(BATCH, 2, 3, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(BATCH, 4, 6, 4)
    )


def grid(x):  # the strided partition of MaxViT: windows gather every second pixel
    return x.view(BATCH, 2, 2, 2, 3, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 4, 4)


MOVES = {
    "transpose": (lambda x: x.transpose(0, 1), (5, 8)),
    "time first, then flat": (lambda x: x.transpose(0, 1).reshape(-1, 8), (5, 8)),
    "heads with the batch": (heads, (5, 8)),
    "heads first": (heads_first, (5, 8)),
    "windows with the batch": (windows, (4, 6, 4)),
    "windows and back": (unwindowed, (4, 6, 4)),
    "grid with the batch": (grid, (4, 6, 4)),
    "a pixel a row": (lambda x: x.permute(0, 2, 3, 1).reshape(-1, 4), (4, 2, 3)),
    "one more axis in front": (lambda x: x[None], (4,)),
    "stacked in front": (lambda x: torch.stack([x, x * 1]), (4,)),
    "stacked behind": (lambda x: torch.stack([x, x * 1], -1), (4,)),
    "batches one after another": (lambda x: torch.cat([x, x * 1], 0), (4,)),
    "and one half of them": (lambda x: torch.cat([x, x * 1], 0).chunk(2, 0)[1], (4,)),
    "sum of the time in front": (lambda x: x.transpose(0, 1).sum(0), (5, 8)),
    "one step of the time in front": (lambda x: x.transpose(0, 1)[2], (5, 8)),
    "steps of the time in front": (lambda x: x.transpose(0, 1).unbind(0)[1], (5, 8)),
    "sum of the features": (lambda x: x.sum(-1), (5, 8)),
    "a matrix product a sample": (lambda x: x @ x.transpose(1, 2), (5, 8)),
    # Axes as long as the batch: shapes alone do not say which is which.
    "square: sum of the time": (lambda x: x.transpose(0, 1).sum(0), (5, BATCH)),
    "square: sum of the features": (lambda x: x.transpose(0, 1).sum(-1), (5, BATCH)),
    "square: a step": (lambda x: x.transpose(0, 1)[1], (5, BATCH)),
    "square: a feature": (lambda x: x.transpose(0, 1)[..., 1], (5, BATCH)),
    "square: steps": (lambda x: x.transpose(0, 1).unbind(0)[4], (5, BATCH)),
    "square: maximum of the time": (lambda x: x.transpose(0, 1).amax(0), (5, BATCH)),
    "square: mean of the time": (lambda x: x.transpose(0, 1).mean(0), (5, BATCH)),
    "square maps": (lambda x: F.avg_pool2d(x, 1), (BATCH, BATCH, BATCH)),
    "channels last and back": (
        lambda x: x.permute(0, 2, 3, 1).reshape(BATCH, -1, 2).transpose(1, 2), (2, 3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_each_samples_sum_is_its_own(name):
    move, shape = MOVES[name]
    x = marked(*shape)
    tape = whence.record(move, x)
    places = layouts(tape, BATCH)
    value = tape.nodes[-1].out[0] if len(tape.nodes[-1].out) == 1 else tape.outputs["output"]
    array = value.array.detach()
    weights = torch.rand_like(array)
    assert places[value] is not None
    xp = namespace(array)
    got = per_sample(xp, weights, (array > 0).float(), places[value], BATCH)
    # The truth: the same call on each sample alone keeps that sample's elements and zeroes others'.
    theirs = []
    for i in range(BATCH):
        alone = torch.zeros_like(x)
        alone[i] = x[i]
        theirs.append((weights * (move(alone) != 0)).sum().item())
    np.testing.assert_allclose(got.numpy(), theirs, rtol=1e-5)
    assert len(set(np.round(theirs, 4))) == BATCH
    tape.free()


def test_where_the_batch_itself_is_split_the_sum_is_shared_evenly():
    x = torch.rand(4, 3)
    tape = whence.record(lambda t: t.sum(0), x)
    value = tape.outputs["output"]
    places = layouts(tape, 4)
    assert places[value] is None
    got = per_sample(namespace(x), value.array.detach(), None, places[value], 4)
    np.testing.assert_allclose(got, np.full(4, x.sum() / 4), rtol=1e-6)
    tape.free()


def test_half_precision_is_summed_in_single():
    x = torch.full((2, 4096), 16.0).half()
    got = per_sample(namespace(x), x, None, Layout(0), 2)
    np.testing.assert_array_equal(got.numpy(), [65536.0, 65536.0])  # above float16's largest
    turned = per_sample(namespace(x), x.T.contiguous(), None, Layout(1), 2)
    np.testing.assert_array_equal(turned.numpy(), [65536.0, 65536.0])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_attention_in_each_framework(framework):
    """Books per sample through merged heads: alone and in a batch a sample's numbers are equal."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (BATCH, 5, 8)).astype(np.float32)
    if installed(framework) == "torch":
        attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

        def model(t):
            return attention(t, t, t)[0].mean(1)

        array = torch.as_tensor
    else:
        import keras
        import tensorflow as tf

        entry = keras.layers.Input((5, 8))
        inner = keras.layers.MultiHeadAttention(2, 4)(entry, entry)
        model = keras.Model(entry, keras.layers.GlobalAveragePooling1D()(inner))
        array = tf.convert_to_tensor
    whole = whence.explain(model, array(x), "lrp", target=1)
    assert (whole.ledger.balance < 1e-5).all()
    for i in range(BATCH):
        one = whence.explain(model, array(x[i : i + 1]), "lrp", target=1)
        for a, b in zip(whole.ledger, one.ledger, strict=True):
            scale = max(abs(float(b.relevance_in[0])), 1e-3)
            assert a.relevance_in[i] == pytest.approx(b.relevance_in[0], abs=1e-4 * scale), a.op
            assert a.relevance_out[i] == pytest.approx(b.relevance_out[0], abs=1e-3 * scale), a.op
