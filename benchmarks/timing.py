"""Ratios of times and of peak memory, measured in one run so that a noisy machine cancels out."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import resource
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["peak", "ratios"]


def ratios(
    base: Callable[[], Any], others: dict[str, Callable[[], Any]], rounds: int = 7
) -> dict[str, tuple[float, float]]:
    """Each function's time over the base's: (median ratio, seconds).

    In every round each function runs once, the base before and after, so a machine that slows down
    for a while slows both sides of a ratio.
    """
    for function in (base, *others.values()):
        function()  # warm up: threads, kernels, traced graphs
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in others}
    for _ in range(rounds):
        before = _seconds(base)
        for name, function in others.items():
            own = _seconds(function)
            after = _seconds(base)
            found[name].append((own / ((before + after) / 2), own))
            before = after
    return {
        name: (statistics.median(r for r, _ in runs), statistics.median(s for _, s in runs))
        for name, runs in found.items()
    }


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> float:
    """Megabytes that one call needs beyond what was there before it, in a process of its own.

    ``prepare(*arguments)`` builds the model and returns the function to measure.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(theirs, prepare, arguments))
    process.start()
    theirs.close()
    try:
        return float(ours.recv())
    finally:
        process.join()


def _measure(
    pipe: Any, prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]
) -> None:
    function = prepare(*arguments)
    _give_back()
    done = threading.Event()
    seen = [_resident()]
    before = seen[0]

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(_resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    function()
    done.set()
    watcher.join()
    pipe.send(max(seen) - before)


def _give_back() -> None:
    """Return what was freed to the system: a call served from it would seem to need none."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def _resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6
