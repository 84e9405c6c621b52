"""``whence explain MODEL FOLDER --out run.zarr``: what it says, keeps, refuses and goes on with."""

from __future__ import annotations

import errno
import json
import os
import sys

import numpy as np
import pytest

import whence
import whence.cli.loading
from support_cli import NETS, digit, picture, runner
from whence.cli import dataset as shell
from whence.dataset import explain as engine
from whence.dataset import load_run
from whence.dataset.work import explain_part
from whence.images import Preprocess
from whence.methods.catalogue import make

FAILED, USAGE, INTERRUPTED = 1, 2, 130
LIGHT_INK = "note: it reads light ink on black; give dark ink on white inverted\n"
SIX = 372


@pytest.fixture
def run(capsys):
    return runner(capsys)


@pytest.fixture
def room(tmp_path, monkeypatch):
    """The working directory, with a folder of five digits and the models' file."""
    (tmp_path / "in").mkdir()
    for i in range(5):
        digit(tmp_path / "in" / f"{i}.png", SIX + i)
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def parts(monkeypatch):
    """The numbers of the parts that are really explained, as they come."""
    seen = []

    def noted(work, part):
        seen.append(part.number)
        return explain_part(work, part)

    monkeypatch.setattr(engine, "explain_part", noted)
    return seen


STORE = ("explain", "demo:digits", "in", "--framework", "torch", "--out", "run.zarr")
TWOS = (*STORE, "--batch-size", "2")


