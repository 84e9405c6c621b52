"""The zoo: output and input gradient through the tape are autograd's own, model after model.

Weights are random and nowhere zero (``lively``). Inputs are as small as each model takes. The
models are compared in double precision, where 1e-12 leaves no room for a wrong term; single
precision is checked on a few, since there it shows rounding and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from support import import_torchvision
from support_tape import apart, changed, errors, exact, lively, record, state_of, walk
from whence.ops import Op

DOUBLE = torch.float64

# name: (side of the input picture, options); the largest are marked slow.
TORCHVISION: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet18": (32, {}),
    "resnet50": (32, {}),
    "vgg11_bn": (32, {}),
    "densenet121": (32, {}),
    "googlenet": (32, {"aux_logits": False, "init_weights": False}),
    "inception_v3": (75, {"aux_logits": False, "init_weights": False}),
    "mobilenet_v2": (32, {}),
    "mobilenet_v3_small": (32, {}),
    "mobilenet_v3_large": (32, {}),
    "efficientnet_b0": (32, {}),
    "shufflenet_v2_x0_5": (32, {}),
    "regnet_y_400mf": (32, {}),
    "convnext_tiny": (32, {}),
    "vit_b_16": (32, {"image_size": 32}),
    "swin_t": (32, {}),
    "swin_v2_t": (32, {}),
    "maxvit_t": (224, {}),
}
TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "resnetv2_50": (32, {}),
    "dm_nfnet_f0": (32, {}),
    "mixer_s32_224": (64, {"img_size": 64}),
    "deit_tiny_patch16_224": (32, {"img_size": 32}),
    "deit3_small_patch16_224": (32, {"img_size": 32, "depth": 3}),
    "cait_xxs24_224": (32, {"img_size": 32, "depth": 3}),
    "xcit_nano_12_p16_224": (32, {"img_size": 32, "depth": 3}),
    "coatnet_nano_rw_224": (64, {"img_size": 64}),
    "beit_base_patch16_224": (32, {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3}),
    "eva02_tiny_patch14_224": (28, {"img_size": 28, "depth": 3}),
    "convmixer_768_32": (28, {}),
    "levit_128s": (64, {"img_size": 64}),
}
SLOW = {"inception_v3", "dm_nfnet_f0", "maxvit_t", "coatnet_nano_rw_224"}
SINGLE = ["resnet18", "densenet121", "mobilenet_v3_small", "convnext_tiny", "swin_v2_t"]


def marked(names: dict[str, Any]) -> list[Any]:
    return [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in names]


def of_torchvision(name: str, **options: Any) -> nn.Module:
    return lively(
        getattr(import_torchvision().models, name)(weights=None, num_classes=10, **options)
    )


def of_timm(name: str, **options: Any) -> nn.Module:
    import_torchvision()
    timm = pytest.importorskip("timm")
    return lively(timm.create_model(name, num_classes=10, **options))


def untouched_and_exact(model: nn.Module, x: Any, head: Any = None) -> None:
    exact(model, x, head=head)
    before = state_of(model)
    tape = record(model, x, head=head)
    assert changed(before, state_of(model)) == []
    assert len(tape) > 10 and tape.layers


@pytest.mark.parametrize("name", marked(TORCHVISION))
def test_torchvision(name):
    side, options = TORCHVISION[name]
    model = of_torchvision(name, **options).to(DOUBLE)
    untouched_and_exact(model, torch.randn(1 if name in SLOW else 2, 3, side, side, dtype=DOUBLE))


@pytest.mark.parametrize("name", marked(TIMM))
def test_timm(name):
    side, options = TIMM[name]
    model = of_timm(name, **options).to(DOUBLE)
    untouched_and_exact(model, torch.randn(1 if name in SLOW else 2, 3, side, side, dtype=DOUBLE))


@pytest.mark.parametrize("name", SINGLE)
def test_in_single_precision(name):
    side, options = TORCHVISION[name]
    exact(of_torchvision(name, **options), torch.randn(2, 3, side, side))


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "swin_t"])
def test_no_operation_of_a_common_model_is_opaque(name):
    side, options = TORCHVISION[name]
    tape = record(of_torchvision(name, **options), torch.randn(1, 3, side, side))
    assert [n.op for n in tape if n.kind is Op.OPAQUE] == []


def logits(output: Any) -> torch.Tensor:
    return output.logits


def states(output: Any) -> torch.Tensor:
    return output.last_hidden_state


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
TOKENS = torch.tensor([[3, 7, 7, 1, 9], [0, 4, 2, 8, 5]])


def huggingface(name: str) -> tuple[nn.Module, Callable[[Any], torch.Tensor]]:
    """A tiny model of a family, and the output to look at."""
    import_torchvision()
    t = pytest.importorskip("transformers")
    if name == "bert":
        config = t.BertConfig(vocab_size=20, num_labels=4, **SMALL)
        return t.BertForSequenceClassification(config), logits
    if name == "gpt2":
        config = t.GPT2Config(vocab_size=20, n_embd=32, n_layer=2, n_head=4, n_positions=16)
        return t.GPT2LMHeadModel(config), logits
    if name == "llama":
        config = t.LlamaConfig(vocab_size=20, num_key_value_heads=2, **SMALL)
        return t.LlamaForCausalLM(config), logits
    if name == "qwen3":
        config = t.Qwen3Config(vocab_size=20, num_key_value_heads=2, head_dim=8, **SMALL)
        return t.Qwen3ForCausalLM(config), logits
    if name == "mamba":
        config = t.MambaConfig(vocab_size=20, hidden_size=32, num_hidden_layers=2, state_size=4)
        return t.MambaForCausalLM(config), logits
    if name == "deberta":
        config = t.DebertaConfig(
            vocab_size=20, type_vocab_size=0, relative_attention=True, pos_att_type=["c2p", "p2c"],
            **SMALL,
        )  # fmt: skip
        return t.DebertaForSequenceClassification(config), logits
    if name == "qwen3_moe":
        config = t.Qwen3MoeConfig(
            vocab_size=20, num_key_value_heads=2, head_dim=8, num_experts=4, num_experts_per_tok=2,
            moe_intermediate_size=16, **SMALL,
        )  # fmt: skip
        model = t.Qwen3MoeForCausalLM(config)
        model.set_experts_implementation("eager")
        return model, logits
    config = t.T5Config(vocab_size=20, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    return t.T5EncoderModel(config), states


FAMILIES = ["bert", "gpt2", "llama", "qwen3", "t5"]


@pytest.mark.parametrize("name", [*FAMILIES, "mamba", "deberta", "qwen3_moe"])
def test_language_models_by_embeddings(name):
    model, head = huggingface(name)
    model = lively(model).to(DOUBLE)
    untouched_and_exact(model, {"inputs_embeds": torch.randn(2, 5, 32, dtype=DOUBLE)}, head)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", FAMILIES)
def test_language_models_by_tokens(name, attention):
    """The gradient at the embedding's output is the one by ``inputs_embeds``."""
    model, head = huggingface(name)
    if attention != "eager" and name == "t5":
        pytest.skip("this family has one implementation of attention")
    model.set_attn_implementation(attention)
    model = lively(model).to(DOUBLE)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
    tape = record(model, {"input_ids": TOKENS, "attention_mask": mask}, head=head)
    (node,) = [n for n in tape if n.kind is Op.EMBEDDING]
    assert node.attrs["ids"] == "input_ids"
    assert node.out[0] in tape.sources
    seed = torch.randn_like(tape.output)
    ours = walk(tape, {tape.outputs[tape.main]: seed})[node.out[0]]

    embeds = node.output.detach().requires_grad_()
    output = head(model(inputs_embeds=embeds, attention_mask=mask))
    (theirs,) = torch.autograd.grad(output, embeds, seed)
    assert apart(tape.output, output) <= 1e-12
    assert apart(ours, theirs) <= 1e-12


@pytest.mark.parametrize("name", ["vit", "clip"])
def test_vision_transformers_of_transformers(name):
    import_torchvision()
    t = pytest.importorskip("transformers")
    if name == "vit":
        config = t.ViTConfig(image_size=16, patch_size=8, num_labels=4, **SMALL)
        model: nn.Module = t.ViTForImageClassification(config)
        head: Any = logits
    else:
        model = t.CLIPVisionModel(t.CLIPVisionConfig(image_size=16, patch_size=8, **SMALL))
        head = None
    model = lively(model).to(DOUBLE)
    untouched_and_exact(model, {"pixel_values": torch.randn(2, 3, 16, 16, dtype=DOUBLE)}, head)


def test_the_check_itself_sees_a_wrong_gradient():
    model, x = of_torchvision("resnet18").to(DOUBLE), torch.randn(1, 3, 32, 32, dtype=DOUBLE)
    tape = record(model, x)
    node = next(n for n in tape.nodes[10:] if n.kind is Op.RELU)
    pull = node._pull
    node._pull = lambda *c: tuple(g * 1.001 for g in pull(*c))
    assert errors(model, x, tape=tape).gradient > 1e-6
