"""Explanations of text: each token with its score, and sub-words brought together to words."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import InputError
from .frameworks import to_numpy
from .result import Explanation, doors

__all__ = ["Tokens", "readable", "tokens_of"]


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of one sample, each with its score, in order; iterating gives (text, score)."""

    text: tuple[str, ...]
    """What is shown: without the marks that a vocabulary puts on the parts of words."""
    score: np.ndarray
    """(tokens,), in the units of what is explained."""
    joins: tuple[bool, ...] = ()
    """Whether a token goes on the word before it; empty where that is not known."""
    target: str = ""
    method: str = ""
    signed: bool = True

    def __post_init__(self) -> None:
        if len(self.text) != len(self.score):
            raise InputError(f"{len(self.text)} tokens were given for {len(self.score)} scores")

    def words(self) -> Tokens:
        """Sub-words brought together: texts joined, scores added up."""
        groups: list[list[int]] = []
        for i in range(len(self.text)):
            if i and i < len(self.joins) and self.joins[i]:
                groups[-1].append(i)
            else:
                groups.append([i])
        text = tuple("".join(self.text[i] for i in group) for group in groups)
        score = np.array([self.score[group].sum() for group in groups], self.score.dtype)
        return Tokens(text, score, (), self.target, self.method, self.signed)

    def strongest(self, count: int = 5) -> list[tuple[str, float]]:
        """The tokens with the largest scores by size, largest first."""
        order = np.argsort(-np.abs(self.score), kind="stable")[:count]
        return [(self.text[i], float(self.score[i])) for i in order]

    def show(self, **options: Any) -> Any:
        """A picture of the coloured text: a matplotlib figure. Needs matplotlib."""
        return doors.text("figure", self, **options)

    def html(self, **options: Any) -> str:
        """The coloured text as a piece of HTML that stands by itself."""
        return str(doors.text("html", self, **options))

    def terminal(self, **options: Any) -> str:
        """The text for a terminal, coloured where it can be, else with the scores in numbers."""
        return str(doors.text("terminal", self, **options))

    def _repr_html_(self) -> str:
        return self.html()

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return zip(self.text, map(float, self.score), strict=True)

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, place: int) -> tuple[str, float]:
        return self.text[place], float(self.score[place])

    def __repr__(self) -> str:
        shown = ", ".join(f"{text!r} {score:+.3g}" for text, score in self.strongest())
        of = f" for {self.target}" if self.target else ""
        return f"{len(self)} tokens{of}; strongest: {shown}"


def tokens_of(
    explanation: Explanation,
    tokenizer: Any = None,
    *,
    ids: Any = None,
    sample: int = 0,
    merge: bool = False,
    name: str | int | None = None,
    reduce: str | None = None,
) -> Tokens:
    """One sample's tokens, each with its score: relevance summed over its embedding's features.

    tokenizer: what turns ids into text: an object with ``convert_ids_to_tokens``, ``id_to_token``,
        ``get_vocabulary`` or ``decode``; a function of an id; a dict from tokens to ids or back; or
        the tokens themselves, a list of strings (or one a sample). None shows the ids.
    ids: the token ids, (batch, tokens) or (tokens,) of this sample; default: the model's input.
    sample: which one.
    merge: bring sub-words together to words, whose scores are the sums.
    name: which of several inputs or embeddings; default the first.
    reduce: how features are brought together; default the method's own way (relevance: the sum).

    Raises InputError where there is not one score a token, where ids are needed and not known, or
    for a tokenizer without any of these.

    Example:
        >>> import torch, whence
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Embedding(3, 2), nn.Flatten(), nn.Linear(4, 1))
        >>> e = whence.explain(net, torch.tensor([[2, 1]]), "lrp")
        >>> e.tokens({"a": 0, "b": 1, "##c": 2}).text
        ('c', 'b')
    """
    if not -explanation.batch <= sample < explanation.batch:
        raise InputError(
            f"sample {sample} was asked for; the explanation has {explanation.batch}, from 0 on"
        )
    scores = explanation.heatmap(reduce, name)
    if scores.ndim != 2 or len(scores) != explanation.batch:
        raise InputError(
            f"tokens have one score each, (batch, tokens); this explanation's are {scores.shape}. "
            "Explain a text, or at= a layer whose output is (batch, tokens, features)"
        )
    sample %= explanation.batch
    raw, special = _texts(explanation, tokenizer, ids, sample, scores.shape[1])
    text, joins = readable(raw, special)
    names = explanation.target_names
    target = names[sample] if sample < len(names) else str(explanation.target)
    found = Tokens(
        tuple(text), scores[sample], tuple(joins), target, explanation.method, explanation.signed
    )
    return found.words() if merge else found


