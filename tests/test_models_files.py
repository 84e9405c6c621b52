"""Models from files: Keras, SavedModel, exported programs, and the user's own code."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from whence.errors import (
    FileError,
    FileFormatError,
    ModelError,
    OptionError,
    UnknownName,
)
from whence.images import Preprocess
from whence.models import load

torch = pytest.importorskip("torch")

# Keras turns TensorFlow's variables into arrays in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras")


@pytest.fixture
def state():
    return load("demo:digits", "random", framework="torch", seed=9).model.state_dict()


# --- files -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_keras(keras):
    layers = keras.layers
    return keras.Sequential([keras.Input((6, 4, 1)), layers.Flatten(), layers.Dense(3)])


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_keras_files(small_keras, tmp_path, suffix):
    small_keras.save(tmp_path / f"net{suffix}")
    loaded = load(tmp_path / f"net{suffix}")
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 1)).astype(np.float32)
    np.testing.assert_allclose(loaded.model(x), small_keras(x), atol=1e-6)
    assert loaded.framework == "tensorflow" and loaded.name == "net"
    assert loaded.preprocess == Preprocess(size=(6, 4), channels="last", colour="grey")
    assert loaded.notes == ("its source says nothing of preprocessing: pixels in 0..1 are assumed",)


def test_keras_file_with_other_weights(small_keras, tmp_path, keras):
    small_keras.save(tmp_path / "net.keras")
    other = keras.models.clone_model(small_keras)
    other.set_weights([w + 1 for w in small_keras.get_weights()])
    other.save_weights(tmp_path / "o.weights.h5")
    filled = load(tmp_path / "net.keras", tmp_path / "o.weights.h5").model
    np.testing.assert_array_equal(filled.get_weights()[0], other.get_weights()[0])
    with pytest.raises(OptionError, match="brings its own weights"):
        load(tmp_path / "net.keras", "random")
    with pytest.raises(OptionError, match="takes no further options; got num_classes"):
        load(tmp_path / "net.keras", num_classes=3)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_code_in_a_keras_file_is_not_run(keras, tmp_path, suffix):
    layers = [keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2)]
    keras.Sequential(layers).save(tmp_path / f"net{suffix}")
    with pytest.raises(ModelError, match=r"holds code \(a Lambda layer\), which is not run"):
        load(tmp_path / f"net{suffix}")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_damaged_keras_files(keras, small_keras, tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    with pytest.raises(FileError, match=r"there is no file .*net"):
        load(path)
    path.touch()
    with pytest.raises(FileFormatError, match="is empty"):
        load(path)
    small_keras.save(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(FileFormatError, match="cannot be loaded as a Keras model"):
        load(path)


def test_saved_model_of_keras(small_keras, tmp_path, capfd):
    small_keras.export(tmp_path / "saved", verbose=False)
    loaded = load(tmp_path / "saved")
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 1)).astype(np.float32)
    np.testing.assert_allclose(loaded.model(x), small_keras(x), atol=1e-6)
    assert loaded.input_shape == (6, 4, 1)
    assert "only those you trust" in loaded.notes[-1]


def test_saved_model_of_a_module(tmp_path):
    tf = pytest.importorskip("tensorflow")

    class Twice(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 4))])
        def __call__(self, x):
            return 2 * x

    tf.saved_model.save(Twice(), str(tmp_path / "saved"))
    loaded = load(f"{tmp_path}/saved")
    np.testing.assert_array_equal(loaded.model(tf.ones((1, 4))), [[2, 2, 2, 2]])
    assert loaded.preprocess is None and loaded.input_shape == (4,)


def test_folders_that_are_no_saved_model(tmp_path):
    with pytest.raises(FileFormatError, match=r"no saved_model\.pb.*is named hf:"):
        load(tmp_path)
    pytest.importorskip("tensorflow")
    (tmp_path / "saved_model.pb").write_bytes(b"broken")
    with pytest.raises(FileFormatError, match="cannot be loaded"):
        load(tmp_path)


def test_exported_program(tmp_path):
    net = load("demo:digits", framework="torch").model
    x = torch.rand(2, 1, 8, 8)
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, (x,), dynamic_shapes={"x": {0: batch}})
    torch.export.save(program, tmp_path / "net.pt2")
    loaded = load(tmp_path / "net.pt2")
    torch.testing.assert_close(loaded.model(x), net(x))
    assert loaded.input_shape == (1, 8, 8)
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    torch.export.save(torch.export.export(net, (x,)), tmp_path / "two.pt2")
    assert "it was exported for batches of exactly 2" in load(tmp_path / "two.pt2").notes
    with pytest.raises(OptionError, match="no others can be given"):
        load(tmp_path / "net.pt2", tmp_path / "net.pt2")
    (tmp_path / "net.pt2").write_bytes(b"broken" * 30)
    with pytest.raises(FileFormatError, match=r"cannot be loaded as a torch\.export program"):
        load(tmp_path / "net.pt2")


def test_weights_are_no_model(tmp_path, state):
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"holds weights, not a model.*--weights .*a\.pt"):
        load(tmp_path / "a.pt")
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(FileFormatError, match="not a kind of model file"):
        load(tmp_path / "a.onnx")


# --- the user's own code ---------------------------------------------------------------------


def write(path: Path, code: str) -> Path:
    path.write_text(textwrap.dedent(code))
    return path


OWN = """
    import torch
    from beside import WIDTH
    from whence.images import Preprocess

    classes = ["no", "yes"]
    preprocess = Preprocess(size=(4, 4), colour="grey")

    def net(width=WIDTH):
        dense = torch.nn.Linear(width, 2)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), dense)

    def nothing():
        return None

    def plain():
        return lambda x: x

    def fails():
        raise KeyError("layer7")

    limit = 3
