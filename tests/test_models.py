"""Models by name and path: what comes along, and what is said where they cannot be had."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import numpy as np
import pytest

from support import import_torchvision
from whence import data
from whence.data import installed
from whence.data.digits import WEIGHTS
from whence.errors import (
    FileError,
    MissingFramework,
    ModelError,
    OptionError,
    UnknownName,
    WhenceError,
)
from whence.images import Preprocess
from whence.models import LoadedModel, load
from whence.models import imagenet as imagenet_file

torch = pytest.importorskip("torch")

# Keras turns TensorFlow's variables into arrays in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def torchvision():
    return import_torchvision()


@pytest.fixture(scope="module")
def timm(torchvision):
    return pytest.importorskip("timm")


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras")


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


# --- the demo net ----------------------------------------------------------------------------


def test_demo_digits_in_torch():
    loaded = load("demo:digits", framework="torch")
    assert loaded.framework == "torch"
    assert loaded.classes == tuple("0123456789")
    assert loaded.input_shape == (1, 8, 8)
    assert not loaded.model.training
    images, labels = data.digits("test")
    x = np.stack([loaded.preprocess(image) for image in images])
    np.testing.assert_array_equal(x[:, 0], images)
    predictions = loaded.model(torch.from_numpy(x)).argmax(1).numpy()
    assert (predictions == labels).mean() >= 0.98
    assert loaded.label(3) == "3" and loaded.label(99) == "99"


def test_demo_digits_in_keras(keras):
    loaded = load("demo:digits", framework="tensorflow")
    assert loaded.framework == "tensorflow"
    assert loaded.input_shape == (8, 8, 1) == loaded.model.input_shape[1:]
    assert loaded.preprocess.channels == "last"


def test_demo_digits_from_a_file_and_random():
    random_one = load("demo:digits", "random", framework="torch").model
    trained = load("demo:digits", framework="torch").model
    from_file = load("demo:digits", WEIGHTS, framework="torch").model
    assert not same_state(random_one, trained)
    assert same_state(from_file, trained)


def test_classes_can_be_given():
    named = load("demo:digits", framework="torch", classes=[f"digit {i}" for i in range(10)])
    assert named.label(7) == "digit 7"


# --- torchvision -----------------------------------------------------------------------------


def test_torchvision_with_its_words(torchvision):
    loaded = load("torchvision:resnet18", "random")
    assert not any(m.training for m in loaded.model.modules())
    assert loaded.preprocess == Preprocess(
        size=(224, 224), crop=0.875, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    assert loaded.classes[281] == "tabby" and len(loaded.classes) == 1000
    assert loaded.input_shape == (3, 224, 224)
    assert loaded.name == "resnet18" and loaded.spec == "torchvision:resnet18"


def test_torchvision_preprocessing_is_torchvisions(torchvision):
    image = np.random.default_rng(0).integers(0, 256, (300, 417, 3)).astype(np.uint8)
    ours = load("torchvision:resnet18", "random").preprocess(image)
    transforms = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    from PIL import Image

    theirs = transforms(Image.fromarray(image)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_random_weights_have_a_seed_and_leave_the_random_state(torchvision):
    before = torch.get_rng_state()
    a, b = (load("torchvision:squeezenet1_1", "random", seed=1).model for _ in range(2))
    c = load("torchvision:squeezenet1_1", "random", seed=2).model
    assert torch.equal(before, torch.get_rng_state())
    assert same_state(a, b) and not same_state(a, c)


def test_options_reach_the_source(torchvision):
    loaded = load("torchvision:squeezenet1_1", "random", num_classes=7)
    assert loaded.model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    assert loaded.classes is None and loaded.label(3) == "3"
    with pytest.raises(OptionError, match=r"options \(nonsense=1\).*unexpected keyword"):
        load("torchvision:squeezenet1_1", "random", nonsense=1)


def test_inception_normalises_as_with_trained_weights(torchvision):
    assert load("torchvision:googlenet", "random").model.transform_input is True


def test_unknown_torchvision_name(torchvision):
    with pytest.raises(
        UnknownName, match="no torchvision model named 'resnt18'; did you mean 'res"
    ):
        load("torchvision:resnt18", "random")


def test_torchvision_weights_that_cannot_be_fetched(torchvision, refused, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileError, match=r"cannot be downloaded .*--weights FILE.*--weights random"):
        load("torchvision:squeezenet1_1")


def test_fetched_weights_are_read_as_tensors_only(torchvision, monkeypatch):
    source = load("torchvision:squeezenet1_1", "random", seed=5).model.state_dict()
    seen = {}

    def fetch(url, *args, **kwargs):
        seen.update(kwargs, url=url)
        return source

    monkeypatch.setattr(sys.modules["torchvision.models._api"], "load_state_dict_from_url", fetch)
    loaded = load("torchvision:squeezenet1_1")
    assert seen["weights_only"] is True and seen["check_hash"] is True
    assert all(torch.equal(v, source[k]) for k, v in loaded.model.state_dict().items())


# --- timm ------------------------------------------------------------------------------------


def test_timm_with_its_words(timm):
    loaded = load("timm:resnet18.a1_in1k", "random")  # 224 / 0.95 is not whole
    data_config = timm.data.resolve_model_data_config(loaded.model)
    image = np.random.default_rng(0).integers(0, 256, (300, 417, 3)).astype(np.uint8)
    from PIL import Image

    theirs = timm.data.create_transform(**data_config)(Image.fromarray(image)).numpy()
    np.testing.assert_allclose(loaded.preprocess(image), theirs, atol=1e-5)
    assert loaded.classes[281] == "tabby"
    assert not loaded.model.training


def test_timm_names(timm):
    with pytest.raises(UnknownName, match="no timm model named 'resnt18'; did you mean"):
        load("timm:resnt18", "random")
    with pytest.raises(UnknownName, match=r"did you mean 'resnet10t\.c3_in1k'"):
        load("timm:resnet10t.c3_in2k", "random")


def test_timm_weights_that_cannot_be_fetched(timm, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileError, match=r"weights of timm:resnet10t .*--weights random"):
        load("timm:resnet10t")


# --- keras.applications ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("MobileNetV2", "mobilenet_v2"),
        ("VGG16", "vgg16"),
        ("DenseNet121", "densenet"),
        ("EfficientNetB0", "efficientnet"),
    ],
)
def test_keras_preprocessing_is_the_familys(keras, name, module):
    options = {"input_shape": (32, 32, 3), "include_top": False}
    loaded = load(f"keras:{name}", "random", **options)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    # No crop here: only what happens to the values is the family's.
    ours = Preprocess(**{**vars(loaded.preprocess), "crop": 1.0})(image)
    theirs = getattr(keras.applications, module).preprocess_input(image[None].astype("float32"))[0]
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert loaded.classes is None  # without its top it has no classes
    assert loaded.input_shape == (32, 32, 3)


def test_keras_gives_logits_and_names(keras):
    options = {"alpha": 0.35, "input_shape": (32, 32, 3)}
    before = random.getstate()
    loaded = load("keras:MobileNetV2", "random", **options)
    assert random.getstate() == before
    out = np.asarray(loaded.model(np.random.default_rng(0).normal(size=(1, 32, 32, 3)) * 50))
    assert abs(out.sum() - 1) > 1e-3
    assert loaded.notes == ("its outputs are logits",)
    assert loaded.classes[281] == "tabby"
    again = load("keras:MobileNetV2", "random", **options)
    other = load("keras:MobileNetV2", "random", seed=1, **options)
    for a, b in zip(loaded.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(loaded.model.get_weights()[0], other.model.get_weights()[0])


def test_keras_names_and_options(keras):
    with pytest.raises(
        UnknownName, match="no keras model named 'resnet50'; did you mean 'ResNet50'"
    ):
        load("keras:resnet50", "random")
    with pytest.raises(OptionError, match=r"\(bogus=1\)"):
        load("keras:MobileNetV2", "random", bogus=1)
    with pytest.raises(OptionError, match="is a tensorflow model; framework='torch' cannot be had"):
        load("keras:MobileNetV2", "random", framework="torch", input_shape=(32, 32, 3))


def test_keras_weights_that_cannot_be_fetched(keras, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("keras.config.keras_home", lambda: str(tmp_path), raising=False)
    monkeypatch.setattr("keras.src.backend.config.keras_home", lambda: str(tmp_path), raising=False)
    with pytest.raises(FileError, match=r"weights of keras:MobileNetV2 .*--weights FILE"):
        load("keras:MobileNetV2", alpha=0.35, input_shape=(96, 96, 3))


def test_class_names_without_torchvision(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    imagenet_file.imagenet_classes.cache_clear()
    try:
        assert imagenet_file.imagenet_classes() is None
    finally:
        imagenet_file.imagenet_classes.cache_clear()


def test_class_names_are_torchvisions(torchvision):
    theirs = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    assert imagenet_file.imagenet_classes() == tuple(theirs)
    assert imagenet_file.imagenet_classes(10) is None


# --- what is asked for -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        ("", UnknownName, "no model was named"),
        ("resnet18", UnknownName, r"such as 'torchvision:resnet18' or 'keras:resnet18'"),
        (
            "torchvison:resnet18",
            UnknownName,
            "no model source named 'torchvison'; did you mean 'tor",
        ),
        ("demo:digit", UnknownName, "did you mean 'digits'"),
        ("nowhere/net.keras", FileError, r"no file nowhere/net\.keras .*no folder nowhere either"),
        (7, ModelError, "a model to load is named by text; got int"),
    ],
)
def test_specs_that_mean_nothing(spec, error, text):
    with pytest.raises(error, match=text) as caught:
        load(spec)
    assert isinstance(caught.value, WhenceError)


def test_another_framework_is_refused():
    with pytest.raises(OptionError, match="framework='jax': it is 'torch' or 'tensorflow'"):
        load("demo:digits", framework="jax")


def test_a_torch_source_is_not_had_in_tensorflow(torchvision):
    with pytest.raises(OptionError, match="torchvision:resnet18 is a torch model"):
        load("torchvision:resnet18", "random", framework="tensorflow")


@pytest.mark.parametrize(
    ("spec", "missing", "install"),
    [
        ("torchvision:resnet18", "torch", r'pip install "whence\[torch\]"'),
        ("torchvision:resnet18", "torchvision", r'pip install "whence\[torch\]" torchvision'),
        ("timm:resnet18", "timm", r'pip install "whence\[torch\]" timm'),
        ("hf:vit", "transformers", r'pip install "whence\[torch\]" transformers'),
        ("keras:ResNet50", "keras", r'pip install "whence\[tensorflow\]"'),
    ],
)
def test_missing_packages_name_their_install_line(monkeypatch, spec, missing, install):
    there = installed.is_installed
    monkeypatch.setattr(
        installed, "is_installed", lambda name: name.split(".")[0] != missing and there(name)
    )
    with pytest.raises(MissingFramework, match=rf"{spec} needs {missing}.*{install}") as caught:
        load(spec, "random")
    assert isinstance(caught.value, ImportError)


def test_loaded_model_prints_short():
    text = repr(load("demo:digits", framework="torch"))
    assert text == "LoadedModel('demo:digits', torch, input (1, 8, 8), 10 classes)"
    assert "? classes" in repr(LoadedModel(None, "torch", None, None, "m", "m"))


def test_importing_is_light():
    code = (
        "import sys, whence.models;"
        "print([m for m in ('torch', 'tensorflow', 'keras', 'timm', 'PIL') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert out.stdout.strip() == "[]"
