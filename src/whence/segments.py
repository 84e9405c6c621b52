"""Which input elements belong together: superpixels, a grid, words, named columns of a table.

Each function returns an array of whole numbers that broadcasts to the input: elements with one
number are one group, and are perturbed together. Negative numbers mark elements that no method
varies. Give the array as ``features=`` to occlusion, LIME, Shapley values and the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import InputError, MissingFramework, OptionError, unknown
from .frameworks import namespace, to_numpy

__all__ = ["columns", "grid", "superpixels", "words"]

_CONTINUES = ("##",)
_STARTS = ("Ġ", "▁", " ")


def superpixels(
    x: Any, n: int = 50, *, compactness: float = 10.0, channels: str | None = None
) -> np.ndarray:
    """Patches of like colour, by SLIC [achanta2012].

    x: images, (batch, channel, height, width) or (batch, height, width, channel), in any range.
    n: about how many patches an image is cut into. compactness: how much nearness counts against
        likeness; larger gives squarer patches.
    channels: "first" or "last"; by default a torch tensor's are first, and otherwise they stand on
        the one of the two axes that is no longer than 4.

    Returns (batch, 1, height, width) or (batch, height, width, 1), numbered from 0 in each image.
    Raises MissingFramework without scikit-image, InputError for what is not a batch of images.

    Example:
        >>> import numpy as np
        >>> picture = np.zeros((1, 8, 8, 1)); picture[:, :, 4:] = 1
        >>> segments = superpixels(picture, n=4)
        >>> bool((segments[0, :, 0, 0] != segments[0, :, 7, 0]).all())
        True
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise MissingFramework(
            'superpixels need scikit-image, which is not installed: pip install "scikit-image"; '
            "whence.segments.grid needs nothing"
        ) from error
    if n < 1:
        raise OptionError(f"n is the number of superpixels, at least 1; got {n}")
    axis = _channel_axis(x, channels)
    images = np.moveaxis(np.asarray(to_numpy(x), np.float64), axis, -1)
    cut = [_slic(slic, image, n, compactness) for image in images]
    return np.expand_dims(np.stack(cut), axis)


def _slic(slic: Any, image: np.ndarray, n: int, compactness: float) -> np.ndarray:
    """One image's patches. SLIC itself brings the values to 0..1."""
    if image.min() == image.max():
        return grid((1, *image.shape[:2]), _squares(n, image.shape[:2]), channels=None)[0]
    colour = image.shape[-1] == 3
    # Colours are compared in Lab, whose lightness runs from 0 to 100; other values from 0 to 1.
    found = slic(
        image, n_segments=n, start_label=0, channel_axis=-1,
        compactness=compactness if colour else compactness / 100, convert2lab=colour,
    )  # fmt: skip
    return np.unique(found, return_inverse=True)[1].reshape(found.shape).astype(np.int64)


def _squares(n: int, sides: Sequence[int]) -> tuple[int, ...]:
    """How many cells along each side make about n, no more than there are pixels."""
    side = max(round(n ** (1 / len(sides))), 1)
    return tuple(min(side, s) for s in sides)


def _channel_axis(x: Any, channels: str | None) -> int:
    shape = tuple(x.shape)
    if len(shape) != 4:
        raise InputError(f"images are wanted, an array of 4 axes; got shape {shape}")
    if channels is None:
        if namespace(x).name == "torch":
            channels = "first"
        else:
            small = [c for c, a in (("first", 1), ("last", -1)) if shape[a] <= 4]
            if len(small) != 1:
                raise InputError(
                    f"an array of shape {shape} may have its channels first or last; say "
                    'channels="first" or channels="last"'
                )
            (channels,) = small
    if channels not in ("first", "last"):
        raise OptionError(f'channels is "first" or "last"; got {channels!r}')
    return 1 if channels == "first" else -1


