"""DeepLIFT in TensorFlow: compiled, complete, and the same numbers as in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

keras = pytest.importorskip("keras")

import whence  # noqa: E402
from whence.errors import MissingRule  # noqa: E402
from whence.frameworks import by_name  # noqa: E402
from whence.methods.deeplift import DeepLIFT, DeepSHAP  # noqa: E402

L = keras.layers


@pytest.fixture(autouse=True)
def repeatable():
    keras.utils.set_random_seed(0)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def adds_up(net, x, target=None, **options):
    e = DeepLIFT(**options)(net, x, target=target)
    difference = abs(e.output - e.extras["reference_output"])
    assert difference.min() > 1e-3 * abs(e.output).max()
    assert e.gap.max() < 1e-4
    assert e.ledger.balance.max() < 1e-5
    return e


def convolutional():
    x = L.Input((12, 12, 3))
    h = L.BatchNormalization()(L.Conv2D(8, 3, padding="same")(x))
    r = L.ReLU()(h)
    h = L.MaxPool2D(3, 2)(r)
    h = L.Add()([L.Conv2D(8, 3, padding="same", activation="gelu")(h), L.MaxPool2D(3, 2)(r)])
    h = L.GroupNormalization(4)(L.LayerNormalization()(h))
    out = L.Dense(4, activation="softmax")(L.GlobalAveragePooling2D()(h))
    return keras.Model(x, out)


def attentive():
    x = L.Input((7, 16))
    h = L.Dense(16)(x)
    h = L.LayerNormalization()(h + L.MultiHeadAttention(4, 4)(h, h))
    h = L.LayerNormalization()(h + L.Dense(16)(L.Dense(32, activation="silu")(h)))
    return keras.Model(x, L.Dense(4)(h[:, 0]))


def test_a_convolutional_model_with_everything():
    net, x = convolutional(), numbers(3, 12, 12, 3)
    for target in (None, whence.logit(2), whence.difference(0, 1)):
        adds_up(net, x, target=target)
    adds_up(net, x, target=whence.logit(1), baseline=["zero", "blur", "noise"], chunk=2)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_attention_at_batches_as_long_as_its_other_axes(batch):
    net, x = attentive(), numbers(4, 7, 16)
    together = adds_up(net, x[:batch], target=2)
    alone = DeepLIFT()(net, x[:1], target=2)
    assert together.attribution[:1] == pytest.approx(alone.attribution, rel=1e-4, abs=1e-5)


def test_a_recurrent_model_whose_features_are_as_many_as_the_doubled_batch():
    """The trace cannot see which axis is the batch; it is asked with numbers, once."""
    x = L.Input((3, 6))
    net = keras.Model(x, L.Dense(3)(L.GRU(6)(L.LSTM(6, return_sequences=True)(x))))
    first = numbers(3, 3, 6)
    together = adds_up(net, first, target=1)
    alone = DeepLIFT()(net, first[1:2], target=1)
    assert together.attribution[1:2] == pytest.approx(alone.attribution, rel=1e-3, abs=1e-6)
    before = by_name("tensorflow").traces
    DeepLIFT(baseline=0.5)(net, numbers(3, 3, 6, seed=1), target=0)
    assert by_name("tensorflow").traces == before


def test_tokens_at_their_embedding():
    x = L.Input((5,), dtype="int32")
    h = L.Conv1D(6, 3, activation="relu")(L.Embedding(20, 8)(x))
    net = keras.Model(x, L.Dense(3)(L.GlobalMaxPooling1D()(h)))
    ids = np.array([[1, 2, 3, 4, 5], [6, 7, 0, 9, 1]], np.int32)
    e = adds_up(net, ids, target=1)
    assert e.attribution.shape == (2, 5, 8)
    assert abs(e.attribution[1, 2]).max() == 0


def shared():
    """The same small net in both frameworks, on the same weights."""
    ours = keras.Sequential([
        L.Input((8, 8, 3)), L.Conv2D(6, 3), L.BatchNormalization(epsilon=1e-5),
        L.Activation("relu"), L.MaxPool2D(3, 2), L.Conv2D(5, 2), L.Activation("sigmoid"),
        L.GlobalAveragePooling2D(), L.LayerNormalization(epsilon=1e-5), L.Dense(4),
        L.Softmax(),
    ])  # fmt: skip
    rng = np.random.default_rng(3)
    ours.set_weights([rng.uniform(0.5, 1, w.shape) for w in ours.get_weights()])
    ours.layers[0].kernel.assign(numbers(3, 3, 3, 6) * 0.4)
    ours.layers[4].kernel.assign(numbers(2, 2, 6, 5) * 0.3)
    ours.layers[8].kernel.assign(numbers(5, 4))
    theirs = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(6, 5, 2),
        nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(5), nn.Linear(5, 4),
        nn.Softmax(1),
    ).eval()  # fmt: skip
    conv, norm, second, spread, head = (ours.layers[i] for i in (0, 1, 4, 7, 8))
    pairs = {
        "0.weight": conv.kernel.numpy().transpose(3, 2, 0, 1), "0.bias": conv.bias.numpy(),
        "1.weight": norm.gamma.numpy(), "1.bias": norm.beta.numpy(),
        "1.running_mean": norm.moving_mean.numpy(), "1.running_var": norm.moving_variance.numpy(),
        "4.weight": second.kernel.numpy().transpose(3, 2, 0, 1), "4.bias": second.bias.numpy(),
        "8.weight": spread.gamma.numpy(), "8.bias": spread.beta.numpy(),
        "9.weight": head.kernel.numpy().T, "9.bias": head.bias.numpy(),
    }  # fmt: skip
    held = theirs.state_dict()
    theirs.load_state_dict(held | {k: torch.from_numpy(np.array(v)) for k, v in pairs.items()})
    return ours, theirs


@pytest.mark.parametrize("baseline", [0, "blur", "noise"])
def test_both_frameworks_agree_on_shared_weights(baseline):
    ours, theirs = shared()
    x = numbers(2, 8, 8, 3, seed=5)
    same = x.transpose(0, 3, 1, 2).copy()
    if baseline == "noise":  # its pattern is drawn in the order of the axes
        baseline = {"first": numbers(3, 8, 8), "last": numbers(3, 8, 8).transpose(1, 2, 0)}
    first = baseline["first"] if isinstance(baseline, dict) else baseline
    last = baseline["last"] if isinstance(baseline, dict) else baseline
    tf = adds_up(ours, x, target=2, baseline=last)
    pt = DeepLIFT(baseline=first)(theirs, same, target=2)
    assert tf.output == pytest.approx(pt.output, rel=1e-5)
    largest = abs(pt.attribution).max()
    assert abs(tf.attribution.transpose(0, 3, 1, 2) - pt.attribution).max() < 1e-4 * largest


def test_reveal_cancel_agrees_between_the_frameworks():
    rng = np.random.default_rng(1)
    weights = [rng.standard_normal(s).astype(np.float32) for s in ((5, 7), (7,), (7, 3), (3,))]
    ours = keras.Sequential([L.Input((5,)), L.Dense(7, activation="tanh"), L.Dense(3)])
    ours.set_weights(weights)
    theirs = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    with torch.no_grad():
        for parameter, weight in zip(theirs.parameters(), weights, strict=True):
            parameter.copy_(torch.from_numpy(weight.T))
    x = numbers(2, 5)
    method = DeepLIFT(rule="reveal-cancel", baseline=0.3)
    tf, pt = method(ours, x, target=1), method(theirs, x, target=1)
    assert tf.attribution == pytest.approx(pt.attribution, rel=1e-4, abs=1e-5)
    with pytest.raises(MissingRule, match="The reveal-cancel rule is defined for linear ops"):
        method(convolutional(), numbers(1, 12, 12, 3))


def test_a_set_is_compiled_once_for_chunks_of_one_size():
    net, x = convolutional(), numbers(2, 12, 12, 3)
    refs = numbers(6, 12, 12, 3, seed=2)
    method = DeepSHAP(baseline=refs, chunk=2)
    method(net, x, target=whence.logit(0))
    before = by_name("tensorflow").traces
    e = method(net, x, target=whence.logit(1))
    assert by_name("tensorflow").traces == before
    assert e.gap.max() < 1e-4
