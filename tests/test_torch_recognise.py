"""Norms, softmax and gated units that are spelled out become one op with the same numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whence
from support_tape import exact, record
from whence.ops import Op

D = torch.float64
W = torch.rand(4, dtype=D, generator=torch.Generator().manual_seed(0)) + 0.5


def rms(x):
    return W * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def layer(x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * W + 0.5


NORMS = {
    "rms": (rms, lambda x: F.rms_norm(x, (4,), W, 1e-6)),
    "rms, square and division": (
        lambda x: x / x.square().mean(-1, keepdim=True).sqrt(),
        lambda x: F.rms_norm(x, (4,), None, 0.0)),
    "rms, product and power": (
        lambda x: x * ((x * x).mean(-1, True) + 1e-6).pow(-0.5) * W,
        lambda x: F.rms_norm(x, (4,), W, 1e-6)),
    "rms, inverse root": (
        lambda x: (1 / torch.sqrt(x.pow(2).mean(-1, True) + 1e-6)) * x,
        lambda x: F.rms_norm(x, (4,), None, 1e-6)),
    "rms of two axes": (
        lambda x: x * torch.rsqrt(x.pow(2).mean((1, 2), keepdim=True) + 1e-6),
        lambda x: F.rms_norm(x, (3, 4), None, 1e-6)),
    "layer": (layer, lambda x: F.layer_norm(x, (4,), W, torch.full((4,), 0.5, dtype=D), 1e-5)),
    "layer, centred twice": (
        lambda x: (x - x.mean(-1, True)) * torch.rsqrt((x - x.mean(-1, True)).pow(2).mean(-1, True)
                                                       + 1e-5),
        lambda x: F.layer_norm(x, (4,))),
    "layer, by the variance": (
        lambda x: (x - x.mean(-1, True)) / (x.var(-1, False, keepdim=True) + 1e-5).sqrt(),
        lambda x: F.layer_norm(x, (4,))),
}  # fmt: skip


def relevance(f, x):
    e = whence.explain(lambda t: f(t).flatten(1), x, "lrp", target=2)
    assert (e.ledger.balance < 1e-5).all()
    return e.attribution


@pytest.mark.parametrize("name", NORMS)
def test_norms(name):
    spelled, fused = NORMS[name]
    x = torch.randn(2, 3, 4, dtype=D)
    tape = exact(spelled, x)
    assert [n.kind for n in tape] == [Op.INPUT, Op.NORM]
    node, twin = tape.nodes[1], record(fused, x).nodes[1]
    assert node.op == twin.op
    for attr in ("axes", "centre"):
        assert node.attrs[attr] == twin.attrs[attr]
    assert node.attrs["epsilon"] == pytest.approx(twin.attrs["epsilon"])
    torch.testing.assert_close(node.output, twin.output)
    torch.testing.assert_close(node.call(x * 2), twin.call(x * 2))
    torch.testing.assert_close(relevance(spelled, x), relevance(fused, x))
    if node.params:
        ones = torch.ones(4, dtype=D)
        torch.testing.assert_close(node.call(x, scale=ones), twin.call(x, scale=ones))


def gelu_new(x):
    return 0.5 * x * (1.0 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3.0))))


GATED = {
    "silu": lambda x: x * torch.sigmoid(x),
    "silu, the other way": lambda x: torch.sigmoid(x) * x,
    "silu by quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": gelu_new,
    "gelu by erf": lambda x: x * 0.5 * (1.0 + torch.erf(x / 2**0.5)),
    "gelu with a cube of products": lambda x: (
        0.5 * x * (1 + torch.tanh(0.8 * (x + 0.04 * x.pow(3))))
    ),
    "hardswish": lambda x: x * F.relu6(x + 3) / 6,
    "hardswish by clamp": lambda x: x * (x + 3).clamp(0, 6) / 6,
    "gated by mish": lambda x: x * torch.tanh(F.softplus(x)),
    "gated by exp": lambda x: x / (1 + torch.exp(-x)),
}


@pytest.mark.parametrize("name", GATED)
def test_gated_units(name):
    x = torch.randn(2, 4, dtype=D)
    tape = exact(GATED[name], x)
    assert [(n.kind, n.op) for n in tape][1:] == [(Op.ACTIVATION, name.split()[0].rstrip(","))]
    node = tape.nodes[1]
    torch.testing.assert_close(node.call(x * 2), GATED[name](x * 2))
    # An activation hands its relevance on as it is.
    e = whence.explain(GATED[name], x, "lrp", target=1)
    torch.testing.assert_close(e.attribution[:, 1], GATED[name](x)[:, 1])
    assert not e.attribution[:, 0].any()


@pytest.mark.parametrize("detached", [False, True])
def test_softmax(detached):
    def spelled(x):
        largest = x.amax(1, keepdim=True)
        powers = torch.exp(x - (largest.detach() if detached else largest))
        return powers / powers.sum(1, keepdim=True)

    x = torch.randn(2, 4, 3, dtype=D)
    tape = exact(spelled, x)
    # A maximum without a gradient stays on the tape, where nothing reads it.
    assert [n.kind for n in tape][1:] == [Op.MAXPOOL] * detached + [Op.SOFTMAX]
    assert tape.nodes[-1].attrs["axis"] == 1
    torch.testing.assert_close(relevance(spelled, x), relevance(lambda t: t.softmax(1), x))


NOT_THERE = {
    "the mean of another": lambda x: x * torch.rsqrt((2 * x).pow(2).mean(-1, True) + 1e-6),
    "a mean of cubes": lambda x: x * torch.rsqrt(x.pow(3).abs().mean(-1, True) + 1e-6),
    "a product of two": lambda x: x[:, :2] * torch.sigmoid(x[:, 2:]),
    "the square": lambda x: x * x,
    "a gate for each row": lambda x: x * torch.sigmoid(x.mean(-1, True)),
    "a shift for each element": lambda x: x * torch.sigmoid(x + W),
    "the root on top": lambda x: x / torch.rsqrt(x.pow(2).mean(-1, True) + 1e-6),
    "two sums": lambda x: torch.exp(x) / torch.exp(2 * x).sum(-1, keepdim=True),
    "not the largest": lambda x: torch.exp(x - 1) / torch.exp(x - 2).sum(-1, keepdim=True),
}


@pytest.mark.parametrize("name", NOT_THERE)
def test_what_only_looks_like_it_stays(name):
    x = torch.randn(2, 4, dtype=D)
    tape = exact(NOT_THERE[name], x)
    assert not {Op.NORM, Op.SOFTMAX} & {n.kind for n in tape}
    assert Op.MUL in [n.kind for n in tape]


def test_what_something_else_reads_stays():
    def spread_too(x):
        spread = torch.rsqrt(x.pow(2).mean(-1, True) + 1e-6)
        return x * spread + spread

    def gate_too(x):
        gate = torch.sigmoid(x)
        return x * gate + gate

    for f in (spread_too, gate_too):
        tape = exact(f, torch.randn(2, 4, dtype=D))
        assert Op.MUL in [n.kind for n in tape]

    def gate_returned(x):
        gate = torch.sigmoid(x)
        return {"y": x * gate, "gate": gate}

    tape = record(gate_returned, torch.randn(2, 4, dtype=D))
    assert [n.kind for n in tape] == [Op.INPUT, Op.ACTIVATION, Op.MUL]


def test_the_leaf_may_be_read_by_others():
    """A residual around the norm, and two gates of one value."""
    x = torch.randn(2, 4, dtype=D)
    tape = exact(lambda t: t + rms(t), x)
    assert [n.kind for n in tape] == [Op.INPUT, Op.NORM, Op.ADD]
    tape = exact(lambda t: GATED["silu"](t) + GATED["gelu"](t), x)
    assert [n.kind for n in tape][1:] == [Op.ACTIVATION, Op.ACTIVATION, Op.ADD]


def test_patterns_of_patterns():
    x = torch.randn(2, 4, dtype=D)
    tape = exact(lambda t: GATED["silu"](rms(GATED["gelu"](t))), x)
    assert [n.op for n in tape][1:] == ["gelu", "rms_norm", "silu"]


class Named(nn.Module):
    """The gate is a layer of its own."""

    def __init__(self):
        super().__init__()
        self.dense, self.gate = nn.Linear(4, 4), nn.Sigmoid()

    def forward(self, x):
        x = self.dense(x)
        return x * self.gate(x)


def test_layers_that_are_asked_for_stay():
    net, x = Named(), torch.randn(2, 4)
    e = whence.explain(net, x, "lrp", target=0)
    assert [row.kind for row in e.ledger] == ["activation", "dense"]
    at = whence.explain(net, x, "lrp", target=0, at="gate")
    assert at.attribution.shape == (2, 4)
    assert "mul" in [row.kind for row in at.ledger]
    kept = whence.explain(net, x, whence.LRP(keep=("gate",)), target=0)
    torch.testing.assert_close(kept.at("gate"), at.attribution)
    unit = whence.explain(net, x, "lrp", target=whence.neuron("gate", 1))
    torch.testing.assert_close(
        torch.as_tensor(unit.output), torch.sigmoid(net.dense(x))[:, 1].detach()
    )


def test_a_shift_after_an_rms_norm_keeps_its_books():
    e = whence.explain(lambda x: rms(x) + 3.0, torch.randn(2, 4, dtype=D), "lrp", target=1)
    assert [row.kind for row in e.ledger] == ["affine", "norm"]
    assert (abs(e.ledger.absorbed()["bias"]) > 0.1).all()


@pytest.mark.parametrize("options", [
    {"dim": 1, "keepdim": True}, {"dim": (1, 2)}, {"dim": -1, "unbiased": False},
    {"dim": 1, "correction": 0}, {"unbiased": False}, {},
])  # fmt: skip
def test_variance_is_written_out(options):
    x = torch.randn(2, 4, 3, dtype=D)
    tape = exact(lambda t: t.var(**options), x)
    assert Op.OPAQUE not in [n.kind for n in tape]
    exact(lambda t: torch.var_mean(t, **options), x)
    exact(lambda t: t.var(False) if not options else t.var(1, False), x)


def test_deeplift_takes_them_too():
    x, base = torch.randn(2, 3, 4, dtype=D), torch.randn(1, 3, 4, dtype=D)
    for spelled, fused in (NORMS["rms"], NORMS["layer"]):
        maps = [
            whence.explain(lambda t, f=f: f(t).flatten(1), x, "deeplift", target=2, baseline=base)
            for f in (spelled, fused)
        ]
        torch.testing.assert_close(maps[0].attribution, maps[1].attribution)
        assert (maps[0].gap < 1e-6).all()
