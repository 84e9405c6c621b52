"""What cannot be explained of a text, and what the error says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import whence
from support_transformers import gpt2, llama, transformers
from whence.errors import MissingRule, OptionError, TargetError


@pytest.fixture(scope="module")
def hf():
    return transformers()


def test_token_ids_that_the_model_has_not_got(hf):
    net, x, target = llama(hf)
    x[1, 3] = 30
    text = (
        r"the input holds the token id 30 at \(1, 3\); the model's embedding "
        r"\(model.embed_tokens\) has a vocabulary of 30, ids 0 to 29"
    )
    for method in ("lrp", "gradient"):
        with pytest.raises(whence.errors.InputError, match=text):
            whence.explain(net, x, method, target=target)
    named = {"input_ids": x, "use_cache": False}
    with pytest.raises(whence.errors.InputError, match="input 'input_ids' holds the token id 30"):
        whence.explain(net, named, target=target)
    x[1, 3] = -1
    with pytest.raises(whence.errors.InputError, match="holds the token id -1"):
        whence.explain(net, x, target=target)


def test_ids_that_the_model_takes_after_all():
    """The first embedding need not be the one that the input goes to: what runs is right."""

    class Typed(nn.Module):
        def __init__(self):
            super().__init__()
            self.kinds, self.table = nn.Embedding(5, 4), nn.Embedding(20, 4)
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head((self.table(x) + self.kinds.weight[0]).mean(1))

    assert whence.explain(Typed(), torch.tensor([[3, 17]]), "lrp").attribution.shape == (1, 2, 4)


def test_a_seed_of_the_wrong_shape(hf):
    net, x, target = gpt2(hf)
    text = r"the seed has shape \(3,\); give one number a sample, \(2,\)"
    with pytest.raises(OptionError, match=text):
        whence.explain(net, x, whence.LRP(seed=np.ones(3, np.float32)), target=target)
    e = whence.explain(net, x, whence.LRP(seed=np.array([1.0, 2.0], np.float32)), target=target)
    np.testing.assert_allclose(e.ledger.seed, [1, 2], rtol=1e-6)


class Cubed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return 3 * ctx.saved_tensors[0] ** 2 * grad


def test_relevance_through_an_opaque_op():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    net[0].register_forward_hook(lambda module, given, out: Cubed.apply(out))
    x = torch.randn(2, 3)
    with pytest.raises(MissingRule, match=r'no rule for opaque\..*unknown="gradient"'):
        whence.explain(net, x, "lrp", target=0)
    e = whence.explain(net, x, whence.LRP(unknown="gradient"), target=0)
    assert any("unknown=" in note for note in e.notes)
    assert (e.ledger.balance <= 1e-5).all()


def test_no_target_on_logits_of_every_position(hf):
    net, x, _ = gpt2(hf)
    text = r"shape \(2, 6, 30\).*whence\.token\(\).*whence\.token\(5, against=7\)"
    for target in (None, 3, whence.difference(1, 2)):
        with pytest.raises(TargetError, match=text):
            whence.explain(net, x, target=target)
