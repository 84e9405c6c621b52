"""``hf:NAME``: a model of Hugging Face's transformers, from a local folder or by its name."""

from __future__ import annotations

import contextlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whence.data.installed import need
from whence.errors import FileFormatError, ModelError, OptionError, WhenceError
from whence.images import Preprocess
from whence.models.loaded import LoadedModel, Request, assumed_preprocess
from whence.models.weights import mismatch, read_torch

__all__ = ["hub", "load_hf", "seeded"]

_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers


@contextlib.contextmanager
def hub() -> Iterator[None]:
    """Hugging Face's hub held to what is on this machine while its host cannot be found.

    Its client would try for a minute before it looked there. A proxy finds hosts by itself.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if not before and not urllib.request.getproxies():
        host = urllib.parse.urlsplit(constants.ENDPOINT).hostname
        try:
            socket.getaddrinfo(host, 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's random state set to ``seed``, and as it was afterwards."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def load_hf(request: Request) -> LoadedModel:
    """A transformer of the class its configuration names; no code from the network is run."""
    request.only("torch")
    need("torch", request.spec, '"whence[torch]"')
    transformers = need("transformers", request.spec, '"whence[torch]" transformers')
    with hub(), _quiet(transformers):
        config = _config(transformers, request)
        wanted = (getattr(config, "architectures", None) or [None])[0]
        cls = getattr(transformers, wanted or "", None)
        model, notes = _model(transformers, cls, config, request)
        preprocess, more = _preprocess(config, request)
    if cls is None:
        notes += (f"built as {type(model).__name__}, without a head",)
    shape = preprocess.shape if preprocess is not None else None
    return LoadedModel(
        model=model.eval(),
        framework="torch",
        preprocess=preprocess,
        classes=_classes(config),
        name=Path(request.name).name,
        spec=request.spec,
        input_shape=shape,
        notes=notes + more,
    )


def _config(transformers: Any, request: Request) -> Any:
    """The configuration: of a folder, of a name at the hub, or of a family (``hf:vit``)."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    options, name = dict(request.options), request.name
    folder = Path(name).expanduser()
    try:
        if not folder.is_dir() and name in CONFIG_MAPPING:
            if request.weights is None:
                raise OptionError(
                    f"hf:{name} is a family, not a trained model: give --weights random, "
                    "--weights FILE, or the name of a model."
                )
            config = transformers.AutoConfig.for_model(name)
            if strange := [key for key in options if not hasattr(config, key)]:
                raise OptionError(f"{request.spec}: its configuration has no {', '.join(strange)}.")
            return transformers.AutoConfig.for_model(name, **options)
        if folder.is_dir() and not (folder / "config.json").is_file():
            raise FileFormatError(
                f"the folder {folder} holds no config.json, so it is not a transformers model."
            )
        config, unused = transformers.AutoConfig.from_pretrained(
            str(folder) if folder.is_dir() else name,
            return_unused_kwargs=True,
            trust_remote_code=False,
            **options,
        )
    except WhenceError:
        raise
    except (OSError, ConnectionError) as error:
        raise request.cannot_fetch(error) from error
    except Exception as error:
        raise ModelError(
            f"{request.spec} cannot be understood ({type(error).__name__}: {error}). A model that "
            "needs its own code is loaded by path/to/file.py:function."
        ) from error
    if unused:
        raise OptionError(f"{request.spec}: its configuration has no {', '.join(sorted(unused))}.")
    return config


