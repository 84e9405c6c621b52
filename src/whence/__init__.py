"""whence: where a neural network's answer came from, and how far to believe that."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from . import targets as targets
from .errors import WhenceError as WhenceError
from .ledger import Ledger as Ledger
from .ledger import doors as _books
from .methods.catalogue import methods as methods
from .methods.channels import ChannelRanking as ChannelRanking
from .methods.channels import channels as channels
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
from .tokens import Tokens as Tokens
from .tokens import tokens_of as _tokens_of

if _TYPE_CHECKING:
    from .methods.averaged import ExpectedGradients as ExpectedGradients
    from .methods.averaged import IntegratedGradients as IntegratedGradients
    from .methods.coalitional import LIME as LIME
    from .methods.coalitional import ExactShapley as ExactShapley
    from .methods.coalitional import KernelSHAP as KernelSHAP
    from .methods.coalitional import ShapleySampling as ShapleySampling
    from .methods.deeplift import DeepLIFT as DeepLIFT
    from .methods.deeplift import DeepSHAP as DeepSHAP
    from .methods.masked import HSIC as HSIC
    from .methods.masked import RISE as RISE
    from .methods.masked import Sobol as Sobol
    from .methods.perturbed import Occlusion as Occlusion
    from .methods.smoothed import SmoothGrad as SmoothGrad

__version__ = "0.1.0"

__all__ = [
    "HSIC", "LIME", "LRP", "RISE", "ChannelRanking", "Composite", "Deconvolution", "DeepLIFT",
    "DeepSHAP", "DeepTaylor", "ExactShapley", "ExpectedGradients", "Explanation", "Explanations",
    "Gradient", "GradientTimesInput", "GuidedBackpropagation", "IntegratedGradients", "KernelSHAP",
    "Ledger", "Occlusion", "Op", "Saliency", "SensitivityAnalysis", "ShapleySampling",
    "SimpleTaylor", "SmoothGrad", "Sobol", "Tokens", "WhenceError", "__version__", "baselines",
    "channels", "data", "difference", "errors", "explain", "explain_dataset", "images", "layers",
    "load", "load_model", "logit", "methods", "neuron", "plan", "record", "rules", "segments",
    "targets", "testing", "token",
]  # fmt: skip

_LATER = ("images", "data", "rules", "errors", "baselines", "segments", "testing")
"""Modules that are imported when first used."""


_METHODS = {
    "DeepLIFT": "deeplift",
    "DeepSHAP": "deeplift",
    "ExactShapley": "coalitional",
    "ExpectedGradients": "averaged",
    "HSIC": "masked",
    "IntegratedGradients": "averaged",
    "KernelSHAP": "coalitional",
    "LIME": "coalitional",
    "Occlusion": "perturbed",
    "RISE": "masked",
    "ShapleySampling": "coalitional",
    "SmoothGrad": "smoothed",
    "Sobol": "masked",
}
"""Methods whose files are imported when first used."""


def __getattr__(name: str) -> _Any:
    if name in _METHODS:
        return getattr(_import_module(f".methods.{_METHODS[name]}", __name__), name)
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


def _text(*args: _Any, **options: _Any) -> _Any:
    return _import_module(".render.tokens", __name__).draw(*args, **options)


_books.figure = _waterfall
_doors.figure = _figure
_doors.png = _png
_doors.save = _save
_doors.run = _run
_doors.tokens = _tokens_of
_doors.text = _text
