"""The same explanations by captum and zennit: how long they take, and whether the numbers agree.

python benchmarks/peers.py                    # the tables of agreement, to the terminal
python benchmarks/peers.py --write            # and into benchmarks/README.md
python benchmarks/cost.py --peers --write     # these and the times

Both are fetched into a temporary folder for the run; whence does not depend on them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import nets

__all__ = ["NAMES", "calls", "differences", "fetch", "fetch_all"]

NAMES = (
    "captum Saliency", "captum GuidedBackprop", "captum Deconvolution", "zennit Gradient",
    "zennit EpsilonPlusFlat", "zennit Epsilon",
)  # fmt: skip


def fetch(*wanted: Sequence[str]) -> list[str]:
    """Install groups of packages beside the environment; which groups could not be had.

    Without their dependencies: torch is here.
    """
    folder = tempfile.mkdtemp(prefix="whence-peers-")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder]
    sys.path.append(folder)
    return [group[0] for group in wanted if subprocess.run([*pip, *group], check=False).returncode]


def fetch_all() -> None:
    """Captum and zennit, without which there is nothing to compare."""
    if missing := fetch(["captum"], ["zennit"]):
        sys.exit(f"could not be fetched: {', '.join(missing)}")


def _canonizers(name: str) -> list[Any]:
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.torchvision import ResNetCanonizer

    return [ResNetCanonizer()] if name.startswith("resnet") else [SequentialMergeBatchNorm()]


def calls(name: str, batch: int, device: str = "cpu") -> dict[str, Callable[[], Any]]:
    """Functions that return the peers' attributions on the model's top class."""
    import torch

    model = nets.torch_net(name).to(device)  # makes torchvision importable, which zennit needs
    import against_zennit
    from captum import attr
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlusFlat

    x = torch.from_numpy(nets.picture(batch, "first")).to(device)
    with torch.no_grad():
        out = model(x)
    top = out.argmax(1)
    seed = torch.nn.functional.one_hot(top, out.shape[1]).to(out)

    def zennit(make: Callable[..., Any]) -> Callable[[], Any]:
        def run() -> Any:
            composite = make(canonizers=_canonizers(name))
            with Gradient(model=model, composite=composite) as attributor:
                return attributor(x, seed * out)[1]

        return run

    def captum(method: str) -> Callable[[], Any]:
        made = getattr(attr, method)(model)
        return lambda: _quiet(lambda: made.attribute(x.clone().requires_grad_(), target=top))

    found = {"captum Saliency": captum("Saliency")}
    if not name.startswith("vit"):
        found["captum GuidedBackprop"] = captum("GuidedBackprop")
        found["captum Deconvolution"] = captum("Deconvolution")
        found["zennit Epsilon"] = zennit(against_zennit.epsilon)
        found["zennit EpsilonPlusFlat"] = zennit(EpsilonPlusFlat)
    return found


def _quiet(function: Callable[[], Any]) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function()


_TEXT = """\
<!-- agreement:begin -->
With {versions}. "Apart" is the largest difference over our largest value; "missing" is what the \
sum of an attribution lacks of f(x) - f(reference), over the largest such change in the batch.

### Gradients

{gradients}

### LRP by the same rules

Zennit is given a copy of the model whose batch-norms were folded beforehand by \
`torch.nn.utils.fuse_conv_bn_eval`, ours the model as it comes. The last column says how far \
float32 is from float64 at all, ours or theirs: rounding decides where `epsilon` divides by a sum \
next to zero, and where two numbers in a window of max pooling are nearly the same.

{same_rules}

### LRP where zennit, as it is used, gives other numbers

In float64, where rounding plays no part (densenet121 in float32). Biases keep what the sums lack \
of 1.

{differing}

### Integrated gradients by the same rule and number of steps

{paths}

### DeepLIFT (rescale) where both are defined

The reference is zero.

{deeplift}

### DeepLIFT where captum's does not add up, or refuses

In float32; the reference is zero.

{deeplift_differing}
<!-- agreement:end -->"""


def differences() -> str:
    """Ours against each peer's, as tables: by how much they differ, and why."""
    nets.torch_net("resnet18")  # makes torchvision importable, which zennit needs
    import against_captum
    import against_zennit

    names = ("captum", "zennit", "whence", "torch")
    return _TEXT.format(
        versions=", ".join(f"{name} {version(name)}" for name in names),
        gradients=against_captum.gradients(),
        same_rules=against_zennit.same_rules(),
        differing=against_zennit.differing(),
        paths=against_captum.paths(),
        deeplift=against_captum.deeplift(),
        deeplift_differing=against_captum.deeplift_differing(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--write", action="store_true", help="put the tables into benchmarks/README.md"
    )
    arguments = parser.parse_args()
    import cost  # it imports this file

    fetch_all()
    text = differences()
    print(text)
    if arguments.write:
        inside = text.partition("-->\n")[2].rpartition("\n<!--")[0]
        cost.put(inside, "agreement")


if __name__ == "__main__":
    main()
