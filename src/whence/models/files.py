"""Models from files: Keras files, SavedModel folders, exported programs, and the user's own code.

``.pt2`` programs and SavedModels are programs: their loaders open no pickles here, but what they
compute is theirs, and the notes of the loaded model say so.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from whence.data.installed import need
from whence.errors import FileError, FileFormatError, ModelError, OptionError, WhenceError, unknown
from whence.images import Preprocess
from whence.models.keras_sources import import_keras
from whence.models.loaded import LoadedModel, Request, assumed_preprocess, framework_of
from whence.models.weights import check_file, fit_keras, fit_torch

__all__ = ["KINDS", "load_file", "load_function"]

KINDS = {".keras": "keras", ".h5": "keras", ".hdf5": "keras", ".pt2": "program"}
_ONLY_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz", ".weights.h5")


def load_file(request: Request) -> LoadedModel:
    """A ``.keras``, ``.h5`` or ``.pt2`` file, or a SavedModel folder."""
    path = Path(request.name)
    request.no_options()
    if path.is_dir():
        return _saved_model(path, request)
    check_file(path, "a model")
    if path.name.endswith(_ONLY_WEIGHTS):
        raise ModelError(
            f"{path} holds weights, not a model. Name the model they belong to and give them as "
            f"its weights: torchvision:resnet18 --weights {path}, or path/to/file.py:function."
        )
    kind = KINDS.get(path.suffix)
    if kind is None:
        raise FileFormatError(
            f"{path} is not a kind of model file that is known: .keras, .h5, .pt2, a SavedModel "
            "folder, or a .py file with :function behind it."
        )
    if request.random:
        raise OptionError(f"{path} brings its own weights; 'random' is for models by name.")
    return _keras_file(path, request) if kind == "keras" else _program(path, request)


def _keras_file(path: Path, request: Request) -> LoadedModel:
    keras = import_keras(str(path))
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:500]
        if "lambda" in reason.casefold() or "unsafe" in reason.casefold():
            raise ModelError(
                f"{path} holds code (a Lambda layer), which is not run from a file. Build the "
                "model in path/to/file.py:function and give its weights with --weights."
            ) from error
        raise FileFormatError(
            f"{path} cannot be loaded as a Keras model ({type(error).__name__}: {reason}). A file "
            "of weights alone, or layers of your own, need path/to/file.py:function."
        ) from error
    framework = framework_of(model, str(path))
    request.only(framework)
    if request.file is not None:
        fit_keras(model, request.file, request.spec)
    first = keras.config.image_data_format() == "channels_first"
    shape, preprocess, notes = _keras_input(model, first)
    return LoadedModel(model, framework, preprocess, None, path.stem, request.spec, shape, notes)


def _keras_input(
    model: Any, channels_first: bool
) -> tuple[tuple[int, ...] | None, Preprocess | None, tuple[str, ...]]:
    """Shape of one input, what to do to images, and notes; of models with one known input."""
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or not all(s is None or isinstance(s, int) for s in shape):
        return None, None, ()
    preprocess, notes = assumed_preprocess(shape[1:], "first" if channels_first else "last")
    known = None if None in shape[1:] else tuple(int(s) for s in shape[1:] if s is not None)
    return known, preprocess, notes


def _saved_model(path: Path, request: Request) -> LoadedModel:
    if not (path / "saved_model.pb").is_file():
        raise FileFormatError(
            f"the folder {path} holds no saved_model.pb, so it is not a SavedModel. A folder of "
            f"transformers is named hf:{path}."
        )
    request.only("tensorflow")
    if request.weights is not None:
        raise OptionError(f"the SavedModel {path} brings its own weights; no others can be given.")
    tf = need("tensorflow", str(path), '"whence[tensorflow]"')
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise FileFormatError(f"the SavedModel {path} cannot be loaded: {reason}") from error
    signatures = dict(getattr(loaded, "signatures", {}))
    model = loaded if callable(loaded) else _by_signature(tf, loaded, signatures, path)
    shape = _signature_shape(signatures)
    preprocess, notes = assumed_preprocess(shape, "last")
    notes += (f"{path} is a program of TensorFlow: load only those you trust",)
    known = None if shape is None or None in shape else tuple(int(s) for s in shape if s)
    return LoadedModel(model, "tensorflow", preprocess, None, path.name, request.spec, known, notes)


def _by_signature(tf: Any, loaded: Any, signatures: dict[str, Any], path: Path) -> Any:
    """A tf.Module that calls the serving signature: array in, array out where there is one each."""
    if not signatures:
        raise ModelError(f"the SavedModel {path} has no signature that could be called.")
    chosen = signatures.get("serving_default") or next(iter(signatures.values()))
    names = list(chosen.structured_input_signature[1])

    class Signature(tf.Module):  # type: ignore[misc]
        """The serving signature of a SavedModel, called by position."""

        def __init__(self) -> None:
            super().__init__(name=path.name.replace("-", "_") or "model")
            self.loaded = loaded  # keeps its variables alive

        def __call__(self, *inputs: Any) -> Any:
            out = chosen(**dict(zip(names, inputs, strict=True)))
            return next(iter(out.values())) if len(out) == 1 else out

    return Signature()


def _signature_shape(signatures: dict[str, Any]) -> tuple[int | None, ...] | None:
    """Shape of the one input without the batch axis, None where there is not just one."""
    if not signatures:
        return None
    chosen = signatures.get("serving_default") or next(iter(signatures.values()))
    inputs = list(chosen.structured_input_signature[1].values())
    if len(inputs) != 1 or inputs[0].shape.rank is None:
        return None
    return tuple(inputs[0].shape.as_list()[1:])


def _program(path: Path, request: Request) -> LoadedModel:
    request.only("torch")
    if request.weights is not None:
        raise OptionError(f"the program {path} brings its own weights; no others can be given.")
    torch = need("torch", str(path), '"whence[torch]"')
    try:
        with _no_pickles():
            program = torch.export.load(path)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise FileFormatError(
            f"{path} cannot be loaded as a torch.export program ({type(error).__name__}: {reason})."
        ) from error
    model = program.module()
    shape, batch = _program_input(torch, program)
    preprocess, notes = assumed_preprocess(shape, "first")
    if batch is not None:
        notes += (f"it was exported for batches of exactly {batch}",)
    notes += (f"{path} is a program of PyTorch: load only those you trust",)
    return LoadedModel(model, "torch", preprocess, None, path.stem, request.spec, shape, notes)


def _program_input(torch: Any, program: Any) -> tuple[tuple[int, ...] | None, int | None]:
    """Shape of one input without the batch axis, and the batch size where it is fixed."""
    names = program.graph_signature.user_inputs
    values = [n.meta.get("val") for n in program.graph.nodes if n.name in names]
    if len(values) != 1 or not isinstance(values[0], torch.Tensor) or values[0].ndim < 1:
        return None, None
    batch, *shape = values[0].shape
    if not all(isinstance(s, int) for s in shape):
        return None, None
    return tuple(shape), batch if isinstance(batch, int) else None


@contextlib.contextmanager
def _no_pickles() -> Iterator[None]:
    """``torch.load`` held to weights_only, which ``torch.export.load`` would otherwise drop."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def load_function(request: Request) -> LoadedModel:
    """``path/to/file.py:function``: runs the file, calls the function, takes what it returns."""
    text, _, function = request.name.rpartition(".py")
    path, function = Path(text + ".py").expanduser(), function.removeprefix(":")
    check_file(path, "Python code that builds a model")
    if request.name.endswith(".py") or not function:
        raise ModelError(
            f"say which function of {path} returns the model: {path}:FUNCTION. "
            f"Functions in it: {', '.join(_functions(path)) or 'none'}."
        )
    module = _run_file(path)
    build = getattr(module, function, None)
    if build is None:
        raise unknown(f"function in {path}", function, _functions(path))
    if not callable(build):
        raise ModelError(f"{function} in {path} is not a function; it is {type(build).__name__}.")
    try:
        with _importing_from(path.parent):
            model = build(**request.options)
    except (Exception, SystemExit) as error:
        raise _own_code_failed(path, f"{function}()", error) from error
    framework = framework_of(model, f"{path}:{function}", request.framework)
    request.only(framework)
    if request.file is not None:
        keras = any(c.__module__.split(".")[0] == "keras" for c in type(model).__mro__)
        (fit_keras if keras else fit_torch)(model, request.file, request.spec)
    if framework == "torch" and hasattr(model, "eval"):
        model.eval()
    return _with_its_words(module, model, framework, path, function, request)