# ---- from ids to texts


def _texts(
    explanation: Explanation, tokenizer: Any, ids: Any, sample: int, count: int
) -> tuple[list[str], frozenset[str]]:
    """The vocabulary's own spelling of each token, and which tokens are no text."""
    special = frozenset(str(t) for t in getattr(tokenizer, "all_special_tokens", None) or ())
    if _is_list(tokenizer):
        nested = len(tokenizer) > 0 and not isinstance(tokenizer[0], str)
        if nested and sample >= len(tokenizer):
            raise InputError(
                f"{len(tokenizer)} lists of tokens were given; sample {sample} has none"
            )
        listed = [str(t) for t in (tokenizer[sample] if nested else tokenizer)]
        if len(listed) != count:
            raise InputError(
                f"{len(listed)} tokens were given for {count} scores. (A vocabulary is given as a "
                "dict or a function of an id.)"
            )
        return listed, special
    numbers = _ids(explanation, ids, sample, count)
    if numbers is None:
        if tokenizer is not None:
            raise InputError(
                "which tokens these are is not known: the explained input holds no whole numbers "
                f"of shape (batch, {count}). Give ids=, or the tokens themselves"
            )
        return [str(i) for i in range(count)], special
    return _spelled(tokenizer, numbers), special


def _is_list(tokenizer: Any) -> bool:
    array = isinstance(tokenizer, np.ndarray)
    return array or (isinstance(tokenizer, Sequence) and not isinstance(tokenizer, str))


def _ids(explanation: Explanation, ids: Any, sample: int, count: int) -> list[int] | None:
    """The token ids of a sample: those given, else the whole-number input of that length."""
    if ids is not None:
        array = to_numpy(ids)
        row = array[sample] if array.ndim == 2 and sample < len(array) else array
        if row.ndim != 1 or len(row) != count:
            raise InputError(
                f"ids have shape {array.shape}; the explanation has {explanation.batch} sample(s) "
                f"of {count} tokens: give ({explanation.batch}, {count}), or ({count},) for one"
            )
        return [int(i) for i in row]
    given = explanation.inputs
    listed: dict[Any, Any] = {}
    if isinstance(given, Mapping):
        listed = dict(given)
    elif isinstance(given, (tuple, list)):
        listed = dict(enumerate(given))
    elif given is not None:
        listed = {"input": given}
    # The usual name first: a mask, too, is whole numbers of this shape.
    for key in sorted(listed, key=lambda k: k != "input_ids"):
        if not hasattr(listed[key], "shape"):
            continue
        array = to_numpy(listed[key])
        whole = array.dtype.kind in "iu" or bool((array == np.round(array)).all())
        if whole and array.dtype != bool and array.shape == (explanation.batch, count):
            return [int(i) for i in array[sample]]
    return None


def _spelled(tokenizer: Any, numbers: list[int]) -> list[str]:
    """What a tokenizer calls each id."""
    if tokenizer is None:
        return [str(i) for i in numbers]
    if isinstance(tokenizer, Mapping):
        turned = {v: k for k, v in tokenizer.items()} if _by_token(tokenizer) else tokenizer
        return [str(turned.get(i, f"<{i}>")) for i in numbers]
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        found = tokenizer.convert_ids_to_tokens(numbers)
        return [f"<{i}>" if t is None else str(t) for i, t in zip(numbers, found, strict=True)]
    if hasattr(tokenizer, "get_vocabulary"):
        listed = tokenizer.get_vocabulary()
        return [str(listed[i]) if 0 <= i < len(listed) else f"<{i}>" for i in numbers]
    for way in ("id_to_token", "IdToPiece", "id_to_piece"):
        if hasattr(tokenizer, way):
            named = [getattr(tokenizer, way)(i) for i in numbers]
            return [f"<{i}>" if t is None else str(t) for i, t in zip(numbers, named, strict=True)]
    if hasattr(tokenizer, "decode"):
        return [_text(tokenizer.decode([i])) for i in numbers]
    if callable(tokenizer):
        return [_text(tokenizer(i)) for i in numbers]
    raise InputError(
        "a tokenizer has convert_ids_to_tokens, id_to_token, get_vocabulary or decode, or is a "
        f"function of an id, a dict, or a list of the tokens; got {type(tokenizer).__name__}"
    )


