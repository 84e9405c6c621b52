"""Small transformers of four libraries, with random weights, an input and a target each."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import whence
from support import import_torchvision

SIDE = 32
SMALL = {
    "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


def transformers() -> Any:
    """Hugging Face's models, where they are installed; else the test is skipped."""
    import_torchvision()  # transformers imports it, and may need the same helping hand
    return pytest.importorskip("transformers")


def ids(n=2, t=6):
    return torch.randint(0, 30, (n, t))


def picture():
    return torch.randn(2, 3, SIDE, SIDE)


def vit(hf):
    models = import_torchvision().models
    return models.VisionTransformer(SIDE, 8, 2, 4, 32, 48, num_classes=5), picture(), 1


def swin(hf):
    models = import_torchvision().models
    return models.SwinTransformer([4, 4], 12, [2, 2], [2, 4], [2, 2]), picture(), 1


def deit(hf):
    import_torchvision()
    timm = pytest.importorskip("timm")
    sizes = {"img_size": SIDE, "depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 5}
    return timm.create_model("deit_tiny_patch16_224", pretrained=False, **sizes), picture(), 1


def bert(hf):
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, 4:] = 0
    net = hf.BertForSequenceClassification(hf.BertConfig(**SMALL, num_labels=3))
    return net, {"input_ids": ids(), "attention_mask": mask}, 1


def gpt2(hf):
    sizes = {"vocab_size": 30, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 12}
    config = hf.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    return hf.GPT2LMHeadModel(config), ids(), whence.token(3)


def llama(hf):
    net = hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL, num_key_value_heads=1))
    return net, ids(), whence.token(3, against=4)


def qwen3(hf):
    net = hf.Qwen3ForCausalLM(hf.Qwen3Config(**SMALL, num_key_value_heads=1, head_dim=8))
    return net, ids(), whence.token(3)


def t5(hf):
    sizes = {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 24}
    config = hf.T5Config(**sizes, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu")
    return hf.T5EncoderModel(config), ids(), lambda o: o["last_hidden_state"][:, 0, 3]


def clip(hf):
    sizes = {k: SMALL[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    config = hf.CLIPVisionConfig(**sizes, intermediate_size=24, image_size=SIDE, patch_size=8)
    return hf.CLIPVisionModel(config), picture(), lambda o: o["pooler_output"][:, 3]


MODELS = {f.__name__: f for f in (vit, swin, deit, bert, gpt2, llama, qwen3, t5, clip)}