def _with_its_words(
    module: ModuleType, model: Any, framework: Any, path: Path, function: str, request: Request
) -> LoadedModel:
    """The model with ``preprocess`` and ``classes`` where the file defines them."""
    preprocess, classes = getattr(module, "preprocess", None), getattr(module, "classes", None)
    if preprocess is not None and not isinstance(preprocess, Preprocess):
        preprocess = None  # a function of the user's that happens to be called so
    if not isinstance(classes, list | tuple):
        classes = None
    shape: tuple[int, ...] | None = preprocess.shape if preprocess is not None else None
    notes: tuple[str, ...] = ()
    if preprocess is None and framework == "tensorflow":
        shape, preprocess, notes = _keras_input(model, channels_first=False)
    return LoadedModel(
        model=model,
        framework=framework,
        preprocess=preprocess,
        classes=None if classes is None else tuple(map(str, classes)),
        name=function,
        spec=request.spec,
        input_shape=shape,
        notes=(f"ran {path} and called {function}() in it", *notes),
    )


def _run_file(path: Path) -> ModuleType:
    """Run a Python file as a module of its own, with its folder importable meanwhile."""
    name = f"whence_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FileError(f"{path} cannot be run as Python code.")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and pickles look their module up there
    try:
        with _importing_from(path.parent):
            spec.loader.exec_module(module)
    except SyntaxError as error:
        _put_back(name, before)
        raise FileFormatError(f"{path}, line {error.lineno}: {error.msg}.") from error
    except (Exception, SystemExit) as error:
        _put_back(name, before)
        raise _own_code_failed(path, "the file", error) from error
    return module


def _put_back(name: str, before: ModuleType | None) -> None:
    if before is None:
        del sys.modules[name]
    else:
        sys.modules[name] = before


@contextlib.contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """The folder first on the import path, as if its file were run as a script."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


def _own_code_failed(path: Path, what: str, error: BaseException) -> WhenceError:
    """The user's own exception as one line: what, where in their file, which."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    return ModelError(f"running {what} failed in {where}: {type(error).__name__}: {error}")


def _functions(path: Path) -> list[str]:
    """Names of the public functions and classes of a file, which is parsed, not run."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):
        return []
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]
