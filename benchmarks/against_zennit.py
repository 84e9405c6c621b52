"""LRP by zennit beside ours: the same rules on the same folded model, and where they part.

Imported once zennit is at hand.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import nets
import small_nets
import torch
from agreement import apart, figure, table, tried
from torch import nn
from zennit import composites, rules
from zennit.attribution import Gradient
from zennit.canonizers import CompositeCanonizer, SequentialMergeBatchNorm
from zennit.layer import Sum
from zennit.torchvision import ResNetBasicBlockCanonizer, ResNetBottleneckCanonizer, ResNetCanonizer
from zennit.types import Activation, AvgPool, BatchNorm, Convolution, Linear

import whence

__all__ = ["differing", "epsilon", "same_rules"]

_LOW, _HIGH = (-2.1, -2.0, -1.8), (2.2, 2.4, 2.6)
MODELS = ("vgg16", "vgg11_bn", "resnet18", "resnet50")


def epsilon(canonizers: Sequence[Any] = ()) -> Any:
    """Zennit's rules, to match ours: epsilon at convolution and dense, pass at ReLU."""
    lines = [
        (Activation, rules.Pass()), (BatchNorm, rules.Pass()), (AvgPool, rules.Norm()),
        (Sum, rules.Norm()), (Convolution, rules.Epsilon(1e-6)), (Linear, rules.Epsilon(1e-6)),
    ]  # fmt: skip
    return composites.LayerMapComposite(lines, canonizers=list(canonizers))


def _box(canonizers: Sequence[Any]) -> Any:
    low, high = (torch.tensor(b, dtype=torch.float64).reshape(1, 3, 1, 1) for b in (_LOW, _HIGH))
    return composites.EpsilonGammaBox(low, high, canonizers=list(canonizers))


def _named(name: str) -> Callable[[Sequence[Any]], Any]:
    return lambda canonizers: getattr(composites, name)(canonizers=list(canonizers))


PAIRS: dict[str, tuple[Callable[[Sequence[Any]], Any], Any]] = {
    "Epsilon": (epsilon, whence.LRP("epsilon")),
    "EpsilonPlus": (_named("EpsilonPlus"), whence.LRP("epsilon-plus")),
    "EpsilonPlusFlat": (_named("EpsilonPlusFlat"), whence.LRP("epsilon-plus-flat")),
    "EpsilonAlpha2Beta1": (_named("EpsilonAlpha2Beta1"), whence.LRP("epsilon-alpha2-beta1")),
    "EpsilonGammaBox": (_box, whence.LRP("epsilon-gamma-box", low=_LOW, high=_HIGH)),
}
"""Zennit's composite -> how it is made from canonizers, and what is ours."""


class WithoutEps(SequentialMergeBatchNorm):
    """Zennit's merging of batch-norms, but what is left of one is the identity: its eps goes too.

    Zennit sets the variance to 1 and keeps eps, so that 1 / sqrt(1 + eps) stays in the net.
    """

    def register(self, linears: Any, batch_norm: Any) -> None:
        super().register(linears, batch_norm)
        self.eps, batch_norm.eps = batch_norm.eps, 0.0

    def remove(self) -> None:
        super().remove()
        self.batch_norm.eps = self.eps


def _sums() -> list[Any]:
    """What makes the + of torchvision's ResNets a module."""
    return [ResNetBottleneckCanonizer(), ResNetBasicBlockCanonizer()]


def folded(model: nn.Module) -> nn.Module:
    """A copy whose batch-norms are part of the convolutions before them, by PyTorch's own tool."""
    model = copy.deepcopy(model)
    for parent in model.modules():
        names = list(parent._modules)
        for one, two in itertools.pairwise(names):
            conv, norm = parent._modules[one], parent._modules[two]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, one, nn.utils.fuse_conv_bn_eval(conv, norm))
                setattr(parent, two, nn.Identity())
    return model


def attributed(model: nn.Module, x: torch.Tensor, composite: Any) -> tuple[Any, Any]:
    """Zennit's (scores, relevance), started with the model's own top score."""
    with torch.no_grad():
        scores = model(x)
    seed = nn.functional.one_hot(scores.argmax(1), scores.shape[1]).to(scores) * scores
    with Gradient(model=model, composite=composite) as attributor:
        seen, relevance = attributor(x.clone(), seed)
    return seen.detach(), relevance


def _ours(model: nn.Module, x: torch.Tensor, method: Any) -> Any:
    return whence.explain(model, x, method, ledger=False).attribution


def _beside(model: nn.Module, x: torch.Tensor, composite: Any, ours: Any) -> str:
    """How far zennit's relevance is from ours, or its error."""
    found, error = tried(lambda: attributed(model, x, composite))
    return error if found is None else figure(apart(found[1], ours))


def same_rules() -> str:
    """A table: on a model that was folded beforehand the two compute the same."""
    rows = []
    for name in MODELS:
        model, wide = nets.torch_net(name), nets.torch_net(name).double()
        flat, wide_flat = folded(model), folded(wide)
        x = torch.from_numpy(nets.picture(1, "first")).clamp(_LOW[-1], _HIGH[0])
        for peer, (make, method) in PAIRS.items():
            exact = _ours(wide, x.double(), method)
            figures = (
                _beside(wide_flat, x.double(), make(_sums()), exact),
                _beside(flat, x, make(_sums()), _ours(flat, x, method)),
                figure(apart(_ours(model, x, method), exact)),
            )
            rows.append((name, peer, method.composite, *figures))
    head = (
        "model", "zennit, folded", "ours, as it comes", "apart, float64",
        "apart, float32, both folded", "ours: float32 from float64",
    )  # fmt: skip
    return table(head, rows)