"""


@pytest.fixture
def own(tmp_path):
    write(tmp_path / "beside.py", "WIDTH = 16")
    return write(tmp_path / "nets.py", OWN)


def test_the_users_function(own):
    before = list(sys.path)
    loaded = load(f"{own}:net")
    assert loaded.notes == (f"ran {own} and called net() in it",)
    assert not loaded.model.training and loaded.framework == "torch"
    assert loaded.classes == ("no", "yes") and loaded.input_shape == (1, 4, 4)
    assert loaded.name == "net"
    assert sys.path == before
    assert load(f"{own}:net", width=8).model[2].in_features == 8


def test_the_users_function_with_weights(own, tmp_path):
    weights = {"2.weight": torch.ones(2, 16), "2.bias": torch.zeros(2)}
    torch.save(weights, tmp_path / "w.pt")
    assert (load(f"{own}:net", tmp_path / "w.pt").model[2].weight == 1).all()
    with pytest.raises(FileFormatError, match=r"2\.weight is \(2, 16\) in the file, \(2, 8\)"):
        load(f"{own}:net", tmp_path / "w.pt", width=8)


def test_a_plain_function_needs_its_framework(own):
    assert load(f"{own}:plain", framework="torch").framework == "torch"
    with pytest.raises(ModelError, match="plain function; say what it computes with"):
        load(f"{own}:plain")


@pytest.mark.parametrize(
    ("function", "error", "text"),
    [
        ("ent", UnknownName, r"no function in .*nets\.py named 'ent'; did you mean 'net'"),
        ("limit", ModelError, "limit in .* is not a function; it is int"),
        ("nothing", ModelError, "gave NoneType, which is not a model"),
        (
            "fails",
            ModelError,
            r"running fails\(\) failed in .*nets\.py, line 20: KeyError: 'layer7'",
        ),
        ("", ModelError, r"say which function of .*Functions in it: net, nothing, plain, fails"),
    ],
)
def test_what_the_users_code_can_get_wrong(own, function, error, text):
    with pytest.raises(error, match=text):
        load(f"{own}:{function}")


def test_files_of_code_that_do_not_run(tmp_path):
    with pytest.raises(FileError, match=r"there is no file .*none\.py"):
        load(f"{tmp_path}/none.py:net")
    bad = write(tmp_path / "bad.py", "x = 1\ndef (:\n")
    with pytest.raises(FileFormatError, match=r"bad\.py, line 2: invalid syntax"):
        load(f"{bad}:net")
    raising = write(tmp_path / "raising.py", "import torch\nraise SystemExit(3)\n")
    with pytest.raises(
        ModelError, match=r"running the file failed in .*raising\.py, line 2: System"
    ):
        load(f"{raising}:net")
    assert "whence_user_raising" not in sys.modules
    with pytest.raises(ModelError, match=r"say which function of .*raising\.py:FUNCTION\. .*none"):
        load(raising)
