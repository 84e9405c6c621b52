"""The first minute: which digits, which files, which words; in each framework."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import whence
from support_cli import runner
from whence import demo
from whence.errors import FileError, OptionError

FRAMEWORKS = ["torch", pytest.param("tensorflow", marks=pytest.mark.slow)]
PICTURES = {"digits.png", "why-wrong.png", "ledger.png"}


@pytest.fixture(scope="module", params=FRAMEWORKS)
def shown(request, tmp_path_factory):
    """(the demonstration, its folder, the steps it told of)."""
    pytest.importorskip(request.param)
    out = tmp_path_factory.mktemp("demo") / "new" / "pictures"
    steps = []
    found = demo.run(request.param, out, lambda *step: steps.append(step))
    return found, out, steps


def test_some_digits_are_read_wrongly_and_all_are_held_out(shown):
    found, _, _ = shown
    assert found.labels.tolist() == [3, 0, 5, 5, 6, 8]
    assert found.answers.tolist() == [3, 0, 5, 9, 8, 1]
    images, labels = whence.data.digits("test")
    assert labels[found.samples].tolist() == found.labels.tolist()
    seen = whence.load(found.files[-1]).inputs
    np.testing.assert_array_equal(np.ravel(seen), images[found.samples[4]].ravel())


def test_every_method_of_the_catalogue_has_its_file(shown):
    found, out, _ = shown
    names = list(found.explanations)
    composites = {f"lrp-{c}" for c in ("epsilon", "epsilon-plus-flat", "epsilon-alpha2-beta1-flat")}
    rows = {row.name for row in whence.methods() if found.framework in row.frameworks}
    assert set(names) == (rows - {"lrp"}) | composites
    assert {p.name for p in out.iterdir()} >= PICTURES
    assert {p.stem for p in out.glob("*.npz")} == {*names, "why-wrong"}
    assert sorted(found.files) == sorted(out.iterdir())
    for name, explanation in found.explanations.items():
        kept = whence.load(out / f"{name}.npz")
        assert kept.method == name or f"lrp-{kept.options['composite']}" == name
        assert kept.target_names == list("305981")
        np.testing.assert_array_equal(kept.heatmap(), explanation.heatmap())


def test_the_pictures_are_whole(shown):
    from PIL import Image

    for name in PICTURES:
        with Image.open(shown[1] / name) as picture:
            picture.load()
            assert min(picture.size) > 300
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def test_the_difference_is_that_of_the_two_classes(shown):
    answer, right, versus = shown[0].versus
    np.testing.assert_allclose(versus.output, answer.output - right.output, atol=1e-5)
    assert int(answer.target[0]) == 8 and int(right.target[0]) == 6
    assert versus.output[0] > 0


def test_the_ledgers_balance(shown):
    assert shown[0].explanations["lrp-epsilon"].ledger.balance.max() < 1e-5


def test_the_table_says_class_probability_method_gap_and_seconds(shown):
    found, _, _ = shown
    lines = str(found).splitlines()
    assert lines[0].split() == ["digit", "3", "0", "5", "5", "6", "8"]
    assert lines[1].split() == ["class", "3", "0", "5", "9", "8", "1"]
    chances = [f"{p:.0%}" for p in found.probabilities]
    assert lines[2].replace(" %", "%").split() == ["probability", *chances]
    assert lines[3].split() == ["wrong"] * 3
    assert lines[4].split() == ["method", *["gap"] * 6, "seconds"]
    rows = {line.split()[0]: line.replace(" %", "%").split()[1:] for line in lines[5:]
            if line and line.split()[0] in found.explanations}  # fmt: skip
    assert list(rows) == list(found.explanations)
    assert rows["saliency"][:6] == ["-"] * 6
    assert rows["lrp-epsilon"][0] == f"{found.explanations['lrp-epsilon'].gap[0]:.0%}"
    assert all(float(row[-1]) >= 0 for row in rows.values())
    assert max(map(len, lines)) <= 100


def test_it_is_told_how_far_it_is(shown):
    found, _, steps = shown
    done, total, doing = zip(*steps, strict=True)
    assert list(done) == sorted(done) and set(total) == {len(found.explanations) + 3}
    assert done[-1] == total[-1]
    assert set(found.explanations) < set(doing)


@pytest.mark.slow
def test_both_frameworks_tell_the_same(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("tensorflow")
    one, two = (demo.run(name, tmp_path / name) for name in ("torch", "tensorflow"))
    assert one.samples.tolist() == two.samples.tolist()
    for name, found in one.explanations.items():
        other = two.explanations.get(name)
        if other is not None:
            own = found.heatmap()
            scale = np.abs(own).max()
            np.testing.assert_allclose(own / scale, other.heatmap() / scale, atol=1e-4)


def test_at_the_shell(capsys, tmp_path):
    ran = runner(capsys)("demo", "--framework", "torch", "--out", tmp_path / "d")
    assert ran.status == 0 and ran.err == ""
    for name in PICTURES:
        assert str(tmp_path / "d" / name) in ran.out
    assert "explanations, an .npz file each." in ran.out and "wrong   wrong" in ran.out
    ran = runner(capsys)("demo", "--framework", "torch", "--out", tmp_path / "d", "--json")
    held = json.loads(ran.out)
    assert len(held["rows"]) == 6 * (len(whence.methods()) + 2)
    assert held["rows"][0].keys() == {
        "sample", "label", "class", "probability", "method", "gap", "seconds"
    }  # fmt: skip
    assert all(os.path.isfile(path) for path in held["files"])


def test_many_methods_are_spread_over_pictures(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "_COLUMNS", 3)
    demo.run("torch", tmp_path)
    pages = -(-(len(whence.methods()) + 2) // 3)
    wanted = {"digits.png", *(f"digits-{n}.png" for n in range(2, pages + 1))}
    assert {p.name for p in tmp_path.glob("digits*.png")} == wanted


def test_a_place_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FileError, match=r"cannot be written to the folder .*file is not a"):
            demo.run("torch", out)
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(OptionError, match="framework='jax': it is 'torch' or 'tensorflow'"):
        demo.run("jax", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(demo.Path, "mkdir", refuse)
    with pytest.raises(FileError, match=r"the folder .*out cannot be made: Permission denied"):
        demo.run("torch", tmp_path / "out")


@pytest.mark.parametrize("place", ["draw_ledger", "write_whole"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, FileError])
def test_nothing_is_left_of_a_demo_that_was_broken_off(tmp_path, monkeypatch, place, error):
    def broken(*_, **__):
        raise error("planted")

    monkeypatch.setattr(demo, place, broken)
    with pytest.raises(error, match="planted"):
        demo.run("torch", tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []
