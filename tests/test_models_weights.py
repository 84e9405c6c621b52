"""Weights from local files: what fits, what does not, and that no code in them is run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from whence.errors import (
    FileError,
    FileFormatError,
)
from whence.models import load
from whence.models.weights import mismatch

torch = pytest.importorskip("torch")

# Keras turns TensorFlow's variables into arrays in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras")


@pytest.fixture
def state():
    return load("demo:digits", "random", framework="torch", seed=9).model.state_dict()


def fill(path: Path) -> object:
    return load("demo:digits", path, framework="torch").model.state_dict()


def test_torch_checkpoints_in_every_wrapper(tmp_path, state):
    import safetensors.torch

    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.pth")
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "ddp.ckpt")
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", **{k: v.numpy() for k, v in state.items()})
    for path in sorted(tmp_path.iterdir()):
        filled = fill(path)
        assert all(torch.equal(filled[k], v) for k, v in state.items()), path.name


def test_a_state_that_does_not_fit_is_listed(tmp_path, state):
    state["conv1.wieght"] = state.pop("conv1.weight")
    state["dense.weight"] = state["dense.weight"][:5]
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(FileFormatError) as caught:
        fill(tmp_path / "a.pt")
    text = str(caught.value)
    assert "a.pt do not fit demo:digits: 1 missing: conv1.weight (16, 1, 3, 3)" in text
    assert "1 unexpected: conv1.wieght (nearest: conv1.weight)" in text
    assert "dense.weight is (5, 64) in the file, (10, 64) in the model" in text


def test_another_number_of_classes_is_seen():
    own = {"a.weight": (4, 3), "fc.weight": (1000, 4), "fc.bias": (1000,)}
    text = mismatch(own, {**own, "fc.weight": (10, 4), "fc.bias": (10,)})
    assert text.endswith("If only the number of classes differs: num_classes=10.")
    assert mismatch(own, own) == ""
    many = {f"layer{i}": (1,) for i in range(9)}
    assert "9 missing: layer0 (1,), " in mismatch(many, {}) and "4 more" in mismatch(many, {})


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"state_dict": Harmful(tmp_path / "ran")}, tmp_path / "a.pt")
    with pytest.raises(FileFormatError, match=r"holds more than tensors .*runs no code"):
        fill(tmp_path / "a.pt")
    np.savez(tmp_path / "a.npz", a=np.array([Harmful(tmp_path / "ran")], dtype=object))
    with pytest.raises(FileFormatError, match="npz file of plain arrays"):
        fill(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".npz"])
def test_damaged_weights(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with pytest.raises(FileError, match="there is no file"):
        fill(path)
    path.touch()
    with pytest.raises(FileFormatError, match=r"is empty \(0 bytes\)"):
        fill(path)
    path.write_bytes(b"nothing like weights" * 9)
    with pytest.raises(FileFormatError, match=rf"a\{suffix} is (damaged|not)"):
        fill(path)


def test_weights_of_another_kind(tmp_path):
    (tmp_path / "a.txt").write_text("weights")
    with pytest.raises(FileFormatError, match=r"a\.txt: the weights of a torch model"):
        fill(tmp_path / "a.txt")
    with pytest.raises(FileError, match="is a folder"):
        fill(tmp_path)
    torch.save([1, 2], tmp_path / "a.pt")
    with pytest.raises(FileFormatError, match="holds list, not tensors by name"):
        fill(tmp_path / "a.pt")
    torch.save({}, tmp_path / "b.pt")
    with pytest.raises(FileFormatError, match="no tensors by name"):
        fill(tmp_path / "b.pt")


def test_keras_weights_from_files(keras, tmp_path):
    options = {"alpha": 0.35, "input_shape": (32, 32, 3), "classes": None}
    del options["classes"]
    source = load("keras:MobileNetV2", "random", seed=3, **options).model
    source.save_weights(tmp_path / "m.weights.h5")
    import safetensors.numpy

    named = {v.path: np.asarray(v) for v in source.weights}
    safetensors.numpy.save_file(named, tmp_path / "m.safetensors")
    for name in ("m.weights.h5", "m.safetensors"):
        model = load("keras:MobileNetV2", tmp_path / name, **options).model
        for a, b in zip(model.get_weights(), source.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(FileFormatError, match=r"m\.weights\.h5 do not fit demo:digits"):
        load("demo:digits", tmp_path / "m.weights.h5", framework="tensorflow")
    with pytest.raises(FileFormatError, match=r"missing: .*unexpected: "):
        load("demo:digits", tmp_path / "m.safetensors", framework="tensorflow")
    (tmp_path / "m.pth").write_bytes(b"x")
    with pytest.raises(FileFormatError, match=r"are read from \.weights\.h5, \.h5, \.keras"):
        load("demo:digits", tmp_path / "m.pth", framework="tensorflow")