def _by_token(mapping: Mapping[Any, Any]) -> bool:
    return isinstance(next(iter(mapping), None), str)


def _text(token: Any) -> str:
    return token.decode("utf-8", "replace") if isinstance(token, bytes) else str(token)


# ---- from a vocabulary's spelling to what is read

_SPECIAL = re.compile(r"\[[A-Z0-9_]+\]|<[^<>\s]*>|<\|[^|]*\|>")


def readable(
    tokens: Sequence[str], special: frozenset[str] = frozenset()
) -> tuple[list[str], list[bool]]:
    """Tokens without the marks of their vocabulary, and whether each goes on the word before.

    Known are ``##`` (goes on), ``@@`` at the end (is gone on with), ``</w>`` at the end (ends a
    word), ``Ġ`` and ``▁`` (begin a word) and spaces in front (likewise). Where the tokens of a text
    hold none of these, each is a word by itself. Punctuation is.

    Example:
        >>> readable(["play", "##ing", "!"])
        (['play', 'ing', '!'], [False, True, False])
        >>> readable(["▁Pa", "ris"])
        (['Pa', 'ris'], [False, True])
    """
    plain = [t for t in tokens if not _is_special(t, special)]
    style = _style(plain)
    if style == "bytes":
        tokens = [t if _is_special(t, special) else _from_bytes(t) for t in tokens]
        style = "space"
    text: list[str] = []
    joins: list[bool] = []
    ended = True  # whether the token before ends its word
    for token in tokens:
        if _is_special(token, special):
            text.append(token)
            joins.append(False)
            ended = True
            continue
        shown, begins, ends = _read(token, style)
        word = any(c.isalnum() for c in shown)
        joins.append(word and not begins and not ended)
        text.append(shown)
        ended = ends or not word
    return text, joins


def _is_special(token: str, special: frozenset[str]) -> bool:
    return token in special or _SPECIAL.fullmatch(token) is not None


def _style(tokens: Sequence[str]) -> str:
    """How a vocabulary marks the parts of words, by the tokens of one text."""
    tests = {
        "hashes": lambda t: t.startswith("##") and len(t) > 2,
        "bytes": lambda t: t[:1] in ("Ġ", "Ċ"),
        "pieces": lambda t: t.startswith("▁"),
        "end": lambda t: t.endswith("</w>"),
        "ats": lambda t: t.endswith("@@") and len(t) > 2,
        "space": lambda t: t.startswith(" ") and len(t) > 1,
    }
    return next((name for name, test in tests.items() if any(map(test, tokens))), "")


def _read(token: str, style: str) -> tuple[str, bool, bool]:
    """What is shown; whether it begins a word; whether it ends one."""
    if style == "hashes":
        on = token.startswith("##") and len(token) > 2
        return (token[2:] if on else token), not on, False
    if style == "pieces":
        begins = token.startswith("▁")
        return (token[1:] or " ") if begins else token, begins, False
    if style == "end":
        ends = token.endswith("</w>")
        return (token[:-4] if ends else token), False, ends
    if style == "ats":
        on = token.endswith("@@") and len(token) > 2
        return (token[:-2] if on else token), False, not on
    if style == "space":
        begins = token[:1].isspace()
        return (token[1:] if begins and len(token) > 1 else token), begins, False
    return token, True, True


@functools.cache
def _bytes() -> dict[str, int]:
    """Letters that byte-level vocabularies write bytes with -> the bytes.

    Bytes that print stand for themselves; the others, in order, for the letters from U+0100 on.
    """
    printing = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    hidden = [b for b in range(256) if b not in printing]
    return {chr(b): b for b in printing} | {chr(256 + i): b for i, b in enumerate(hidden)}


def _from_bytes(token: str) -> str:
    """A byte-level token as text; a piece of a letter's bytes shows as a question mark."""
    table = _bytes()
    if not all(c in table for c in token):
        return token
    return bytes(table[c] for c in token).decode("utf-8", "replace")
