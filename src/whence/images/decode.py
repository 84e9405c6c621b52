"""One image file or array into upright pixels without transparency, or an error that says why not.

Nothing is guessed silently: whatever was done to the pixels on the way is written in ``notes``.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whence.errors import FileError, FileFormatError, InputError, MissingFramework, nearest

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

__all__ = ["MAX_PIXELS", "Picture", "decode", "picture", "pillow"]

MAX_PIXELS = 100_000_000
"""Files of more pixels than this are refused before they are decoded, unless asked otherwise."""

_LOCK = threading.Lock()


@dataclass(frozen=True, eq=False)
class Picture:
    """Upright pixels of one image.

    pixels: (height, width, 3) RGB or (height, width) grey; uint8 in 0..255, or float32 in 0..1
    where the source had more than 8 bits. name: what to call it. path: the file, None for an
    array. notes: what was done to it, one sentence each.
    """

    pixels: np.ndarray
    name: str
    path: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def original(self) -> np.ndarray:
        """The pixels as uint8, for showing: (height, width, 3) or (height, width)."""
        if self.pixels.dtype == np.uint8:
            return self.pixels
        return np.round(self.pixels * 255).astype(np.uint8)


def pillow() -> Any:
    """Pillow's ``Image`` module; MissingFramework, with the install line, where there is none."""
    try:
        from PIL import Image
    except ImportError as error:
        text = "reading and resizing images needs Pillow, which is not installed: "
        raise MissingFramework(text + "pip install pillow") from error
    return Image


def decode(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read one image file: rotated as its EXIF says, transparency laid on white, first frame.

    path: any format Pillow reads. max_pixels: the most pixels (width x height) accepted, looked up
    in the header before anything is decoded.
    Raises FileError (missing, not a file, unreadable, too large) or FileFormatError (empty,
    not an image, cut short).

    Example:
        >>> import tempfile, PIL.Image
        >>> file = Path(tempfile.mkdtemp()) / "red.png"
        >>> PIL.Image.new("RGB", (4, 2), "red").save(file)
        >>> decode(file).pixels.shape
        (2, 4, 3)
    """
    path = Path(path)
    _check_file(path)
    with _no_pillow_limit() as image_module:
        try:
            opened = image_module.open(path)
        except image_module.UnidentifiedImageError as error:
            raise FileFormatError(_not_an_image(path)) from error
        except OSError as error:
            if error.errno is not None:  # the system's; Pillow's own have no number
                raise FileError(f"cannot read {path}: {_reason(error)}.") from error
            raise FileFormatError(_broken_header(path, error)) from error
        except Exception as error:
            raise FileFormatError(_broken_header(path, error)) from error
        with opened:
            width, height = opened.size
            if width * height > max_pixels:
                raise FileError(
                    f"{path} has {width} x {height} = {width * height / 1e6:.0f} million pixels; "
                    f"the limit is {max_pixels / 1e6:g} million. Make it smaller first, or raise "
                    f"the limit with max_pixels={width * height}."
                )
            try:
                pixels, notes = _flatten(opened, path)
            except FileFormatError:
                raise
            except Exception as error:
                # A decoder may raise almost anything on damaged bytes; to the user it is one thing.
                raise FileFormatError(
                    f"{path} begins as a {opened.format} image of {width} x {height} pixels but "
                    f"cannot be decoded: {_reason(error)}. It may be cut short or damaged; "
                    "copy or download it again."
                ) from error
    return Picture(pixels, path.name, path, tuple(notes))


def picture(image: Any, name: str = "array") -> Picture:
    """One array or Pillow image as a Picture.

    image: (height, width), (height, width, 1), (..., 3) RGB or (..., 4) RGBA; uint8 in 0..255,
    uint16 in 0..65535, or float in 0..1. Raises InputError for other shapes and ranges.

    Example:
        >>> picture(np.zeros((8, 8, 1), np.uint8)).pixels.shape
        (8, 8)
    """
    if type(image).__module__.startswith("PIL."):
        image.load()
        pixels, notes = _flatten(image, name)
        return Picture(pixels, name, None, tuple(notes))
    array = _as_unit(as_array(image), name)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise InputError(
            f"{name}: an image is an array of shape (height, width) or (height, width, 1, 3 or 4), "
            f"none of them 0; got {array.shape}."
        )
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        text = f"{name}: the last axis of an image is its 1, 3 or 4 channels; got {array.shape}."
        if array.shape[0] in (1, 3, 4):
            text += " It looks channels first: give image.transpose(1, 2, 0)."
        raise InputError(text)
    notes = []
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 3 and array.shape[2] == 4:
        array, notes = _on_white(array)
    return Picture(np.ascontiguousarray(array), name, None, tuple(notes))


def as_array(image: Any) -> np.ndarray:
    """Any array or tensor as NumPy, off its device and its graph."""
    if hasattr(image, "detach"):
        image = image.detach().cpu()
    return np.asarray(image)


def _as_unit(array: np.ndarray, name: str) -> np.ndarray:
    """uint8 as it is; everything else as float32 in 0..1, or InputError."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return (array / np.float32(65535)).astype(np.float32)
    if array.dtype == np.bool_:
        return array.astype(np.float32)
    if array.size == 0:
        return array.astype(np.float32)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name}: an image holds numbers; got an array of {array.dtype}.")
    if not np.isfinite(array).all():
        raise InputError(f"{name}: the image holds NaN or infinity.")
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return array.astype(np.float32)
    if array.dtype.kind != "f" and low >= 0 and high <= 255:
        return array.astype(np.uint8)
    raise InputError(
        f"{name}: an image is uint8 in 0..255, uint16 in 0..65535, or float in 0..1; got "
        f"{array.dtype} in {low:g}..{high:g}. Divide by its white, or, if it is already in model "
        "units, give it to the model as it is."
    )


