"""``whence explain MODEL IMAGE... --out run.zarr``: many images into one store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from whence.cli.loading import _preprocess as preprocess_of
from whence.cli.words import UsageError, size_of
from whence.dataset import DatasetRun, explain_dataset
from whence.errors import WhenceError
from whence.methods.base import Method
from whence.models import LoadedModel

__all__ = ["SUFFIX", "SomeFailed", "check", "document", "run_dataset", "told"]

SUFFIX = ".zarr"
"""What --out ends in, where a store is meant."""


class SomeFailed(WhenceError):
    """The work is done, and some of the images could not be explained."""


def run_dataset(
    loaded: LoadedModel,
    images: Sequence[str],
    methods: Sequence[Method],
    target: Any,
    layer: str | None,
    out: str,
    size: str | None,
    step: Callable[[int, int, str], None],
) -> DatasetRun:
    """Explain image files into a store, going on with one that is there.

    Raises UsageError for more than one method.
    """
    if len(methods) != 1:
        raise UsageError(f"--out {out!r} holds one method; run the command once for each.")
    preprocess = preprocess_of(loaded)
    if size is not None:
        preprocess = replace(preprocess, size=size_of(size))
    return explain_dataset(
        loaded, list(images), methods[0], out=Path(out), target=target, at=layer,
        preprocess=preprocess,
        progress=lambda done, total, words: step(done, total or done, words),
    )  # fmt: skip


def document(run: DatasetRun) -> dict[str, Any]:
    """What was done, for ``--json``; the numbers themselves are in the store."""
    return {
        "store": str(run.path),
        "method": run.method,
        "items": len(run),
        "explained": run.done,
        "failures": [asdict(failure) for failure in run.failures],
        "notes": run.notes,
        "seconds": run.seconds,
    }


def told(run: DatasetRun) -> str:
    """What was done, in a line."""
    return f"{run.done} of {len(run)} images explained by {run.method}. Written: {run.path}"


def check(run: DatasetRun) -> None:
    """Raise SomeFailed where images could not be explained: the exit status says so."""
    if run.failures:
        first = run.failures[0]
        raise SomeFailed(
            f"{len(run.failures)} of {len(run)} images could not be explained, the first: "
            f"{first.id}: {first.reason.rstrip('.')}. The store names all of them: "
            f"whence.load({str(run.path)!r}).failures"
        )