def _row(
    where: str, peer: str, why: str, model: nn.Module, x: torch.Tensor, composite: Any,
    method: Any, again: Callable[[], tuple[Any, Any]] | None = None,
) -> tuple[str, ...]:  # fmt: skip
    """One difference. again: theirs and ours once the cause is removed."""
    mine = whence.explain(model, x, method, ledger=False)
    theirs, error = tried(lambda: attributed(model, x, composite))
    score = float(mine.output.sum())
    sums = [f"{float(mine.attribution.sum()) / score:.3g}"]
    if theirs is None:
        return (where, peer, method.composite, error, f"-, {sums[0]}", "-", why)
    sums.insert(0, f"{float(theirs[1].sum()) / score:.3g}")
    after = figure(apart(*again())) if again else "-"
    gap = figure(apart(theirs[1], mine.attribution))
    return (where, peer, method.composite, gap, ", ".join(sums), after, why)


_EPS = (
    "the canonizer sets a merged batch-norm's variance to 1 but leaves its eps of 1e-5, so the net "
    "it explains gives other scores (here by {:.0e}). Removed: that eps set to 0"
)


def _merged(name: str, peer: str) -> tuple[str, ...]:
    """Zennit's canonizer as it is, and with the eps of what it merged set to 0."""
    resnet = name.startswith("resnet")
    model, x = nets.torch_net(name).double(), torch.from_numpy(nets.picture(1, "first")).double()
    make, method = PAIRS[peer]
    x = x.clamp(_LOW[-1], _HIGH[0])
    own = ResNetCanonizer() if resnet else SequentialMergeBatchNorm()
    exact = CompositeCanonizer((WithoutEps(), *_sums())) if resnet else WithoutEps()
    with torch.no_grad():
        right = model(x)
    why = _EPS.format(apart(attributed(model, x, make([own]))[0], right))
    return _row(
        name, f"{peer}, {type(own).__name__}", why, model, x, make([own]), method,
        lambda: (attributed(model, x, make([exact]))[1], _ours(model, x, method)),
    )  # fmt: skip


def _unsummed() -> tuple[str, ...]:
    model = nets.torch_net("resnet18").double()
    x = torch.from_numpy(nets.picture(1, "first")).double()
    make, method = PAIRS["EpsilonPlus"]
    exact = CompositeCanonizer((WithoutEps(), *_sums()))
    return _row(
        "resnet18", "EpsilonPlus, no canonizer",
        "a + is no module, so it gets no rule but the gradient, which hands all relevance to both "
        "sides: doubled in each of 8 blocks. Removed: its canonizer, without that eps",
        model, x, make([]), method,
        lambda: (attributed(model, x, make([exact]))[1], _ours(model, x, method)),
    )  # fmt: skip


def _dense() -> tuple[str, ...]:
    model, x = nets.torch_net("densenet121"), torch.from_numpy(nets.picture(1, "first"))
    make, method = PAIRS["EpsilonPlus"]
    found = _row(
        "densenet121", "EpsilonPlus, SequentialMergeBatchNorm", "", model, x,
        make([SequentialMergeBatchNorm()]), method,
    )  # fmt: skip
    broken = tried(lambda: model(x))[1]
    why = "it merges by the order in which modules were assigned; here the next belongs elsewhere"
    return (*found[:-1], why + (". The model cannot be called afterwards" if broken else ""))


def differing() -> str:
    """A table: where zennit as it is used gives other numbers, and why."""
    x = torch.from_numpy(nets.picture(1, "first", 32)).double()
    ordered, sided = small_nets.Ordered().double(), small_nets.one_sided().double()
    flat, signed = whence.LRP("epsilon-plus-flat"), whence.LRP("epsilon-alpha2-beta1")
    as_theirs = whence.LRP(
        "epsilon-plus-flat", rules={"head": whence.rules.Flat(), "first": whence.rules.ZPlus()}
    )
    strict = whence.LRP(
        "epsilon-alpha2-beta1", rules={"conv": whence.rules.AlphaBeta(2, 1, empty="strict")}
    )
    first, second = (PAIRS[n][0]([]) for n in ("EpsilonPlusFlat", "EpsilonAlpha2Beta1"))
    rows = [
        _merged("resnet50", "Epsilon"),
        _merged("vgg11_bn", "Epsilon"),
        _merged("resnet50", "EpsilonPlusFlat"),
        _unsummed(),
        _dense(),
        _row(
            "two convolutions, assigned in another order", "EpsilonPlusFlat",
            "its first layer is the first that was assigned (here the dense one), ours the first "
            "that ran. Removed: ours told to give these layers the same rules",
            ordered, x, first, flat,
            lambda: (attributed(ordered, x, PAIRS["EpsilonPlusFlat"][0]([]))[1],
                     _ours(ordered, x, as_theirs)),
        ),
        _row(
            "outputs that nothing pushes down", "EpsilonAlpha2Beta1",
            "there is no negative part to take back the beta of R, so it hands out 2 R; ours "
            'conserves. Removed: ours with empty="strict", the formula to the letter',
            sided, x, second, signed,
            lambda: (attributed(sided, x, PAIRS["EpsilonAlpha2Beta1"][0]([]))[1],
                     _ours(sided, x, strict)),
        ),
    ]  # fmt: skip
    head = (
        "model", "zennit", "ours", "apart", "sum of R / f(x): theirs, ours",
        "apart once the cause is removed", "cause",
    )  # fmt: skip
    return table(head, rows)
