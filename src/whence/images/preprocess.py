"""From pixels to the numbers a model was trained on, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from whence.errors import InputError, OptionError
from whence.images.decode import as_array, picture, pillow

__all__ = ["Preprocess"]

_GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # luma of ITU-R BT.601
_CHOICES = {
    "resize": ("shortest", "exact"),
    "channels": ("first", "last"),
    "colour": ("rgb", "bgr", "grey"),
    "interpolation": ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"),
}


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a model's input: resize, crop, colour order, scale, normalise.

    With pixels p in 0..1, the model gets ``(p * scale - mean) / std`` per channel.

    size: (height, width) in pixels that the model takes; None leaves each image at its own size.
    resize: "shortest" keeps the shape of the image and cuts what is too long off equally on both
    sides; "exact" stretches. crop: the share of each side that the centre crop keeps, in (0, 1];
    224/256 is "resize the shorter side to 256, keep the middle 224". mean, std: one number, or
    one per channel in the model's order, in units of p * scale. scale: the model's white before
    mean and std: 1 or 255. channels: "first" is (channel, height, width), "last" (height, width,
    channel). colour: the order of the channels; "grey" has one. interpolation: as in Pillow,
    smoothed when shrinking. Raises OptionError for values that cannot be.

    Example:
        >>> prepare = Preprocess(size=(2, 2), mean=(0.5,), std=(0.5,), channels="last")
        >>> prepare(np.full((4, 6, 3), 255, np.uint8)).shape
        (2, 2, 3)
        >>> prepare.bounds[0].tolist(), prepare.bounds[1].tolist()
        ([-1.0, -1.0, -1.0], [1.0, 1.0, 1.0])
    """

    size: tuple[int, int] | None = None
    resize: Literal["shortest", "exact"] = "shortest"
    crop: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1.0
    channels: Literal["first", "last"] = "first"
    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for field, known in _CHOICES.items():
            value = getattr(self, field)
            if value not in known:
                listed = ", ".join(map(repr, known))
                raise OptionError(f"Preprocess {field}={value!r}: it is one of {listed}.")
        object.__setattr__(self, "size", _checked_size(self.size))
        if not 0 < self.crop <= 1:
            raise OptionError(f"Preprocess crop={self.crop!r}: a share of the side, in (0, 1].")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise OptionError(f"Preprocess scale={self.scale!r}: it is above 0 (1 or 255).")
        for field in ("mean", "std"):
            object.__setattr__(self, field, self._per_channel(field))
        if min(self.std) <= 0:
            raise OptionError(f"Preprocess std={self.std!r}: each is above 0.")

    @property
    def count(self) -> int:
        """How many channels the model takes: 1 or 3."""
        return 1 if self.colour == "grey" else 3

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """The shape of one input without the batch axis; None where ``size`` is None."""
        if self.size is None:
            return None
        height, width = self.size
        if self.channels == "first":
            return (self.count, height, width)
        return (height, width, self.count)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(black, white) in model units, each float32 (channel,): no real image goes beyond."""
        mean, std = (np.array(v, np.float64) for v in (self.mean, self.std))
        low, high = -mean / std, (self.scale - mean) / std
        return low.astype(np.float32), high.astype(np.float32)

    def window(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Which part of a (height, width) image the model sees: top, left, bottom, right.

        In pixels of that image, not rounded. A heat map stretched over it lies in register.

        Example:
            >>> Preprocess(size=(10, 10)).window(20, 40)
            (0.0, 10.0, 20.0, 30.0)
        """
        tall, wide = self._resized(height, width)
        if self.size is None:
            return 0.0, 0.0, float(height), float(width)
        top, left = self._corner(tall, wide)
        per_row, per_column = height / tall, width / wide
        return (
            top * per_row,
            left * per_column,
            (top + self.size[0]) * per_row,
            (left + self.size[1]) * per_column,
        )

    def __call__(self, image: Any) -> np.ndarray:
        """One image into model units: float32 (channel, height, width) or (height, width, channel).

        image: an array as ``whence.images.picture`` takes it (channels last), or a Pillow image.
        Raises InputError for other shapes and ranges.
        """
        pixels = self._fit(picture(image, "image").pixels)
        values = pixels.astype(np.float32) / np.float32(255 if pixels.dtype == np.uint8 else 1)
        if self.colour == "grey":
            values = values @ _GREY_WEIGHTS if values.ndim == 3 else values
            values = values[:, :, None]
        elif values.ndim == 2:
            values = np.repeat(values[:, :, None], 3, axis=2)
        elif self.colour == "bgr":
            values = values[:, :, ::-1]
        values = (values * self.scale - np.array(self.mean)) / np.array(self.std)
        if self.channels == "first":
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values, np.float32)

    def undo(self, x: Any) -> np.ndarray:
        """Model units back to pixels that can be shown, float32 clipped to 0..1.

        x: (batch, channel, height, width), or channels last as ``channels`` says, with or without
        the batch axis. Returns ([batch,] height, width, 3) RGB, or ([batch,] height, width) grey.
        Resizing and cropping are not undone. Raises InputError for another number of axes or
        channels.
        """
        values = as_array(x)
        axis = -3 if self.channels == "first" else -1
        if values.ndim not in (3, 4) or values.shape[axis] != self.count:
            inner = f"{self.count}, height, width" if axis == -3 else f"height, width, {self.count}"
            raise InputError(f"to show: ([batch,] {inner}) is wanted; got {values.shape}.")
        values = np.moveaxis(values, axis, -1).astype(np.float64)
        values = (values * np.array(self.std) + np.array(self.mean)) / self.scale
        values = np.clip(values, 0, 1).astype(np.float32)
        if self.colour == "grey":
            return np.ascontiguousarray(values[..., 0])
        return np.ascontiguousarray(values[..., ::-1] if self.colour == "bgr" else values)

    def _per_channel(self, field: str) -> tuple[float, ...]:
        values = tuple(float(v) for v in np.ravel(getattr(self, field)))
        if len(values) == 1:
            values *= self.count
        if len(values) != self.count or not np.isfinite(values).all():
            raise OptionError(
                f"Preprocess {field}={getattr(self, field)!r}: one finite number, or one for each "
                f"of the {self.count} channels of colour={self.colour!r}."
            )
        return values

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """The size after resizing, before the crop."""
        if self.size is None:
            return height, width
        tall, wide = (round(side / self.crop) for side in self.size)
        if self.resize == "exact":
            return tall, wide
        if tall * width >= wide * height:
            return tall, max(wide, int(tall * width / height))
        return max(tall, int(wide * height / width)), wide

    def _corner(self, tall: int, wide: int) -> tuple[int, int]:
        """Top and left of the centre crop in the resized image."""
        if self.size is None:
            return 0, 0
        return round((tall - self.size[0]) / 2), round((wide - self.size[1]) / 2)

    def _fit(self, pixels: np.ndarray) -> np.ndarray:
        """Resized and cropped, in the type that came."""
        if self.size is None:
            return pixels
        tall, wide = self._resized(*pixels.shape[:2])
        if (tall, wide) != pixels.shape[:2]:
            pixels = _resize(pixels, tall, wide, self.interpolation)
        top, left = self._corner(tall, wide)
        return pixels[top : top + self.size[0], left : left + self.size[1]]


def _checked_size(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    try:
        height, width = (int(side) for side in size)
        if (height, width) != tuple(size):
            raise ValueError
    except (TypeError, ValueError):
        raise OptionError(
            f"Preprocess size={size!r}: (height, width) in whole pixels, or None."
        ) from None
    if min(height, width) < 1:
        raise OptionError(f"Preprocess size={size!r}: each side is at least 1 pixel.")
    return height, width


def _resize(pixels: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """Resize uint8 or float pixels; float goes channel by channel, as Pillow has no float RGB."""
    module = pillow()
    how = module.Resampling[interpolation.upper()]
    if pixels.dtype == np.uint8:
        return np.asarray(module.fromarray(pixels).resize((width, height), how))
    planes = pixels[:, :, None] if pixels.ndim == 2 else pixels
    done = [
        np.asarray(module.fromarray(np.ascontiguousarray(plane)).resize((width, height), how))
        for plane in np.moveaxis(planes, -1, 0)
    ]
    resized = np.clip(np.stack(done, axis=-1), 0, 1)  # bicubic and lanczos overshoot
    return resized[:, :, 0] if pixels.ndim == 2 else resized
