"""What methods of many calls cost beside the calls themselves, loops by hand and other libraries.

python benchmarks/many.py                     # all, to the terminal
python benchmarks/many.py --write             # and into benchmarks/README.md
python benchmarks/many.py --only forward      # gradients, keras, forward, memory, data
python benchmarks/many.py --quick             # small sizes: that it runs, not how fast
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agreement
import cost
import many_forward
import many_gradients
import nets
import peers
import timing

PEERS = (
    ("captum",), ("shap", "slicer", "numba", "llvmlite"), ("lime",),
    ("tf-explain", "opencv-python-headless"),
)  # fmt: skip
"""What is fetched for the run, each with what it needs besides what is here."""

HEAD = ("model", "batch", "method", "who", "time / bare calls", "time", "their time / ours")


def timed(
    base: Callable[[], Any], calls: many_gradients.Calls, rounds: int, labels: tuple[str, ...]
) -> list[tuple[str, ...]]:
    """A line for each function: its time over the bare calls', and over ours."""
    working, failed = {}, {}
    for who, function in calls.items():
        _, why = agreement.tried(function)
        if why:
            failed[who] = why
        else:
            working[who] = function
    found = timing.ratios(base, working, rounds)
    lines = [
        (*labels, who, f"{ratio:.3f}", _time(seconds), f"{ratio / found['whence'][0]:.2f}")
        for who, (ratio, seconds) in found.items()
    ]
    lines += [(*labels, who, "fails", why, "-") for who, why in failed.items()]
    for line in lines:
        print("  ".join(line), flush=True)
    return lines


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def gradients(options: argparse.Namespace) -> str:
    """Integrated gradients and SmoothGrad in PyTorch."""
    name, size, steps = ("resnet18", 64, 8) if options.quick else ("resnet50", 224, 64)
    lines, apart = [], []
    for batch in (1, 4):
        base, paths, smooths = many_gradients.torch_calls(
            name, batch, steps, options.rows, size, options.device
        )
        labels = (f"torch {name}", str(batch))
        lines += timed(base, paths, options.rounds, (*labels, "integrated gradients"))
        lines += timed(base, smooths, options.rounds, (*labels, "SmoothGrad"))
        apart += compared(paths, (*labels, "integrated gradients"))
    return (
        f"{steps} steps or noisy copies at {size} x {size}, {options.rows} rows a call for all.\n\n"
        f"{agreement.table(HEAD, lines)}\n\n{agreement.table(APART, apart)}"
    )


def keras(options: argparse.Namespace) -> str:
    """The same in TensorFlow, and tf-explain with as many steps as fit into one call."""
    name, size, steps = ("MobileNetV2", 224, 8) if options.quick else ("ResNet50", 224, 64)
    lines, apart = [], []
    for batch in (1,) if options.quick else (1, 4):
        base, paths, smooths = many_gradients.keras_calls(name, batch, steps, options.rows, size)
        labels = (f"keras {name}", str(batch))
        lines += timed(base, paths, options.rounds, (*labels, "integrated gradients"))
        lines += timed(base, smooths, options.rounds, (*labels, "SmoothGrad"))
        apart += compared(paths, (*labels, "integrated gradients"))
    try:
        base, paths = many_gradients.tf_explain_calls(name, options.rows, size)
        label = f"integrated gradients, {options.rows} steps"
        lines += timed(base, paths, options.rounds, (f"keras {name}", "1", label))
        note = (
            "tf-explain puts all steps into one call, so it is measured with as many as others have"
            " rows. It looks at equal distances, both ends included, and leaves x - x0 out."
        )
    except Exception as error:  # a peer's failure is a finding, not an end
        note = f"tf-explain is left out: {type(error).__name__}: {str(error)[:90]}"
    return (
        f"{steps} steps or noisy copies at {size} x {size}, {options.rows} rows a call for all. "
        f"{note}\n\n{agreement.table(HEAD, lines)}\n\n{agreement.table(APART, apart)}"
    )


APART = ("model", "batch", "method", "who", "apart")


def compared(calls: many_gradients.Calls, labels: tuple[str, ...]) -> list[tuple[str, ...]]:
    """How far everybody's numbers are from ours."""
    import torch

    ours = torch.as_tensor(calls["whence"]())
    lines = []
    for who, function in calls.items():
        if who == "whence":
            continue
        theirs, why = agreement.tried(function)
        if why:
            lines.append((*labels, who, f"fails: {why}"))
            continue
        gap = agreement.apart(torch.as_tensor(theirs), ours)
        lines.append((*labels, who, agreement.figure(gap)))
    return lines


