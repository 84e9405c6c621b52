"""Normalisations: by constants, which is affine, or by statistics of the operand itself."""

from __future__ import annotations

from typing import Any

import torch

from ...ops import Op
from .calls import Call, Kinded, roles

__all__ = ["BATCH_NORMS", "NORMS", "batch_norm", "norm"]

BATCH_NORMS = {
    "batch_norm": "input running_mean running_var weight bias training momentum eps",
    "aten_batch_norm": "input weight bias running_mean running_var training momentum eps",
    "native_batch_norm": "input weight bias running_mean running_var training momentum eps",
    "_native_batch_norm_legit_no_training": (
        "input weight bias running_mean running_var momentum eps"
    ),
}
"""The order of the arguments, by function."""

NORMS = {
    "layer_norm": "input normalized_shape weight bias eps",
    "native_layer_norm": "input normalized_shape weight bias eps",
    "rms_norm": "input normalized_shape weight eps",
    "group_norm": "input num_groups weight bias eps",
    "instance_norm": "input running_mean running_var weight bias use_input_stats momentum eps",
    "aten_instance_norm": "input weight bias running_mean running_var use_input_stats momentum eps",
}


def batch_norm(call: Call) -> Kinded:
    """Affine at inference; a NORM where the batch's own statistics are used."""
    names = BATCH_NORMS[call.name].split()
    given = {name: call.get(i, name) for i, name in enumerate(names)}
    x, mean, var = given["input"], given["running_mean"], given["running_var"]
    weight, bias = given["weight"], given["bias"]
    eps = 1e-5 if given["eps"] is None else given["eps"]
    if given.get("training") or mean is None:
        attrs = {"axes": (0, *range(2, x.dim())), "epsilon": eps, "centre": True, "channel_axis": 1}
        return Kinded(Op.NORM, roles(scale=weight, shift=bias), attrs)
    scale = torch.rsqrt(var.detach() + eps)
    if weight is not None:
        scale = scale * weight.detach()
    shift = -mean.detach() * scale
    if bias is not None:
        shift = shift + bias.detach()
    shape = (-1,) + (1,) * (x.dim() - 2)
    scale, shift = scale.reshape(shape), shift.reshape(shape)
    attrs = {"offset": shift, "channel_axis": 1, "norm": True}
    return Kinded(Op.AFFINE, {"scale": scale, "shift": shift}, attrs)


def norm(call: Call) -> Kinded:
    """Layer, group, instance and RMS normalisation, and division by a vector's length."""
    if call.name == "normalize":
        axis = call.get(2, "dim", default=1)
        axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
        power = call.get(1, "p", default=2.0)
        attrs = {"axes": axes, "centre": False, "epsilon": 0.0, "power": power}
        return Kinded(Op.NORM, attrs=attrs)
    names = NORMS[call.name].split()
    given: dict[str, Any] = {name: call.get(i, name) for i, name in enumerate(names)}
    x, scale, shift, eps = given["input"], given["weight"], given.get("bias"), given["eps"]
    attrs = {"centre": call.name != "rms_norm", "epsilon": eps}
    if "normalized_shape" in given:
        attrs["axes"] = tuple(range(x.dim() - len(given["normalized_shape"]), x.dim()))
    elif "num_groups" in given:
        attrs |= {"groups": given["num_groups"], "axes": tuple(range(1, x.dim()))}
    else:
        attrs["axes"] = tuple(range(2, x.dim()))
    if eps is None:
        attrs["epsilon"] = torch.finfo(x.dtype).eps if call.name == "rms_norm" else 1e-5
    if "normalized_shape" not in given:  # one number a channel, which stands at axis 1
        shape = (-1,) + (1,) * (x.dim() - 2)
        scale, shift = (None if t is None else t.detach().reshape(shape) for t in (scale, shift))
    return Kinded(Op.NORM, roles(scale=scale, shift=shift), attrs)
