"""Relevance through transformers as they come: balanced books, one answer in any spelling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whence
from support_tape import lively
from support_transformers import MODELS, SMALL, bert, gpt2, ids, llama, transformers

COMPOSITES = ("auto", "cp-lrp", "epsilon")


@pytest.fixture(scope="module")
def hf():
    return transformers()


@pytest.mark.parametrize("name", MODELS)
def test_the_books_balance(name, hf):
    torch.manual_seed(3)
    net, x, target = MODELS[name](hf)
    lively(net)
    for composite in COMPOSITES:
        e = whence.explain(net, x, whence.LRP(composite=composite), target=target)
        assert (e.ledger.balance <= 1e-5).all(), (composite, e.ledger.balance)
        wanted = "attn-lrp" if composite == "auto" else composite
        assert e.options["composite"] == wanted
        np.testing.assert_allclose(e.ledger.seed, e.output, rtol=1e-5)
        whole = e.to_numpy().reshape(2, -1).sum(1)
        np.testing.assert_allclose(e.ledger.total, whole, rtol=1e-5, atol=1e-6)
        kinds = {row.kind for row in e.ledger}
        assert {"softmax", "matmul", "norm"} <= kinds
        assert "opaque" not in kinds


def test_every_norm_and_activation_is_one_op_there(hf):
    """Hugging Face spells RMS-norm and GPT-2's GELU in primitives; rules see what they mean."""
    wanted = {
        "llama": {("norm", "rms_norm"): 5, ("activation", "silu"): 2},
        "qwen3": {("norm", "rms_norm"): 9, ("activation", "silu"): 2},
        "t5": {("norm", "rms_norm"): 5, ("activation", "gelu"): 2},
        "gpt2": {("norm", "layer_norm"): 5, ("activation", "gelu"): 2},
        "clip": {("norm", "layer_norm"): 6, ("activation", "silu"): 2},
    }
    for name, counts in wanted.items():
        net, x, target = MODELS[name](hf)
        e = whence.explain(lively(net), x, "lrp", target=target)
        ops = [(row.kind, row.op) for row in e.ledger]
        # What the seed does not reach is not in the books, as a key's norm behind no attention.
        assert {k: ops.count(k) for k in counts} == counts, name
        assert not {o for k, o in ops if k == "activation"} - {o for _, o in counts}, name


# ---- one answer for every spelling


class Attention(nn.Module):
    """Self-attention of two heads, by the same weights in several spellings."""

    def __init__(self):
        super().__init__()
        self.how = ""
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)
        self.mask = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)

    def forward(self, x):
        heads = self.attention
        if self.how.startswith("module"):
            weights = "weights" in self.how
            y = heads(x, x, x, attn_mask=self.mask, need_weights=weights)[0]
            return self.head((x + y).mean(1))
        parts = F.linear(x, heads.in_proj_weight, heads.in_proj_bias).chunk(3, -1)
        q, k, v = (p.reshape(*x.shape[:2], 2, 4).transpose(1, 2) for p in parts)
        y = getattr(self, self.how)(q, k, v).transpose(1, 2).reshape(x.shape)
        return self.head((x + heads.out_proj(y)).mean(1))

    def matmul(self, q, k, v):
        return (q @ k.transpose(-1, -2) / 2 + self.mask).softmax(-1) @ v

    def einsum(self, q, k, v):
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * 0.5
        return torch.einsum("bhqk,bhkd->bhqd", torch.softmax(scores + self.mask, -1), v)

    def fused(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, self.mask)

    def causal(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def batched(self, q, k, v):
        q, k, v = (t.reshape(-1, 5, 4) for t in (q, k, v))
        weights = F.softmax((torch.bmm(q, k.mT) / 2).masked_fill(self.mask < 0, -torch.inf), 2)
        return torch.bmm(weights, v).reshape(-1, 2, 5, 4)

    def spelled(self, q, k, v):
        scores = (q @ k.mT / 2).masked_fill(self.mask < 0, -torch.inf)
        powers = torch.exp(scores - scores.amax(-1, keepdim=True))
        return powers / powers.sum(-1, keepdim=True) @ v

    def detached(self, q, k, v):
        scores = (q @ k.mT / 2).masked_fill(self.mask < 0, -torch.inf)
        powers = torch.exp(scores - scores.max(-1, keepdim=True)[0].detach())
        return powers / powers.sum(-1, keepdim=True) @ v


@pytest.mark.parametrize("composite", ["attn-lrp", "cp-lrp"])
def test_attention_in_any_spelling(composite):
    net, x = lively(Attention()), torch.randn(2, 5, 8)
    found = {}
    ways = ("module", "module with weights", "matmul", "einsum", "fused", "causal", "batched",
            "spelled", "detached")  # fmt: skip
    for net.how in ways:
        e = whence.explain(net, x, whence.LRP(composite=composite), target=1)
        assert (e.ledger.balance <= 1e-5).all()
        assert {row.op for row in e.ledger if row.kind == "softmax"} == {"softmax"}
        found[net.how] = e.to_numpy()
    scale = np.abs(found["module"]).max()
    for how, relevance in found.items():
        assert np.abs(relevance - found["module"]).max() <= 1e-5 * scale, how


def relevance(net, x, composite="attn-lrp", target=None):
    e = whence.explain(net, x, whence.LRP(composite=composite), target=target or whence.token(3))
    assert (e.ledger.balance <= 1e-5).all()
    return e.to_numpy()


def close(ours, theirs, tolerance=1e-5):
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("composite", ["attn-lrp", "cp-lrp"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "qwen3", "clip"])
def test_the_implementation_of_attention_does_not_matter(name, composite, hf):
    torch.manual_seed(5)
    net, x, target = MODELS[name](hf)
    lively(net)
    maps = []
    for how in ("eager", "sdpa"):
        net.set_attn_implementation(how)
        maps.append(relevance(net, x, composite, target))
    # One scales the queries, the other the scores, so that the stabiliser, 1e-6, weighs 2 to 3
    # times as much in the one as in the other.
    close(*maps, tolerance=2e-4)


def test_grouped_queries_are_repeated_keys_and_values(hf):
    config = hf.LlamaConfig(**SMALL, num_key_value_heads=1)
    grouped = lively(hf.LlamaForCausalLM(config))
    whole = hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL, num_key_value_heads=2)).eval()
    state = grouped.state_dict()
    for key in state:
        if "k_proj" in key or "v_proj" in key:
            state[key] = torch.cat([state[key], state[key]])
    whole.load_state_dict(state)
    x = ids()
    close(relevance(grouped, x), relevance(whole, x))


