"""The first minute: digits that a small network read, some wrongly, explained by every method."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whence.data import CLASSES, digits, digits_model
from whence.data.installed import choose_framework, need
from whence.errors import FileError
from whence.methods.averaged import IntegratedGradients
from whence.methods.catalogue import CATALOGUE
from whence.methods.explain import explain
from whence.methods.lrp import LRP
from whence.render import draw_grid, draw_ledger, image_bytes
from whence.render.words import percentage
from whence.result import Explanation
from whence.storage import write_whole
from whence.targets import difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Demonstration", "Step", "check_folder", "folder", "run"]

Step = Callable[[int, int, str], None]
"""Told before each step: how many are done, how many there are, what comes now."""

_SHOWN = (3, 0, 5)  # of these classes the surest digit each: their shape survives 8 x 8 pixels
_WRONG = 3
_PUZZLE = 4  # of these, the mistake for which the two classes are compared: a 6 read as 8
_COMPOSITES = ("epsilon", "epsilon-plus-flat", "epsilon-alpha2-beta1-flat")
_COLUMNS = 12  # methods beside each other in one picture
_STEPS_AFTER = 3  # the difference, the pictures, the files


@dataclass(frozen=True, eq=False)
class Demonstration:
    """What the demo found and wrote; ``str`` of it is the table.

    framework: "torch" or "tensorflow". samples: places of the digits in the held-out split.
    labels: what each digit is, int64 (sample,). explanations: by method name. versus: for one
    digit read wrongly, its class, the right class, and the difference. files: what was written.
    """

    framework: str
    samples: np.ndarray
    labels: np.ndarray
    explanations: Mapping[str, Explanation]
    versus: tuple[Explanation, Explanation, Explanation]
    files: tuple[Path, ...]

    @property
    def answers(self) -> np.ndarray:
        """The class that the network gives each digit, int64 (sample,)."""
        return _answers(self.explanations)

    @property
    def probabilities(self) -> np.ndarray:
        """The network's probability for that class, (sample,)."""
        return _known(next(iter(self.explanations.values())).probability)

    def rows(self) -> list[dict[str, Any]]:
        """One dict for each digit and method, for machines; gap is None where none is promised."""
        answers, probabilities = self.answers, self.probabilities
        return [
            {
                "sample": int(sample),
                "label": CLASSES[self.labels[i]],
                "class": CLASSES[answers[i]],
                "probability": float(probabilities[i]),
                "method": name,
                "gap": None if found.gap is None else float(found.gap[i]),
                "seconds": found.seconds,
            }
            for i, sample in enumerate(self.samples)
            for name, found in self.explanations.items()
        ]

    def __str__(self) -> str:
        answers = self.answers
        width = max(len("probability"), *(len(name) for name in self.explanations))
        judged = ["" if good else "wrong" for good in answers == self.labels]
        lines = [
            _line("digit", [CLASSES[i] for i in self.labels], "", width),
            _line("class", [CLASSES[i] for i in answers], "", width),
            _line("probability", [percentage(p) for p in self.probabilities], "", width),
            _line("", judged, "", width),
            _line("method", ["gap"] * len(answers), "seconds", width),
        ]
        for name, found in self.explanations.items():
            gaps = ["-"] * len(answers) if found.gap is None else [percentage(g) for g in found.gap]
            lines.append(_line(name, gaps, f"{found.seconds:.2f}", width))
        lines += [
            "",
            "gap: by how much a map misses the output that it should add up to; - promises no sum.",
        ]
        return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def run(
    framework: str | None = None,
    out: str | os.PathLike[str] = "whence-demo",
    step: Step | None = None,
) -> Demonstration:
    """Explain held-out digits by every method and write pictures and explanations.

    framework: "torch" or "tensorflow"; None takes the first that is installed. out: the folder
    that gets ``digits.png`` (a row for each digit, a column for each method; ``digits-2.png`` and
    so on where the methods do not fit), ``why-wrong.png`` (one mistaken digit: its class, the right
    one, the difference), ``ledger.png`` and one ``.npz`` for each explanation. It is made if it is
    not there. step: is told of the progress.

    Nothing is written before everything is computed and drawn, and each file is written whole or
    not at all. Raises MissingFramework, OptionError, FileError.

    Example:
        >>> import tempfile
        >>> found = run("torch", tempfile.mkdtemp())
        >>> found.labels.tolist(), found.answers.tolist()
        ([3, 0, 5, 5, 6, 8], [3, 0, 5, 9, 8, 1])
    """
    chosen = choose_framework(framework, "whence demo")
    need("sklearn", "whence demo", '"whence[demo]"')
    path = check_folder(out)
    methods = _methods(chosen)
    total = len(methods) + _STEPS_AFTER
    tell = step or (lambda done, total, doing: None)
    tell(0, total, "loading")
    model = digits_model(chosen)
    samples, labels, x = _choose(model, chosen)
    found = {}
    for done, (name, method) in enumerate(methods.items()):
        tell(done, total, name)
        found[name] = explain(model, x, method, classes=CLASSES)
    tell(len(methods), total, "why-wrong")
    versus = _versus(model, x[_PUZZLE][None], int(_answers(found)[_PUZZLE]), int(labels[_PUZZLE]))
    tell(len(methods) + 1, total, "drawing")
    contents = _pictures(found, versus, x.reshape(-1, 8, 8), labels)
    tell(total - 1, total, "writing")
    files = _write(path, contents, {**found, "why-wrong": versus[2]})
    tell(total, total, "")
    return Demonstration(chosen, samples, labels, found, versus, files)


