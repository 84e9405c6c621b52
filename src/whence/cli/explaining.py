"""``whence explain``: images through a model, and what comes out as files and rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from whence import frameworks
from whence.cli.bar import Step
from whence.cli.words import UsageError
from whence.demo import check_folder, folder
from whence.errors import FileError, OptionError, UnknownName
from whence.images import Images
from whence.ledger import Leak
from whence.methods.base import Method
from whence.methods.catalogue import CATALOGUE, make
from whence.methods.explain import explain
from whence.models import LoadedModel
from whence.render import draw, draw_grid, image_bytes
from whence.render.files import SUFFIXES
from whence.result import Explanation
from whence.storage import write_whole

__all__ = ["Output", "Task", "check_count", "methods_of", "output_of", "rows_of", "run"]

_MOST = 16  # images in one file: more is a picture nobody can read, and needs much memory
_LARGE = 32  # pixels on a side
_WORTH_TELLING = 0.05  # share of the answer that one operation absorbs


@dataclass(frozen=True)
class Output:
    """Where results go. kind: "picture" or "npz" (one file for all images), or "folder"."""

    path: Path
    kind: str


@dataclass(frozen=True)
class Task:
    """One call of the command, with everything understood."""

    loaded: LoadedModel
    images: Images
    methods: Sequence[Method]
    target: Any
    layer: str | None
    output: Output


def methods_of(
    names: Sequence[str], options: dict[str, Any], seed: int | None = None
) -> list[Method]:
    """The methods with their options; an option goes to each method that has it.

    seed: for those that draw at random. Raises UsageError for a method, an option or a value that
    is not known, and for a seed where nothing is drawn.
    """
    names = [("lrp" if name == "auto" else name) for name in names]
    if len(set(names)) < len(names):
        raise UsageError(f"--method: {', '.join(names)}: each method once.")
    if seed is not None and "seed" in options:
        raise UsageError("--seed and --option seed=... were both given.")
    if seed is not None and seed < 0:
        raise UsageError(f"--seed {seed}: give a whole number, 0 or more.")
    kinds = {name: CATALOGUE[name].make for name in names if name in CATALOGUE}
    takes = {n: {f.name for f in fields(k)} for n, k in kinds.items()}  # type: ignore[arg-type]
    strange = {k: v for k, v in options.items() if not any(k in own for own in takes.values())}
    drawing = {name for name, kind in kinds.items() if _draws(kind)}

    def own(name: str) -> dict[str, Any]:
        taken = {k: v for k, v in options.items() if k in takes.get(name, ())} | strange
        return taken if seed is None or name not in drawing else {**taken, "seed": seed}

    try:
        made = [make(name, own(name)) for name in names]
    except (UnknownName, OptionError) as error:
        raise UsageError(str(error)) from error
    if seed is not None and not drawing:
        raise UsageError(f"--seed {seed}: nothing is drawn at random by {', '.join(names)}.")
    return made


def _draws(kind: Any) -> bool:
    """Whether a method has random draws to be named: what LRP calls its seed is something else."""
    return any(f.name == "seed" and isinstance(f.default, int) for f in fields(kind))


def output_of(text: str, methods: int) -> Output:
    """What --out means, checked before any work is done.

    Raises UsageError for a kind of file that is not written, or more methods than fit one;
    FileError for a place that cannot be written to.
    """
    path = Path(text).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir() or text.endswith("/") or not suffix:
        return Output(check_folder(path), "folder")
    if suffix not in (*SUFFIXES, ".npz"):
        raise UsageError(
            f"--out {text!r}: give a .png or .svg file for a picture, an .npz file for the "
            "numbers, a folder (with / at its end) for both, or a .zarr store for very many images."
        )
    if not path.parent.is_dir():
        raise FileError(f"cannot write {path}: there is no folder {path.parent}.")
    check_folder(path.parent)
    if suffix == ".npz" and methods > 1:
        raise UsageError(f"--out {text!r} holds one method; give a folder for {methods}.")
    return Output(path, "npz" if suffix == ".npz" else "picture")


def check_count(output: Output, images: int) -> None:
    """UsageError for more images than one file holds."""
    if output.kind != "folder" and images > _MOST:
        raise UsageError(
            f"--out {str(output.path)!r} holds {_MOST} images at most; give a folder for {images}."
        )


def run(task: Task, step: Step) -> tuple[list[dict[str, Any]], list[Path]]:
    """Explain and write; returns a row for each image and method, and the files.

    Into a folder, image by image, so that any number of them fits the memory; into one file, all
    at once.
    """
    if task.output.kind != "folder":
        found = _explain(task, range(len(task.images)), step, 0)
        step(1, 1, "writing")
        return rows_of(task, found, range(len(task.images))), [_one_file(task, found)]
    rows: list[dict[str, Any]] = []
    files: list[Path] = []
    stems = _stems(task.images)
    with folder(task.output.path) as out:
        for i in range(len(task.images)):
            found = _explain(task, range(i, i + 1), step, i)
            files.append(write_whole(out / f"{stems[i]}.png", _picture(task, found, [i])))
            files += [Path(e.save(out / f"{stems[i]}.{e.method}.npz")) for e in found]
            rows += rows_of(task, found, [i])
    return rows, files


def _explain(task: Task, which: range, step: Step, done: int) -> list[Explanation]:
    framework = frameworks.by_name(task.loaded.framework)
    x = framework.convert(task.images.x[which.start : which.stop], task.loaded.model)
    target, each = task.target, len(task.methods)
    total = each * (len(task.images) if task.output.kind == "folder" else 1)
    if isinstance(target, list) and len(target) > 1:
        target = target[which.start : which.stop]
    found = []
    for number, method in enumerate(task.methods):
        step(done * each + number, total, f"{method.name}, {_shown(task, which)}")
        found.append(
            explain(task.loaded.model, x, method, target=target, at=task.layer,
                    classes=task.loaded.classes)
        )  # fmt: skip
    return found


def _shown(task: Task, which: range) -> str:
    return task.images.names[which.start] if len(which) == 1 else f"{len(which)} images"


def _one_file(task: Task, found: Sequence[Explanation]) -> Path:
    path = task.output.path
    if task.output.kind == "npz":
        return Path(found[0].save(path))
    kind = path.suffix.lower()[1:]
    return write_whole(path, _picture(task, found, range(len(task.images)), kind))


def _picture(
    task: Task, found: Sequence[Explanation], which: Sequence[int], kind: str = "png"
) -> bytes:
    words: dict[str, Any] = {
        "images": [task.images.seen[i] for i in which],
        "names": [task.images.names[i] for i in which],
        "classes": task.loaded.classes,
        "title": task.loaded.name,
    }
    if len(found) > 1:
        # Few large pixels are seen best alone; many small ones with the picture below them.
        large = max(task.images.x.shape[2:]) > _LARGE
        grid = draw_grid(found, style="overlay" if large else "map", size=1.9, **words)
        return image_bytes(grid, kind)
    return image_bytes(draw(found[0], **words), kind)


def _stems(images: Images) -> list[str]:
    """A file name for each image without its suffix, told apart where two have the same."""
    made: list[str] = []
    for name in images.names:
        stem, number = Path(name).stem or "image", 2
        while stem in made:
            stem, number = f"{Path(name).stem}-{number}", number + 1
        made.append(stem)
    return made


def rows_of(task: Task, found: Sequence[Explanation], which: Sequence[int]) -> list[dict[str, Any]]:
    """One dict for each image and method: what was explained, and how far to believe it."""
    rows = []
    for k, i in enumerate(which):
        for e in found:
            index = None if e.answer is None else int(e.answer[k])
            rows.append(
                {
                    "image": task.images.names[i],
                    "path": str(task.images.paths[i]),
                    "method": e.method,
                    "options": e.options,
                    "layer": e.layer or None,
                    "target": None if isinstance(e.target, str) else int(e.target[k]),
                    "explained": e.target_names[k],
                    "output": float(e.output[k]),
                    "answer": index,
                    "class": None if index is None else task.loaded.label(index),
                    "probability": None if e.probability is None else float(e.probability[k]),
                    "gap": None if e.gap is None else float(e.gap[k]),
                    "balance": None if e.ledger is None else float(e.ledger.balance[k]),
                    "seconds": e.seconds / len(which),
                    "notes": [*e.notes, *_leak(e, k)],
                }
            )
    return rows


def _leak(e: Explanation, sample: int) -> list[str]:
    """Where most of a sample's answer was absorbed, if that is much of it."""
    if e.ledger is None:
        return []
    seed = abs(float(e.ledger.seed[sample])) or 1.0
    leaks = [
        Leak(row, reason, abs(float(np.broadcast_to(amount, e.ledger.seed.shape)[sample])) / seed)
        for row in e.ledger.rows
        for reason, amount in row.absorbed.items()
    ]
    worst = max(leaks, key=lambda leak: leak.share, default=None)
    return [str(worst)] if worst is not None and worst.share > _WORTH_TELLING else []
