"""Tokens and their scores: any tokenizer, marks taken off, sub-words brought together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import whence
from whence.errors import InputError
from whence.tokens import Tokens, readable

IDS = torch.tensor([[0, 1, 2, 3], [3, 3, 2, 1]])
VOCABULARY = ["[CLS]", "play", "##ing", "fair"]


def explained(ids=IDS, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(4, 3), nn.Flatten(), nn.Linear(12, 2))
    return whence.explain(net, ids, "lrp", target=1, **options)


def test_scores_are_relevance_summed_over_features():
    e = explained()
    found = e.tokens({t: i for i, t in enumerate(VOCABULARY)}, sample=1)
    assert found.text == ("fair", "fair", "ing", "play")
    np.testing.assert_allclose(found.score, e.to_numpy()[1].sum(1), rtol=1e-6)
    assert (found.target, found.method, found.signed) == ("class 1", "lrp", True)
    assert e.tokens(sample=-1).text == ("3", "3", "2", "1")
    largest = e.tokens(reduce="maxabs")
    np.testing.assert_allclose(largest.score, np.abs(e.to_numpy()[0]).max(1), rtol=1e-6)


def test_sub_words_come_together_and_scores_add_up():
    e = explained()
    parts = e.tokens(dict(enumerate(VOCABULARY)))
    words = e.tokens(dict(enumerate(VOCABULARY)), merge=True)
    assert words.text == ("[CLS]", "playing", "fair")
    np.testing.assert_allclose(
        words.score, [parts.score[0], parts.score[1] + parts.score[2], parts.score[3]]
    )
    assert parts.score.sum() == pytest.approx(words.score.sum(), rel=1e-5)


class Usual:
    all_special_tokens = ("fair",)

    def convert_ids_to_tokens(self, ids):
        return [VOCABULARY[i] for i in ids]


class Small:
    def id_to_token(self, number):
        return VOCABULARY[number] if number else None


class Vectoriser:
    def get_vocabulary(self):
        return VOCABULARY[:3]


class Decoder:
    def decode(self, ids):
        return VOCABULARY[ids[0]]


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [
        (Usual(), ("[CLS]", "play", "ing", "fair")),
        (Small(), ("<0>", "play", "ing", "fair")),
        (Vectoriser(), ("[CLS]", "play", "ing", "<3>")),
        (Decoder(), ("[CLS]", "play", "ing", "fair")),
        (VOCABULARY.__getitem__, ("[CLS]", "play", "ing", "fair")),
        (lambda i: VOCABULARY[i].encode(), ("[CLS]", "play", "ing", "fair")),
        ({"play": 1, "##ing": 2}, ("<0>", "play", "ing", "<3>")),
        ({1: "play"}, ("<0>", "play", "<2>", "<3>")),
        (["a", "b", "c", "d"], ("a", "b", "c", "d")),
        ([["a", "b", "c", "d"], ["e"] * 4], ("a", "b", "c", "d")),
        (None, ("0", "1", "2", "3")),
    ],
)
def test_any_tokenizer(tokenizer, text):
    assert explained().tokens(tokenizer).text == text


def test_real_tokenizers():
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({t: i for i, t in enumerate(VOCABULARY)}, "[CLS]")
    assert explained().tokens(tokenizers.Tokenizer(model)).text == ("[CLS]", "play", "ing", "fair")


@pytest.mark.parametrize(
    ("raw", "text", "words"),
    [
        (["[CLS]", "un", "##real", "."], ["[CLS]", "un", "real", "."], ["[CLS]", "unreal", "."]),
        (["<s>", "ĠPar", "is", ",", "ĠÃ©", "t", "Ã©", "Ċ"],
         ["<s>", "Par", "is", ",", "é", "t", "é", "\n"], ["<s>", "Paris", ",", "été", "\n"]),
        (["▁The", "▁cap", "ital", "</s>"], ["The", "cap", "ital", "</s>"],
         ["The", "capital", "</s>"]),
        (["photo</w>", "gr", "aph</w>", "!</w>"], ["photo", "gr", "aph", "!"],
         ["photo", "graph", "!"]),
        (["un@@", "seen", "word"], ["un", "seen", "word"], ["unseen", "word"]),
        (["The", " cap", "ital", "."], ["The", "cap", "ital", "."], ["The", "capital", "."]),
        (["one", "two"], ["one", "two"], ["one", "two"]),
        (["<|im_start|>", "Ġa", "<|im_end|>", "b"], ["<|im_start|>", "a", "<|im_end|>", "b"],
         ["<|im_start|>", "a", "<|im_end|>", "b"]),
        (["##", "##"], ["##", "##"], ["##", "##"]),
        (["▁", "▁a"], [" ", "a"], [" ", "a"]),
        ([], [], []),
    ],
)  # fmt: skip
def test_marks_of_vocabularies(raw, text, words):
    shown, joins = readable(raw)
    assert shown == text
    merged = Tokens(tuple(shown), np.arange(len(raw)), tuple(joins)).words()
    assert list(merged.text) == words
    assert merged.score.sum() == sum(range(len(raw)))


def test_a_letter_cut_in_two_is_not_lost():
    shown, _ = readable(["Ġcaf", "Ã", "©"])
    assert shown == ["caf", "\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}"]


def test_special_tokens_by_the_tokenizers_own_word():
    assert readable(["a", "##b", "##c"], frozenset({"##b"}))[1] == [False, False, False]


def test_ids_from_where_they_are():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(4, 3), nn.Linear(3, 2)

        def forward(self, attention_mask, input_ids=None, embeds=None):
            x = self.table(input_ids) if embeds is None else embeds
            return self.head((x * attention_mask[..., None]).sum(1))

    net, mask = Net(), torch.ones(2, 4, dtype=torch.long)
    e = whence.explain(net, {"attention_mask": mask, "input_ids": IDS}, "lrp", target=0)
    assert e.tokens(VOCABULARY.__getitem__).text == ("[CLS]", "play", "ing", "fair")
    floats = {"attention_mask": mask.float() + 0.5, "embeds": torch.randn(2, 4, 3)}
    e = whence.explain(net, floats, "gradient", target=0)
    assert e.tokens(name="embeds").text == ("0", "1", "2", "3")
    with pytest.raises(InputError, match=r"no whole numbers of shape \(batch, 4\). Give ids="):
        e.tokens(Usual(), name="embeds")
    assert e.tokens(Usual(), ids=IDS, sample=1, name="embeds").text == (
        "fair",
        "fair",
        "ing",
        "play",
    )
    assert e.tokens(Usual(), ids=[1, 1, 1, 1], name="embeds").text == ("play",) * 4


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (lambda e: e.tokens(sample=2), "sample 2 was asked for; the explanation has 2"),
        (lambda e: e.tokens(ids=[1, 2]), r"ids have shape \(2,\); the explanation has 2 sample"),
        (lambda e: e.tokens(["a"]), "1 tokens were given for 4 scores"),
        (lambda e: e.tokens([["a"] * 4], sample=1), "1 lists of tokens were given; sample 1 has"),
        (lambda e: e.tokens(3), "a tokenizer has convert_ids_to_tokens.*got int"),
    ],
)
def test_what_does_not_fit(ask, text):
    with pytest.raises(InputError, match=text):
        ask(explained())


def test_maps_have_no_tokens():
    e = whence.explain(
        nn.Conv2d(1, 1, 1), torch.ones(1, 1, 2, 2), "lrp", target=lambda y: y.sum((1, 2, 3))
    )
    with pytest.raises(InputError, match=r"tokens have one score each.*\(1, 2, 2\)"):
        e.tokens()


def test_tokens_as_data():
    found = Tokens(
        ("good", "bad", "ly"), np.array([1.0, -3.0, 0.5]), (False, False, True), "class 1"
    )
    assert list(found) == [("good", 1.0), ("bad", -3.0), ("ly", 0.5)]
    assert len(found) == 3
    assert found[1] == ("bad", -3.0)
    assert found.strongest(2) == [("bad", -3.0), ("good", 1.0)]
    assert repr(found) == ("3 tokens for class 1; strongest: 'bad' -3, 'good' +1, 'ly' +0.5")
    assert list(found.words()) == [("good", 1.0), ("badly", -2.5)]
    with pytest.raises(InputError, match="1 tokens were given for 2 scores"):
        Tokens(("a",), np.zeros(2))
