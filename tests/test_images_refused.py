"""Images that cannot be read, and what is said: the type and text of each refusal."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whence.errors import FileError, FileFormatError, InputError, WhenceError
from whence.images import Preprocess, picture, read


@pytest.fixture
def corners() -> np.ndarray:
    """(2, 3, 3): some colours."""
    return np.arange(18, dtype=np.uint8).reshape(2, 3, 3)


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_missing_file_names_the_nearest(tmp_path, corners):
    save(tmp_path / "kitten.png", corners)
    with pytest.raises(FileError, match=r"no file or folder .*kiten\.png.*'kitten\.png'") as caught:
        read(tmp_path / "kiten.png")
    assert isinstance(caught.value, OSError)
    with pytest.raises(FileError, match=r"no folder .*nowhere either"):
        read(tmp_path / "nowhere" / "a.png")


def test_empty_file(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(FileFormatError, match=r"a\.png is empty \(0 bytes\)"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".gif", ".bmp"])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.9])
def test_truncated_files(tmp_path, suffix, keep):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    path = save(tmp_path / f"a{suffix}", pixels)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(FileFormatError, match=rf"a\{suffix} (begins as|is not an image|has a)"):
        read(path)


def test_not_an_image(tmp_path):
    (tmp_path / "a.png").write_text("<html>not found</html>")
    with pytest.raises(FileFormatError, match=r"not an image that can be read .*<html>not fo"):
        read(tmp_path / "a.png")


def enormous(path: Path, width: int, height: int) -> Path:
    """A PNG whose header claims a size, with next to no data: a decompression bomb's shape."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data)
    return path


@pytest.mark.parametrize("side", [10_001, 60_000])
def test_too_many_pixels_are_refused_from_the_header(tmp_path, side):
    text = rf"{side} x {side} = {side * side / 1e6:.0f} million pixels; the limit is 100 million"
    with pytest.raises(FileError, match=text) as caught:
        read(enormous(tmp_path / "a.png", side, side))
    assert f"max_pixels={side * side}" in str(caught.value)


def test_the_limit_is_an_option(tmp_path, corners):
    path = save(tmp_path / "a.png", corners)
    assert read(path, max_pixels=6).x.shape == (1, 3, 2, 3)
    with pytest.raises(FileError, match="the limit is 5e-06 million"):
        read(path, max_pixels=5)
    # Above ours it is the data that is missing, not leave to read it.
    with pytest.raises(FileFormatError, match="cannot be decoded"):
        read(enormous(tmp_path / "b.png", 3000, 3000), max_pixels=10**9)


def test_pillows_own_limit_is_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12345)
    with pytest.raises(FileError):
        read(enormous(tmp_path / "a.png", 60_000, 60_000))
    assert Image.MAX_IMAGE_PIXELS == 12345


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="permissions do not bind here")
def test_unreadable_file(tmp_path, corners):
    path = save(tmp_path / "a.png", corners)
    path.chmod(0)
    with pytest.raises(FileError, match=r"cannot read .*a\.png: Permission denied"):
        read(path)


def test_folder_and_pattern_without_images(tmp_path):
    with pytest.raises(FileError, match="holds no image files"):
        read(tmp_path)
    with pytest.raises(FileError, match=r"pattern '.*\*\.png' matches no file"):
        read(str(tmp_path / "*.png"))


def test_addresses_are_not_fetched():
    with pytest.raises(FileError, match="nothing is downloaded"):
        read("https://example.org/cat.jpg")


def test_sizes_that_do_not_stack(corners):
    with pytest.raises(
        InputError, match=r"image 0 is 2 x 3 \(height x width\), image 1 is 3 x 2 .*size=\(height"
    ):
        read([corners, corners.transpose(1, 0, 2)])


@pytest.mark.parametrize(
    ("images", "text"),
    [
        ([], "list is empty"),
        (7, "got int"),
        ([7], "got int"),
        (np.zeros((0, 8, 8), np.uint8), "list is empty"),
        (np.zeros((0, 8), np.uint8), r"got \(0, 8\)"),
        (np.zeros(5, np.uint8), r"got \(5,\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"channels first: give images\.transpose\(0, 2, 3, 1\)"),
        (np.zeros((3, 8, 8), np.uint8), r"image\.transpose\(1, 2, 0\)"),
        (np.full((4, 4), np.nan), "NaN or infinity"),
        (np.full((4, 4), -1.0), r"float64 in -1\.\.-1"),
        (np.full((4, 4), 300), r"int64 in 300\.\.300"),
        (np.full((4, 4), "a"), "an image holds numbers"),
    ],
)
def test_arrays_that_are_no_images(images, text):
    with pytest.raises(InputError, match=text) as caught:
        read(images)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, WhenceError)


def test_undo_refuses_other_channels():
    with pytest.raises(InputError, match=r"\(\[batch,\] 3, height, width\) is wanted"):
        Preprocess().undo(np.zeros((2, 8, 8, 3)))


def test_picture_refuses_channels_first():
    with pytest.raises(InputError, match="looks channels first"):
        picture(np.zeros((3, 8, 8), np.uint8))
