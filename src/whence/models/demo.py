"""``demo:digits``: the net that ships."""

from __future__ import annotations

from whence.data import CLASSES, digits_model
from whence.data.installed import choose_framework
from whence.errors import unknown
from whence.images import Preprocess
from whence.models.loaded import LoadedModel, Request
from whence.models.weights import fit_keras, fit_torch

__all__ = ["load_demo"]


def load_demo(request: Request) -> LoadedModel:
    """The digits net in the framework asked for, or the first that is installed."""
    if request.name != "digits":
        raise unknown("demo model", request.name, ["digits"])
    request.no_options()
    framework = choose_framework(request.framework, request.spec)
    model = digits_model(framework, trained=request.weights is None, seed=request.seed)
    if request.file is not None:
        (fit_torch if framework == "torch" else fit_keras)(model, request.file, request.spec)
    preprocess = Preprocess(
        size=(8, 8),
        colour="grey",
        channels="first" if framework == "torch" else "last",
        interpolation="box",
    )
    note = "it reads light ink on black; give dark ink on white inverted"
    return LoadedModel(
        model=model,
        framework="torch" if framework == "torch" else "tensorflow",
        preprocess=preprocess,
        classes=CLASSES,
        name="digits",
        spec=request.spec,
        input_shape=preprocess.shape,
        notes=(note,),
    )