def _on_white(rgba: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(height, width, 4) to (height, width, 3), and a note if any of it was transparent."""
    white = 255.0 if rgba.dtype == np.uint8 else 1.0
    alpha = rgba[..., 3:].astype(np.float32) / white
    mixed = rgba[..., :3] * alpha + white * (1 - alpha)
    notes = [] if (alpha == 1).all() else ["transparent pixels laid on white"]
    if rgba.dtype == np.uint8:
        mixed = np.round(mixed)
    return mixed.astype(rgba.dtype), notes


def _flatten(image: PilImage, path: object) -> tuple[np.ndarray, list[str]]:
    """A Pillow image as upright RGB or grey pixels, and what was done to it."""
    notes: list[str] = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"the first of {frames} frames")
    image = _upright(image, notes)
    mode = image.mode
    if mode == "F" or mode.startswith("I"):
        return _deep(np.asarray(image), mode, path), notes
    if image.has_transparency_data:
        pixels, more = _on_white(np.asarray(image.convert("RGBA")))
        if mode in ("1", "L", "LA", "La"):
            pixels = pixels[:, :, 0]
        return np.ascontiguousarray(pixels), notes + more
    if mode in ("1", "L", "LA", "La"):
        return np.array(image.convert("L")), notes
    if mode == "CMYK":
        notes.append("CMYK turned into RGB without a colour profile")
    return np.array(image.convert("RGB")), notes


def _upright(image: PilImage, notes: list[str]) -> PilImage:
    """The image turned as its EXIF orientation says; the pixels are decoded here at the latest."""
    from PIL import ImageOps

    image.load()
    try:
        turned = ImageOps.exif_transpose(image)
        orientation = image.getexif().get(0x0112, 1)
    except Exception:
        # Damaged EXIF beside sound pixels: the pixels are still worth showing.
        notes.append("its EXIF data is damaged, so it was not rotated")
        return image
    if orientation in range(2, 9):
        notes.append("turned upright as its EXIF orientation says")
    return turned if turned is not None else image


def _deep(values: np.ndarray, mode: str, path: object) -> np.ndarray:
    """Grey pixels of more than 8 bits as float32 in 0..1."""
    values = values.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if mode == "F":
        white = 1.0 if high <= 1 else 255.0
    else:
        white = 65535.0
    if not (low >= 0 and high <= white):
        raise FileFormatError(
            f"{path} holds {'float' if mode == 'F' else 'integer'} pixels in {low:g}..{high:g}; "
            f"what is white among them cannot be known. Scale them to 0..1 and give an array."
        )
    return values / np.float32(white)


def _check_file(path: Path) -> None:
    try:
        if not path.exists():
            raise FileError(_missing(path))
        if not path.is_file():
            raise FileError(f"{path} is not a file; give an image, a folder or a pattern.")
        size = path.stat().st_size
    except PermissionError as error:
        raise FileError(f"cannot read {path}: {_reason(error)}.") from error
    if size == 0:
        raise FileFormatError(f"{path} is empty (0 bytes). Copy or download it again.")


def _missing(path: Path) -> str:
    text = f"there is no file or folder {path}."
    folder = path.parent
    if not folder.is_dir():
        return text + f" There is no folder {folder} either."
    close = nearest(path.name, (entry.name for entry in folder.iterdir()))
    if close:
        text += f" In {folder.resolve()} did you mean " + ", ".join(map(repr, close)) + "?"
    return text


def _not_an_image(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(12)
    return (
        f"{path} is not an image that can be read (it begins with {start!r}). "
        "Give a PNG, JPEG, WebP, GIF, BMP or TIFF file."
    )


def _broken_header(path: Path, error: BaseException) -> str:
    return (
        f"{path} has a broken header: {_reason(error)}. It may be cut short or damaged; copy or "
        "download it again."
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).rstrip(".") or type(error).__name__


@contextlib.contextmanager
def _no_pillow_limit() -> Iterator[Any]:
    """Pillow with its own size limit lifted, since ours is checked and can be moved."""
    module = pillow()
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = module.MAX_IMAGE_PIXELS
        module.MAX_IMAGE_PIXELS = None
        try:
            yield module
        finally:
            module.MAX_IMAGE_PIXELS = before
