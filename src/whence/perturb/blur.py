"""The path that sharpens: from a blurred picture to the picture itself [xu2020]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..arrays import Array, Functions
from ..errors import OptionError
from .chunks import Chunk
from .engine import Engine

__all__ = ["Blur", "blur_matrix", "blurred"]


def blur_matrix(size: int, sigma: float) -> np.ndarray:
    """Gaussian blur along one axis as a matrix, (size, size), float64; rows add up to 1.

    sigma: in elements; 0 is the identity. Beyond an end the array goes on mirrored.

    Example:
        >>> blur_matrix(3, 0.0).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if sigma <= 0:
        return np.eye(size)
    reach = int(np.ceil(4 * sigma))
    offset = np.arange(-reach, reach + 1)
    with np.errstate(under="ignore"):
        kernel = np.exp(-0.5 * (offset / sigma) ** 2)
    kernel /= kernel.sum()
    place = (np.arange(size)[:, None] + offset) % (2 * size)
    place = np.where(place < size, place, 2 * size - 1 - place)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], place), kernel)
    return matrix


def blurred(xp: Functions, x: Array, sigmas: np.ndarray, axes: Sequence[int]) -> Array:
    """Each row of x, (rows, ...), blurred by its own sigma, (rows,), along some axes."""
    shape = xp.shape(x)
    for axis in axes:
        size = shape[axis]
        made = {s: blur_matrix(size, s) for s in dict.fromkeys(np.asarray(sigmas).tolist())}
        matrices = np.stack([made[s] for s in np.asarray(sigmas).tolist()])
        matrix = xp.cast(xp.asarray(matrices, like=x), xp.dtype(x))
        order = [i for i in range(1, len(shape)) if i != axis]
        moved = xp.transpose(x, [0, axis, *order])
        flat = xp.reshape(moved, (shape[0], size, -1))
        back = xp.reshape(xp.matmul(matrix, flat), (shape[0], size, *(shape[i] for i in order)))
        inverse = np.argsort([0, axis, *order]).tolist()
        x = xp.transpose(back, inverse)
    return x


@dataclass(frozen=True)
class Blur:
    """The input blurred by sigma (1 - t): from very smooth at 0 to itself at 1.

    axes: the axes of each place that are blurred, {place: axes}; others stay as in x.
    sigma: the widest blur, in elements.
    """

    engine: Engine
    axes: Mapping[str, Sequence[int]]
    sigma: float

    count: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not (isinstance(self.sigma, (int, float, np.number)) and 0 < self.sigma < np.inf):
            raise OptionError(f"blur is a width in elements, above 0; got {self.sigma!r}")

    def at(self, chunk: Chunk, t: np.ndarray, which: np.ndarray) -> dict[str, Array]:
        """The arrays of each row, blurred as at its t."""
        sigmas = self.sigma * (1 - np.asarray(t, np.float64))
        return {
            k: blurred(self.engine.xp, chunk.take(self.engine.places[k]), sigmas, axes)
            for k, axes in self.axes.items()
        }