def files(store):
    """{path: bytes} of a store."""
    return {p: p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def test_a_folder_of_images_into_a_store(run, room):
    ran = run(*STORE, "--method", "gradient-x-input", "--target", "3")
    assert ran.status == 0
    assert ran.out == (
        "5 of 5 images explained by gradient-x-input.\n\n"
        "Written: run.zarr, for whence.load('run.zarr')\n"
    )
    assert ran.err == LIGHT_INK
    kept = whence.load("run.zarr")
    assert kept.ids == [f"{i}.png" for i in range(5)] and kept.target.tolist() == [3] * 5
    model = whence.load_model("demo:digits", framework="torch")
    x = whence.images.read("in", model.preprocess).x
    own = whence.explain(model.model, x, "gradient-x-input", target=3)
    np.testing.assert_allclose(kept.attribution[:], own.attribution, atol=1e-6)
    np.testing.assert_allclose(kept.output, own.output, rtol=1e-5)
    assert sorted(p.name for p in room.iterdir()) == ["in", "nets.py", "run.zarr"]


def test_a_store_for_machines(run, room):
    (room / "in/3.png").write_bytes(b"no picture")
    ran = run(*TWOS, "--json")
    found = json.loads(ran.out)
    assert ran.status == FAILED and ran.err.count("\n") == 1
    assert found.pop("seconds") > 0
    (failure,) = found.pop("failures")
    assert (failure["index"], failure["id"], failure["stage"]) == (3, "3.png", "reading")
    assert failure["reason"].startswith("FileFormatError: in/3.png is not an image")
    assert found == {
        "model": "demo:digits", "framework": "torch", "store": "run.zarr", "method": "lrp",
        "items": 5, "explained": 4, "explained_before": 0, "notes": [LIGHT_INK[6:-1]],
    }  # fmt: skip


def test_what_fails_is_named_and_the_run_goes_on(run, room, parts, monkeypatch):
    (room / "in/1.png").write_bytes(b"")
    (room / "in/3.png").write_bytes(b"no picture")
    told = (
        f"{LIGHT_INK}"
        "failed: 1.png: FileFormatError: in/1.png is empty (0 bytes). Copy or download it again.\n"
        "failed: 3.png: FileFormatError: in/3.png is not an image that can be read (it begins with "
        "b'no picture'). Give a PNG, JPEG, WebP, GIF, BMP or TIFF file.\n"
        "whence: 2 of 5 images could not be explained; whence.load('run.zarr').failures names "
        "them. The same command passes them by; another --out tries them again.\n"
    )
    ran = run(*TWOS)
    assert (ran.status, ran.err) == (FAILED, told)
    assert ran.out.startswith("3 of 5 images explained by lrp.\n")
    assert whence.load("run.zarr").finished.tolist() == [True, False, True, False, True]
    again = run(*TWOS)
    assert (again.status, again.err) == (FAILED, told) and parts == [0, 1, 2]
    assert again.out.startswith("3 of 5 images explained by lrp (3 of them before).\n")
    monkeypatch.setattr(shell, "_MOST_TOLD", 1)
    heads = [line.split(": ")[:2] for line in run(*TWOS).err.splitlines()]
    assert heads[1:3] == [["failed", "1.png"], ["failed", "and 1 more"]]


def test_an_interrupt_keeps_what_is_finished_and_the_same_command_goes_on(
    run, room, parts, monkeypatch
):
    def interrupted(work, part):
        if part.number == 1:
            raise KeyboardInterrupt
        return explain_part(work, part)

    counted = engine.explain_part
    monkeypatch.setattr(engine, "explain_part", interrupted)
    ran = run(*TWOS)
    assert (ran.status, ran.out) == (INTERRUPTED, "")
    assert ran.err == (
        "whence: interrupted; what was finished is in run.zarr; the same command goes on with it\n"
    )
    assert len(whence.load("run.zarr")) == 2
    monkeypatch.setattr(engine, "explain_part", counted)
    ran = run(*TWOS)
    assert ran.status == 0 and parts == [1, 2]
    assert ran.out.startswith("5 of 5 images explained by lrp (2 of them before).\n")
    assert run(*TWOS[:-3], "whole.zarr", *TWOS[-2:]).status == 0
    kept, whole = whence.load("run.zarr"), whence.load("whole.zarr")
    np.testing.assert_array_equal(kept.attribution[:], whole.attribution[:])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--batch-size 3", "--batch-size is 2 in the store, 3 was asked for"),
        ("--batch-size 2 --target 3", "target is None in the store, [3] was asked for"),
        ("--batch-size 2 --layer conv5", "--layer is None in the store, 'conv5' was asked for"),
        ("--batch-size 2 --option eps=0.5", "eps is None in the store, 0.5 was asked for"),
        ("--batch-size 2 --weights random", "the model's weights are others"),
        ("--batch-size 2 in/1.png", "data: length is 5 in the store, 6 was asked for"),
    ],
)
def test_a_store_of_another_run_is_refused_naming_the_difference(run, room, words, said):
    assert run(*TWOS).status == 0
    before = files(room / "run.zarr")
    ran = run(*STORE, *words.split())
    assert (ran.status, ran.out) == (FAILED, "")
    assert ran.err.startswith("whence: run.zarr holds another run: ") and said in ran.err
    assert ran.err.endswith("Ask for the same to go on with it, or give another --out\n")
    assert files(room / "run.zarr") == before


def test_going_on_can_be_refused(run, room):
    assert run(*TWOS, "--no-resume").status == 0
    ran = run(*TWOS, "--no-resume")
    assert (ran.status, ran.out) == (FAILED, "")
    assert ran.err == (
        "whence: run.zarr is there already; without --no-resume the command goes on with it. Give "
        "another --out, or take it away first\n"
    )
    assert run(*TWOS, "--resume").status == 0


def test_damage_is_done_again_or_said(run, room, parts):
    assert run(*TWOS).status == 0 and parts == [0, 1, 2]
    whole = whence.load("run.zarr").attribution[:]
    chunk = room / "run.zarr/attribution_0/c/1/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-5])
    ran = run(*TWOS)
    assert ran.status == 0 and parts == [0, 1, 2, 1]
    assert ran.out.startswith("5 of 5 images explained by lrp (3 of them before).\n")
    np.testing.assert_array_equal(whence.load("run.zarr").attribution[:], whole)
    (room / "run.zarr/zarr.json").write_text("{")
    ran = run(*TWOS)
    assert (ran.status, ran.out) == (FAILED, "")
    assert ran.err == (
        "whence: run.zarr is a folder with a zarr.json that whence did not write, or that is "
        "damaged\n"
    )


