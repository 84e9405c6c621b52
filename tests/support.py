"""What several test files need and pytest fixtures do not fit: imports that want a helping hand."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> ModuleType:
    """torchvision, also where its compiled operators do not load beside a CPU build of torch.

    The models are plain Python and need none of the compiled operators; only the import asks for
    two of them to be known. Their names are declared when the first try fails, and never before:
    a torchvision whose own operators load would refuse the second declaration.

    Call it before importing timm too, which imports torchvision.
    """
    import torch

    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", _NMS)
    return importlib.import_module("torchvision")
