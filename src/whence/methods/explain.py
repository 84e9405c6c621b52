"""``whence.explain``: from a model, an input and a method to an explanation."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from .. import checks, frameworks, targets
from ..errors import NotFinite, TargetError, WhenceError
from ..frameworks import to_numpy
from ..frameworks.base import Framework
from ..ledger import Entry, Ledger
from ..result import Explanation, Explanations, guess_axes
from .base import Found, Job, Method
from .catalogue import make

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
    **options: Any,
) -> Any:
    """Explain what a model answers at ``x``.

    model: a trained PyTorch or Keras model, or a function of their arrays. It is run in inference
        mode and left exactly as it was.
    x: one array with a batch axis (batch, ...), or a tuple or dict of arrays.
    method: a name from ``whence.methods()``, a method object such as ``whence.LRP(eps=1e-4)``, or a
        list of either, which gives ``Explanations`` and shares work between them.
    target: None (each sample's top class), a class number, one a sample, a class name where
        ``classes`` are given, ``whence.neuron(...)``, ``whence.difference(a, b)``, or a function of
        the model's outputs that returns one number a sample.
    at: a layer, to get the attribution there instead of at the input.
    ledger: keep the books of relevance walks (costs a few sums an op).
    options: the method's own options, by name.

    Returns an ``Explanation`` whose attribution has x's shape and array type.
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
    first = next(iter(inputs.arrays.values()))
    arguments = {
        k: framework.xp.asarray(v, like=first) for k, v in goal.arguments(inputs.batch).items()
    }
    job = Job(framework, model, inputs, goal, at, arguments, ledger)
    found = _run(wanted, job)
    packed = [_pack(m, f, job, x, classes) for m, f in zip(wanted, found, strict=True)]
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
    families: dict[type, list[int]] = {}
    for place, method in enumerate(wanted):
        families.setdefault(_family(method), []).append(place)
    results: list[Found | None] = [None] * len(wanted)
    for places in families.values():
        methods = [wanted[p] for p in places]
        try:
            found = type(methods[0]).run(methods, job)
        except WhenceError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            _raise_for_model(job, error)
            raise
        for place, one in zip(places, found, strict=True):
            results[place] = one
    return [r for r in results if r is not None]


def _family(method: Method) -> type:
    """The class that defines how a method runs: methods that share it share work."""
    return next(c for c in type(method).__mro__ if "run" in vars(c))


def _raise_for_model(job: Job, error: Exception) -> None:
    """Was it the model that cannot take this input? Then say so in the input's terms."""
    try:
        job.framework.predict(job.model, job.inputs)
    except WhenceError:
        raise
    except Exception as own:
        raise checks.explain_failure(job.framework, job.model, job.inputs, own) from own


def _pack(method: Method, found: Found, job: Job, x: Any, classes: Sequence[str] | None) -> Explanation:
    xp = job.framework.xp
    score = xp.to_numpy(found.score)
    _check_numbers(method, found, job, score)
    attribution = found.attribution
    if all(a is None for a in attribution.values()):
        raise TargetError(
            f"{job.target.describe()} does not depend on the input: its gradient does not exist "
            "(a constant output, a detach(), or whole numbers on the way)"
        )
    if job.at is not None:
        (array,) = attribution.values()
        structure = array if job.framework.owns(x) or not isinstance(x, np.ndarray) else xp.to_numpy(array)
        channels = job.framework.channels
    else:
        filled = {k: xp.zeros_like(job.inputs.arrays[k]) if a is None and k in job.inputs.arrays else a
                  for k, a in attribution.items()}  # fmt: skip
        structure = _restored(job, filled)
        channels = job.framework.channels
    main = next(a for a in attribution.values() if a is not None)
    shape = xp.shape(main)
    is_map = len(shape) >= 4 or (len(shape) == 3 and job.framework.expectation(job.model).rank == 3)
    channels_here = channels if is_map else None
    axes = found.axes or guess_axes(shape, channels_here)
    if found.axes is not None and "channel" in axes:
        channels_here = "first" if axes[1] == "channel" else "last"
    index = None if found.index is None else xp.to_numpy(found.index)
    answer, probability = _answer(found, job)
    return Explanation(
        attribution=structure, raw=structure, target=index if index is not None else job.target.describe(),
        output=score, method=method.name, options=method.options,
        ledger=_ledger(found, job), gap=_gap(method, found, job, score), layer=job.at or "",
        channels=channels_here, axes=axes, seconds=found.seconds, versions=_versions(job.framework),
        model_summary=job.framework.summary(job.model),
        target_names=_names(job, index, classes, len(score)), answer=answer, probability=probability,
        inputs=x, signed=method.signed, reduce=getattr(method, "reduce", method.reduce_by),
        notes=list(found.notes), extras=_extras(found, job),
    )  # fmt: skip


def _restored(job: Job, filled: Mapping[str, Any]) -> Any:
    """In the caller's structure; embeddings that stand for no input go beside it in a dict."""
    inside = {k: v for k, v in filled.items() if k in job.inputs.arrays}
    if inside and len(inside) == len(filled):
        return job.inputs.restore(inside)
    return dict(filled) if len(filled) > 1 else next(iter(filled.values()))


def _extras(found: Found, job: Job) -> dict[str, Any]:
    return {k: v for k, v in (found.extras or {}).items() if k not in ("places", "rectifiers")}


def _check_numbers(method: Method, found: Found, job: Job, score: np.ndarray) -> None:
    """NaN or infinity is reported with the op where it first appears, never handed on."""
    xp = job.framework.xp
    if np.isfinite(score).all() and all(
        xp.to_numpy(xp.isfinite(a)).all() for a in found.attribution.values() if a is not None
    ):
        return
    tape = job.framework.record(job.model, job.inputs, head=job.target.head)
    try:
        where = checks.first_not_finite(job.framework, tape)
    finally:
        tape.free()
    if where:
        raise NotFinite(f"NaN or infinity first appears in the model at {where}; the input is finite")
    what = "the explained output" if not np.isfinite(score).all() else f"the attribution by {method.name}"
    raise NotFinite(
        f"{what} is not finite, though every activation is: a division by zero or an overflow on the way "
        "back. Try a larger eps, or float32 instead of half precision"
    )


def _gap(method: Method, found: Found, job: Job, score: np.ndarray) -> np.ndarray | None:
    if not method.complete or job.at is not None and found.seed is None:
        return None
    xp = job.framework.xp
    total = np.zeros(len(score), np.float64)
    for array in found.attribution.values():
        if array is not None:
            numbers = np.asarray(xp.to_numpy(array), np.float64)
            total += numbers.reshape(len(score), -1).sum(1)
    reference = 0.0 if found.reference is None else np.asarray(xp.to_numpy(found.reference), np.float64)
    start = np.asarray(score, np.float64) if found.seed is None else np.asarray(xp.to_numpy(found.seed), np.float64)
    wanted = start - reference
    left = np.abs(total - wanted)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(left == 0, 0.0, left / np.abs(wanted))


def _ledger(found: Found, job: Job) -> Ledger | None:
    if not found.rows or found.seed is None:
        return None
    numpy = job.framework.xp.to_numpy
    rows = [
        Entry(r.index, r.layer, r.op, r.kind, r.rule, numpy(r.relevance_in), numpy(r.relevance_out),
              {k: numpy(v) for k, v in r.absorbed.items()})
        for r in found.rows
    ]  # fmt: skip
    seed = numpy(found.seed)
    total = np.zeros(len(seed), np.float64)
    for array in found.attribution.values():
        if array is not None:
            total += np.asarray(numpy(array), np.float64).reshape(len(seed), -1).sum(1)
    return Ledger(rows, seed, total)


def _answer(found: Found, job: Job) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Top class and its probability, where the output is one number a class."""
    if found.outputs is None:
        outputs = None
        if job.target.head is None and job.target.layer is not None:
            predicted = job.framework.predict(job.model, job.inputs)
            name = "logits" if "logits" in predicted else next(iter(predicted))
            outputs = predicted[name]
    else:
        outputs = found.outputs
    if outputs is None:
        return None, None
    y = np.asarray(to_numpy(outputs), np.float64)
    if y.ndim != 2 or y.shape[1] < 2 or not np.isfinite(y).all():
        return None, None
    top = y.argmax(1)
    is_probability = (y >= 0).all() and np.allclose(y.sum(1), 1, atol=1e-3)
    if not is_probability:
        y = np.exp(y - y.max(1, keepdims=True))
        y /= y.sum(1, keepdims=True)
    return top, y[np.arange(len(y)), top]


def _names(job: Job, index: np.ndarray | None, classes: Sequence[str] | None, samples: int) -> list[str]:
    words = job.target.describe()
    if index is None or isinstance(job.target, targets.Difference):
        return [words] * samples
    if classes is not None:
        return [str(classes[i]) if i < len(classes) else f"class {i}" for i in index]
    return [f"class {i}" for i in index]


def _versions(framework: Framework) -> dict[str, str]:
    try:
        own = version("whence")
    except PackageNotFoundError:
        own = "unknown"
    return {"whence": own, framework.name: framework.version(), "python": platform.python_version()}


