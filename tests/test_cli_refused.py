"""Bad input at the shell: one line on stderr, the exit status, and nothing half-written."""

from __future__ import annotations

import os

import pytest

import whence.cli.commands
import whence.cli.explaining
import whence.data.installed
import whence.storage
from support_cli import NETS, digit, picture, runner

FAILED, USAGE = 1, 2


@pytest.fixture
def run(capsys):
    return runner(capsys)


@pytest.fixture
def room(tmp_path, monkeypatch):
    """The working directory, with the models' file and two pictures."""
    (tmp_path / "nets.py").write_text(NETS)
    picture(tmp_path / "a.png")
    digit(tmp_path / "six.png", 372)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(run, room, words, status, *texts):
    """Run it: status, one line on stderr with these texts, no output, no new file."""
    before = sorted(room.rglob("*"))
    ran = run(*words)
    left = [p for p in sorted(room.rglob("*")) if p not in before and "__pycache__" not in str(p)]
    assert ran.status == status, ran.err
    assert ran.err.startswith("whence: ") and ran.err.count("\n") == 1, ran.err
    said = ran.err.replace('"', "")  # what is quoted differs between releases of the parser
    for text in texts:
        assert text.replace('"', "") in said
    assert ran.out == "" and left == []
    if status == USAGE:
        assert "See: whence" in ran.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("explan", "Unknown command explan. Did you mean explain?"),
        ("explain", "MODEL requires an argument. See: whence explain --help"),
        ("explain demo:digits", "no image was given: name pictures, folders or patterns."),
        ("explain demo:digits six.png --metod lrp", "Did you mean --method?"),
        ("explain demo:digits six.png --method salincy", "did you mean 'saliency'?"),
        ("explain demo:digits six.png --method lrp --method lrp", "each method once"),
        ("explain demo:digits six.png --option foo=1", "no option of lrp named 'foo'. Known: 'co"),
        ("explain demo:digits six.png --option eps", "give NAME=VALUE"),
        ("explain demo:digits six.png --option eps=-1", "eps"),
        ("explain demo:digits six.png --composite epsilom", "no composite named 'epsilom'"),
        ("explain demo:digits six.png --composite epsilon --option composite=epsilon", "both"),
        ("explain demo:digits six.png --method saliency --composite epsilon", "'composite'"),
        ("explain demo:digits six.png --difference 3", "--difference requires 2"),
        ("explain demo:digits six.png --target 3 --difference 3 8", "one number is explained"),
        ("explain demo:digits six.png --target 3 --target 8", "2 times for 1 image(s)"),
        ("explain nets.py:build a.png --target cat", "the model's class names are not known"),
        ("explain demo:digits six.png --neuron :3", "give LAYER:CHANNEL"),
        ("explain demo:digits six.png --size 8by8", "give HEIGHTxWIDTH"),
        ("explain demo:digits six.png --framework jax", "no framework named 'jax'"),
        ("explain demo:digits six.png --out x.jpg", "give a .png or .svg file for a picture"),
        ("explain demo:digits six.png --out x.npz --method lrp --method saliency", "one method"),
        ("layers", "MODEL requires an argument. See: whence layers --help"),
        ("layers nets.py:build --shape 0,3,8,8", "whole numbers above 0, the batch first"),
        ("layers nets.py:build --shape 1,3,8,8 --size 8", "--size and --shape were given"),
        ("tape demo:digits six.png --shape 1,1,8,8", "IMAGE and --shape were given"),
        ("demo --framework jax", "known"),
        ("demo more", "whence demo --help"),
        ("methods --no-json", "--no-json"),
    ],
)
def test_a_command_line_that_is_wrong(run, room, words, text):
    refused(run, room, words.split(), USAGE, *([text] if text != "known" else ["'torch'"]))


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        ("explain demo:digitz six.png", ["no demo model named 'digitz'; did you mean 'digits'?"]),
        ("explain resnet18 six.png", ["no model named 'resnet18'", "'torchvision:resnet18'"]),
        ("explain nets.py:bild a.png", ["no function in", "did you mean 'build'"]),
        ("explain nets.py:no_model a.png", ["str", "not a model"]),
        ("explain nets.py:fails a.png", ["nets.py", "RuntimeError: no weights today"]),
        ("explain gone.py:build a.png", ["there is no file gone.py"]),
        ("explain demo:digits six.png --weights gone.pt", ["there is no file gone.pt"]),
        ("explain demo:digits six.png --class-names gone.txt", ["gone.txt (class names)"]),
        ("explain demo:digits six.png --target 10", ["class 10 was asked for", "0 to 9"]),
        ("explain demo:digits six.png --target eight", ["no class named 'eight'"]),
        ("explain demo:digits six.png --neuron conv9:1", ["'conv9'", "did you mean 'conv", "`whe"]),
        ("explain demo:digits six.png --neuron conv3:99", ["channel 99", "0 to 31"]),
        ("explain demo:digits six.png --layer densw", ["'densw'", "did you mean 'dense'"]),
        ("explain nets.py:two a.png", ["2 outputs (a, b)", "--output-name a"]),
        ("explain nets.py:two a.png --output-name c", ["'c'", "'a', 'b'"]),
        ("explain nets.py:overflows a.png", ["NaN or infinity first appears", "layer fc"]),
        ("explain nets.py:detached a.png", ["does not depend on"]),
        ("explain nets.py:opaque a.png", ["no rule for opaque.cumprod", "node", "--option unkno"]),
        ("explain nets.py:vector a.png", ["takes no pictures", "whence.explain(model, x)"]),
        ("explain demo:digits gone.png", ["there is no file or folder gone.png", "did you mean"]),
        ("explain demo:digits .", ["is not"]),
        ("explain demo:digits *.tif", ["the pattern '*.tif' matches no file"]),
        ("layers nets.py:build", ["size of an input", "--size 224x224"]),
        ("layers nets.py:build --shape 3,8,8", ["without a batch axis"]),
        ("layers nets.py:build --shape 1,8,8,3", ["wants channels first"]),
        ("layers nets.py:build --shape 1,5,8,8", ["wants 3"]),
        ("layers nets.py:build --shape 1,3,2,2", ["the model cannot run on", "(1, 3, 2, 2)"]),
        ("tape demo:digits --shape 1,1,8", ["the input has shape (1, 1, 8)"]),
    ],
)
def test_what_cannot_be_done(run, room, words, texts):
    if words.endswith(" ."):
        (room / "a.png").write_bytes(b"no image at all")
    refused(run, room, words.split(), FAILED, *texts)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "bad.png is empty (0 bytes)"),
        (b"not a picture\n", "bad.png is not an image that can be read"),
        ("cut", "It may be cut short or damaged"),
        ("huge", "million pixels; the limit is 100 million"),
        ("nan", "float pixels in nan"),
    ],
)
def test_pictures_that_are_none(run, room, content, text):
    from PIL import Image

    bad = room / "bad.png"
    if content == "cut":
        bad.write_bytes((room / "a.png").read_bytes()[:300])
    elif content == "huge":
        Image.new("1", (10_001, 10_000)).save(bad)
    elif content == "nan":
        Image.new("F", (4, 4), float("nan")).save(bad, "TIFF")
    else:
        bad.write_bytes(content)
    refused(run, room, ["explain", "demo:digits", "six.png", "bad.png"], FAILED, text)


