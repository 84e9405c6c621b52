"""``whence explain MODEL IMAGE... --out run.zarr``: any number of images into one store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whence.cli.bar import Step
from whence.cli.words import UsageError
from whence.dataset import DatasetRun, explain_dataset
from whence.dataset.records import Records
from whence.dataset.store import zarr_module
from whence.demo import check_folder
from whence.errors import WhenceError
from whence.images import Preprocess
from whence.methods.base import Method
from whence.models import LoadedModel

__all__ = [
    "SUFFIX", "SomeFailed", "Store", "check", "check_unused", "document", "failed", "is_store",
    "run_dataset", "store_of", "told",
]  # fmt: skip

SUFFIX = ".zarr"
"""What --out ends in, where a store is meant."""

_MOST_TOLD = 20  # images that failed; the store names all of them


class SomeFailed(WhenceError):
    """The work is done, and some of the images could not be explained."""


@dataclass(frozen=True)
class Store:
    """Where one method's explanations go, and how. batch_size: None leaves it to the library."""

    path: Path
    method: Method
    batch_size: int | None = None
    resume: bool = True


def is_store(out: str) -> bool:
    """Whether --out means a store."""
    return Path(out).suffix.lower() == SUFFIX


def store_of(
    out: str, methods: Sequence[Method], batch_size: int | None = None, resume: bool = True
) -> Store:
    """What --out and the options of a store mean, checked before any work is done.

    Raises UsageError, FileError for a place that cannot be written to, MissingFramework.
    """
    if len(methods) != 1:
        raise UsageError(
            f"--out {out!r} holds one method; run the command once for each, into a store of its "
            "own."
        )
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: give a whole number, 1 or more.")
    path = check_folder(out)
    zarr_module()
    return Store(path, methods[0], batch_size, resume)


def check_unused(batch_size: int | None, resume: bool, out: str) -> None:
    """UsageError for options of a store where --out is none."""
    given = ["--batch-size"] * (batch_size is not None) + ["--no-resume"] * (not resume)
    if given:
        raise UsageError(
            f"{' and '.join(given)} without a store: --out {out!r} does not end in {SUFFIX}."
        )


def run_dataset(
    store: Store,
    loaded: LoadedModel,
    files: Sequence[Path],
    preprocess: Preprocess,
    target: Any,
    layer: str | None,
    step: Step,
) -> tuple[DatasetRun, int]:
    """Explain image files into a store, going on with one that is there.

    Returns the run, and how many of its images had been explained before.
    """
    records = Records(store.path)
    sound = [record for record in records.each() if records.is_sound(record)]
    before = sum(record.count for record in sound)

    def show(done: int, total: int | None, words: str) -> None:
        # What is passed by says nothing of the pace.
        step(max(done, before), total or len(files), f"images, {words}" if words else "images")

    step(before, len(files), "images")
    run = explain_dataset(
        loaded, list(files), store.method, out=store.path, batch_size=store.batch_size,
        target=target, at=layer, preprocess=preprocess, resume=store.resume, progress=show,
    )  # fmt: skip
    return run, sum(record.done for record in sound)


def document(run: DatasetRun, before: int = 0) -> dict[str, Any]:
    """What was done, for ``--json``; the numbers themselves are in the store."""
    return {
        "store": str(run.path),
        "method": run.method,
        "items": len(run),
        "explained": run.done,
        "explained_before": before,
        "failures": [asdict(failure) for failure in run.failures],
        "seconds": run.seconds,
    }


def told(run: DatasetRun, before: int = 0) -> str:
    """What was done, in a line; and how to read it, in another."""
    earlier = f" ({before} of them before)" if before else ""
    return (
        f"{run.done} of {len(run)} images explained by {run.method}{earlier}.\n\n"
        f"Written: {run.path}, for whence.load({str(run.path)!r})"
    )


def failed(run: DatasetRun) -> list[str]:
    """The images that could not be explained, each with the reason."""
    found = [f"{failure.id}: {failure.reason}" for failure in run.failures[:_MOST_TOLD]]
    more = len(run.failures) - len(found)
    return [*found, f"and {more} more"] if more else found


def check(run: DatasetRun) -> None:
    """Raise SomeFailed where images could not be explained: the exit status says so."""
    if run.failures:
        raise SomeFailed(
            f"{len(run.failures)} of {len(run)} images could not be explained; "
            f"whence.load({str(run.path)!r}).failures names them. The same command passes them "
            "by; another --out tries them again."
        )
