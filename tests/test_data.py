"""The digits and the net that ships: one set of weights, two frameworks, the same answers."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import numpy as np
import pytest

from whence import data
from whence.data import installed
from whence.data.digits import WEIGHTS
from whence.errors import MissingFramework, OptionError

SCRIPT = Path(__file__).parents[1] / "scripts" / "train_digits.py"


def logits(framework: str, images: np.ndarray) -> np.ndarray:
    module = pytest.importorskip({"torch": "torch", "tensorflow": "keras"}[framework])
    assert module is not None
    twin = {"torch": "digits_torch", "tensorflow": "digits_keras"}[framework]
    run = importlib.import_module(f"whence.data.{twin}").logits
    return run(data.digits_model(framework), images)


# --- the images ------------------------------------------------------------------------------


def test_digits_are_pixels_in_0_to_1():
    images, labels = data.digits()
    assert images.shape == (450, 8, 8) and labels.shape == (450,)
    assert images.dtype == np.float32 and labels.dtype == np.int64
    assert images.min() == 0 and images.max() == 1
    np.testing.assert_array_equal(images * 16, np.round(images * 16))
    assert set(labels.tolist()) == set(range(10))


def test_splits_share_no_image_and_leave_none_out():
    rows = {
        split: [
            image.tobytes() + bytes([label])
            for image, label in zip(*data.digits(split), strict=True)
        ]
        for split in ("train", "test", "all")
    }
    assert len(rows["train"]) == 1347
    assert sorted(rows["train"] + rows["test"]) == sorted(rows["all"])


def test_the_split_is_fixed():
    # The shipped weights have seen the training half: another split would leak.
    _, labels = data.digits("test")
    assert labels[:10].tolist() == [2, 0, 7, 0, 2, 2, 2, 9, 5, 9]
    assert int((labels * np.arange(450)).sum()) == 469581


def test_another_split_is_refused():
    with pytest.raises(OptionError, match="split='valid': it is 'train', 'test' or 'all'"):
        data.digits("valid")


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setattr(installed, "is_installed", lambda name: False)
    with pytest.raises(MissingFramework, match=r'needs sklearn.*pip install "whence\[demo\]"') as e:
        data.digits()
    assert isinstance(e.value, ImportError)


# --- the net ---------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_98_percent_on_held_out_digits(framework):
    images, labels = data.digits("test")
    right = logits(framework, images).argmax(axis=1) == labels
    assert right.mean() >= 0.98


def test_the_twins_agree():
    images, _ = data.digits("all")
    torch, keras = logits("torch", images), logits("tensorflow", images)
    assert torch.shape == (1797, 10)
    assert np.abs(torch).max() > 3  # logits, not probabilities
    np.testing.assert_allclose(torch, keras, atol=1e-4, rtol=0)


def test_every_weight_matters_to_both_twins():
    """A weight that loading skipped would leave the logits as they were."""
    images = data.digits("test")[0][:8]
    weights = data.digits_weights()
    torch_twin = importlib.import_module("whence.data.digits_torch")
    keras_twin = importlib.import_module("whence.data.digits_keras")
    plain = logits("torch", images)
    for name in weights:
        changed = {**weights, name: weights[name] * 1.5 + 0.01}
        a = torch_twin.logits(torch_twin.build(changed), images)
        assert np.abs(a - plain).max() > 1e-4, name
        b = keras_twin.logits(keras_twin.build(changed), images)
        np.testing.assert_allclose(a, b, atol=1e-3, err_msg=name)


def test_the_weights_are_small_and_readable():
    assert WEIGHTS.stat().st_size < 300_000
    weights = data.digits_weights()
    assert {a.dtype for a in weights.values()} == {np.dtype(np.float32)}
    assert all(np.isfinite(a).all() for a in weights.values())
    assert WEIGHTS.stat().st_mode & 0o444 == 0o444


def test_torch_model_is_in_evaluation_mode_and_leaves_the_random_state():
    torch = pytest.importorskip("torch")
    before = torch.get_rng_state()
    model = data.digits_model("torch", trained=False, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert not any(m.training for m in model.modules())
    again = data.digits_model("torch", trained=False, seed=3)
    other = data.digits_model("torch", trained=False, seed=4)
    assert torch.equal(model.dense.weight, again.dense.weight)
    assert not torch.equal(model.dense.weight, other.dense.weight)


def test_keras_model_leaves_the_random_state():
    pytest.importorskip("keras")
    before = random.getstate()
    first = data.digits_model("tensorflow", trained=False, seed=3)
    assert random.getstate() == before
    again = data.digits_model("tensorflow", trained=False, seed=3)
    other = data.digits_model("tensorflow", trained=False, seed=4)
    kernels = [np.asarray(m.get_layer("dense").kernel) for m in (first, again, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_mistakes_are_the_same_in_both_frameworks():
    images, labels = data.digits("test")
    a, b = data.mistakes(framework="torch"), data.mistakes(framework="tensorflow")
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)
    assert 0 < len(a.indices) <= 9
    np.testing.assert_array_equal(labels[a.indices], a.labels)
    np.testing.assert_array_equal(logits("torch", images[a.indices]).argmax(1), a.predictions)
    assert (a.labels != a.predictions).all()


# --- which framework -------------------------------------------------------------------------


def test_the_first_installed_framework_is_taken(monkeypatch):
    monkeypatch.setattr(installed, "is_installed", lambda name: name == "tensorflow")
    assert installed.choose_framework(None, "x") == "tensorflow"
    monkeypatch.setattr(installed, "is_installed", lambda name: True)
    assert installed.choose_framework(None, "x") == "torch"


def test_no_framework_at_all(monkeypatch):
    monkeypatch.setattr(installed, "is_installed", lambda name: name not in installed.FRAMEWORKS)
    with pytest.raises(MissingFramework, match=r'"whence\[torch\]" or pip install "whence\[tens'):
        data.digits_model()
    with pytest.raises(MissingFramework, match=r'pip install "whence\[tensorflow\]"'):
        data.digits_model("tensorflow")


def test_another_framework_is_refused():
    with pytest.raises(OptionError, match="framework='jax': it is 'torch' or 'tensorflow'"):
        data.digits_model("jax")


@pytest.mark.parametrize("module", ["brokenpackage", "brokenpackage.inner"])
def test_a_package_that_cannot_be_imported(tmp_path, monkeypatch, module):
    (tmp_path / "brokenpackage").mkdir()
    (tmp_path / "brokenpackage" / "inner.py").touch()
    init = tmp_path / "brokenpackage" / "__init__.py"
    init.write_text("raise RuntimeError('built for another')")
    monkeypatch.syspath_prepend(tmp_path)
    text = (
        r"x needs brokenpackage, .*cannot be imported .*built for another.*--force-reinstall broken"
    )
    with pytest.raises(MissingFramework, match=text):
        installed.need(module, "x", "brokenpackage")


# --- how it was made -------------------------------------------------------------------------


def test_the_training_script_learns_and_repeats():
    torch = pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("train_digits", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    images, labels = data.digits("train")
    before = torch.get_rng_state()
    try:
        nets = [script.train(images, labels, epochs=3) for _ in range(2)]
    finally:
        torch.set_rng_state(before)
    states = [net.state_dict() for net in nets]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    held_out, truth = data.digits("test")
    twin = importlib.import_module("whence.data.digits_torch")
    assert (twin.logits(nets[0], held_out).argmax(1) == truth).mean() > 0.9
