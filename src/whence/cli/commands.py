"""The commands: what each takes and prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from cyclopts import App, Parameter

from whence.cli import bar, dataset, explaining, flags, loading, screen, words
from whence.demo import run as run_demo
from whence.images.reading import files_of
from whence.methods.base import Method
from whence.methods.catalogue import methods as catalogue
from whence.models import LoadedModel
from whence.recording import layers as layers_of
from whence.recording import record
from whence.render.words import number, percentage
from whence.tape import Tape, Value

__all__ = ["app"]

T = TypeVar("T")

# What a command takes where nothing is written.
_GOAL, _STORED, _LOOK = flags.Goal(), flags.Stored(), flags.Look()


def _version() -> str:
    try:
        return f"whence {version('whence')}"
    except PackageNotFoundError:  # run from a folder of sources
        return "whence, not installed"


app = App(
    name="whence",
    help=(
        "Where a network's answer came from, and how far to believe that.\n\n"
        "First: whence demo. Every command takes --help, and --debug to see where an error arose."
    ),
    version=_version,
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
)


@app.command
def demo(
    *, framework: flags.Framework = None, out: str = "whence-demo", json: flags.Json = False
) -> None:
    """Explain handwritten digits, some read wrongly, by every method: the first pictures.

    Example: whence demo --out pictures

    Parameters
    ----------
    out
        The folder for the pictures and explanations.
    """
    with bar.pieces(alike=False) as step:
        found = run_demo(loading.demo_framework(framework), out, step)
    files = [str(path) for path in found.files]
    if json:
        screen.say_json({"framework": found.framework, "rows": found.rows(), "files": files})
        return
    screen.say(str(found))
    pictures = [str(path) for path in found.files if path.suffix == ".png"]
    kept = len(files) - len(pictures)
    screen.say(f"\nPictures: {', '.join(pictures)}")
    screen.say(f"Beside them, for whence.load(...): {kept} explanations, an .npz file each.")


@app.command(usage="Usage: whence explain [OPTIONS] MODEL IMAGE...")
def explain(
    model: flags.Model,
    /,
    *images: flags.Images,
    method: flags.Methods = None,
    goal: flags.Goal = _GOAL,
    composite: flags.Composite = None,
    option: flags.Options = None,
    seed: flags.Seed = None,
    out: flags.Out = "whence-explained",
    stored: flags.Stored = _STORED,
    size: flags.Size = None,
    weights: flags.Weights = None,
    framework: flags.Framework = None,
    class_names: flags.ClassNames = None,
    json: flags.Json = False,
) -> None:
    """Explain what a model answers to images.

    With --out NAME.zarr, any number of images go into a store that whence.load
    reads: part after part, so that it fits the memory, and the same command goes
    on where it was killed, interrupted or out of space. Images that cannot be
    explained are named and passed by, and the exit status is then 1.

    Example: whence explain torchvision:resnet18 cat.jpg --target tabby --out cat.png

    Example: whence explain demo:digits six.png --difference 8 6 --method lrp --method saliency

    Example: whence explain keras:ResNet50 photos/ --method rise --seed 3 --out run.zarr
    """
    options = words.options_of(option or [])
    if composite is not None:
        if "composite" in options:
            raise words.UsageError("--composite and --option composite=... were both given.")
        options["composite"] = composite
    methods = explaining.methods_of(method or ["lrp"], options, seed)
    if not images:
        raise words.UsageError("no image was given: name pictures, folders or patterns.")
    place: dataset.Store | explaining.Output
    if dataset.is_store(out):
        place = dataset.store_of(out, methods, stored.batch_size, stored.resume)
    else:
        dataset.check_unused(stored.batch_size, stored.resume, out)
        place = explaining.output_of(out, len(methods))
    with screen.progress() as step:
        step(0, 1, f"loading {model}")
        loaded = loading.named_model(model, weights, framework, class_names)
    asked = _Asked(loaded, images, size, goal, loading.notes_of(loaded, weights), json)
    if isinstance(place, dataset.Store):
        _into_store(asked, place)
    else:
        _into_pictures(asked, place, methods)


@dataclass(frozen=True)
class _Asked:
    """What is explained, whichever way its explanation is kept."""

    loaded: LoadedModel
    images: Sequence[str]
    size: str | None
    goal: flags.Goal
    notes: Sequence[str]
    json: bool

    def target(self, images: int) -> Any:
        """For ``whence.explain``."""
        goal = self.goal
        return words.target_of(
            goal.target or [], goal.difference, goal.neuron, goal.output_name, self.loaded.classes,
            images,
        )  # fmt: skip


def _into_store(asked: _Asked, store: dataset.Store) -> None:
    loaded, layer = asked.loaded, asked.goal.layer
    files = [file for image in asked.images for file in files_of(image)]
    preprocess = loading.preprocess_of(loaded, asked.size)
    target = asked.target(len(files))
    with bar.pieces() as step:
        run, before = dataset.run_dataset(store, loaded, files, preprocess, target, layer, step)
    notes = [*asked.notes, *run.notes]
    if asked.json:
        found = dataset.document(run, before)
        screen.say_json(
            {"model": loaded.spec, "framework": loaded.framework, **found, "notes": notes}
        )
    else:
        screen.say(dataset.told(run, before))
        screen.say_notes(notes)
        screen.say_notes(dataset.failed(run), "failed")
    dataset.check(run)


def _into_pictures(asked: _Asked, output: explaining.Output, methods: Sequence[Method]) -> None:
    loaded, layer = asked.loaded, asked.goal.layer
    with bar.pieces() as step:
        step(0, 1, "reading images")
        batch = loading.image_batch(loaded, asked.images, asked.size)
        explaining.check_count(output, len(batch))
        task = explaining.Task(loaded, batch, methods, asked.target(len(batch)), layer, output)
        rows, files = explaining.run(task, step)
    notes = [*asked.notes, *batch.notes]
    if asked.json:
        screen.say_json(
            {"model": loaded.spec, "framework": loaded.framework, "rows": rows,
             "files": [str(path) for path in files], "notes": notes}
        )  # fmt: skip
        return
    screen.say(_explained(rows))
    screen.say("\nWritten: " + _listed([str(path) for path in files]))
    told = [f"{row['image']}, {row['method']}: {note}" for row in rows for note in row["notes"]]
    screen.say_notes([*notes, *told])


def _explained(rows: list[dict[str, Any]]) -> str:
    head = ("image", "answer", "probability", "method", "explained", "output", "gap", "seconds")
    return screen.table(
        head,
        [
            (
                row["image"],
                row["class"] or "-",
                "-" if row["probability"] is None else percentage(row["probability"]),
                row["method"],
                row["explained"],
                number(row["output"]),
                "-" if row["gap"] is None else percentage(row["gap"]),
                f"{row['seconds']:.2f}",
            )
            for row in rows
        ],
        right=("probability", "output", "gap", "seconds"),
    )


def _listed(files: list[str], most: int = 6) -> str:
    more = f" and {len(files) - most} more" if len(files) > most else ""
    return ", ".join(files[:most]) + more


@app.command(usage="Usage: whence layers [OPTIONS] MODEL [IMAGE]")
def layers(
    model: flags.Model,
    image: flags.Image = None,
    /,
    *,
    look: flags.Look = _LOOK,
    json: flags.Json = False,
) -> None:
    """List a model's layers as they run, by the names that --layer and --neuron take.

    Example: whence layers keras:ResNet50

    Example: whence layers net.py:build --shape 1,3,64,64
    """
    rows = _looked(layers_of, model, image, look)
    if json:
        screen.say_json({"model": model, "layers": [asdict(row) for row in rows]})
    else:
        screen.say(str(rows))


@app.command(usage="Usage: whence tape [OPTIONS] MODEL [IMAGE]")
def tape(
    model: flags.Model,
    image: flags.Image = None,
    /,
    *,
    look: flags.Look = _LOOK,
    json: flags.Json = False,
) -> None:
    """Print what ran when a model was called, operation by operation, as a program.

    Example: whence tape demo:digits

    Example: whence tape torchvision:resnet18 --size 64x64
    """
    found = _looked(record, model, image, look)
    if json:
        screen.say_json({"model": model, "nodes": _nodes(found)})
    else:
        screen.say(str(found))
    found.free()


def _looked(how: Callable[[Any, Any], T], model: str, image: str | None, look: flags.Look) -> T:
    """What a look at a model gives, without what it would answer being of interest."""
    with screen.progress() as step:
        step(0, 2, f"loading {model}")
        loaded = loading.named_model(model, look.weights, look.framework, untrained=True)
        step(1, 2, "running it")
        return loading.looked_at(how, loaded, image, look.size, look.shape)


def _nodes(found: Tape) -> list[dict[str, Any]]:
    def value(v: Value) -> dict[str, Any]:
        return {"name": repr(v), "shape": v.shape, "dtype": v.dtype}

    return [
        {"index": node.index, "kind": str(node.kind), "op": node.op, "layer": node.layer,
         "inputs": [repr(v) for v in node.into], "outputs": [value(v) for v in node.out]}
        for node in found
    ]  # fmt: skip


@app.command
def methods(*, json: flags.Json = False) -> None:
    """List the methods: what each answers, needs, promises and costs, and its paper.

    Example: whence methods --json
    """
    rows = catalogue()
    if not json:
        screen.say(str(rows))
        return
    names = ("name", "question", "needs", "promises", "cost", "paper", "frameworks")
    screen.say_json([{name: getattr(row, name) for name in names} for row in rows])