def _methods(framework: str) -> dict[str, Any]:
    """Every method of the catalogue by its defaults; LRP by the composites that people compare."""
    found: dict[str, Any] = {}
    for row in CATALOGUE.values():
        if framework not in row.frameworks:
            continue
        if row.name == "lrp":
            found |= {f"lrp-{name}": LRP(name) for name in _COMPOSITES}
        else:
            found[row.name] = row.name
    # By itself it would go on until the gap is small, which takes seconds; the table shows the gap.
    found["integrated-gradients"] = IntegratedGradients(steps=64)
    return found


def _choose(model: Any, framework: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, labels and inputs: digits that the network is sure of, then some that it mistakes."""
    images, labels = digits("test")
    x = np.expand_dims(images, 1 if framework == "torch" else -1)
    seen = explain(model, x, "gradient")
    answers, sure = _known(seen.answer), _known(seen.probability)
    good = [int(np.argmax(np.where((labels == c) & (answers == c), sure, 0))) for c in _SHOWN]
    samples = np.array([*good, *np.flatnonzero(answers != labels)[:_WRONG]])
    return samples, labels[samples], x[samples]


def _answers(found: Mapping[str, Explanation]) -> np.ndarray:
    return _known(next(iter(found.values())).answer)


def _known(array: np.ndarray | None) -> np.ndarray:
    if array is None:
        raise TypeError("the digits network gives one number a class, so the answer is known")
    return array


def _versus(model: Any, x: np.ndarray, answer: int, label: int) -> tuple[Any, Any, Any]:
    """Why the class it gave, why the right one, and why the first rather than the second."""
    targets = (answer, label, difference(answer, label))
    a, b, c = (explain(model, x, "lrp", target=t, classes=CLASSES) for t in targets)
    return a, b, c


def _pictures(
    found: Mapping[str, Explanation],
    versus: tuple[Explanation, Explanation, Explanation],
    images: np.ndarray,
    labels: np.ndarray,
) -> dict[str, bytes]:
    """Every picture as the content of its file, by name."""
    paper = 1 - images  # ink dark on white, as it was written
    drawn = {}
    for number, some in enumerate(_even(list(found.values()), _COLUMNS), 1):
        figure = draw_grid(
            some, images=paper, classes=CLASSES, truth=[CLASSES[i] for i in labels], size=1.15,
            title="What in the digit spoke for the answer?",
        )  # fmt: skip
        drawn["digits.png" if number == 1 else f"digits-{number}.png"] = image_bytes(figure)
    puzzle = _why_wrong(versus, paper[_PUZZLE][None], int(labels[_PUZZLE]))
    drawn["why-wrong.png"] = image_bytes(puzzle)
    # The first digit, read rightly: the ordinary case.
    drawn["ledger.png"] = image_bytes(draw_ledger(found["lrp-epsilon"], sample=0))
    return drawn


def _why_wrong(
    versus: tuple[Explanation, Explanation, Explanation], paper: np.ndarray, label: int
) -> Figure:
    answer = CLASSES[int(_known(versus[0].answer)[0])]
    right = CLASSES[label]
    return draw_grid(
        versus, images=paper, classes=CLASSES, truth=[right], sharing="row",
        titles=[f"for {answer}, its answer", f"for {right}, the right one",
                f"for {answer} rather than {right}"],
        title=f"Why is this {right} read as {answer}?",
    )  # fmt: skip


def _even(items: list[Explanation], most: int) -> Iterator[list[Explanation]]:
    """Groups of at most ``most``, as equal as can be."""
    groups = -(-len(items) // most)
    for g in range(groups):
        yield items[len(items) * g // groups : len(items) * (g + 1) // groups]


def _write(
    path: Path, contents: Mapping[str, bytes], explanations: Mapping[str, Explanation]
) -> tuple[Path, ...]:
    with folder(path):
        pictures = [write_whole(path / name, content) for name, content in contents.items()]
        saved = [Path(e.save(path / f"{name}.npz")) for name, e in explanations.items()]
    return (*pictures, *saved)


def _line(name: str, cells: Sequence[str], last: str, width: int) -> str:
    middle = "".join(cell.rjust(8) for cell in cells)
    return f"{name.ljust(width)}{middle}  {last.rjust(7)}".rstrip()


def check_folder(path: str | os.PathLike[str]) -> Path:
    """The folder that results will go to, if it can be made and written to: asked before the work.

    Nothing is made. Raises FileError.
    """
    asked = Path(path).expanduser()
    above = asked
    while not os.path.lexists(above) and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise FileError(
            f"results cannot be written to the folder {asked}: {above} is not a folder."
        )
    if not os.access(above, os.W_OK | os.X_OK):
        raise FileError(
            f"results cannot be written to the folder {asked}: no permission to write in {above}. "
            "Name another with --out (out= in Python)."
        )
    return asked


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """Make a folder to write in; if that fails before anything is in it, it goes again.

    Raises FileError where it cannot be made.
    """
    made = []
    missing = path
    while not os.path.lexists(missing) and missing != missing.parent:
        made.append(missing)
        missing = missing.parent
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield path
    except BaseException as error:
        for each in made:
            with suppress(OSError):
                each.rmdir()  # an empty folder only
        if isinstance(error, OSError) and not isinstance(error, FileError):
            reason = error.strerror or error
            raise FileError(f"the folder {path} cannot be made: {reason}.") from error
        raise