def test_a_full_disk(run, room, parts, monkeypatch):
    from zarr.storage import _local

    real = _local._put

    def put(path, value, exclusive=False):
        if parts == [0, 1]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, value, exclusive)

    monkeypatch.setattr(_local, "_put", put)
    ran = run(*TWOS)
    assert (ran.status, ran.out) == (FAILED, "")
    assert ran.err == (
        "whence: cannot write run.zarr: No space left on device. What was finished before is "
        "kept, and the same command goes on with it\n"
    )
    monkeypatch.setattr(_local, "_put", real)
    assert run(*TWOS).status == 0 and parts == [0, 1, 1, 2]


def test_the_seed_names_the_draws(run, room):
    rise = ("--method", "rise", "--option", "n=8")
    kept = {}
    for name, words in {
        "a": ("--seed", "3"),
        "b": ("--option", "seed=3"),
        "c": ("--seed", "4"),
    }.items():
        ran = run(*STORE[:-1], f"{name}.zarr", *rise, *words)
        assert ran.status == 0, ran.err
        kept[name] = whence.load(f"{name}.zarr").attribution[:]
    np.testing.assert_array_equal(kept["a"], kept["b"])
    assert np.abs(kept["a"] - kept["c"]).max() > 0.01


def test_a_seed_goes_to_the_methods_that_draw(run, room):
    words = ("--method", "lrp", "--method", "rise", "--option", "n=8", "--seed", "3", "--json")
    ran = run("explain", "demo:digits", "in/0.png", *words, "--out", "out/")
    lrp, rise = json.loads(ran.out)["rows"]
    assert lrp["options"]["seed"] == "output" and rise["options"]["seed"] == 3


def test_a_target_for_each_image_of_a_folder(run, room):
    words = [w for c in "86420" for w in ("--target", c)]
    assert run(*STORE, *words).status == 0
    assert whence.load("run.zarr").target.tolist() == [8, 6, 4, 2, 0]


def test_images_of_every_kind_of_name_are_counted_and_brought_to_a_size(run, room):
    picture(room / "a.png")
    picture(room / "b.jpg", (20, 30))
    words = [
        "explain",
        "nets.py:build",
        "a.png",
        "*.jpg",
        "in",
        "--size",
        "9x7",
        "--out",
        "s.ZARR/",
    ]
    ran = run(*words, "--target", "0", "--target", "1")
    assert ran.status == USAGE
    assert "--target was given 2 times for 7 image(s): give it once" in ran.err
    ran = run(*words)
    assert ran.status == 0 and "note: its source says nothing of preprocessing" in ran.err
    kept = whence.load("s.ZARR")
    assert kept.attribution.shape == (7, 3, 9, 7)
    assert kept.ids == ["a.png", "b.jpg", *(f"in/{i}.png" for i in range(5))]
    model = whence.load_model("nets.py:build")
    x = whence.images.read("b.jpg", Preprocess(size=(9, 7))).x
    own = whence.explain(model.model, x, "lrp")
    np.testing.assert_allclose(kept["b.jpg"].attribution, own.attribution, atol=1e-6)


