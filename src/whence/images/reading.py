"""Paths, folders, patterns and arrays to one batch for a model, the originals kept beside it."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from whence.errors import FileError, InputError
from whence.images.decode import MAX_PIXELS, Picture, as_array, decode, picture
from whence.images.preprocess import Preprocess

__all__ = ["Images", "files_of", "read"]

_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm "
    ".jp2 .avif .ico .tga".split()
)


@dataclass(frozen=True, eq=False)
class Images:
    """A batch of images in model units, with what is needed to draw on them.

    x: float32 (batch, channel, height, width), or channels last as ``channels`` says.
    originals: uint8 (height, width, 3) or (height, width) each, upright and at full size.
    names: what to call each. paths: the file of each, None for an array.
    bounds: (low, high), float32 (channel,) each: black and white in model units.
    notes: what was done to an image on the way, a sentence each, beginning with its name.
    preprocess: what turned the originals into x.
    """

    x: np.ndarray
    originals: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    paths: tuple[Path | None, ...]
    preprocess: Preprocess
    notes: tuple[str, ...] = ()

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(black, white) in model units, each float32 (channel,)."""
        return self.preprocess.bounds

    @property
    def channels(self) -> Literal["first", "last"]:
        """Where the channel axis of x is, after the batch axis: "first" or "last"."""
        return self.preprocess.channels

    @property
    def seen(self) -> tuple[np.ndarray, ...]:
        """The part of each original that the model saw, uncropped pixels: lies under a heat map."""
        return tuple(_cut(image, self.preprocess) for image in self.originals)

    def unprocess(self, x: Any = None) -> np.ndarray:
        """Model units to pixels in 0..1: (batch, height, width, 3) RGB or (batch, height, width).

        x: as ``self.x``, which is the default; one image without the batch axis is taken too.
        Raises InputError for another shape.
        """
        return self.preprocess.undo(self.x if x is None else x)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Images({len(self)} images, x {self.x.shape}, channels {self.channels!r})"


def read(
    paths: Any, preprocess: Preprocess | None = None, *, max_pixels: int = MAX_PIXELS
) -> Images:
    """Read images into one batch.

    paths: a file; a folder (its image files, in natural order, not those of folders inside); a
    pattern such as "photos/*.png" or "photos/**/*.jpg"; an array (height, width), (height, width,
    1, 3 or 4), (batch, height, width) or (batch, height, width, channel), uint8 in 0..255, uint16
    in 0..65535 or float in 0..1; a Pillow image; or a list of any of these.
    preprocess: default ``Preprocess()``: pixels in 0..1, channels first, size as it is.
    max_pixels: files of more are refused before decoding.
    Raises FileError, FileFormatError, InputError (arrays; images of several sizes with no ``size``
    to bring them to; nothing at all).

    Example:
        >>> batch = read(np.zeros((2, 8, 8), np.uint8), Preprocess(colour="grey"))
        >>> batch.x.shape, batch.names
        ((2, 1, 8, 8), ('image 0', 'image 1'))
    """
    preprocess = preprocess or Preprocess()
    pictures = list(_pictures(paths, max_pixels))
    if not pictures:
        raise InputError("no images were given: the list is empty.")
    _check_sizes(pictures, preprocess)
    return Images(
        x=np.stack([preprocess(p.pixels) for p in pictures]),
        originals=tuple(p.original for p in pictures),
        names=tuple(_name(p, i) for i, p in enumerate(pictures)),
        paths=tuple(p.path for p in pictures),
        preprocess=preprocess,
        notes=tuple(f"{_name(p, i)}: {n}" for i, p in enumerate(pictures) for n in p.notes),
    )


def _pictures(source: Any, max_pixels: int) -> Iterator[Picture]:
    if isinstance(source, str | os.PathLike):
        for path in files_of(os.fspath(source)):
            yield decode(path, max_pixels=max_pixels)
    elif type(source).__module__.startswith("PIL."):
        yield picture(source, "")
    elif isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        yield from (picture(image, "") for image in _each(as_array(source)))
    elif isinstance(source, Iterable) and not isinstance(source, bytes | dict):
        for one in source:
            if not (
                isinstance(one, str | os.PathLike)
                or hasattr(one, "__array__")
                or type(one).__module__.startswith("PIL.")
            ):
                raise InputError(_not_images(one))
            yield from _pictures(one, max_pixels)
    else:
        raise InputError(_not_images(source))


def _not_images(source: object) -> str:
    return (
        "images are paths, folders, patterns, arrays, Pillow images or a list of these; "
        f"got {type(source).__name__}."
    )


def _each(array: np.ndarray) -> Iterable[np.ndarray]:
    """An array as single images: axes are (height, width[, channel]) with or without a batch."""
    if array.ndim == 4:
        if array.shape[-1] not in (1, 3, 4) and array.shape[1] in (1, 3, 4):
            raise InputError(
                f"an array of images is channels last, (batch, height, width, channel); got "
                f"{array.shape}, which looks channels first: give images.transpose(0, 2, 3, 1)."
            )
        return list(array)
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4):
        if array.shape[0] in (3, 4):
            count = array.shape[0]
            raise InputError(
                f"an array of shape {array.shape} is one image channels first, or {count} grey "
                f"ones: give image.transpose(1, 2, 0) for the first, images[..., None] for the "
                "second."
            )
        return list(array)
    return [array]


def files_of(text: str) -> list[Path]:
    """The image files that a path, folder or pattern stands for, in natural order, never none.

    A path is taken as it is, whether or not there is a file. Raises FileError for an address, for a
    folder without images and for a pattern that matches nothing.
    """
    if re.match(r"[a-z][a-z0-9+]+://", text):
        raise FileError(f"{text} is an address; nothing is downloaded. Save it and give the file.")
    path = Path(text).expanduser()
    if path.is_dir():
        found = [p for p in path.iterdir() if p.suffix.lower() in _SUFFIXES and p.is_file()]
        if not found:
            kinds = ", ".join(sorted(_SUFFIXES))
            raise FileError(f"the folder {path} holds no image files ({kinds}).")
        return sorted(found, key=_natural)
    if not path.exists() and glob.has_magic(str(path)):
        matches = (Path(p) for p in glob.glob(str(path), recursive=True))
        found = [p for p in matches if p.is_file()]
        if not found:
            raise FileError(f"the pattern {text!r} matches no file (from {Path.cwd()}).")
        return sorted(found, key=_natural)
    return [path]


def _natural(path: Path) -> tuple[str, list[tuple[int, int | str]]]:
    """Sort key under which image2 comes before image10."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return str(path.parent), [(0, int(p)) if p.isdecimal() else (1, p) for p in parts if p]


def _check_sizes(pictures: list[Picture], preprocess: Preprocess) -> None:
    if preprocess.size is not None:
        return
    first = pictures[0]
    for index, other in enumerate(pictures):
        if other.pixels.shape[:2] != first.pixels.shape[:2]:
            raise InputError(
                f"images of one batch have one size: {_name(first, 0)} is "
                f"{_size(first)}, {_name(other, index)} is {_size(other)}. Give "
                "Preprocess(size=(height, width)) to resize them."
            )


def _size(image: Picture) -> str:
    height, width = image.pixels.shape[:2]
    return f"{height} x {width} (height x width)"


def _name(image: Picture, index: int) -> str:
    return image.name or f"image {index}"


def _cut(image: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    top, left, bottom, right = (round(v) for v in preprocess.window(*image.shape[:2]))
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]
