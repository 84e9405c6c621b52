"""``torchvision:NAME`` and ``timm:NAME``."""

from __future__ import annotations

import math
from typing import Any

from whence.data.installed import need
from whence.errors import OptionError, WhenceError, unknown
from whence.images import Preprocess
from whence.models.huggingface import hub, seeded
from whence.models.imagenet import imagenet_classes
from whence.models.loaded import LoadedModel, Request
from whence.models.weights import fit_torch

__all__ = ["load_timm", "load_torchvision"]

# Their trained weights expect this step; built without weights they would leave it out.
_OWN_NORMALISATION = ("googlenet", "inception_v3")


def load_torchvision(request: Request) -> LoadedModel:
    """A model of torchvision, with the transforms and categories of its default weights."""
    request.only("torch")
    need("torch", request.spec, '"whence[torch]"')
    models = need("torchvision.models", request.spec, '"whence[torch]" torchvision')
    if request.name not in models.list_models():
        raise unknown("torchvision model", request.name, models.list_models())
    known = models.get_model_weights(request.name)
    default = getattr(known, "DEFAULT", None)
    meta = default.meta if default is not None else {}
    options = dict(request.options)
    if request.name in _OWN_NORMALISATION:
        options = {"transform_input": True, "init_weights": request.random, **options}
    if meta.get("categories"):
        options.setdefault("num_classes", len(meta["categories"]))
    try:
        with seeded(request.seed):
            # Backbones inside detection models would be downloaded too unless told otherwise.
            model = _without_backbone(models.get_model_builder(request.name), options)
    except (TypeError, ValueError) as error:
        raise request.bad_options(error) from error
    if request.file is not None:
        fit_torch(model, request.file, request.spec)
    elif not request.random:
        if default is None:
            raise OptionError(f"{request.spec} comes without weights: give --weights random.")
        try:
            state = default.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except Exception as error:
            raise request.cannot_fetch(error) from error
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise request.bad_options(error) from error
    preprocess = _of_transforms(default.transforms()) if default is not None else None
    classes = tuple(meta.get("categories", ())) or None
    if classes is not None and options.get("num_classes") != len(classes):
        classes = None
    shape = preprocess.shape if preprocess is not None else None
    return LoadedModel(
        model.eval(), "torch", preprocess, classes, request.name, request.spec, shape
    )


def _without_backbone(builder: Any, options: dict[str, Any]) -> Any:
    try:
        return builder(weights=None, weights_backbone=None, **options)
    except TypeError as error:
        if "weights_backbone" not in str(error):
            raise
        return builder(weights=None, **options)


def _of_transforms(transforms: Any) -> Preprocess | None:
    """The transforms of one set of weights, where they are those of classification."""
    if type(transforms).__name__ != "ImageClassification":
        return None
    (crop,), (resize,) = transforms.crop_size, transforms.resize_size
    return Preprocess(
        size=(crop, crop),
        crop=crop / resize,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=transforms.interpolation.value,
    )


def load_timm(request: Request) -> LoadedModel:
    """A model of timm, with the data configuration and class names of its weights."""
    request.only("torch")
    need("torch", request.spec, '"whence[torch]"')
    timm = need("timm", request.spec, '"whence[torch]" timm')
    _check_timm_name(timm, request.name)
    trained = request.weights is None
    try:
        with seeded(request.seed):
            model = timm.create_model(request.name, pretrained=False, **request.options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise request.bad_options(error) from error
    if request.file is not None:
        fit_torch(model, request.file, request.spec)
    elif trained:
        try:
            with hub():
                model = timm.create_model(request.name, pretrained=True, **request.options)
        except WhenceError:
            raise
        except Exception as error:
            raise request.cannot_fetch(error) from error
    data = timm.data.resolve_model_data_config(model)
    preprocess = _of_timm(data)
    shape = tuple(int(s) for s in data["input_size"])
    classes = _timm_classes(timm, model)
    return LoadedModel(
        model.eval(), "torch", preprocess, classes, request.name, request.spec, shape
    )


def _check_timm_name(timm: Any, name: str) -> None:
    """UnknownName, with the nearest, for a name or a tag of weights that timm does not have."""
    architecture, dot, _ = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown("timm model", name, timm.list_models())
    if dot and name not in timm.list_pretrained(architecture + ".*"):
        raise unknown("timm model", name, timm.list_pretrained(architecture + ".*"))


def _of_timm(data: dict[str, Any]) -> Preprocess | None:
    depth, height, width = data["input_size"]
    if depth not in (1, 3):
        return None
    # timm rounds the size before the crop down; the share is chosen so that it comes out so.
    share = height / math.floor(height / data["crop_pct"])
    stretched = data.get("crop_mode") == "squash"
    return Preprocess(
        size=(height, width),
        resize="exact" if stretched else "shortest",
        crop=share,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        colour="grey" if depth == 1 else "rgb",
        interpolation=_interpolation(data["interpolation"]),
    )


def _interpolation(name: str) -> str:
    known = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
    return name if name in known else "bicubic"


def _timm_classes(timm: Any, model: Any) -> tuple[str, ...] | None:
    """ImageNet-1k named as everywhere in whence; its larger sets as timm names them."""
    count = getattr(model, "num_classes", 0)
    try:
        subset = timm.data.infer_imagenet_subset(model)
        if not subset:
            return None
        if count == 1000 and imagenet_classes() is not None:
            return imagenet_classes()
        info = timm.data.ImageNetInfo(subset)
        names = tuple(info.index_to_description(i).split(",")[0] for i in range(count))
    except (AttributeError, AssertionError, KeyError, IndexError):
        return None
    return names
