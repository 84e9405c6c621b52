"""The frameworks: which one a model or an array belongs to, found without importing any other."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..errors import InputError, MissingFramework, ModelError
from ..tape import Array
from .base import Framework, Functions, Inputs

__all__ = ["by_name", "find", "gather", "installed", "namespace", "to_numpy"]

_KNOWN = {"torch": "Torch", "tensorflow": "TensorFlow"}


@cache
def by_name(name: str) -> Framework:
    """The framework called ``torch`` or ``tensorflow``.

    Raises MissingFramework, with the line that installs it, where it is not installed.
    """
    if name not in _KNOWN:
        raise ModelError(f"no framework named {name!r}; there are {', '.join(map(repr, _KNOWN))}")
    if not installed(name):
        raise MissingFramework(f'{name} is not installed: pip install "whence[{name}]"')
    framework: Framework = getattr(import_module(f".{name}", __name__), _KNOWN[name])()
    return framework


def installed(name: str) -> bool:
    """Whether a framework could be imported (it is not imported to find out)."""
    return name in sys.modules or find_spec(name) is not None


def _loaded() -> list[str]:
    """Frameworks that the program has imported: a model or an array of another cannot exist."""
    return [name for name in _KNOWN if name in sys.modules]


def find(model: object, x: Any = None) -> Framework:
    """The framework of a model; of its input's arrays, where the model is a plain callable.

    Raises ModelError for something that is not a model.
    """
    for name in _loaded():
        if by_name(name).accepts(model):
            return by_name(name)
    if not callable(model) or isinstance(model, type):
        held = (
            f"the class {model.__name__}" if isinstance(model, type) else f"{type(model).__name__}"
        )
        raise ModelError(
            f"a model is wanted (a torch.nn.Module, a Keras model, a function of their arrays); "
            f"got {held}" + _class_hint(model)
        )
    for array in _leaves(x):
        for name in _loaded():
            if by_name(name).owns(array):
                return by_name(name)
    raise ModelError(
        f"{getattr(model, '__name__', type(model).__name__)} is a plain function, so its framework "
        "is taken from its input; give the input as a torch or TensorFlow tensor"
    )


def _class_hint(model: object) -> str:
    if isinstance(model, type):
        return f"; make one first: {model.__name__}(...)"
    if isinstance(model, str):
        return '; whence.load_model("...") makes a model of a name or a path'
    if isinstance(model, Mapping):
        return "; a state dict holds weights only: load it into its model first"
    return ""


@cache
def _numpy_functions() -> Functions:
    from .numpy import NumpyFunctions

    return NumpyFunctions()


def namespace(array: Array) -> Functions:
    """The array functions that go with an array."""
    for name in _loaded():
        if by_name(name).owns(array):
            return by_name(name).xp
    return _numpy_functions()


def to_numpy(array: Any) -> np.ndarray:
    """Any framework's array as NumPy's."""
    return np.asarray(array) if isinstance(array, np.ndarray) else namespace(array).to_numpy(array)


def _leaves(x: Any) -> list[Any]:
    if isinstance(x, Mapping):
        return list(x.values())
    return list(x) if isinstance(x, (tuple, list)) else [x]


def is_array(framework: Framework, thing: Any) -> bool:
    """Whether a model argument is an array rather than an option."""
    return framework.owns(thing) or isinstance(thing, (np.ndarray, np.generic))


def gather(framework: Framework, model: object, x: Any) -> Inputs:
    """What the caller gave -> ``Inputs``: arrays by name, and the way back to the caller's types.

    x: one array with a batch axis, a tuple or list of them, or a dict. Lists of numbers are taken
    as one array. Raises InputError where there is no array in it.
    """
    if isinstance(x, list) and not any(is_array(framework, item) for item in x):
        x = np.asarray(x)
    if not isinstance(x, (Mapping, tuple, list)):
        if not is_array(framework, x):
            x = _foreign(x)
        return _one(framework, model, x)
    style = framework.call_style(model, x)
    items = dict(x) if isinstance(x, Mapping) else {f"input{i}": v for i, v in enumerate(x)}
    arrays = {k: framework.convert(v, model) for k, v in items.items() if is_array(framework, v)}
    if not arrays:
        raise InputError(
            f"no array among the inputs {list(items)}; give at least one, with a batch axis"
        )

    def call(now: Mapping[str, Array]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        filled = {k: now.get(k, v) for k, v in items.items()}
        if style == "kwargs":
            return (), filled
        if style == "args":
            return tuple(filled.values()), {}
        return (filled if isinstance(x, Mapping) else type(x)(filled.values()),), {}

    def restore(found: Mapping[str, Any]) -> Any:
        back = {k: _as_given(framework, found[k], v) for k, v in items.items() if k in found}
        if isinstance(x, Mapping):
            return back
        return tuple(back.get(k) for k in items)

    return Inputs(arrays, call, restore)


def _one(framework: Framework, model: object, x: Any) -> Inputs:
    array = framework.convert(x, model)
    return Inputs(
        {"input": array},
        lambda now: ((now["input"],), {}),
        lambda found: _as_given(framework, found["input"], x) if "input" in found else None,
    )


def _foreign(x: Any) -> np.ndarray:
    """An array of some other kind (a list of numbers, another library's array), as NumPy's."""
    try:
        array = np.asarray(x)
    except Exception as error:
        raise InputError(
            f"the input is {type(x).__name__}, which is not an array: {error}"
        ) from error
    if array.dtype == object or array.dtype.kind in "US":
        raise InputError(
            f"the input is {type(x).__name__}, which is not an array of numbers. Give an array "
            "with a batch axis; whence.images.read(path) makes one of picture files"
        )
    return array


def _as_given(framework: Framework, found: Array, given: Any) -> Any:
    """A result in the array type of what it explains."""
    if found is None or framework.owns(given):
        return found
    return framework.xp.to_numpy(found)
