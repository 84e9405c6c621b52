"""Targets of models that answer with one number a token of a vocabulary, at each position."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array, Functions
from ..errors import TargetError, unknown
from .base import Target

__all__ = ["Token", "token", "token_id"]


@dataclass(frozen=True)
class Token(Target):
    """A token at a position of an output (batch, tokens, vocabulary), or one against another."""

    index: tuple[int, ...] = ()
    """Its number in the vocabulary, one for all samples or one each; empty for the likeliest."""
    against: tuple[int, ...] = ()
    position: tuple[int, ...] = (-1,)
    output: str | int | None = None
    words: tuple[str, ...] = ()
    """The tokens as they were asked for, the one and the other."""

    @property
    def key(self) -> Hashable:
        """Names the computation, whichever the token and position."""
        return ("token", self.output, bool(self.index), bool(self.against))

    def arguments(self, samples: int) -> dict[str, np.ndarray]:
        """``position``, ``target`` and ``other``: of each sample."""
        given = {"position": self.position, "target": self.index, "other": self.against}
        return {k: _spread(v, samples, k) for k, v in given.items() if v}

    def check(self, shape: Sequence[int]) -> None:
        """Raise TargetError where the output has no such token or position."""
        if len(shape) != 3:
            raise TargetError(
                f"{self.describe()} was asked for, but the model's output has shape "
                f"{tuple(shape)}, not (batch, tokens, vocabulary). Of (batch, classes) give the "
                "class number; of several outputs name the one with the logits: "
                "whence.token(..., output=name)"
            )
        _, tokens, vocabulary = shape
        for number in (*self.index, *self.against):
            if not 0 <= number < vocabulary:
                raise TargetError(
                    f"token {number} was asked for; the model's vocabulary has {vocabulary} "
                    f"tokens, 0 to {vocabulary - 1}"
                )
        for place in self.position:
            if not -tokens <= place < tokens:
                raise TargetError(
                    f"position {place} was asked for; the output has {tokens} positions, 0 to "
                    f"{tokens - 1}, or {-tokens} to -1 from the end"
                )

    def weights(
        self, xp: Functions, y: Array, arguments: Mapping[str, Array]
    ) -> tuple[Array, Array | None]:
        """1 at the token's place, -1 at the other's. An index only where there is no other."""
        samples, tokens, vocabulary = xp.shape(y)
        place = arguments["position"]
        place = xp.where(place < 0, place + tokens, place)
        at = xp.reshape(xp.one_hot(place, tokens, y), (samples, tokens, 1))
        if self.index:
            index = arguments["target"]
        else:
            index = xp.argmax(xp.sum(y * at, axis=1), axis=1)
        chosen = xp.one_hot(index, vocabulary, y)
        if self.against:
            chosen = chosen - xp.one_hot(arguments["other"], vocabulary, y)
        weights = at * xp.reshape(chosen, (samples, 1, vocabulary))
        return weights, None if self.against else index

    def describe(self) -> str:
        """In words; without a number where it differs between samples."""
        own = self._word(self.index, 0) if self.index else "the likeliest token"
        other = f" minus {self._word(self.against, 1)}" if self.against else ""
        return f"{own}{other}{self._where()}"

    def names(
        self, samples: int, index: Sequence[int] | None, classes: Sequence[str] | None
    ) -> list[str]:
        """In words for each sample; ``classes`` may hold the vocabulary's tokens in order."""
        own = self.index if index is None else tuple(int(i) for i in index)
        found = []
        for i in range(samples):
            words = self._named(own, i, 0, classes)
            if self.against:
                words += f" minus {self._named(self.against, i, 1, classes)}"
            found.append(words + self._where(i))
        return found

    def _word(self, index: tuple[int, ...], place: int) -> str:
        if len(set(index)) != 1:
            return "token"
        return self._named(index, 0, place, None)

    def _named(
        self, index: tuple[int, ...], sample: int, place: int, classes: Sequence[str] | None
    ) -> str:
        word = self.words[place] if place < len(self.words) else ""
        if word:
            return f"token {word!r}"
        number = index[sample] if sample < len(index) else index[0]
        known = classes is not None and 0 <= number < len(classes)
        return f"token {str(classes[number])!r}" if known and classes else f"token {number}"

    def _where(self, sample: int | None = None) -> str:
        places = self.position
        if sample is not None:
            places = (places[sample if sample < len(places) else 0],)
        if set(places) == {-1}:
            return ""
        return f" at position {places[0]}" if len(set(places)) == 1 else " at its position"


