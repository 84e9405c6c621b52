"""The same explanations by captum and zennit: how long they take, and whether the numbers agree.

Both are fetched into a temporary folder for the run; whence does not depend on them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import nets

__all__ = ["NAMES", "calls", "differences", "fetch"]

NAMES = (
    "captum Saliency", "captum GuidedBackprop", "captum Deconvolution", "zennit Gradient",
    "zennit EpsilonPlusFlat", "zennit Epsilon",
)  # fmt: skip


def fetch() -> None:
    """Install the peers beside the environment, without their dependencies (torch is here)."""
    folder = tempfile.mkdtemp(prefix="whence-peers-")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        folder,
        "captum",
        "zennit",
    ]
    subprocess.run(command, check=True)
    sys.path.append(folder)


def _epsilon_composite() -> Any:
    """Zennit's rules, to match ours: epsilon at convolution and dense, pass at ReLU."""
    from zennit.composites import LayerMapComposite
    from zennit.layer import Sum
    from zennit.rules import Epsilon, Norm, Pass
    from zennit.types import Activation, AvgPool, BatchNorm, Convolution, Linear

    return LayerMapComposite([
        (Activation, Pass()), (BatchNorm, Pass()), (AvgPool, Norm()), (Sum, Norm()),
        (Convolution, Epsilon(epsilon=1e-6)), (Linear, Epsilon(epsilon=1e-6)),
    ])  # fmt: skip


def _canonizers(name: str) -> list[Any]:
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.torchvision import ResNetCanonizer

    return [ResNetCanonizer()] if name.startswith("resnet") else [SequentialMergeBatchNorm()]


def calls(name: str, batch: int, device: str = "cpu") -> dict[str, Callable[[], Any]]:
    """Functions that return the peers' attributions on the model's top class."""
    import torch
    from captum import attr
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlusFlat

    model = nets.torch_net(name).to(device)
    x = torch.from_numpy(nets.picture(batch, "first")).to(device)
    with torch.no_grad():
        out = model(x)
    top = out.argmax(1)
    seed = torch.nn.functional.one_hot(top, out.shape[1]).to(out)

    def zennit(composite: Callable[[], Any], scale: Any) -> Callable[[], Any]:
        def run() -> Any:
            with Gradient(model=model, composite=composite()) as attributor:
                return attributor(x, scale)[1]

        return run

    found: dict[str, Callable[[], Any]] = {
        "captum Saliency": lambda: attr.Saliency(model).attribute(
            x.clone().requires_grad_(), target=top
        ),
    }
    if not name.startswith("vit"):
        found["captum GuidedBackprop"] = lambda: _quiet(
            lambda: attr.GuidedBackprop(model).attribute(x.clone().requires_grad_(), target=top)
        )
        found["captum Deconvolution"] = lambda: _quiet(
            lambda: attr.Deconvolution(model).attribute(x.clone().requires_grad_(), target=top)
        )
        found["zennit Epsilon"] = zennit(
            lambda: _with(_epsilon_composite, _canonizers(name)), seed * out
        )
        found["zennit EpsilonPlusFlat"] = zennit(
            lambda: EpsilonPlusFlat(canonizers=_canonizers(name)), seed * out
        )
    return found


def _with(composite: Callable[[], Any], canonizers: list[Any]) -> Any:
    made = composite()
    made.canonizers = canonizers
    return made


def _quiet(function: Callable[[], Any]) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function()


def differences() -> str:
    """Ours against each peer's: largest difference over the largest value, or why not."""
    import torch

    import whence

    pairs = {
        "captum Saliency": "saliency", "captum GuidedBackprop": "guided-backpropagation",
        "captum Deconvolution": "deconvolution", "zennit Epsilon": whence.LRP("epsilon"),
    }  # fmt: skip
    lines = [
        "| model | peer | ours | largest difference / largest value |",
        "| --- | --- | --- | --- |",
    ]
    for name in nets.TORCH:
        model = nets.torch_net(name)
        x = torch.from_numpy(nets.picture(1, "first"))
        theirs = calls(name, 1)
        for peer, method in pairs.items():
            if peer not in theirs:
                continue
            try:
                got = theirs[peer]()
            except Exception as error:  # a peer's failure is a finding, not an end
                why = f"{type(error).__name__}: {str(error)[:90]}"
                lines.append(f"| {name} | {peer} | {method} | fails: {why} |")
                continue
            ours = whence.explain(model, x, method).attribution
            gap = float((got - ours).abs().max() / ours.abs().max())
            lines.append(f"| {name} | {peer} | {method} | {gap:.1e} |")
    return "\n".join(lines)
