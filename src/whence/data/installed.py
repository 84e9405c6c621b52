"""What is installed, asked without importing it; and the one error where something is not."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from whence.errors import MissingFramework, OptionError

__all__ = ["FRAMEWORKS", "choose_framework", "is_installed", "need"]

FRAMEWORKS = ("torch", "tensorflow")


def is_installed(module: str) -> bool:
    """Whether the package of a module can be found; nothing is imported."""
    try:
        # Looking for a submodule would import the package that holds it.
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def need(module: str, wanted_for: str, install: str) -> ModuleType:
    """Import a module, or raise MissingFramework saying what wants it and how to install it.

    module: its import name. wanted_for: what the user asked for. install: what follows
    ``pip install``.

    Example:
        >>> need("json", "demo:digits", "json").__name__
        'json'
    """
    package = module.partition(".")[0]
    if not is_installed(module):
        raise MissingFramework(
            f"{wanted_for} needs {package}, which is not installed: pip install {install}"
        )
    try:
        return importlib.import_module(module)
    except Exception as error:
        # A package built against another version fails in its own import, with any exception.
        raise MissingFramework(
            f"{wanted_for} needs {package}, which is installed but cannot be imported "
            f"({type(error).__name__}: {error}). Install builds that fit each other: "
            f"pip install --force-reinstall {install}"
        ) from error


def choose_framework(framework: str | None, wanted_for: str) -> str:
    """The framework asked for, or the first that is installed: "torch", then "tensorflow".

    Raises OptionError for another name, MissingFramework where it (or, with None, each) is not
    installed.
    """
    if framework is not None and framework not in FRAMEWORKS:
        known = " or ".join(map(repr, FRAMEWORKS))
        raise OptionError(f"framework={framework!r}: it is {known}.")
    for name in FRAMEWORKS if framework is None else (framework,):
        if is_installed(name):
            return name
    if framework is None:
        raise MissingFramework(
            f"{wanted_for} needs PyTorch or TensorFlow, and neither is installed: "
            'pip install "whence[torch]" or pip install "whence[tensorflow]"'
        )
    raise MissingFramework(
        f"{wanted_for} with framework={framework!r} needs {framework}, which is not installed: "
        f'pip install "whence[{framework}]"'
    )
