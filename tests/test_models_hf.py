"""Models of Hugging Face, from folders that the tests make."""

from __future__ import annotations

import json

import pytest

from support import import_torchvision
from whence.errors import (
    FileError,
    FileFormatError,
    OptionError,
    WhenceError,
)
from whence.images import Preprocess
from whence.models import load

torch = pytest.importorskip("torch")

# Keras turns TensorFlow's variables into arrays in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def torchvision():
    return import_torchvision()


@pytest.fixture
def refused(monkeypatch):
    """No address can be reached, however it is tried."""

    def no(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr("socket.getaddrinfo", no)
    monkeypatch.setattr("socket.socket.connect", no)


def same_state(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


SMALL_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory, torchvision):
    """A tiny image classifier as Hugging Face saves it."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("vit")
    config = transformers.ViTConfig(**SMALL_VIT, id2label={0: "cat", 1: "dog", 2: "newt"})
    model = transformers.ViTForImageClassification(config)
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "state.pt")
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 32, "width": 32},
        "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.2, 0.2],
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def test_hf_folder(vit_folder):
    loaded = load(f"hf:{vit_folder}")
    assert type(loaded.model).__name__ == "ViTForImageClassification"
    assert loaded.classes == ("cat", "dog", "newt")
    assert loaded.preprocess == Preprocess(
        size=(32, 32),
        resize="exact",
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.2, 0.2),
        interpolation="bicubic",
    )
    stored = torch.load(vit_folder / "state.pt", weights_only=True)
    state = loaded.model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in stored.items())
    assert not loaded.model.training


def test_hf_config_only_is_random(vit_folder, tmp_path):
    (tmp_path / "config.json").write_bytes((vit_folder / "config.json").read_bytes())
    a, b = (load(f"hf:{tmp_path}", "random", seed=1) for _ in range(2))
    assert same_state(a.model, b.model)
    assert a.input_shape == (3, 32, 32)
    assert a.notes == ("its source says nothing of preprocessing: pixels in 0..1 are assumed",)
    filled = load(f"hf:{tmp_path}", vit_folder / "model.safetensors")
    assert same_state(filled.model, load(f"hf:{vit_folder}").model)
    with pytest.raises(FileError, match="--weights random"):
        load(f"hf:{tmp_path}")


def test_hf_weights_that_do_not_fit(vit_folder, tmp_path):
    import safetensors.torch

    stored = safetensors.torch.load_file(vit_folder / "model.safetensors")
    stored["classifier.weight"] = stored["classifier.weight"][:2].clone()
    stored["classifier.bais"] = stored.pop("classifier.bias")
    safetensors.torch.save_file(stored, tmp_path / "a.safetensors")
    with pytest.raises(FileFormatError) as caught:
        load(f"hf:{vit_folder}", tmp_path / "a.safetensors")
    text = str(caught.value)
    assert "1 missing: classifier.bias (3,)" in text
    assert "1 unexpected: classifier.bais (nearest: classifier.bias)" in text
    assert "classifier.weight is (2, 16) in the file, (3, 16) in the model" in text


def test_hf_family(torchvision):
    pytest.importorskip("transformers")
    loaded = load("hf:vit", "random", **SMALL_VIT)
    assert loaded.model(torch.zeros(1, 3, 32, 32)).last_hidden_state.shape == (1, 17, 16)
    assert loaded.classes is None
    assert (
        load("hf:bert", "random", **{k: SMALL_VIT[k] for k in list(SMALL_VIT)[:4]}).preprocess
        is None
    )
    with pytest.raises(OptionError, match="hf:vit is a family"):
        load("hf:vit")
    with pytest.raises(OptionError, match="its configuration has no bogus"):
        load("hf:vit", "random", bogus=1)


def test_hf_names_and_folders_that_are_none(refused, tmp_path, torchvision):
    pytest.importorskip("transformers")
    with pytest.raises(FileFormatError, match=r"holds no config\.json"):
        load(f"hf:{tmp_path}")
    with pytest.raises(FileError, match="not on this machine and cannot be downloaded"):
        load("hf:nobody/nothing-of-this-name", "random")


def test_the_hub_is_offline_only_while_it_cannot_be_found(refused, monkeypatch, torchvision):
    pytest.importorskip("transformers")
    from huggingface_hub import constants

    from whence.models.huggingface import hub

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with hub():
        assert constants.HF_HUB_OFFLINE is True
    assert constants.HF_HUB_OFFLINE is False
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy"})
    with hub():
        assert constants.HF_HUB_OFFLINE is False


def test_hf_damaged_weights(vit_folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((vit_folder / name).read_bytes()[:2000])
    with pytest.raises(WhenceError) as caught:
        load(f"hf:{tmp_path}")
    assert isinstance(caught.value, FileFormatError | FileError)
    assert str(tmp_path) in str(caught.value)