def forward(options: argparse.Namespace) -> str:
    """Occlusion, RISE, KernelSHAP and LIME in PyTorch."""
    size, draws = (56, 64) if options.quick else (112, 1000)
    setting = many_forward.Setting(size, options.rows, draws, options.device)
    lines, apart = [], []
    for method, (rows, calls) in many_forward.calls(setting).items():
        labels = ("torch resnet18", "1", f"{method}, {rows} calls")
        timing_of = {who: f for who, f in calls.items() if not who.startswith("whence, seed")}
        lines += timed(setting.bare(rows), timing_of, options.rounds, labels)
        apart += compared({w: f for w, f in calls.items() if w != "whence, seed 0"}, labels)
    return (
        f"One picture of {size} x {size}, {options.rows} rows a call where it can be said. Sampled "
        "methods differ by their draws: `whence, seed 1` shows by how much ours does from itself.\n"
        f"\n{agreement.table(HEAD, lines)}\n\n{agreement.table(APART, apart)}"
    )


def prepared(name: str, size: int, rows: int, method: str, steps: int) -> Callable[[], Any]:
    """For a memory measurement: one method with so many steps."""
    _, paths, smooths = many_gradients.torch_calls(name, 1, steps, rows, size)
    return (paths if method == "integrated gradients" else smooths)["whence"]


def memory(options: argparse.Namespace) -> str:
    """Peak memory by the number of steps."""
    name, size = ("resnet18", 64) if options.quick else ("resnet50", 224)
    lines = []
    for method in ("integrated gradients", "SmoothGrad"):
        peaks = [
            timing.peak(prepared, name, size, options.rows, method, steps)
            for steps in (16, 64, 256)
        ]
        lines.append((f"torch {name}", method, *(f"{p:.0f} MB" for p in peaks),
                      f"{peaks[2] / peaks[0]:.2f}"))  # fmt: skip
        print("  ".join(lines[-1]), flush=True)
    head = ("model", "method", "16 steps", "64 steps", "256 steps", "256 / 16")
    return (
        f"What one call adds to the process, {options.rows} rows a call.\n\n"
        f"{agreement.table(head, lines)}"
    )


def data(options: argparse.Namespace) -> str:
    """``explain_dataset`` beside the method alone, batch after batch."""
    import torch

    import whence

    cases = (
        ("resnet50", 224, 8, 4, "integrated-gradients", {"steps": 16}),
        ("resnet18", 112, 256, 16, "gradient", {}),
    )
    if options.quick:
        cases = (("resnet18", 64, 32, 8, "gradient", {}),)
    lines = []
    for name, size, count, batch, method, given in cases:
        model = nets.torch_net(name)
        x = torch.from_numpy(nets.picture(count, "first", size))

        def alone(
            model: Any = model, x: Any = x, batch: int = batch, m: str = method, o: Any = given
        ) -> None:
            for part in x.split(batch):
                whence.explain(model, part, m, **o)

        def stored(
            model: Any = model, x: Any = x, batch: int = batch, m: str = method, o: Any = given
        ) -> None:
            with tempfile.TemporaryDirectory() as folder:
                whence.explain_dataset(
                    model,
                    x,
                    m,
                    out=Path(folder) / "run.zarr",
                    batch_size=batch,
                    progress=False,
                    **o,
                )

        ((ratio, seconds),) = timing.ratios(alone, {"stored": stored}, options.rounds).values()
        what = ", ".join([method, *(f"{k}={v}" for k, v in given.items())])
        lines.append((f"torch {name}", f"{count} x {size} x {size}", str(batch), what,
                      f"{ratio:.3f}", _time(seconds)))  # fmt: skip
        print("  ".join(lines[-1]), flush=True)
    head = ("model", "pictures", "a part", "method", "time / the method alone", "time")
    return agreement.table(head, lines)


SECTIONS = {
    "gradients": ("Integrated gradients and SmoothGrad, PyTorch", gradients),
    "keras": ("Integrated gradients and SmoothGrad, TensorFlow", keras),
    "forward": ("Occlusion, RISE, KernelSHAP, LIME", forward),
    "memory": ("Peak memory by the number of steps", memory),
    "data": ("`whence.explain_dataset`", data),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=list(SECTIONS), choices=list(SECTIONS))
    parser.add_argument("--rounds", type=int, default=None, help="default 3, or 1 with --quick")
    parser.add_argument("--rows", type=int, default=16, help="rows a call of the model")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--quick", action="store_true", help="small sizes, for trying it out")
    parser.add_argument(
        "--write", action="store_true", help="put the tables into benchmarks/README.md"
    )
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = 1 if options.quick else 3
    missing = [f"{name} could not be fetched and is left out." for name in peers.fetch(*PEERS)]
    parts = [cost.machine() + ".", *missing]
    for name in options.only:
        title, make = SECTIONS[name]
        parts.append(f"### {title}\n\n{make(options)}")
    text = "\n\n".join(parts)
    print(text)
    if options.write:
        cost.put(text, "many")


if __name__ == "__main__":
    main()
