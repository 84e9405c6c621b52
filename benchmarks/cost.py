"""What an explanation costs, in input gradients of the same model: time and peak memory.

python benchmarks/cost.py                     # the table, to the terminal
python benchmarks/cost.py --write             # and into benchmarks/README.md
python benchmarks/cost.py --peers             # beside captum and zennit, fetched for the run
python benchmarks/cost.py --only resnet50 --batch 1 --device cuda
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agreement
import nets
import peers
import timing

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "guided-backpropagation": ("guided-backpropagation", {}),
    "deconvolution": ("deconvolution", {}),
    "lrp epsilon": ("lrp", {"composite": "epsilon"}),
    "lrp epsilon, no ledger": ("lrp", {"composite": "epsilon", "ledger": False}),
    "lrp epsilon-plus-flat": ("lrp", {"composite": "epsilon-plus-flat"}),
    "lrp gamma": ("lrp", {"composite": "gamma"}),
    "lrp epsilon-gamma-box": ("lrp", {"composite": "epsilon-gamma-box", "low": -6.0, "high": 6.0}),
    "lrp epsilon-alpha2-beta1": ("lrp", {"composite": "epsilon-alpha2-beta1"}),
    "lrp attn-lrp": ("lrp", {"composite": "attn-lrp"}),
    "deeplift": ("deeplift", {}),
}
"""What is measured: a name for the table -> method and options."""


def torch_calls(
    name: str, batch: int, device: str
) -> tuple[Callable[[], Any], dict[str, Callable[[], Any]]]:
    """The framework's own input gradient, and what is measured against it."""
    import torch

    import whence

    model = nets.torch_net(name).to(device)
    x = torch.from_numpy(nets.picture(batch, "first")).to(device)

    def settle(thing: Any) -> Any:
        if device == "cuda":
            torch.cuda.synchronize()
        return thing

    def base() -> Any:
        given = x.clone().requires_grad_()
        out = model(given)
        chosen = out.gather(1, out.argmax(1, keepdim=True)).sum()
        return settle(torch.autograd.grad(chosen, given)[0])

    def forward() -> Any:
        with torch.no_grad():
            return settle(model(x))

    calls: dict[str, Callable[[], Any]] = {
        "forward alone": forward,
        "recording": lambda: settle(whence.record(model, x, lean=True)),
        "gradient": lambda: settle(whence.explain(model, x, "gradient")),
    }
    calls |= {
        name: lambda m=m, o=o: settle(whence.explain(model, x, m, **o))
        for name, (m, o) in METHODS.items()
    }
    return base, calls


def text_calls(
    name: str, batch: int, device: str
) -> tuple[Callable[[], Any], dict[str, Callable[[], Any]]]:
    """The same for token ids: the gradient at their embeddings."""
    import torch

    import whence

    model, ids = nets.bert(batch)
    model, ids = model.to(device), ids.to(device)

    def base() -> Any:
        given = model.get_input_embeddings()(ids).detach().requires_grad_()
        out = model(inputs_embeds=given).logits
        return torch.autograd.grad(out.gather(1, out.argmax(1, keepdim=True)).sum(), given)[0]

    def forward() -> Any:
        with torch.no_grad():
            return model(ids)

    return base, {
        "forward alone": forward,
        "lrp epsilon": lambda: whence.explain(model, ids, "lrp", composite="epsilon"),
        "lrp attn-lrp": lambda: whence.explain(model, ids, "lrp", composite="attn-lrp"),
        "deeplift": lambda: whence.explain(model, ids, "deeplift"),
    }


