"""Runs to be compared, and a process to be killed in the middle of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from whence.data import digits, digits_model
from whence.dataset import explain as module
from whence.dataset import explain_dataset
from whence.dataset.work import explain_part as plain

IMAGES, LABELS = digits("test")
N = 11
X, Y = IMAGES[:N, None], LABELS[:N]
HERE = Path(__file__).parent
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *(p for p in sys.path if p)])}

PROGRAM = """
import sys
import numpy as np
from support_dataset import killed_run
killed_run(sys.argv[1])
"""


def killed_run(out, known=True):
    """60 digits, five of them broken, in parts of 4; every explained item is noted in a log."""
    x = IMAGES[:60, None].copy()
    x[[7, 21, 22, 40, 59], 0, 3, 3] = np.nan

    def noted(work, part):
        with open(f"{out}.log", "a") as file:
            file.write(f"{part.number}\n")
        return plain(work, part)

    data = (
        {"x": x, "label": LABELS[:60]}
        if known
        else ((a, b) for a, b in zip(x, LABELS[:60], strict=True))
    )
    module.explain_part = noted
    try:
        return explain_dataset(
            digits_model("torch"), data, "lrp", out=out, batch_size=4, target="label",
            progress=False,
        )  # fmt: skip
    finally:
        module.explain_part = plain


def run_of(net, data, out, method="gradient-x-input", **options):
    options.setdefault("batch_size", 4)
    return explain_dataset(net, data, method, out=out, progress=False, **options)


class Counted:
    """A map-style data set that remembers what was asked for."""

    def __init__(self, wrap=None):
        self.wrap, self.seen = wrap or np.array, []

    def __len__(self):
        return N

    def __getitem__(self, index):
        self.seen.append(index)
        return self.wrap(X[index]), int(Y[index])


def start(out):
    """The run in a process of its own, which says when it has imported everything."""
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(out)], env=ENV,
                            stderr=subprocess.PIPE, text=True)  # fmt: skip


def contents(store):
    """{file: bytes} of a store; what says how long it took is left out."""
    found = {}
    for path in sorted(Path(store).rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(store).as_posix()
        held = path.read_bytes()
        if name.startswith("parts/") and name.count("/") == 2:
            held = {k: v for k, v in json.loads(held).items() if k != "seconds"}
        found[name] = held
    return found