def _model(
    transformers: Any, cls: Any, config: Any, request: Request
) -> tuple[Any, tuple[str, ...]]:
    """The model with the weights asked for, and notes."""
    cls = cls or transformers.AutoModel
    if request.random:
        try:
            with seeded(request.seed):
                build = cls.from_config if cls is transformers.AutoModel else cls
                return build(config), ()
        except (TypeError, ValueError) as error:
            raise request.bad_options(error) from error
    file = request.file
    folder = Path(request.name).expanduser()
    source = str(folder) if folder.is_dir() else request.name
    state = None if file is None else read_torch(file, request.spec)
    try:
        # Its own loader knows the names that a weight had in earlier releases.
        model, info = cls.from_pretrained(
            source if file is None else None,
            config=config,
            state_dict=state,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )
    except OSError as error:
        raise request.cannot_fetch(error) from error
    except Exception as error:
        raise FileFormatError(
            f"the weights in {file or source} do not fit {request.spec}: {error}"
        ) from error
    own = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    wrong = {name: tuple(shape) for name, shape, _ in info["mismatched_keys"]}
    extra = sorted(info["unexpected_keys"])
    if info["missing_keys"] or wrong:
        wanted = {k: own.get(k, ()) for k in [*sorted(info["missing_keys"]), *wrong]}
        text = mismatch(wanted, {**dict.fromkeys(extra, ()), **wrong})
        raise FileFormatError(f"the weights in {file or source} do not fit {request.spec}: {text}")
    return model, (f"{len(extra)} weights of its file are not used",) if extra else ()


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Its progress bars and reports silenced; what goes wrong is told by our own errors."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _classes(config: Any) -> tuple[str, ...] | None:
    """Names of the classes, unless they are the placeholders that every configuration has."""
    labels = getattr(config, "id2label", None) or {}
    names = {int(k): str(v) for k, v in labels.items()}
    if not names or sorted(names) != list(range(len(names))):
        return None
    if all(v == f"LABEL_{k}" for k, v in names.items()):
        return None
    return tuple(names[i] for i in range(len(names)))


def _preprocess(config: Any, request: Request) -> tuple[Preprocess | None, tuple[str, ...]]:
    """What its image processor says; without one, the size of its configuration."""
    from transformers.image_processing_base import ImageProcessingMixin
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    folder = Path(request.name).expanduser()
    size = getattr(config, "image_size", None)
    side = tuple(size) if isinstance(size, list | tuple) else (size, size)
    assumed = assumed_preprocess((getattr(config, "num_channels", None), *side), "first")
    if not folder.is_dir() and request.name in CONFIG_MAPPING:
        return assumed
    try:
        said, _ = ImageProcessingMixin.get_image_processor_dict(
            str(folder) if folder.is_dir() else request.name
        )
    except Exception:
        # None is published, or none can be reached: what the configuration knows has to do.
        return assumed
    return _of_processor(said, side[0])


def _of_processor(
    said: dict[str, Any], side: int | None
) -> tuple[Preprocess | None, tuple[str, ...]]:
    resized, cropped = _sides(said.get("size")), _sides(said.get("crop_size"))
    crops = bool(said.get("do_center_crop")) and cropped is not None
    size = cropped if crops else resized
    if size is None and isinstance(side, int):
        size = (side, side)
    share = size[0] / resized[0] if crops and resized and size else 1.0
    shortest = isinstance(said.get("size"), int) or "shortest_edge" in (said.get("size") or {})
    normal = said.get("do_normalize", True)
    scale = 255 * said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 255.0
    return (
        Preprocess(
            size=size,
            resize="shortest" if shortest else "exact",
            crop=min(share, 1.0),
            mean=tuple(said.get("image_mean") or (0.0,)) if normal else (0.0,),
            std=tuple(said.get("image_std") or (1.0,)) if normal else (1.0,),
            scale=scale,
            interpolation=_RESAMPLING[int(said.get("resample", 2))],
        ),
        (),
    )


def _sides(size: Any) -> tuple[int, int] | None:
    """(height, width) of the ways that processors write sizes."""
    if isinstance(size, int):
        return size, size
    if not isinstance(size, dict):
        return None
    if "height" in size and "width" in size:
        return size["height"], size["width"]
    short = size.get("shortest_edge")
    return (short, short) if short else None
