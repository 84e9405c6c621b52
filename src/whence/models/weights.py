"""Weights from local files into a model, by loaders that run no code; what does not fit is told.

A file of weights may come from anyone. A pickle can do whatever its author wished, so none is
opened: safetensors, ``torch.load(weights_only=True)``, npz without objects, and Keras weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whence.data.installed import need
from whence.errors import FileError, FileFormatError, nearest

__all__ = ["check_file", "fit_keras", "fit_torch", "mismatch", "read_torch"]

_TORCH = (".pt", ".pth", ".bin", ".ckpt", ".tar")
_WRAPPERS = ("state_dict", "model_state_dict", "state_dict_ema", "model_ema", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_SHOWN = 5


def check_file(path: Path, what: str) -> None:
    """FileError or FileFormatError unless ``path`` is a file with something in it."""
    if not path.exists():
        text = f"there is no file {path} ({what})."
        if path.parent.is_dir():
            close = nearest(path.name, (entry.name for entry in path.parent.iterdir()))
            if close:
                text += " Did you mean " + ", ".join(map(repr, close)) + "?"
        else:
            text += f" There is no folder {path.parent} either."
        raise FileError(text)
    if not path.is_file():
        raise FileError(f"{path} is a folder; a file is wanted ({what}).")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}.") from error
    if empty:
        raise FileFormatError(f"{path} is empty (0 bytes). Copy or download it again.")


def fit_torch(model: Any, path: Path, spec: str) -> None:
    """Fill a torch model with the weights of a file.

    path: .safetensors, .npz, or what ``torch.save(model.state_dict(), path)`` wrote. Wrappers such
    as {"state_dict": ...} and prefixes such as "module." are taken off. Raises FileError,
    FileFormatError (damaged, code inside, or names and shapes that do not fit: which).
    """
    import torch

    state = read_torch(path, spec)
    own = model.state_dict()
    state = _without_prefix(state, own)
    tied = {own[name].data_ptr() for name in state if name in own and own[name].numel()}
    # Counters of batches are not read at inference; tied weights are stored under one name only.
    absent = [
        name
        for name, value in own.items()
        if name not in state
        and not name.endswith("num_batches_tracked")
        and value.data_ptr() not in tied
    ]
    text = mismatch(
        {k: tuple(v.shape) for k, v in own.items()},
        {k: tuple(v.shape) for k, v in state.items()},
        missing=absent,
    )
    if text:
        raise FileFormatError(f"the weights in {path} do not fit {spec}: {text}")
    with torch.no_grad():
        model.load_state_dict(state, strict=False)


def fit_keras(model: Any, path: Path, spec: str) -> None:
    """Fill a Keras model with the weights of a file.

    path: .weights.h5, .h5 or .keras as Keras writes them, or .safetensors with the path of each
    variable (``conv1/kernel``) as its name. Raises FileError, FileFormatError.
    """
    check_file(path, f"weights for {spec}")
    if path.suffix == ".safetensors":
        _fit_keras_by_path(model, path, spec)
        return
    if path.suffix not in (".h5", ".hdf5", ".keras"):
        raise FileFormatError(
            f"{path}: the weights of a Keras model ({spec}) are read from .weights.h5, .h5, .keras "
            "or .safetensors files."
        )
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.load_weights(str(path))
    except Exception as error:
        # Keras raises ValueError, OSError or KeyError, as the first bad place happens to demand.
        reason = " ".join(str(error).split())[:600]
        raise FileFormatError(f"the weights in {path} do not fit {spec}: {reason}") from error
    # Keras only warns of some layers that it leaves as they were; half a model is not a model.
    skipped = [str(w.message) for w in caught if "kipping" in str(w.message)]
    if skipped:
        raise FileFormatError(f"the weights in {path} do not fit {spec}: {skipped[0]}")


def mismatch(
    own: Mapping[str, tuple[int, ...]],
    given: Mapping[str, tuple[int, ...]],
    missing: Iterable[str] | None = None,
) -> str:
    """What does not fit between a model's weights and a file's, by name and shape; "" if all does.

    missing: names to count as missing, where not simply all that are not given.

    Example:
        >>> mismatch({"fc.weight": (10, 4)}, {"fc.weight": (10, 5)})
        'fc.weight is (10, 5) in the file, (10, 4) in the model. Is it the same architecture?'
    """
    absent = [k for k in own if k not in given] if missing is None else list(missing)
    extra = [k for k in given if k not in own]
    shapes = [k for k in given if k in own and own[k] != given[k]]
    parts = []
    if absent:
        parts.append(f"{len(absent)} missing: " + _listed([f"{k} {own[k]}" for k in absent]))
    if extra:
        told = [_with_nearest(k, absent) for k in extra[:_SHOWN]] + extra[_SHOWN:]
        parts.append(f"{len(extra)} unexpected: " + _listed(told))
    if shapes:
        told = [f"{k} is {given[k]} in the file, {own[k]} in the model" for k in shapes]
        parts.append(_listed(told))
    if not parts:
        return ""
    return "; ".join(parts) + ". Is it the same architecture?" + _head_hint(own, given, shapes)


def _head_hint(
    own: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]], shapes: list[str]
) -> str:
    """Where only the number of classes differs, what to say instead."""
    rows = {given[k][0] for k in shapes if given[k] and given[k][1:] == own[k][1:]}
    if len(rows) == 1 and 0 < len(shapes) <= 4 and given[shapes[0]][1:] == own[shapes[0]][1:]:
        return f" If only the number of classes differs: num_classes={rows.pop()}."
    return ""


def _with_nearest(name: str, known: Iterable[str]) -> str:
    close = nearest(name, known, 1)
    return f"{name} (nearest: {close[0]})" if close else name


def _listed(names: list[str]) -> str:
    text = ", ".join(names[:_SHOWN])
    return text + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def read_torch(path: Path, spec: str) -> dict[str, Any]:
    """The tensors of a file by name, wrappers taken off. Raises FileError, FileFormatError."""
    check_file(path, f"weights for {spec}")
    if path.suffix == ".safetensors":
        found = _read_safetensors(path, spec, "safetensors.torch")
    elif path.suffix == ".npz":
        found = _read_npz(path)
    elif path.suffix in _TORCH:
        found = _read_checkpoint(path)
    else:
        raise FileFormatError(
            f"{path}: the weights of a torch model ({spec}) are read from .safetensors, .npz, "
            f"{', '.join(_TORCH)} files."
        )
    if not found:
        raise FileFormatError(f"{path} holds no tensors by name.")
    return found


def _read_safetensors(path: Path, spec: str, module: str) -> dict[str, Any]:
    loader = need(module, f"{path} for {spec}", "safetensors")
    try:
        return dict(loader.load_file(path))
    except Exception as error:
        raise FileFormatError(
            f"{path} is not a whole safetensors file ({error}). Copy or download it again."
        ) from error


def _read_npz(path: Path) -> dict[str, Any]:
    import torch

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.tensor(arrays[name]) for name in arrays.files}
    except Exception as error:
        raise FileFormatError(f"{path} is not an npz file of plain arrays ({error}).") from error


def _read_checkpoint(path: Path) -> dict[str, Any]:
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise FileFormatError(
            f"{path} is damaged or holds more than tensors ({reason}). Whence runs no code from a "
            "file of weights: write it anew with torch.save(model.state_dict(), FILE) or as "
            "safetensors."
        ) from error
    while isinstance(found, Mapping):
        inner = [w for w in _WRAPPERS if isinstance(found.get(w), Mapping)]
        if not inner:
            break
        found = found[inner[0]]
    if not isinstance(found, Mapping):
        raise FileFormatError(f"{path} holds {type(found).__name__}, not tensors by name.")
    return {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)}


def _without_prefix(state: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Names without what wrappers put before all of them, unless the model has it too."""
    for prefix in _PREFIXES:
        if all(k.startswith(prefix) for k in state) and not any(k.startswith(prefix) for k in own):
            return _without_prefix({k[len(prefix) :]: v for k, v in state.items()}, own)
    return state


def _fit_keras_by_path(model: Any, path: Path, spec: str) -> None:
    state = _read_safetensors(path, spec, "safetensors.numpy")
    own = {variable.path: variable for variable in model.weights}
    text = mismatch(
        {k: tuple(v.shape) for k, v in own.items() if "seed_generator" not in k},
        {k: tuple(v.shape) for k, v in state.items()},
    )
    if text:
        raise FileFormatError(f"the weights in {path} do not fit {spec}: {text}")
    for name, array in state.items():
        own[name].assign(array)