def test_both_frameworks_give_the_same(run, room):
    words = (*STORE[:3], "--framework", "tensorflow", "--out", "tf.zarr")
    assert run(*STORE, "--target", "8").status == 0
    ran = run(*words, "--target", "8")
    assert ran.status == 0, ran.err
    torch, keras = (whence.load(f"{name}.zarr").attribution[:] for name in ("run", "tf"))
    np.testing.assert_allclose(np.moveaxis(keras, 3, 1), torch, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ("--method lrp --method saliency", USAGE, "--out 'run.zarr' holds one method; run the c"),
        ("--batch-size 0", USAGE, "--batch-size 0: give a whole number, 1 or more."),
        ("--batch-size two", USAGE, "--batch-size"),
        ("--seed 3", USAGE, "--seed 3: nothing is drawn at random by lrp."),
        ("--seed -1 --method rise", USAGE, "--seed -1: give a whole number, 0 or more."),
        ("--seed 3 --method rise --option seed=3", USAGE, "--seed and --option seed=... were both"),
        ("--out out/ --batch-size 3", USAGE, "--batch-size without a store: --out 'out/' does not"),
        ("--out x.png --no-resume", USAGE, "--no-resume without a store: --out 'x.png' does not"),
        ("--out nets.py/run.zarr", FAILED, "folder nets.py/run.zarr: nets.py is not a folder"),
        ("--out file.zarr", FAILED, "the folder file.zarr: file.zarr is not a folder"),
        ("--out x.zar", USAGE, "or a .zarr store for very many images"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(
    run, room, monkeypatch, words, status, text
):
    def never(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(whence.cli.loading, "named_model", never)
    (room / "file.zarr").write_text("")
    before = sorted(room.rglob("*"))
    given = words.split()
    ran = run(*(STORE[:-2] if "--out" in given else STORE), *given)
    assert (ran.status, ran.out) == (status, "") and text in ran.err
    assert sorted(room.rglob("*")) == before


def test_without_zarr(run, room, monkeypatch):
    monkeypatch.setattr(whence.cli.loading, "named_model", None)
    monkeypatch.setitem(sys.modules, "zarr", None)
    ran = run(*STORE)
    assert (ran.status, ran.out) == (FAILED, "")
    assert 'needs zarr 3, which is not installed: pip install "whence[data]"' in ran.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("gone/", "there is no file or folder gone"),
        ("*.tif", "the pattern '*.tif' matches no file"),
        ("in --target 77", "none of the first 5 items could be explained, so the run was not"),
        ("in --layer conv9", "no layer on the tape named 'conv9'"),
    ],
)
def test_what_cannot_be_done(run, room, words, text):
    ran = run("explain", "demo:digits", *words.split(), "--out", "run.zarr")
    assert (ran.status, ran.out) == (FAILED, "")
    assert ran.err.startswith("whence: ") and text in ran.err and ran.err.count("\n") == 1
    assert run(*STORE).status == 0  # what is left is not in the way


def test_a_model_that_takes_no_pictures(run, room):
    ran = run("explain", "nets.py:vector", "in", "--out", "run.zarr")
    assert ran.status == FAILED and "takes no pictures" in ran.err
    assert not (room / "run.zarr").exists()


def test_help_tells_of_the_store(run):
    ran = run("explain", "--help")
    assert ran.status == 0
    said = " ".join(ran.out.replace("│", " ").split())
    for text in (
        "With --out NAME.zarr, any number of images go into a store that whence.load reads",
        "the same command goes on where it was killed, interrupted or out of space",
        "photos/ --method rise --seed 3 --out run.zarr",
        "or a .zarr store for one method and any number of images",
        "how many images are explained and written at once",
        "--resume --no-resume",
        "--seed",
    ):
        assert text in said


def test_the_steps_that_a_bar_is_told(room):
    loaded = whence.load_model("demo:digits", framework="torch")
    store = shell.Store(room / "run.zarr", make("lrp", {}), 2)
    images = sorted((room / "in").iterdir())

    def steps():
        told = []
        given = (store, loaded, images, loaded.preprocess, None, None)
        _, before = shell.run_dataset(*given, lambda *words: told.append(words))
        return told, before

    images[1].write_bytes(b"")
    words = "images, 1 failed"
    assert steps() == ([(0, 5, "images"), *((n, 5, words) for n in (2, 4, 5))], 0)
    (room / "run.zarr/parts/000000/000000002.json").unlink()
    # What is passed by is there from the beginning: it says nothing of the pace.
    assert steps() == ([(4, 5, "images"), *((n, 5, words) for n in (4, 4, 5))], 3)
    assert load_run(room / "run.zarr").done == 4
