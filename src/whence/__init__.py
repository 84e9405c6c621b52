"""whence: where a neural network's answer came from, and how far to believe that."""

from importlib import import_module as _import_module
from typing import Any as _Any

from . import targets as targets
from .errors import WhenceError as WhenceError
from .ledger import Ledger as Ledger
from .ledger import doors as _books
from .methods.catalogue import methods as methods
from .methods.channels import ChannelRanking as ChannelRanking
from .methods.channels import channels as channels
from .methods.deeplift import DeepLIFT as DeepLIFT
from .methods.deeplift import DeepSHAP as DeepSHAP
from .methods.explain import explain as explain
from .methods.gradients import Gradient as Gradient
from .methods.gradients import GradientTimesInput as GradientTimesInput
from .methods.gradients import Saliency as Saliency
from .methods.gradients import SensitivityAnalysis as SensitivityAnalysis
from .methods.lrp import LRP as LRP
from .methods.lrp import DeepTaylor as DeepTaylor
from .methods.planning import plan as plan
from .methods.taylor import SimpleTaylor as SimpleTaylor
from .methods.walks import Deconvolution as Deconvolution
from .methods.walks import GuidedBackpropagation as GuidedBackpropagation
from .ops import Op as Op
from .recording import layers as layers
from .recording import record as record
from .result import Explanation as Explanation
from .result import Explanations as Explanations
from .result import doors as _doors
from .rules.composite import Composite as Composite
from .storage import load as load
from .storage import save as _save
from .targets import difference as difference
from .targets import logit as logit
from .targets import neuron as neuron
from .targets import token as token

__version__ = "0.1.0"

__all__ = [
    "LRP", "ChannelRanking", "Composite", "Deconvolution", "DeepLIFT", "DeepSHAP", "DeepTaylor",
    "Explanation", "Explanations", "Gradient", "GradientTimesInput", "GuidedBackpropagation",
    "Ledger", "Op", "Saliency", "SensitivityAnalysis", "SimpleTaylor", "WhenceError", "__version__",
    "baselines", "channels", "data", "difference", "errors", "explain", "explain_dataset", "images",
    "layers", "load", "load_model", "logit", "methods", "neuron", "plan", "record", "rules",
    "targets", "testing",
]  # fmt: skip

_LATER = ("images", "data", "rules", "errors", "baselines", "testing")
"""Modules that are imported when first used."""


def __getattr__(name: str) -> _Any:
    if name in _LATER:
        return _import_module(f".{name}", __name__)
    if name == "load_model":
        return _import_module(".models", __name__).load
    if name == "explain_dataset":
        return _import_module(".dataset", __name__).explain_dataset
    raise AttributeError(f"module 'whence' has no attribute {name!r}")


def _figure(*args: _Any, **options: _Any) -> _Any:
    return _import_module(".render", __name__).draw(*args, **options)


def _png(*args: _Any, **options: _Any) -> bytes:
    png: bytes = _import_module(".render", __name__).to_png(*args, **options)
    return png


def _run(path: _Any) -> _Any:
    return _import_module(".dataset", __name__).load_run(path)


def _waterfall(*args: _Any, **options: _Any) -> _Any:
    return _import_module(".render", __name__).draw_ledger(*args, **options)


_books.figure = _waterfall
_doors.figure = _figure
_doors.png = _png
_doors.save = _save
_doors.run = _run
