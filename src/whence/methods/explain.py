"""``whence.explain``: from a model, an input and a method to an explanation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import checks, frameworks, targets
from ..errors import WhenceError
from ..perturb.seeds import Seeds
from ..result import Explanation, Explanations
from .base import Found, Job, Method, doors, family_of
from .catalogue import make
from .packing import pack

__all__ = ["explain"]


def explain(
    model: object,
    x: Any,
    method: Any = "auto",
    *,
    target: Any = None,
    at: str | None = None,
    classes: Sequence[str] | None = None,
    ledger: bool = True,
    sample_ids: Sequence[int | str] | None = None,
    **options: Any,
) -> Any:
    """Explain what a model answers at ``x``.

    model: a trained PyTorch or Keras model, or a function of their arrays. It is run in inference
        mode and left exactly as it was.
    x: one array with a batch axis (batch, ...), or a tuple or dict of arrays.
    method: a name from ``whence.methods()``, a method object such as ``whence.LRP(eps=1e-4)``, or a
        list of either, which gives ``Explanations`` and shares work between them (see below).
    target: None (each sample's top class), a class number, one a sample, a class name where
        ``classes`` are given, ``whence.neuron(...)``, ``whence.difference(a, b)``, or a function of
        the model's outputs that returns one number a sample.
    at: a layer, to get the attribution there instead of at the input.
    ledger: keep the books of relevance walks (costs a few sums an op).
    sample_ids: a whole number (or a string, such as a file's name) for each sample, which together
        with a method's ``seed`` names its random draws: a sample gets the same ones in any batch.
        By default 0, 1, 2...
    options: the method's own options, by name.

    Returns an ``Explanation`` whose attribution has x's shape and array type.

    Several methods give the numbers that each gives alone, by fewer calls of the model. They share

    - the gradient at x, by the methods that are made of it;
    - a recording, by LRP and deep Taylor; another by deconvolution and guided backpropagation;
    - f(x), and the layer or embeddings that are varied, by all that average or perturb;
    - f(x0), by integrated and expected gradients with equal baselines;
    - each noisy input, by SmoothGrads with equal n, sigma, antithetic and seed;
    - the scores of coalitions, by methods over groups that form the same ones in the same order,
      as LIME does whatever its regression.

    The last three also need equal ``rows``. No step is kept for it, only one number a call.

    Raises InputError, TargetError, UnknownName, MissingRule, NotFinite: see ``whence.errors``.

    Example:
        >>> import torch, whence
        >>> net = torch.nn.Linear(3, 1, bias=False)
        >>> _ = torch.nn.init.constant_(net.weight, 2.0)
        >>> e = whence.explain(net, torch.tensor([[1.0, 2.0, 3.0]]), "gradient-x-input")
        >>> e.attribution
        tensor([[2., 4., 6.]])
    """
    several = isinstance(method, (list, tuple))
    wanted = [make(m, options) for m in (method if several else [method])]
    framework = frameworks.find(model, x)
    inputs = frameworks.gather(framework, model, x)
    checks.check_inputs(framework, model, inputs)
    goal = targets.make(target, classes)
    arguments = {k: framework.xp.asarray(v) for k, v in goal.arguments(inputs.batch).items()}
    if sample_ids is not None:
        sample_ids = Seeds(0, sample_ids, inputs.batch).ids  # looked at, whatever the method
    job = Job(
        framework, model, inputs, goal, at, arguments, ledger, sample_ids, several=len(wanted) > 1
    )
    with framework.passive():
        found = _run(wanted, job)
        packed = [pack(m, f, job, x, classes) for m, f in zip(wanted, found, strict=True)]
    if not several:
        return packed[0]
    return Explanations(_labelled(packed))


def _labelled(items: Sequence[Explanation]) -> dict[str, Explanation]:
    """Names for each, told apart where a method was asked for twice."""
    named: dict[str, Explanation] = {}
    for item in items:
        label, number = item.method, 2
        while label in named:
            label, number = f"{item.method}#{number}", number + 1
        named[label] = item
    return named


def _run(wanted: Sequence[Method], job: Job) -> list[Found]:
    """Methods of one family run together, so that they share the recording or the gradient."""
    families: dict[type[Method], list[int]] = {}
    for place, method in enumerate(wanted):
        families.setdefault(family_of(method), []).append(place)
    results: list[Found | None] = [None] * len(wanted)
    try:
        for places in families.values():
            methods = [wanted[p] for p in places]
            found = type(methods[0]).run(methods, job)
            for place, one in zip(places, found, strict=True):
                results[place] = one
    except WhenceError:
        raise
    except Exception:
        checks.blame(job.framework, job.model, job.inputs)
        raise
    finally:
        job.made.clear()  # some of it refers to the job, and together they would outlive the call
    return [r for r in results if r is not None]


doors.explain = explain
