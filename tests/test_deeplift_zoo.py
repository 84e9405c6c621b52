"""Sum of the attribution = f(x) - f(reference), in float32, on models as they come (PyTorch)."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from support import import_torchvision
from support_tape import changed, lively, state_of
from whence.methods.deeplift import DeepLIFT, DeepSHAP

GAP = 1e-4
# All of it rounding: in float64 both are next to nothing, as a test below holds.
BALANCE = 2e-5


def adds_up(net, x, **options):
    """Explain, and hold the sum and the books against what they promise; returns the result."""
    target = options.pop("target", None)
    e = DeepLIFT(**options)(net, x, target=target)
    difference = abs(e.output - e.extras["reference_output"])
    assert difference.min() > 1e-3 * abs(e.output).max()  # a difference of nothing shows nothing
    assert e.gap.max() < GAP
    assert e.ledger.balance.max() < BALANCE
    return e


def settled(net, x):
    """Batch statistics of the net's own activations, so that signals neither die nor explode."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            module.reset_running_stats()
    net.train()
    with torch.no_grad():
        net(x)
    return net.eval()


def vision(name, size=64, **options):
    import_torchvision()
    from torchvision import models

    torch.manual_seed(1)
    x = torch.randn(8, 3, size, size)
    net = getattr(models, name)(weights=None, num_classes=10, **options)
    return settled(net, x), x[:2]


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "densenet121", "efficientnet_b0", "shufflenet_v2_x0_5"]
)
def test_convolutional_models(name):
    adds_up(*vision(name), target=3)


def test_googlenet_with_its_overlapping_pools():
    adds_up(*vision("googlenet", aux_logits=False, init_weights=False), target=3)


@pytest.mark.parametrize("name", ["vgg11", "alexnet", "squeezenet1_0", "swin_t", "convnext_tiny"])
def test_models_without_batch_norm(name):
    import_torchvision()
    from torchvision import models

    torch.manual_seed(1)
    net = getattr(models, name)(weights=None, num_classes=10).eval()
    # As they are made, these scale their branches or their answer to next to nothing.
    net = lively(net) if name in ("swin_t", "convnext_tiny", "alexnet") else net
    adds_up(net, torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v2"])
def test_what_is_missing_in_single_precision_is_rounding(name):
    net, x = vision(name)
    e = DeepLIFT()(net.double(), x.double(), target=3)
    assert e.gap.max() < 1e-11
    assert e.ledger.balance.max() < 1e-11


def test_vision_transformer():
    import_torchvision()
    from torchvision.models import VisionTransformer

    net = VisionTransformer(
        image_size=64, patch_size=16, num_layers=4, num_heads=4, hidden_dim=64, mlp_dim=128,
        num_classes=10,
    )  # fmt: skip
    adds_up(lively(net), torch.randn(2, 3, 64, 64), target=3, baseline="blur")


@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
def test_reveal_cancel_adds_up_too(name):
    net, x = vision(name)
    adds_up(net, x, rule="reveal-cancel", target=3)


def transformer(name, **options):
    import transformers

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kinds = {
            "bert": ("BertConfig", "BertForSequenceClassification"),
            "gpt2": ("GPT2Config", "GPT2LMHeadModel"),
            "llama": ("LlamaConfig", "LlamaForCausalLM"),
            "t5": ("T5Config", "T5EncoderModel"),
        }[name]
        config = getattr(transformers, kinds[0])(
            vocab_size=99, bos_token_id=1, eos_token_id=2, **options
        )
        net = getattr(transformers, kinds[1])(config).eval()
    for parameter in net.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return net


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def last(outputs):
    """The score of token 5 at the last place."""
    return outputs.logits[:, -1, 5]


@pytest.mark.parametrize("baseline", [0, 0.5])
def test_bert_with_a_mask(baseline):
    net = transformer("bert", intermediate_size=64, **SMALL)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 5:] = 0
    e = adds_up(
        net, {"inputs_embeds": torch.randn(2, 7, 32), "attention_mask": mask}, baseline=baseline
    )
    assert e.attribution["inputs_embeds"][1, 5:].abs().max() == 0


def test_bert_on_token_ids():
    net = transformer("bert", intermediate_size=64, **SMALL)
    e = adds_up(net, torch.randint(5, 90, (2, 7)), baseline=3)
    assert e.attribution.shape == (2, 7, 32)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gpt2(attention):
    net = transformer("gpt2", n_embd=32, n_layer=2, n_head=4, n_positions=20,
                      attn_implementation=attention)  # fmt: skip
    adds_up(net, {"inputs_embeds": torch.randn(2, 7, 32), "use_cache": False}, target=last)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_llama_whose_reference_has_no_spread(attention):
    """Its RMS-norms divide a reference of zeros by sqrt(eps)."""
    net = transformer("llama", intermediate_size=64, num_key_value_heads=2,
                      attn_implementation=attention, **SMALL)  # fmt: skip
    adds_up(net, {"inputs_embeds": torch.randn(2, 7, 32), "use_cache": False}, target=last)


def test_t5_encoder():
    net = transformer("t5", d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    adds_up(net, {"inputs_embeds": torch.randn(2, 7, 32)},
            target=lambda o: o.last_hidden_state[:, 0, 3])  # fmt: skip


class Recurrent(nn.Module):
    """A recurrent layer, read at its last step."""

    def __init__(self, cell, batch_first):
        super().__init__()
        self.batch_first = batch_first
        self.cell = cell(5, 6, 2, batch_first=batch_first, bidirectional=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        steps, _ = self.cell(x if self.batch_first else x.transpose(0, 1))
        return self.head(steps[:, -1] if self.batch_first else steps[-1])


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_alone_and_in_a_batch(cell, batch_first):
    torch.manual_seed(2)
    net, x = Recurrent(cell, batch_first).eval(), torch.randn(3, 4, 5)
    together = adds_up(net, x, target=1)  # 3 samples and 3 references: as many as features
    for i in range(3):
        alone = DeepLIFT()(net, x[i : i + 1], target=1)
        assert torch.allclose(alone.attribution[0], together.attribution[i], atol=1e-6)


def test_the_model_is_given_back_as_it_was():
    net, x = vision("resnet18")
    net.train()
    before = state_of(net)
    DeepLIFT(baseline=["zero", "blur"])(net, x, target=1)
    assert changed(before, state_of(net)) == []


def test_a_set_on_a_model_and_its_samples_one_by_one():
    net, x = vision("resnet18")
    refs = torch.rand(3, 3, 64, 64)
    together = DeepSHAP(baseline=refs)(net, x, target=3)
    assert together.gap.max() < GAP
    for i in range(2):
        alone = DeepSHAP(baseline=refs)(net, x[i : i + 1], target=3)
        largest = together.attribution[i].abs().max()
        assert (alone.attribution[0] - together.attribution[i]).abs().max() < 1e-4 * largest