@pytest.mark.parametrize(
    ("out", "text"),
    [
        ("a.png/sub/", "a.png is not a folder"),
        ("gone/x.png", "cannot write gone/x.png: there is no folder gone"),
        ("a.png/x.png", "there is no folder a.png"),
    ],
)
def test_places_that_cannot_be_written_to(run, room, out, text):
    refused(run, room, ["explain", "demo:digits", "six.png", "--out", out], FAILED, text)


@pytest.mark.parametrize("out", ["new/", "x.png", "x.npz", "new/run.zarr"])
def test_a_folder_without_permission_is_found_before_the_work(run, room, monkeypatch, out):
    def never(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(whence.cli.loading, "named_model", never)
    words = ["explain", "demo:digits", "six.png", "--out", out]
    refused(run, room, words, FAILED, "no permission to write in")


@pytest.mark.parametrize("out", ["new/er/", "x.png", "x.npz"])
def test_a_disk_that_fills_up_leaves_nothing(run, room, monkeypatch, out):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whence.storage.os, "replace", full)
    words = ["explain", "demo:digits", "six.png", "--out", out]
    refused(run, room, words, FAILED, "No space left on device")


@pytest.mark.parametrize(
    ("out", "where"),
    [
        ("new/er/", "explain"),
        ("new/er/", "image_bytes"),
        ("new/er/", "replace"),
        ("x.png", "explain"),
        ("x.png", "image_bytes"),
        ("x.png", "replace"),
        ("x.npz", "explain"),
        ("x.npz", "replace"),
    ],
)
def test_an_interrupt_leaves_nothing(run, room, monkeypatch, out, where):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    place = whence.storage.os if where == "replace" else whence.cli.explaining
    monkeypatch.setattr(place, where, interrupt)
    refused(run, room, ["explain", "demo:digits", "six.png", "--out", out], 130, "interrupted")


def test_too_many_images_for_one_file(run, room):
    words = ["explain", "demo:digits", *(["six.png"] * 17), "--out", "x.png"]
    refused(run, room, words, USAGE, "holds 16 images at most; give a folder for 17")


def test_without_a_framework_the_install_line(run, room, monkeypatch):
    monkeypatch.setattr(whence.data.installed, "is_installed", lambda name: False)
    for words in (["explain", "demo:digits", "six.png"], ["demo"], ["layers", "demo:digits"]):
        refused(run, room, words, FAILED, 'pip install "whence[torch]"')
    refused(run, room, ["demo", "--framework", "tensorflow"], FAILED, "whence[tensorflow]")


def test_a_fault_that_was_not_foreseen_is_one_line_too(run, room, monkeypatch):
    def fault(*_, **__):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(whence.cli.explaining, "explain", fault)
    words = ["explain", "demo:digits", "six.png"]
    refused(run, room, words, FAILED, "ZeroDivisionError: planted (not foreseen; --debug shows")


def test_debug_shows_the_trace_wherever_it_stands(run, room):
    for words in (["--debug", "explain"], ["explain", "--debug"]):
        ran = run(*words, "demo:digits", "six.png", "--target", "77")
        assert ran.status == FAILED
        assert "Traceback (most recent call last)" in ran.err
        assert ran.err.splitlines()[-1].startswith("whence: class 77 was asked for")
    assert "Traceback" in run("explain", "demo:digits", "--debug").err


def test_what_stands_behind_two_dashes_is_a_name(run, room):
    words = ["explain", "demo:digits", "--out", "o", "--", "--debug"]
    refused(run, room, words, FAILED, "there is no file or folder --debug")
