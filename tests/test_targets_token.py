"""Tokens as targets: the next one, a chosen one, one against another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import whence
from whence.errors import TargetError, UnknownName
from whence.targets.token import token_id


class Language(nn.Module):
    """Logits (batch, tokens, vocabulary) that depend on the token at each position alone."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)

    def forward(self, ids):
        return self.head(self.table(ids))


NET, IDS = Language(), torch.tensor([[1, 2, 3], [4, 5, 6]])
LOGITS = NET(IDS).detach().numpy()


def outputs(target, method="gradient-x-input"):
    return whence.explain(NET, IDS, method, target=target)


@pytest.mark.parametrize("method", ["gradient", "gradient-x-input", "lrp", "deeplift"])
def test_a_chosen_token_at_a_position(method):
    e = outputs(whence.token([5, 0], position=[1, -1]), method)
    np.testing.assert_allclose(e.output, [LOGITS[0, 1, 5], LOGITS[1, 2, 0]], rtol=1e-6)
    assert e.target.tolist() == [5, 0]
    assert e.target_names == ["token 5 at position 1", "token 0"]
    scores = np.abs(e.to_numpy()).sum(2)
    assert (scores > 0).tolist() == [[False, True, False], [False, False, True]]


def test_the_likeliest_next_token():
    e = outputs(whence.token())
    np.testing.assert_array_equal(e.target, LOGITS[:, -1].argmax(1))
    np.testing.assert_allclose(e.output, LOGITS[:, -1].max(1), rtol=1e-6)
    first = outputs(whence.token(position=0))
    np.testing.assert_allclose(first.output, LOGITS[:, 0].max(1), rtol=1e-6)


def test_a_token_against_another():
    both = outputs(whence.token(2, against=3))
    one, other = outputs(whence.token(2)), outputs(whence.token(3))
    np.testing.assert_allclose(both.output, one.output - other.output, rtol=1e-5)
    np.testing.assert_allclose(
        both.to_numpy(), one.to_numpy() - other.to_numpy(), rtol=1e-4, atol=1e-6
    )
    assert both.target == "token 2 minus token 3"
    assert both.target_names == ["token 2 minus token 3"] * 2


def test_words_for_it():
    vocabulary = {"Paris": 4, "Rome": 6}
    target = whence.token("Paris", against="Rome", tokenizer=vocabulary, position=1)
    assert (target.index, target.against, target.position) == ((4,), (6,), (1,))
    assert target.describe() == "token 'Paris' minus token 'Rome' at position 1"
    assert outputs(target).target_names[0] == "token 'Paris' minus token 'Rome' at position 1"
    named = whence.explain(NET, IDS, target=whence.token(2), classes=list("abcdefg"))
    assert named.target_names == ["token 'c'", "token 'c'"]


class Encoder:
    """The usual interface: a space in front makes another token, other words are two."""

    def encode(self, text, add_special_tokens=True):
        known = {" Paris": [4], "Paris": [5]}
        found = known.get(text, [1, 2])
        return [0, *found, 0] if add_special_tokens else found


class Result:
    ids = (3,)


class Bare:
    def encode(self, text):
        return Result()


class Pieces:
    def convert_tokens_to_ids(self, tokens):
        return [len(t) for t in tokens]


def test_any_tokenizer():
    assert token_id(" Paris", Encoder()) == 4
    assert token_id("Paris", Encoder()) == 5
    assert token_id("x", Bare()) == 3
    assert token_id("four", Pieces()) == 4
    assert token_id("x", lambda text: {"input_ids": [[6]]}) == 6
    mixed = whence.token(["Paris", 2], tokenizer=Encoder())
    assert mixed.index == (5, 2)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: whence.token("Paris"), TargetError, "'Paris' was asked for by its text; give tok"),
        (lambda: whence.token("Lisbon", tokenizer=Encoder()), TargetError,
         r"'Lisbon' is 2 tokens, \[1, 2\] in this vocabulary.*with or without the space in front"),
        (lambda: whence.token("", tokenizer=lambda t: []), TargetError, "is no token at all"),
        (lambda: whence.token("Pari", tokenizer={"Paris": 4}), UnknownName, "did you mean 'Paris'"),
        (lambda: whence.token("a", tokenizer=3), TargetError, "a tokenizer has encode.*got int"),
        (lambda: whence.token("a", tokenizer=lambda t: "b"), TargetError, "gave 'b' for 'a'"),
        (lambda: whence.token(2.5), TargetError, "a token is a number, one a sample, or its text"),
        (lambda: whence.token(1, position="last"), TargetError, "position is a whole number"),
        (lambda: whence.token(against=1), TargetError, "name the token that is explained too"),
        (lambda: outputs(whence.token(7)), TargetError,
         "token 7 was asked for; the model's vocabulary has 7 tokens, 0 to 6"),
        (lambda: outputs(whence.token(1, against=-1)), TargetError, "token -1 was asked for"),
        (lambda: outputs(whence.token(1, position=3)), TargetError,
         "position 3 was asked for; the output has 3 positions, 0 to 2, or -3 to -1 from the end"),
        (lambda: outputs(whence.token([1, 2, 3])), TargetError,
         "3 numbers were given as the token for 2 samples"),
        (lambda: outputs(whence.token(1, position=[0, 1, 2])), TargetError,
         "3 numbers were given as the position for 2 samples"),
        (lambda: whence.explain(nn.Linear(3, 2), torch.ones(1, 3), target=whence.token(1)),
         TargetError, r"token 1 was asked for.*shape \(1, 2\), not \(batch, tokens, vocabulary\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_target(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_one_of_several_outputs():
    def net(ids):
        y = NET(ids)
        return {"hidden": y.sum(2), "scores": y}

    for target in (
        whence.token(2, output="scores"),
        whence.targets.output("scores", whence.token(2)),
    ):
        np.testing.assert_allclose(
            whence.explain(net, IDS, "gradient", target=target).output, LOGITS[:, -1, 2], rtol=1e-6
        )
    with pytest.raises(TargetError, match="the model has 2 outputs"):
        whence.explain(net, IDS, "gradient", target=whence.token(2))


def test_in_keras_one_graph_serves_all_tokens():
    keras = pytest.importorskip("keras")
    given = keras.Input((3,), dtype="int32")
    net = keras.Model(given, keras.layers.Dense(7)(keras.layers.Embedding(7, 4)(given)))
    x = IDS.numpy()
    y = net(x).numpy()
    for method in ("lrp", "gradient"):
        for token, place in ((5, 1), (2, -1)):
            e = whence.explain(net, x, method, target=whence.token(token, position=place))
            np.testing.assert_allclose(e.output, y[:, place, token], rtol=1e-5)
            assert not np.delete(e.to_numpy(), place, axis=1).any()
        e = whence.explain(net, x, method, target=whence.token())
        np.testing.assert_array_equal(e.target, y[:, -1].argmax(1))
