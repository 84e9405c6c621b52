"""Images: every kind of file and array becomes the numbers it should, and bad ones are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whence.errors import FileFormatError, OptionError
from whence.images import Images, Preprocess, decode, read

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def corners() -> np.ndarray:
    """(2, 3, 3): another colour in each corner, so that every turn and flip shows."""
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0], pixels[0, 2], pixels[1, 0], pixels[1, 2] = RED, GREEN, BLUE, WHITE
    return pixels


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


# --- files of every kind ---------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".gif", ".ppm", ".webp"])
def test_lossless_files_give_their_pixels(tmp_path, corners, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    found = decode(save(tmp_path / f"a{suffix}", corners, **options))
    np.testing.assert_array_equal(found.pixels, corners)
    assert found.pixels.dtype == np.uint8
    assert found.name == f"a{suffix}"


def test_jpeg_is_close(tmp_path):
    pixels = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    found = decode(save(tmp_path / "a.jpg", pixels, quality=95)).pixels
    assert np.abs(found.astype(int) - pixels).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_upright(tmp_path, corners, orientation):
    # What the camera stores, so that the orientation tag undoes it.
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(undo[orientation](corners))
    found = decode(save(tmp_path / "a.png", stored, exif=exif))
    np.testing.assert_array_equal(found.pixels, corners)
    turned = ("turned upright as its EXIF orientation says",) if orientation > 1 else ()
    assert found.notes == turned


def test_alpha_is_laid_on_white_and_said(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = 255, 0, 51  # black: opaque, clear, a fifth
    batch = read(save(tmp_path / "a.png", pixels))
    assert batch.originals[0][0, :, 0].tolist() == [0, 255, 204]
    assert batch.notes == ("a.png: transparent pixels laid on white",)


def test_opaque_alpha_needs_no_note(tmp_path):
    found = decode(save(tmp_path / "a.png", np.full((2, 2, 4), 255, np.uint8)))
    assert found.notes == ()
    assert found.pixels.shape == (2, 2, 3)


def test_grey_with_alpha_stays_grey(tmp_path):
    image = Image.merge("LA", [Image.new("L", (2, 2), 0), Image.new("L", (2, 2), 0)])
    image.save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png").pixels.tolist() == [[255, 255], [255, 255]]


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=1)
    assert decode(tmp_path / "a.png").pixels.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_one_bit_and_grey(tmp_path):
    grey = np.array([[0, 255], [255, 0]], np.uint8)
    np.testing.assert_array_equal(decode(save(tmp_path / "a.png", grey)).pixels, grey)
    np.testing.assert_array_equal(decode(save(tmp_path / "b.png", grey, "1")).pixels, grey)


def test_sixteen_bits_are_not_cut_to_eight(tmp_path):
    deep = np.array([[0, 1000], [32768, 65535]], np.uint16)
    batch = read(save(tmp_path / "a.png", deep), Preprocess(colour="grey"))
    np.testing.assert_allclose(batch.x[0, 0], deep / 65535, atol=1e-7)
    np.testing.assert_array_equal(batch.originals[0], np.round(deep / 257).astype(np.uint8))


def test_float_tiff(tmp_path):
    for name, factor in (("unit.tif", 1.0), ("byte.tif", 255.0)):
        values = np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)
        found = decode(save(tmp_path / name, values * np.float32(factor)))
        np.testing.assert_allclose(found.pixels, values, atol=1e-6)
    with pytest.raises(FileFormatError, match=r"float pixels in 0\.\.4000; what is white"):
        decode(save(tmp_path / "far.tif", np.array([[0, 4000]], np.float32)))


def test_cmyk_is_turned_and_said(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    found = decode(tmp_path / "a.jpg")
    assert np.abs(found.pixels[4, 4].astype(int) - RED).max() <= 3
    assert found.notes == ("CMYK turned into RGB without a colour profile",)


def test_first_frame_of_several(tmp_path):
    frames = [Image.new("RGB", (4, 4), c) for c in (RED, GREEN, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    found = decode(tmp_path / "a.gif")
    assert tuple(found.pixels[0, 0]) == RED
    assert found.notes == ("the first of 3 frames",)


# --- many at once ----------------------------------------------------------------------------


def test_folder_in_natural_order_without_other_files(tmp_path, corners):
    for name in ("i10.png", "i2.png", "I1.PNG"):
        save(tmp_path / name, corners)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "inner").mkdir()
    save(tmp_path / "inner" / "i3.png", corners)
    batch = read(tmp_path)
    assert batch.names == ("I1.PNG", "i2.png", "i10.png")
    assert batch.x.shape == (3, 3, 2, 3)
    assert batch.paths[1] == tmp_path / "i2.png"
    assert len(batch) == 3


def test_patterns_and_lists(tmp_path, corners):
    (tmp_path / "inner").mkdir()
    a, b = save(tmp_path / "a.png", corners), save(tmp_path / "inner" / "b.png", corners)
    assert read(f"{tmp_path}/*.png").paths == (a,)
    assert read(f"{tmp_path}/**/*.png").paths == (a, b)
    mixed = read([b, str(a), corners, Image.fromarray(corners)])
    assert mixed.names == ("b.png", "a.png", "image 2", "image 3")
    for one in mixed.x:
        np.testing.assert_array_equal(one, mixed.x[0])


def test_a_file_named_like_a_pattern(tmp_path, corners):
    path = save(tmp_path / "a[1].png", corners)
    assert read(str(path)).paths == (path,)


def test_arrays_of_every_shape():
    grey = np.arange(10, dtype=np.uint8).reshape(2, 5)
    for array, shape in (
        (grey, (1, 1, 2, 5)),
        (grey[:, :, None], (1, 1, 2, 5)),
        (np.stack([grey] * 6), (6, 1, 2, 5)),
        (np.stack([grey] * 6)[..., None], (6, 1, 2, 5)),
        (np.stack([grey] * 3, axis=-1), (1, 1, 2, 5)),
    ):
        batch = read(array, Preprocess(colour="grey"))
        assert batch.x.shape == shape
        np.testing.assert_allclose(batch.x[0, 0], grey / 255, atol=1e-6)


def test_float_arrays_keep_their_precision():
    values = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_array_equal(read(values, Preprocess(colour="grey")).x[0, 0], values)


def test_tensors_are_taken():
    torch = pytest.importorskip("torch")
    tensor = torch.full((2, 2, 3), 0.5, requires_grad=True)
    np.testing.assert_array_equal(read(tensor).x, np.full((1, 3, 2, 2), 0.5, np.float32))


# --- preprocessing ---------------------------------------------------------------------------


def test_normalisation_by_hand(corners):
    prepare = Preprocess(mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    x = prepare(corners)
    assert x.shape == (3, 2, 3)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x[:, 0, 0], [5.0, -2.0, -1.0], rtol=1e-6)  # red
    low, high = prepare.bounds
    np.testing.assert_allclose(low, [-5, -2, -1], rtol=1e-6)
    np.testing.assert_allclose(high, [5, 3, 7 / 3], rtol=1e-6)
    assert (x.min(axis=(1, 2)) == low).all() and (x.max(axis=(1, 2)) == high).all()


def test_caffe_style(corners):
    prepare = Preprocess(mean=(103.939, 116.779, 123.68), scale=255, colour="bgr", channels="last")
    np.testing.assert_allclose(prepare(corners)[0, 0], [-103.939, -116.779, 131.32], rtol=1e-5)
    np.testing.assert_allclose(prepare.undo(prepare(corners)), corners / 255, atol=1e-6)


@pytest.mark.parametrize("colour", ["rgb", "bgr"])
@pytest.mark.parametrize("channels", ["first", "last"])
def test_undo_gives_back_the_pixels(corners, colour, channels):
    prepare = Preprocess(
        mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), colour=colour, channels=channels
    )
    batch = read([corners, corners[::-1]], prepare)
    np.testing.assert_allclose(batch.unprocess()[0], corners / 255, atol=1e-6)
    np.testing.assert_allclose(batch.unprocess(batch.x[1]), corners[::-1] / 255, atol=1e-6)
    assert batch.channels == channels
    assert batch.unprocess(batch.x * 1e6).max() == 1


def test_grey_from_colour_and_colour_from_grey(corners):
    grey = Preprocess(colour="grey", channels="last")
    np.testing.assert_allclose(
        grey(corners)[..., 0][[0, 0, 1, 1], [0, 2, 0, 2]], [0.299, 0.587, 0.114, 1], rtol=1e-5
    )
    assert grey.undo(grey(corners)).shape == (2, 3)
    x = Preprocess()(corners[:, :, 0])
    assert (x[0] == x[1]).all() and (x[1] == x[2]).all()


def test_shortest_side_then_centre_crop():
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30] = 255
    prepare = Preprocess(size=(10, 10))
    assert prepare.window(20, 40) == (0, 10, 20, 30)
    np.testing.assert_allclose(prepare(pixels)[:, :, 1:-1], 1, atol=0.01)
    batch = read(pixels, prepare)
    assert batch.seen[0].shape == (20, 20, 3) and (batch.seen[0] == 255).all()
    assert batch.originals[0].shape == (20, 40, 3)


def test_exact_stretches():
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255
    prepare = Preprocess(size=(10, 10), resize="exact", interpolation="box")
    np.testing.assert_array_equal(prepare(pixels)[0, 0], [1] * 5 + [0] * 5)
    assert prepare.window(20, 40) == (0, 0, 20, 40)


def test_crop_keeps_its_share():
    assert Preprocess(size=(224, 224), crop=224 / 256).window(256, 512) == (16, 144, 240, 368)


def test_float_images_resize_as_bytes_do():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3)).astype(np.uint8)
    for how in ("bilinear", "bicubic", "lanczos", "box"):
        prepare = Preprocess(size=(12, 12), interpolation=how)
        difference = prepare(pixels) - prepare((pixels / 255).astype(np.float32))
        assert np.abs(difference).max() < 1.01 / 255


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_resizing_does_not_leave_the_range_of_pixels(kind):
    edge = np.zeros((8, 8, 3), kind)
    edge[:, 4:] = 255 if kind is np.uint8 else 1
    x = Preprocess(size=(32, 32), interpolation="bicubic")(edge)
    assert x.min() == 0 and x.max() == 1


def test_preprocess_prints_as_the_call_that_makes_it():
    prepare = Preprocess(size=(8, 9), mean=(0.5,), channels="last")
    assert eval(repr(prepare)) == prepare
    assert prepare.shape == (8, 9, 3)
    assert Preprocess(size=(8, 9), colour="grey").shape == (1, 8, 9)
    assert Preprocess().shape is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 224}, r"size=224: \(height, width\)"),
        ({"size": (0, 3)}, "each side is at least 1"),
        ({"size": (2.5, 3)}, "whole pixels"),
        ({"crop": 0}, r"in \(0, 1\]"),
        ({"crop": 1.5}, r"in \(0, 1\]"),
        ({"std": (0.0,)}, "each is above 0"),
        ({"scale": -1}, "above 0"),
        ({"mean": (1, 2)}, "one finite number, or one for each of the 3 channels"),
        ({"mean": (float("nan"),)}, "one finite number"),
        ({"colour": "blue"}, "it is one of 'rgb', 'bgr', 'grey'"),
        ({"resize": "crop"}, "'shortest', 'exact'"),
        ({"channels": 1}, "'first', 'last'"),
        ({"interpolation": "spline"}, "'bicubic'"),
    ],
)
def test_preprocess_options_that_cannot_be(options, text):
    with pytest.raises(OptionError, match=text) as caught:
        Preprocess(**options)
    assert isinstance(caught.value, ValueError)


def test_images_prints_short():
    batch = read(np.zeros((2, 8, 8), np.uint8))
    assert isinstance(batch, Images)
    assert repr(batch) == "Images(2 images, x (2, 3, 8, 8), channels 'first')"


def test_importing_is_light():
    code = (
        "import sys, whence.images;"
        "print([m for m in ('torch', 'tensorflow', 'PIL', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert out.stdout.strip() == "[]"