def grid(x: Any, cells: int | Sequence[int] = 8, *, channels: str | None = "first") -> np.ndarray:
    """Cells of equal size, as near as the sides allow.

    x: an array with a batch axis, or its shape. cells: how many along each side, or one for all.
    channels: "first" or "last", where the channels stand; None if there are none (every axis but
        the first is cut).

    Returns whole numbers from 0 in row order, with length 1 along batch and channels.
    Raises OptionError for fewer than 1 cell or more than there are elements along a side.

    Example:
        >>> grid((1, 1, 2, 4), 2)[0, 0]
        array([[0, 0, 1, 1],
               [2, 2, 3, 3]])
    """
    shape = tuple(int(n) for n in (x.shape if hasattr(x, "shape") else x))
    if channels not in ("first", "last", None):
        raise OptionError(f'channels is "first", "last" or None; got {channels!r}')
    held = {0} | ({1} if channels == "first" else {len(shape) - 1} if channels == "last" else set())
    axes = [a for a in range(len(shape)) if a not in held]
    if not axes:
        raise InputError(f"an array of shape {shape} has no axes to cut besides batch and channels")
    each = np.atleast_1d(np.asarray(cells)).tolist()
    wanted = each * len(axes) if len(each) == 1 else each
    if len(wanted) != len(axes):
        raise OptionError(f"{len(wanted)} numbers of cells were given for {len(axes)} sides")
    numbers: np.ndarray = np.zeros((1,) * len(shape), np.int64)
    for axis, count in zip(axes, wanted, strict=True):
        if not 1 <= count <= shape[axis]:
            raise OptionError(
                f"{count} cells were asked for along axis {axis}, which is {shape[axis]} long; "
                f"give 1 to {shape[axis]}"
            )
        line = np.arange(shape[axis]) * count // shape[axis]
        lie = [-1 if a == axis else 1 for a in range(len(shape))]
        numbers = numbers * count + line.reshape(lie)
    return numbers


def words(tokens: Sequence[Sequence[int | str | None]]) -> np.ndarray:
    """Tokens of one word together, for models that read pieces of words.

    tokens: for each sample of the batch, equally long, either what a fast tokenizer's
        ``word_ids(i)`` gives (the word's number, None for special tokens) or the tokens
        themselves, of which ``##ing`` goes on with the word before, and ``Ġword``, ``▁word`` start
        one where any token of the sample is marked so.

    Returns (batch, tokens). Special tokens (None, ``[CLS]``, ``<s>``) are -1: they are not varied.
    Raises InputError for rows of unequal length.

    Example:
        >>> words([["[CLS]", "attribu", "##tion", "works", "[SEP]"]])
        array([[-1,  0,  0,  1, -1]])
    """
    rows = [list(row) for row in tokens]
    if not rows or len({len(row) for row in rows}) != 1 or isinstance(tokens[0], str):
        raise InputError(
            "words takes one list of tokens or word numbers for each sample, all equally long; got "
            f"{len(rows)} of lengths {sorted({len(row) for row in rows})}"
        )
    return np.asarray([_numbered(row) for row in rows], np.int64)


def _numbered(row: Sequence[int | str | None]) -> list[int]:
    marked = any(isinstance(t, str) and t.startswith(_STARTS) for t in row)
    numbers: list[int] = []
    seen: dict[int, int] = {}
    last = -1
    for place, token in enumerate(row):
        if token is None or (isinstance(token, str) and _special(token)):
            numbers.append(-1)
            continue
        if isinstance(token, str):
            inside = place > 0 and numbers[-1] >= 0
            goes_on = token.startswith(_CONTINUES) or (marked and not token.startswith(_STARTS))
            last += 0 if inside and goes_on else 1
            numbers.append(last)
        else:
            numbers.append(seen.setdefault(int(token), len(seen)))
    return numbers


def _special(token: str) -> bool:
    return len(token) > 2 and (token[0], token[-1]) in (("[", "]"), ("<", ">"))


def columns(
    names: int | Sequence[str], groups: Mapping[str, Sequence[int | str]] | None = None
) -> np.ndarray:
    """Columns of a table, those of a named group together (the places of a one-hot code, say).

    names: how many columns there are, or their names. groups: name -> its columns, by place or
    name; a column that is in none is a group of its own.

    Returns (1, columns), numbered in order of first appearance. Raises UnknownName for a column
    that there is not, OptionError for one in two groups.

    Example:
        >>> columns(["age", "red", "green", "height"], {"colour": ["red", "green"]})
        array([[0, 1, 1, 2]])
    """
    count = names if isinstance(names, int) else len(names)
    owner: dict[int, str] = {}
    for group, members in (groups or {}).items():
        for member in members:
            place = _place(member, names, count)
            if place in owner:
                raise OptionError(
                    f"column {member!r} is in two groups, {owner[place]!r} and {group!r}"
                )
            owner[place] = group
    seen: dict[Any, int] = {}
    line = [seen.setdefault(owner.get(i, i), len(seen)) for i in range(count)]
    return np.asarray([line], np.int64)


def _place(member: int | str, names: int | Sequence[str], count: int) -> int:
    if isinstance(member, str):
        known = [] if isinstance(names, int) else list(names)
        if member not in known:
            raise unknown("column", member, known)
        return known.index(member)
    if not 0 <= member < count:
        raise unknown("column", member, map(str, range(count)))
    return member