def test_a_spelled_rms_norm_is_the_fused_one(hf):
    net, x, _ = llama(hf)
    lively(net)
    spelled = relevance(net, x)
    for name, module in list(net.named_modules()):
        if type(module).__name__ == "LlamaRMSNorm":
            fused = nn.RMSNorm(16, module.variance_epsilon)
            fused.weight = module.weight
            parent, _, own = name.rpartition(".")
            setattr(net.get_submodule(parent), own, fused)
    close(relevance(net, x), spelled)


class Spelled(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


@pytest.mark.parametrize("composite", ["attn-lrp", "cp-lrp"])
def test_a_spelled_gate_is_the_fused_one(composite, hf):
    net, x, _ = llama(hf)
    lively(net)
    fused = relevance(net, x, composite)
    for layer in net.model.layers:
        layer.mlp.act_fn = Spelled()
    close(relevance(net, x, composite), fused)


def test_the_gate_of_a_gated_layer(hf):
    """Half each by attn-lrp; by cp-lrp the gate is held constant."""
    net, x, target = llama(hf)
    lively(net)
    gate = "model.layers.1.mlp.gate_proj"
    for composite, silent in (("attn-lrp", False), ("cp-lrp", True)):
        method = whence.LRP(composite=composite, keep=(gate, "model.layers.1.mlp.up_proj"))
        e = whence.explain(net, x, method, target=target)
        kept = e.at(gate)
        assert bool((kept == 0).all()) is silent
        if not silent:
            np.testing.assert_allclose(
                kept.sum().item(), e.at("model.layers.1.mlp.up_proj").sum().item(), rtol=1e-5
            )


def test_caches_make_no_difference(hf):
    net, x, _ = llama(hf)
    lively(net)
    with_cache = relevance(net, {"input_ids": x, "use_cache": True})
    without = relevance(net, {"input_ids": x, "use_cache": False})
    close(without["input_ids"], with_cache["input_ids"])


def test_what_a_causal_mask_hides_gets_nothing(hf):
    net, x, _ = gpt2(hf)
    lively(net)
    e = whence.explain(net, x, "lrp", target=whence.token(3, position=2))
    scores = e.heatmap()
    assert not scores[:, 3:].any()
    assert scores[:, :3].all()


def test_padding_gets_nothing(hf):
    net, x, target = bert(hf)
    e = whence.explain(lively(net), x, "lrp", target=target)
    scores = e.heatmap()
    assert not scores[1, 4:].any()
    assert scores[0].all()


def test_half_precision_books(hf):
    for name in ("llama", "gpt2"):
        net, x, target = MODELS[name](hf)
        e = whence.explain(lively(net).to(torch.bfloat16), x, "lrp", target=target)
        assert (e.ledger.balance < 0.05).all()
        assert {"rms_norm", "layer_norm"} & {row.op for row in e.ledger}


def test_keras_multi_head_attention():
    keras = pytest.importorskip("keras")
    layers = keras.layers
    keras.utils.set_random_seed(0)
    given = keras.Input((6,), dtype="int32")
    h = layers.Embedding(20, 8)(given)
    h = layers.LayerNormalization()(h + layers.MultiHeadAttention(2, 4)(h, h))
    wide = layers.Dense(8)(layers.Dense(12, activation="gelu")(h))
    h = layers.LayerNormalization()(h + wide)
    net = keras.Model(given, layers.Dense(3)(layers.GlobalAveragePooling1D()(h)))
    x = np.random.default_rng(0).integers(0, 20, (2, 6))
    for composite in COMPOSITES:
        e = whence.explain(net, x, whence.LRP(composite=composite), target=1)
        assert (e.ledger.balance <= 1e-5).all()
        assert e.options["composite"] == ("attn-lrp" if composite == "auto" else composite)
        assert {"softmax", "matmul", "norm"} <= {row.kind for row in e.ledger}
    tokens = e.tokens({f"w{i}": i for i in range(20)}, sample=1)
    assert tokens.text == tuple(f"w{i}" for i in x[1])
    np.testing.assert_allclose(tokens.score.sum(), e.ledger.total[1], rtol=1e-5)
