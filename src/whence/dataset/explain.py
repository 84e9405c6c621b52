"""``whence.explain_dataset``: part after part, each explained, written, and then finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from .. import frameworks
from ..errors import FileError, InputError, OptionError, WhenceError
from ..frameworks.base import Expectation
from ..images import Preprocess
from ..methods.base import Method
from ..methods.catalogue import make
from ..models.loaded import LoadedModel
from .config import described, differences, refused
from .loaders import source_of
from .parts import Part
from .progress import Shown, shown
from .records import FOLDER, Record, Records
from .run import DatasetRun, load_run
from .sources import Source, checked_size
from .store import FORMAT, Store, head_of
from .work import Done, Work, explain_part, single

__all__ = ["explain_dataset"]

_SIZE = 16  # items a part, where nobody says


def explain_dataset(
    model: object,
    data: Any,
    method: Any = "auto",
    *,
    out: Any,
    batch_size: int | None = None,
    target: Any = None,
    at: str | None = None,
    classes: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    seed: int | None = None,
    resume: bool = True,
    progress: bool | Callable[[int, int | None, str], None] = True,
    on_error: str = "report",
    batched: bool | None = None,
    **options: Any,
) -> DatasetRun:
    """Explain every sample of a data set, of any length, into a Zarr store on disk.

    model: as for ``whence.explain``; or what ``whence.load_model`` gives.
    data: arrays (batch first; a pair (x, labels); a dict of arrays), a list or iterable of samples,
        pairs (x, label) or dicts {"x": ..., "label": ..., "id": ...}, a torch DataLoader, a
        tf.data.Dataset, or image files: a folder, a pattern, a list of paths.
    method, at, classes, options: as for ``whence.explain``.
    out: the store, a folder; by custom its name ends in ``.zarr``.
    batch_size: samples a part: explained together, written together, and all that a kill costs.
        None takes a DataLoader's own, else 16.
    target: as for ``whence.explain``; a list of classes is one an item; "label" takes the labels.
    preprocess: for image files; None takes the loaded model's.
    seed: names the random draws, by sample, whatever the batch; None keeps the method's own.
    resume: go on with a store that is there; finished samples are not explained again. False
        refuses it.
    progress: a line on a terminal; False for none; or a function of (items done, items or None,
        words).
    on_error: "report" passes an item by that raises, and keeps its reason in ``run.failures``;
        "raise" stops there. What is wrong with the call itself always raises.
    batched: whether the items of an iterable have a batch axis, where that is not seen.

    Returns the run, which reads the store lazily. Ctrl-C, a kill or a full disk leave a store that
    the same call goes on with. Samples may differ in shape, but not in rank: each shape of a part
    is a call of its own, and attributions are kept in arrays of the largest shape.
    Raises FileError, FileFormatError (a store of another run: the differences are named),
    OptionError, InputError, MissingFramework (no zarr), and what ``whence.explain`` raises.

    Example:
        >>> import tempfile, torch, whence
        >>> from whence.dataset import explain_dataset
        >>> net, x = torch.nn.Linear(3, 2), torch.eye(3)
        >>> out = tempfile.mkdtemp() + "/run.zarr"
        >>> run = explain_dataset(net, x, "gradient-x-input", out=out, batch_size=2)
        >>> len(run), run[1].attribution.shape, run.failures
        (3, (1, 3), [])
    """
    if on_error not in ("report", "raise"):
        raise OptionError(f"on_error is 'report' or 'raise'; got {on_error!r}")
    name = ""
    if isinstance(model, LoadedModel):
        name, classes = model.spec, classes if classes is not None else model.classes
        preprocess = preprocess or model.preprocess
        model = model.model
    wants, preprocess = _expected(model, preprocess)
    source = source_of(data, preprocess, wants, batched)
    size = checked_size(batch_size, getattr(source, "size", None) or _SIZE)
    work = Work(model, _method(method, options, seed), target, at, classes, on_error == "report")
    _check_targets(work, source)
    used = preprocess if source.kind == "images" else None
    asked = described(work, size, used, source.classified(), name)
    path = Path(out).expanduser()
    _check_place(path, asked, resume)
    with shown(progress, source.length) as show:
        _run(Store(path, size, source.length), source, work, asked, show)
    return load_run(path)


def _expected(
    model: object, preprocess: Preprocess | None
) -> tuple[Expectation, Preprocess | None]:
    """What a model says of its input, and how to prepare images where nobody says."""
    try:
        framework = frameworks.find(model)
    except WhenceError:
        if not callable(model) or isinstance(model, type):
            raise
        return Expectation(), preprocess  # a function of arrays
    wants = framework.expectation(model)
    if preprocess is None:
        grey = "grey" if wants.channels == 1 else "rgb"
        channels = "last" if framework.channels == "last" else "first"
        preprocess = Preprocess(channels=channels, colour=grey)  # type: ignore[arg-type]
    return wants, preprocess


def _method(method: Any, options: Mapping[str, Any], seed: int | None) -> Method:
    if isinstance(method, (list, tuple)):
        raise OptionError("one store holds one method; call explain_dataset once for each")
    made = make(method, options)
    defaults = {f.name: f.default for f in fields(made)}  # type: ignore[arg-type]
    if seed is None or not isinstance(defaults.get("seed"), int):  # LRP's is where it starts
        return made
    return replace(made, seed=seed)  # type: ignore[type-var]


def _check_targets(work: Work, source: Source) -> None:
    if single(work.target) or source.length is None:
        return
    if len(work.target) != source.length:
        raise OptionError(
            f"{len(work.target)} targets were given for {source.length} items: give one for all, "
            "or one an item"
        )


def _check_place(path: Path, asked: Mapping[str, Any], resume: bool) -> None:
    """Refuse what is no store, or the store of another run, before any work is done."""
    if path.is_file():
        raise FileError(f"{path} is a file; out= names a folder, which is the store")
    if Records(path).numbers():
        if not resume:
            raise FileError(
                f"{path} is there already; resume=True goes on with it. Give another out=, or take "
                "it away first"
            )
        found = differences(head_of(path)["run"], asked)
        if found:
            raise refused(path, found)
    elif path.is_dir() and not _is_ours(path):
        raise FileError(f"{path} is a folder that holds something else; give another out=")


def _is_ours(path: Path) -> bool:
    """Whether a folder is empty, or a store that nothing was finished in."""
    if (path / "zarr.json").exists():
        return bool(head_of(path))
    return all(p.name == FOLDER or p.name.startswith(".") for p in path.iterdir())


def _run(store: Store, source: Source, work: Work, asked: Mapping[str, Any], show: Shown) -> None:
    stream = source.parts(store.size, lambda number: number in finished)
    finished: dict[int, Record] = {}
    head = {"format": FORMAT, "run": dict(asked), "complete": False}
    if not store.records.numbers():
        # Read before anything is made, so that bad data leave nothing behind.
        first = next(stream, None)
        if first is None:
            raise InputError("the data hold no samples")
        head["ids"] = "names" if any(isinstance(i, str) for i in first.ids) else "numbers"
        stream = _before(first, stream)
    with store.opened(head):
        finished |= store.finished()
        if store.head["complete"] and len(finished) == _parts(store):
            return
        end = _go(store, stream, source, work, finished, show)
        store.close(end)


def _before(first: Part, stream: Iterator[Part]) -> Iterator[Part]:
    yield first
    yield from stream


def _parts(store: Store) -> int:
    return -(-int(store.head["length"]) // store.size)


def _go(
    store: Store, stream: Iterator[Part], source: Source, work: Work,
    finished: Mapping[int, Record], show: Shown,
) -> int:  # fmt: skip
    """Every part that is not finished; returns how many items there are."""
    end = done = failed = 0
    with _interruptible(store):
        for part in stream:
            end = part.start + part.count
            record = finished.get(part.number)
            if record is None:
                made = explain_part(work, part)
                if part.number == 0:
                    _check_first(made)
                record = store.commit(made, _versions(store, made))
            else:
                _check_same(store, part, record)
            done += record.count
            failed += len(record.failures)
            show(done, source.length, f"{failed} failed" if failed else "")
    if finished and end < (last := max(r.start + r.count for r in finished.values())):
        raise refused(store.path, [f"it holds {last} items, the data {end}"])
    return end


def _check_first(done: Done) -> None:
    """Where the whole first part fails for one reason, so would all that follow."""
    kinds = {type(e) for e in done.errors}
    if len(done.errors) < max(done.part.count, 2) or len(kinds) > 1:
        return
    raise InputError(
        f"none of the first {done.part.count} items could be explained, so the run was not begun. "
        f"The first: {done.failures[0].reason}"
    ) from done.errors[0]


def _check_same(store: Store, part: Part, record: Record) -> None:
    """Refuse data that come in another order, or are others, than when the store was made."""
    if part.count != record.count:
        said = f"part {part.number} had {record.count} items, now {part.count}"
        raise refused(store.path, [said])
    if part.blocks is not None and part.mark != record.mark:
        raise refused(
            store.path,
            [f"item {part.start} is another than it was: the data changed, or their order"],
        )


def _versions(store: Store, done: Done) -> dict[str, str] | None:
    """The versions that a part was made with, where they are not those of the first."""
    first = store.head.get("facts", {}).get("versions")
    if done.facts is None or first is None or done.facts.versions == first:
        return None
    return done.facts.versions


@contextmanager
def _interruptible(store: Store) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(f"what was finished is in {store.path}; the same call goes on with it")
        raise