def token(
    which: Any = None,
    *,
    against: Any = None,
    position: Any = -1,
    tokenizer: Any = None,
    output: str | int | None = None,
) -> Token:
    """A token that a language model may say next, or the difference of two.

    For outputs (batch, tokens, vocabulary), such as a causal model's logits: the row at a position
    says what comes after it.

    which: the token's number, one a sample, or its text where a tokenizer is given; None for the
        likeliest one.
    against: another token, whose output is subtracted: what speaks for "Paris" rather than "Rome".
    position: where, counted from 0 or from the end; -1 is the last, whose row is the next token.
        One a sample where texts of different lengths were padded on the right.
    tokenizer: turns text into numbers: an object with ``encode`` or ``convert_tokens_to_ids``, a
        function of a text, or a dict of tokens. Mind the space in front that many want: " Paris".
    output: which of several outputs, by name or place; default ``logits`` where there is one.
    Raises TargetError for text without a tokenizer or of more than one token, and when explaining
    for a token or position that the model has not got.

    Example:
        >>> import whence
        >>> whence.token(5, against=7).describe()
        'token 5 minus token 7'
        >>> whence.token("cat", tokenizer={"cat": 3}, position=4).describe()
        "token 'cat' at position 4"
    """
    if which is None and against is not None:
        raise TargetError("whence.token(None, against=...): name the token that is explained too")
    index, other = _numbers(which, tokenizer), _numbers(against, tokenizer)
    words = tuple(w if isinstance(w, str) else "" for w in (which, against))
    place = _whole(position)
    if place is None:
        raise TargetError(
            f"position is a whole number, or one a sample; got {position!r}. -1 is the last"
        )
    return Token(index, other, place, output, words if any(words) else ())


def token_id(text: str, tokenizer: Any) -> int:
    """The number of a text that is one token.

    Raises TargetError where it is several, with their numbers, or none; UnknownName where a dict
    has not got it.

    Example:
        >>> from whence.targets.token import token_id
        >>> token_id("a", {"a": 0, "b": 1})
        0
    """
    if tokenizer is None:
        raise TargetError(
            f"the token {text!r} was asked for by its text; give tokenizer= too, or its number"
        )
    if isinstance(tokenizer, Mapping):
        if text not in tokenizer:
            raise unknown("token", text, map(str, tokenizer))
        return int(tokenizer[text])
    found = _encoded(text, tokenizer)
    if len(found) != 1:
        pieces = f"{len(found)} tokens, {found[:8]}" if found else "no token at all"
        raise TargetError(
            f"{text!r} is {pieces} in this vocabulary, and a target is one token. Try it with or "
            "without the space in front, a shorter text, or the number of its first token"
        )
    return found[0]


def _encoded(text: str, tokenizer: Any) -> list[int]:
    """What a tokenizer makes of a text, without the tokens that it puts around every text."""
    if hasattr(tokenizer, "encode"):
        try:
            found = tokenizer.encode(text, add_special_tokens=False)
        except TypeError:  # one that knows of no special tokens
            found = tokenizer.encode(text)
    elif hasattr(tokenizer, "convert_tokens_to_ids"):
        found = tokenizer.convert_tokens_to_ids([text])
    elif callable(tokenizer):
        found = tokenizer(text)
    else:
        raise TargetError(
            "a tokenizer has encode(text) or convert_tokens_to_ids(tokens), or is a function or a "
            f"dict; got {type(tokenizer).__name__}"
        )
    if isinstance(found, Mapping):
        found = found["input_ids"]
    whole = _whole(getattr(found, "ids", found))
    if whole is None:
        raise TargetError(f"the tokenizer gave {found!r} for {text!r}: no whole numbers")
    return list(whole)


def _numbers(which: Any, tokenizer: Any) -> tuple[int, ...]:
    if which is None:
        return ()
    if isinstance(which, str):
        return (token_id(which, tokenizer),)
    if isinstance(which, (list, tuple)) and any(isinstance(w, str) for w in which):
        return tuple(token_id(w, tokenizer) if isinstance(w, str) else int(w) for w in which)
    found = _whole(which)
    if not found:
        raise TargetError(f"a token is a number, one a sample, or its text; got {which!r}")
    return found


def _whole(given: Any) -> tuple[int, ...] | None:
    """One or several whole numbers as a tuple; None for anything else."""
    if hasattr(given, "detach"):
        given = given.detach().cpu()
    try:
        array = np.asarray(given)
    except ValueError:
        return None
    if array.ndim == 2 and len(array) == 1:
        array = array[0]
    if array.size == 0 and array.ndim == 1:
        return ()
    if array.dtype.kind not in "iu" or array.ndim > 1:
        return None
    return tuple(int(i) for i in np.atleast_1d(array))


def _spread(numbers: tuple[int, ...], samples: int, what: str) -> np.ndarray:
    if len(numbers) not in (1, samples):
        what = {"target": "token", "other": "token against it"}.get(what, what)
        raise TargetError(
            f"{len(numbers)} numbers were given as the {what} for {samples} samples; give one, or "
            "one a sample"
        )
    return np.broadcast_to(np.asarray(numbers, np.int64), (samples,)).copy()
