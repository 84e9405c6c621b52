"""A run that is killed at any point goes on, loses nothing, repeats nothing, and ends the same."""

from __future__ import annotations

import collections
import errno
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from support_dataset import contents, killed_run, start
from whence.dataset import explain_dataset, load_run
from whence.errors import FileError, FileFormatError

PARTS = 15


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The store of a run that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole") / "run.zarr"
    killed_run(path)
    return path


def finished(store):
    return {p.stem for p in Path(store).glob("parts/*/*.json")}


def explained(store):
    log = Path(f"{store}.log")
    return collections.Counter(map(int, log.read_text().split())) if log.exists() else {}


def wait_for(condition, process):
    end = time.monotonic() + 90
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)


def assert_whole(store, whole, kills):
    assert contents(store) == contents(whole)
    seen = explained(store)
    assert set(seen) == set(range(PARTS))
    # A kill costs one part at most: nothing that was finished is done again.
    assert sum(seen.values()) - PARTS <= kills


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_kill_at_any_point_costs_one_part_at_most(tmp_path, whole):
    store, draw, kills = tmp_path / "run.zarr", random.Random(3), 0
    while True:
        process, before = start(store), sum(explained(store).values())
        aim = draw.randint(2, 5)
        wait_for(lambda n=before + aim: sum(explained(store).values()) >= n, process)
        time.sleep(draw.uniform(0, 0.03))  # in the call, between the chunks, before the record...
        if process.poll() is not None:
            said = process.communicate()[1]
            break
        held = {p.name: p.read_bytes() for p in store.glob("parts/*/*.json")}
        process.kill()
        process.communicate()
        kills += 1
        after = {p.name: p.read_bytes() for p in store.glob("parts/*/*.json")}
        assert held.items() <= after.items()
        if after:
            run = load_run(store)
            assert run.done + len(run.failures) == len(run) == 4 * len(after)
        assert kills < 40
    assert process.returncode == 0, said
    assert kills >= 2
    assert_whole(store, whole, kills)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c(tmp_path, whole):
    store = tmp_path / "run.zarr"
    process = start(store)
    wait_for(lambda: len(finished(store)) >= 3, process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert "KeyboardInterrupt" in said and "the same call goes on with it" in said
    killed_run(store)
    assert_whole(store, whole, 1)


STEPS = ("chunk", "metadata", "record")


class Killed(BaseException):
    """Stands for a death at a chosen point: nothing may catch it."""


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("known", [True, False])
def test_a_death_before_every_single_write(tmp_path, monkeypatch, step, known):
    """Before the n-th file of a kind is put in its place, for every n that there is."""
    whole = tmp_path / "whole.zarr"
    killed_run(whole, known)
    store, count = tmp_path / "run.zarr", {"left": 0}
    real = os.replace

    def rename(source, target, *rest, **more):
        name = str(target)
        kind = "metadata" if name.endswith(".json") else "chunk"
        kind = "record" if "/parts/0" in name else kind
        if kind == step and name.startswith(str(store)):
            count["left"] -= 1
            if count["left"] < 0:
                raise Killed(name)
        return real(source, target, *rest, **more)

    monkeypatch.setattr(os, "replace", rename)
    monkeypatch.setattr(Path, "replace", lambda self, target: rename(self, target))
    deaths = 0
    while True:
        count["left"] = deaths  # so that each run comes further than the one before
        try:
            killed_run(store, known)
            break
        except Killed:
            deaths += 1
        assert deaths < 100
    assert deaths >= 3
    monkeypatch.undo()
    assert contents(store) == contents(whole)


def test_a_full_disk(tmp_path, monkeypatch, whole):
    store, left = tmp_path / "run.zarr", {"bytes": 12_000}
    from zarr.storage import _local

    real = _local._put

    def put(path, value, exclusive=False):
        left["bytes"] -= len(value)
        if left["bytes"] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, value, exclusive)

    monkeypatch.setattr(_local, "_put", put)
    said = "No space left on device. What was finished before is kept, and the same call goes on"
    with pytest.raises(FileError, match=f"cannot write .*{said}"):
        killed_run(store)
    kept = len(finished(store))
    assert 0 < kept < PARTS
    assert load_run(store).done > 0
    monkeypatch.undo()
    killed_run(store)
    assert_whole(store, whole, 1)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(FileError, match=r"cannot write .*run\.zarr: Permission denied"):
            killed_run(tmp_path / "run.zarr")
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"cannot write .*run\.zarr: Not a directory"):
        explain_dataset(
            torch.nn.Linear(3, 2), np.eye(3), "gradient", out=tmp_path / "file/run.zarr"
        )


@pytest.mark.parametrize("harm", ["gone", "cut", "record"])
def test_a_damaged_part_is_seen_and_done_again(tmp_path, whole, harm):
    store = tmp_path / "run.zarr"
    killed_run(store)
    (tmp_path / "run.zarr.log").unlink()
    chunk = store / "attribution_0/c/2/0/0/0"
    if harm == "gone":
        chunk.unlink()
        with pytest.raises(FileFormatError, match="damaged: numbers of item 8 are missing"):
            load_run(store)[8]
    elif harm == "cut":
        chunk.write_bytes(chunk.read_bytes()[:-9])
        with pytest.raises(FileFormatError, match="damaged: attribution_0 cannot be read"):
            load_run(store)[8]
    else:
        (store / "parts/000000/000000002.json").write_bytes(b"")
    killed_run(store)
    assert explained(store) == {2: 1}
    assert contents(store) == contents(whole)


def test_a_wrong_bit_is_seen(tmp_path):
    store = tmp_path / "run.zarr"
    killed_run(store)
    chunk = store / "attribution_0/c/2/0/0/0"
    held = bytearray(chunk.read_bytes())
    held[len(held) // 2] ^= 4
    chunk.write_bytes(held)
    assert load_run(store)[12].attribution.shape == (1, 1, 8, 8)
    with pytest.raises(FileFormatError, match="damaged: attribution_0 cannot be read"):
        load_run(store)[8]


@pytest.mark.skipif(os.name != "posix", reason="locks")
def test_one_process_at_a_time(tmp_path):
    import fcntl

    store = tmp_path / "run.zarr"
    store.mkdir()
    handle = os.open(store, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(FileError, match="being written by another process"):
            killed_run(store)
    finally:
        os.close(handle)
    killed_run(store)