def tensorflow_calls(
    name: str, batch: int, device: str
) -> tuple[Callable[[], Any], dict[str, Callable[[], Any]]]:
    import tensorflow as tf

    import whence

    model = nets.keras_net(name)
    x = tf.constant(nets.picture(batch, "last"))

    @tf.function
    def compiled(given: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(given)
            out = model(given, training=False)
            chosen = tf.reduce_sum(tf.reduce_max(out, axis=1))
        return tape.gradient(chosen, given)

    calls = {"gradient": lambda: whence.explain(model, x, "gradient")}
    calls |= {
        name: lambda m=m, o=o: whence.explain(model, x, m, **o) for name, (m, o) in METHODS.items()
    }
    return lambda: compiled(x).numpy(), calls


def made(
    framework: str, name: str, batch: int, device: str
) -> tuple[Callable[[], Any], dict[str, Callable[[], Any]]]:
    """The base and what is measured against it, for any model."""
    if framework == "tensorflow":
        return tensorflow_calls(name, batch, device)
    return (text_calls if name in nets.TEXT else torch_calls)(name, batch, device)


def prepared(framework: str, name: str, batch: int, device: str, what: str) -> Callable[[], Any]:
    """For a memory measurement: one function, ready to be called.

    TensorFlow keeps what it freed, so that a second call seems to need nothing: its first is
    measured, with the tracing, and so is that of its gradient.
    """
    base, calls = made(framework, name, batch, device)
    return base if what == "input gradient" else calls[what]


def measure(
    framework: str, name: str, batch: int, arguments: argparse.Namespace
) -> list[tuple[str, ...]]:
    base, calls = made(framework, name, batch, arguments.device)
    if arguments.peers and name in nets.TORCH:
        calls |= peers.calls(name, batch, arguments.device)
    times = timing.ratios(base, calls, arguments.rounds)
    rows = []
    whole = (
        None
        if arguments.no_memory
        else timing.peak(prepared, framework, name, batch, arguments.device, "input gradient")
    )
    for what, (ratio, seconds) in times.items():
        memory = "-"
        if whole and what not in ("forward alone",) and what not in peers.NAMES:
            peak = timing.peak(prepared, framework, name, batch, arguments.device, what)
            memory = f"{peak / whole:.2f}"
        rows.append(
            (
                f"{framework} {name}",
                str(batch),
                what,
                f"{ratio:.2f}",
                f"{seconds * 1000:.0f} ms",
                memory,
            )
        )
        print("  ".join(rows[-1]), flush=True)
    return rows


def table(rows: list[tuple[str, ...]]) -> str:
    head = (
        "model",
        "batch",
        "what",
        "time / input gradient",
        "time",
        "peak memory / input gradient",
    )
    return agreement.table(head, rows)


def import_time() -> str:
    code = "import time; t=time.perf_counter(); import whence; print(time.perf_counter()-t)"
    runs = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(7)]
    return f"`import whence`: {min(runs):.3f} s (best of 7)"


def machine() -> str:
    from importlib.metadata import PackageNotFoundError, version

    def of(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"{name} absent"

    packages = ", ".join(of(n) for n in ("whence", "torch", "tensorflow-cpu", "keras", "numpy"))
    python = platform.python_version()
    return f"{os.cpu_count()} cores ({platform.machine()}), Python {python}, {packages}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        nargs="*",
        default=[*nets.TORCH, *nets.TEXT, *nets.TENSORFLOW],
        help="models to measure",
    )
    parser.add_argument("--batch", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--peers",
        action="store_true",
        help="captum and zennit, fetched into a folder of the run's own",
    )
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument(
        "--write", action="store_true", help="put the table into benchmarks/README.md"
    )
    arguments = parser.parse_args()
    if arguments.peers:
        peers.fetch_all()
    rows: list[tuple[str, ...]] = []
    for name in arguments.only:
        framework = "tensorflow" if name in nets.TENSORFLOW else "torch"
        for batch in arguments.batch:
            rows += measure(framework, name, batch, arguments)
    text = "\n\n".join([machine() + ". " + import_time() + ".", table(rows)])
    if arguments.peers:
        text += "\n\n" + peers.differences()
    print(text)
    if arguments.write:
        put(text, "peers" if arguments.peers else "cost")


def put(text: str, section: str) -> None:
    """Replace what stands between a section's markers in the README."""
    path = Path(__file__).with_name("README.md")
    begin, end = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
    before, _, rest = path.read_text().partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


if __name__ == "__main__":
    main()
