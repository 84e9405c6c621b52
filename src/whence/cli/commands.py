"""The commands: what each takes and prints."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cyclopts import App, Parameter

from whence.cli import explaining, flags, loading, screen, words
from whence.demo import run as run_demo
from whence.methods.catalogue import methods as catalogue
from whence.recording import layers as layers_of
from whence.recording import record
from whence.render.words import number, percentage
from whence.tape import Tape, Value

__all__ = ["app"]


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
    with screen.progress() as step:
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
    target: flags.Target = None,
    difference: flags.Difference = None,
    neuron: flags.Neuron = None,
    output_name: flags.OutputName = None,
    layer: flags.Layer = None,
    composite: flags.Composite = None,
    option: flags.Options = None,
    out: flags.Out = "whence-explained",
    size: flags.Size = None,
    weights: flags.Weights = None,
    framework: flags.Framework = None,
    class_names: flags.ClassNames = None,
    json: flags.Json = False,
) -> None:
    """Explain what a model answers to images.

    Example: whence explain torchvision:resnet18 cat.jpg --target tabby --out cat.png

    Example: whence explain demo:digits six.png --difference 8 6 --method lrp --method saliency
    """
    options = words.options_of(option or [])
    if composite is not None:
        if "composite" in options:
            raise words.UsageError("--composite and --option composite=... were both given.")
        options["composite"] = composite
    methods = explaining.methods_of(method or ["lrp"], options)
    if not images:
        raise words.UsageError("no image was given: name pictures, folders or patterns.")
    output = explaining.output_of(out, len(methods))
    with screen.progress() as step:
        step(0, len(methods), f"loading {model}")
        loaded = loading.named_model(model, weights, framework, class_names)
        batch = loading.image_batch(loaded, images, size)
        explaining.check_count(output, len(batch))
        goal = words.target_of(
            target or [], difference, neuron, output_name, loaded.classes, len(batch)
        )
        task = explaining.Task(loaded, batch, methods, goal, layer, output)
        rows, files = explaining.run(task, step)
    notes = [*loading.notes_of(loaded, weights), *batch.notes]
    if json:
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
    size: flags.Size = None,
    shape: flags.Shape = None,
    weights: flags.LookWeights = None,
    framework: flags.Framework = None,
    json: flags.Json = False,
) -> None:
    """List a model's layers as they run, by the names that --layer and --neuron take.

    Example: whence layers keras:ResNet50

    Example: whence layers net.py:build --shape 1,3,64,64
    """
    with screen.progress() as step:
        step(0, 2, f"loading {model}")
        loaded = loading.named_model(model, weights, framework, untrained=True)
        step(1, 2, "running it")
        rows = loading.looked_at(layers_of, loaded, image, size, shape)
    if json:
        screen.say_json({"model": loaded.spec, "layers": [asdict(row) for row in rows]})
    else:
        screen.say(str(rows))


@app.command(usage="Usage: whence tape [OPTIONS] MODEL [IMAGE]")
def tape(
    model: flags.Model,
    image: flags.Image = None,
    /,
    *,
    size: flags.Size = None,
    shape: flags.Shape = None,
    weights: flags.LookWeights = None,
    framework: flags.Framework = None,
    json: flags.Json = False,
) -> None:
    """Print what ran when a model was called, operation by operation, as a program.

    Example: whence tape demo:digits

    Example: whence tape torchvision:resnet18 --size 64x64
    """
    with screen.progress() as step:
        step(0, 2, f"loading {model}")
        loaded = loading.named_model(model, weights, framework, untrained=True)
        step(1, 2, "running it")
        found = loading.looked_at(record, loaded, image, size, shape)
    if json:
        screen.say_json({"model": loaded.spec, "nodes": _nodes(found)})
    else:
        screen.say(str(found))
    found.free()


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
