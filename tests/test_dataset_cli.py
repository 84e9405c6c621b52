"""What the shell says of a run into a store: its line, its JSON, and its exit status."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import whence
from whence.cli import dataset as shell
from whence.cli.words import UsageError
from whence.data import digits
from whence.methods.catalogue import make


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "in"
    place.mkdir()
    for i, image in enumerate(digits("test")[0][:5]):
        Image.fromarray(np.round(image * 255).astype(np.uint8)).save(place / f"{i}.png")
    return place


def run(folder, methods=("lrp",)):
    told = []
    loaded = whence.load_model("demo:digits", framework="torch")
    found = shell.run_dataset(
        loaded, [str(folder)], [make(m, {}) for m in methods], [3], None,
        str(folder.parent / "run.zarr"), None, lambda *words: told.append(words),
    )  # fmt: skip
    return found, told


def test_images_into_a_store(folder):
    found, told = run(folder)
    assert told == [(5, 5, "")]
    assert found.target.tolist() == [3] * 5
    shell.check(found)
    path = folder.parent / "run.zarr"
    assert shell.told(found) == f"5 of 5 images explained by lrp. Written: {path}"


def test_failures_are_told_and_counted(folder):
    (folder / "3.png").write_bytes(b"no picture")
    found, _ = run(folder)
    with pytest.raises(shell.SomeFailed, match=r"1 of 5 images could not be explained, the first: "
                       r"3\.png: FileFormatError: .*3\.png is not an image"):  # fmt: skip
        shell.check(found)
    document = shell.document(found)
    assert (document["items"], document["explained"]) == (5, 4)
    assert document["failures"][0]["id"] == "3.png"


def test_a_store_holds_one_method(folder):
    with pytest.raises(UsageError, match="holds one method"):
        run(folder, ("lrp", "gradient"))
