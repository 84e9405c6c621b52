"""Gradients, integrated gradients and DeepLIFT by captum beside ours: where they agree, and not.

Imported once captum is at hand.
"""

from __future__ import annotations

from typing import Any

import nets
import small_nets
import torch
from agreement import apart, figure, missing, table, tried
from captum import attr
from torch import nn

import whence

__all__ = ["deeplift", "deeplift_differing", "gradients", "paths"]

_STEPS = 16


def _top(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


def _ours(model: nn.Module, x: torch.Tensor, method: Any, top: torch.Tensor) -> Any:
    return whence.explain(model, x, method, target=top.tolist(), ledger=False).attribution


def _theirs(explainer: Any, x: torch.Tensor, top: torch.Tensor, **options: Any) -> tuple[Any, str]:
    found, error = tried(lambda: explainer.attribute(x.clone(), target=top, **options))
    return (None if found is None else found.detach()), error


def gradients() -> str:
    """A table: the gradient and what rectifiers make of it."""
    pairs = {
        "Saliency": "saliency",
        "GuidedBackprop": "guided-backpropagation",
        "Deconvolution": "deconvolution",
    }
    rows: list[tuple[str, ...]] = []
    for name in nets.TORCH:
        model, x = nets.torch_net(name), torch.from_numpy(nets.picture(1, "first"))
        top = _top(model, x)
        for peer, method in pairs.items():
            if name.startswith("vit") and peer != "Saliency":
                continue  # it has no ReLU
            found, error = _theirs(getattr(attr, peer)(model), x, top)
            gap = error if found is None else figure(apart(found, _ours(model, x, method, top)))
            rows.append((name, peer, method, gap))
    return table(("model", "captum", "ours", "apart, float32"), rows)


_TRAPEZOID = (
    f"its {_STEPS} weights are 1/{_STEPS}, the two ends half of that, and add up to "
    f"{_STEPS - 1}/{_STEPS}. Times {_STEPS}/{_STEPS - 1} it is ours to {{:.1e}}"
)


def paths() -> str:
    """A table: integrated gradients by the same rule with as many steps."""
    spelled = {
        "gauss-legendre": "gausslegendre", "middle": "riemann_middle", "left": "riemann_left",
        "right": "riemann_right", "trapezoid": "riemann_trapezoid",
    }  # fmt: skip
    given = {
        "plain ReLU net": (small_nets.plain().double(), nets.picture(4, "first", 32)),
        "resnet18": (nets.torch_net("resnet18").double(), nets.picture(1, "first")),
    }
    rows: list[tuple[str, ...]] = []
    for name, (model, picture) in given.items():
        x = torch.from_numpy(picture).double()
        top = _top(model, x)
        with torch.no_grad():
            scores, zero = model(x), model(torch.zeros_like(x))
        change = (scores - zero).gather(1, top[:, None])[:, 0]
        for rule, word in spelled.items():
            method = whence.IntegratedGradients(steps=_STEPS, quadrature=rule)
            ours = _ours(model, x, method, top)
            peer = attr.IntegratedGradients(model)
            found, error = _theirs(
                peer, x, top, n_steps=_STEPS, method=word, internal_batch_size=_STEPS
            )
            if found is None:
                rows.append((name, rule, error, "-", figure(missing(ours, change)), ""))
                continue
            why = "it rounds its weights to float32" if rule == "gauss-legendre" else ""
            if rule == "trapezoid":
                why = _TRAPEZOID.format(apart(found * (_STEPS / (_STEPS - 1)), ours))
            sums = (figure(missing(a, change)) for a in (found, ours))
            rows.append((name, rule, figure(apart(found, ours)), *sums, why))
    head = (
        "model", f"rule, {_STEPS} steps", "apart, float64", "missing: captum", "missing: ours",
        "cause",
    )  # fmt: skip
    return table(head, rows)


def _compared(model: nn.Module, x: torch.Tensor) -> tuple[float | None, float | None, float, str]:
    """Captum's DeepLift and ours against zero: how far apart, what each misses, its error."""
    top = _top(model, x)
    ours = whence.explain(model, x, "deeplift", target=top.tolist(), ledger=False)
    reference = torch.from_numpy(ours.extras["reference_output"])
    change = torch.from_numpy(ours.output) - reference
    lost = missing(ours.attribution, change)
    found, error = _theirs(attr.DeepLift(model), x, top)
    if found is None:
        return None, None, lost, error
    return apart(found, ours.attribution), missing(found, change), lost, ""


def deeplift() -> str:
    """A table: DeepLIFT where both are defined."""
    x = torch.from_numpy(nets.picture(4, "first", 32))
    given = {
        "plain ReLU net": small_nets.plain,
        "max pooling of 2 x 2 after a convolution": lambda: small_nets.pooled([]),
        "two convolutions, ReLUs of their own": small_nets.Rectified,
    }
    rows: list[tuple[str, ...]] = []
    for name, make in given.items():
        for dtype in (torch.float32, torch.float64):
            gap, theirs, ours, error = _compared(make().to(dtype), x.to(dtype))
            word = str(dtype).removeprefix("torch.")
            rows.append(
                (name, "DeepLift", word, error or figure(gap), figure(theirs), figure(ours))
            )
    model, others = small_nets.plain(), torch.from_numpy(nets.picture(8, "first", 32)[4:])
    top = _top(model, x)
    found, error = _theirs(attr.DeepLiftShap(model), x, top, baselines=others)
    ours = _ours(model, x, whence.DeepSHAP(baseline=others), top)
    with torch.no_grad():
        rise = model(x).gather(1, top[:, None])[:, 0] - model(others)[:, top].mean(0)
    gap = error if found is None else figure(apart(found, ours))
    lost = (figure(None if a is None else missing(a, rise)) for a in (found, ours))
    rows.append(("plain ReLU net", "DeepLiftShap, 4 references", "float32", gap, *lost))
    head = ("model", "captum", "numbers", "apart", "missing: captum", "missing: ours")
    return table(head, rows)


def _mixed(x: torch.Tensor) -> tuple[float, float]:
    """How much one sample's DeepLIFT changes with the others of the batch: captum's, ours."""
    model = small_nets.Rectified(softmax=True)
    top = _top(model, x)
    found = []
    for explain in (
        lambda y, t: _theirs(attr.DeepLift(model), y, t)[0],
        lambda y, t: _ours(model, y, "deeplift", t),
    ):
        found.append(apart(explain(x, top)[:1], explain(x[:1], top[:1])))
    return found[0], found[1]


def _cases() -> list[tuple[str, nn.Module, nn.Module | None, torch.Tensor, str]]:
    """Model, the model without the cause, input, cause."""
    x, photo = (torch.from_numpy(nets.picture(*s)) for s in ((4, "first", 32), (1, "first")))
    theirs, ours = _mixed(x)
    net = small_nets
    return [
        (
            "ReLU before max pooling", net.pooled([nn.ReLU()]), net.pooled([nn.ReLU(), net.Copy()]),
            x, "both modules hook the array between them, and the ReLU reads its gradient before "
            "the pooling's rule has replaced it. Removed: a copy of the array between them",
        ),
        (
            "max pooling of 3 x 3, stride 2", net.pooled([], 3), net.pooled([]), x,
            "an element that wins in several windows keeps one window's share, as its unpooling "
            "writes each place once. Removed: windows of 2 x 2",
        ),
        (
            "one ReLU module, used twice", net.Rectified("reused"), net.Rectified(), x,
            "it keeps one input and output a module. Removed: a module a place",
        ),
        (
            "ReLU as a function", net.Rectified("function"), net.Rectified(), x,
            "it finds modules only; the function gets its gradient at x. Removed: a module a place",
        ),
        (
            "softmax, 4 samples", net.Rectified(softmax=True), net.Rectified(), x,
            "it takes from every multiplier the mean over classes, samples and references, which "
            f"does not add up, and one sample alone is {theirs:.1e} from the same among 4 (ours "
            f"{ours:.1e}). Ours goes through exp and log-sum. Removed: the logits explained",
        ),
        (
            "vgg11_bn", nets.torch_net("vgg11_bn"),
            net.copied_before_pooling(nets.torch_net("vgg11_bn")), photo,
            "ReLU before max pooling, 5 times",
        ),
        ("resnet50", nets.torch_net("resnet50"), None, photo, "one ReLU module a block"),
        (
            "densenet121", nets.torch_net("densenet121"), None, photo,
            "ReLU before max pooling with overlapping windows; a ReLU as a function",
        ),
        (
            "vit_b_16", nets.torch_net("vit_b_16"), None, photo,
            "it has no rule for GELU, layer-norm and attention, which get their gradient at x",
        ),
    ]  # fmt: skip


def deeplift_differing() -> str:
    """A table: what both miss of f(x) - f(0) where captum's is known to be wrong, or refuses."""
    rows: list[tuple[str, ...]] = []
    for name, model, without, x, why in _cases():
        gap, theirs, ours, error = _compared(model, x)
        after = None if without is None else _compared(without, x)[0]
        rows.append((name, error or figure(gap), figure(theirs), figure(ours), figure(after), why))
    head = (
        "model", "apart", "missing: captum", "missing: ours", "apart once the cause is removed",
        "cause",
    )  # fmt: skip
    return table(head, rows)
