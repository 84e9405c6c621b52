"""What is written on a command line, as values: sizes, targets, options, class names."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whence.errors import FileError, FileFormatError, WhenceError, unknown
from whence.models.weights import check_file
from whence.targets import Neuron, Target, difference, neuron, output

__all__ = [
    "UsageError", "as_typed", "class_index", "class_names", "neuron_of", "options_of", "shape_of",
    "size_of", "target_of",
]  # fmt: skip


# What an error tells a Python user to write, and what that is at the shell.
_TYPED = (
    (r"whence\.methods\(\) lists", "`whence methods` lists"),
    (r"whence\.layers\(model, x\) lists", "`whence layers MODEL` lists"),
    (r"target=whence\.targets\.output\('?([^',]+)'?, class\)", r"--output-name \1"),
    (r'unknown="gradient"', "--option unknown=gradient"),
    (r"or whence\.neuron\(\.\.\.\)", "or --neuron LAYER:CHANNEL"),
    (r"resume=True goes on with it", "without --no-resume the command goes on with it"),
    (r"(?<=another )out=", "--out"),
    (r"the same call goes on", "the same command goes on"),
    (r"batch_size is (?=.* in the store, )", "--batch-size is "),
    (r"\bat is (?=.* in the store, )", "--layer is "),
)


class UsageError(WhenceError, ValueError):
    """The command line is wrong; whether the work could be done was not even asked."""


def as_typed(text: str) -> str:
    """An error's text with the ways out spelled as one types them at a shell.

    Example:
        >>> as_typed("no layer named 'x'. whence.layers(model, x) lists them.")
        "no layer named 'x'. `whence layers MODEL` lists them."
    """
    for python, shell in _TYPED:
        text = re.sub(python, shell, text)
    return text


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of ``224x320`` or ``224``.

    Example:
        >>> size_of("224x320")
        (224, 320)
    """
    found = re.fullmatch(r"(\d+)(?:[x×](\d+))?", text.strip().lower())
    sides = tuple(int(side or found[1]) for side in found.groups()) if found else ()
    if found is None or min(sides) < 1:
        raise UsageError(f"--size {text!r}: give HEIGHTxWIDTH in pixels, such as 224x224.")
    return sides[0], sides[1]


def shape_of(text: str) -> tuple[int, ...]:
    """The shape written as ``1,3,64,64``, the batch first.

    Example:
        >>> shape_of("1,3,64,64")
        (1, 3, 64, 64)
    """
    parts = re.split(r"[,x×]", text.strip().lower())
    if not all(re.fullmatch(r"\s*[1-9]\d*\s*", part) for part in parts):
        raise UsageError(
            f"--shape {text!r}: give whole numbers above 0, the batch first, such as 1,3,64,64."
        )
    return tuple(int(part) for part in parts)


def options_of(pairs: Sequence[str]) -> dict[str, Any]:
    """``["eps=1e-4", "reduce=max"]`` as a dict: Python's numbers, None, True, tuples; else text.

    Example:
        >>> options_of(["eps=1e-4", "reduce=max"])
        {'eps': 0.0001, 'reduce': 'max'}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            raise UsageError(f"--option {pair!r}: give NAME=VALUE, such as eps=1e-4.")
        if name in found:
            raise UsageError(f"--option {name} was given twice.")
        try:
            found[name] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def neuron_of(text: str) -> Neuron:
    """The unit written as ``LAYER``, ``LAYER:CHANNEL`` or ``LAYER:CHANNEL:POSITION``.

    An empty CHANNEL sums over all; POSITION is ``mean``, ``max``, a number, or ``ROW,COLUMN``.

    Example:
        >>> neuron_of("layer4.1.conv2:37:max").describe()
        'layer4.1.conv2 channel 37 at max'
    """
    place = r"(?P<place>mean|max|-?\d+(?:,-?\d+)*)"
    found = re.fullmatch(rf"(?P<layer>[^:].*?)(?::(?P<channel>-?\d*)(?::{place})?)?", text.strip())
    if found is None or ":" in found["layer"]:
        raise UsageError(
            f"--neuron {text!r}: give LAYER:CHANNEL, such as layer4.1.conv2:37, or "
            "LAYER:CHANNEL:POSITION with mean, max, a number or ROW,COLUMN."
        )
    position: Any = found["place"]
    if position is not None and position not in ("mean", "max"):
        numbers = tuple(int(n) for n in position.split(","))
        position = numbers[0] if len(numbers) == 1 else numbers
    return neuron(found["layer"], int(found["channel"]) if found["channel"] else None, position)


def class_index(text: str, classes: Sequence[str] | None, flag: str) -> int:
    """The number of a class written as its number or its name (case aside where that is enough).

    Raises UsageError for a name where no names are known, UnknownName with the nearest.
    """
    if re.fullmatch(r"\d+", text):
        return int(text)
    if not classes:
        raise UsageError(
            f"{flag} {text!r}: the model's class names are not known; give the class's number, or "
            "its names with --class-names FILE."
        )
    for same in (str, str.casefold):
        found = [i for i, name in enumerate(classes) if same(name) == same(text)]
        if len(found) == 1:
            return found[0]
        if found:
            numbers = ", ".join(map(str, found))
            raise UsageError(f"{flag} {text!r} names several classes: give a number, {numbers}.")
    raise unknown("class", text, classes)


def target_of(
    target: Sequence[str],
    versus: tuple[str, str] | None,
    unit: str | None,
    name: str | None,
    classes: Sequence[str] | None,
    images: int,
) -> Any:
    """What --target, --difference, --neuron and --output-name ask for, for ``whence.explain``.

    A list of class numbers is one for each image.
    """
    asked = {"--target": target, "--difference": versus, "--neuron": unit}
    given = [flag for flag, value in asked.items() if value]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} were given; one number is explained at a time.")
    if unit is not None:
        if name is not None:
            raise UsageError("--output-name is of the model's outputs, --neuron of its layers.")
        return neuron_of(unit)
    if len(target) not in (0, 1, images):
        raise UsageError(
            f"--target was given {len(target)} times for {images} image(s): give it once, or once "
            "an image."
        )
    wanted: list[int] | Target | None = None
    if versus is not None:
        a, b = (class_index(text, classes, "--difference") for text in versus)
        wanted = difference(a, b)
    elif target:
        wanted = [class_index(text, classes, "--target") for text in target]
    return wanted if name is None else output(int(name) if name.isdigit() else name, wanted)


def class_names(path: str | None) -> tuple[str, ...] | None:
    """The names in a file: one a line, or JSON (a list, or an object from number to name).

    Raises FileError, FileFormatError.
    """
    if path is None:
        return None
    file = Path(path).expanduser()
    check_file(file, "class names")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        kind = FileError if isinstance(error, OSError) else FileFormatError
        raise kind(f"cannot read the class names in {file}: {error}") from error
    if file.suffix.lower() != ".json":
        return tuple(line.strip() for line in text.rstrip().splitlines())
    try:
        held = json.loads(text)
    except ValueError as error:
        raise FileFormatError(f"{file} is not JSON: {error}") from error
    if isinstance(held, dict) and set(held) == {str(i) for i in range(len(held))}:
        held = [held[str(i)] for i in range(len(held))]
    if not isinstance(held, list) or not all(isinstance(name, str) for name in held):
        raise FileFormatError(
            f"{file} holds no class names: a list of text, or an object "
            'of numbers from "0" on to text, is wanted.'
        )
    return tuple(held)
