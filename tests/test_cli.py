"""Each command's output: what it says, as text and as JSON, and what it writes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import whence
from support_cli import NETS, digit, picture, runner
from whence.cli import screen


@pytest.fixture
def run(capsys):
    return runner(capsys)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder with the models' file and some pictures."""
    folder = tmp_path_factory.mktemp("room")
    (folder / "nets.py").write_text(NETS)
    picture(folder / "a.png")
    picture(folder / "b.png", seed=1)
    digit(folder / "six.png", 372)
    digit(folder / "zero.png", 252)
    return folder


def strict(text: str):
    """JSON without the words that are none: NaN, Infinity."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("command", ["demo", "explain", "layers", "tape", "methods"])
def test_help_shows_an_example(run, command):
    ran = run(command, "--help")
    assert ran.status == 0 and ran.err == ""
    assert f"Example: whence {command}" in ran.out
    assert "--json" in ran.out and "Traceback" not in ran.out


def test_help_lists_the_commands(run):
    for words in ((), ("--help",), ("-h",)):
        ran = run(*words)
        assert ran.status == 0
        for command in ("demo", "explain", "layers", "methods", "tape", "--version", "--debug"):
            assert command in ran.out


def test_version(run):
    assert run("--version").out == f"whence {whence.__version__}\n"


def test_methods_are_the_catalogue(run):
    ran = run("methods")
    assert ran.out == f"{whence.methods()}\n" and ran.err == ""
    rows = strict(run("methods", "--json").out)
    assert [row["name"] for row in rows] == [row.name for row in whence.methods()]
    assert rows[-1].keys() == {
        "name", "question", "needs", "promises", "cost", "paper", "frameworks"
    }  # fmt: skip


def test_layers(run, room):
    ran = run("layers", f"{room}/nets.py:build", "--size", "8x10")
    assert ran.status == 0
    assert [line.split() for line in ran.out.splitlines()] == [
        ["layer", "type", "ops", "output", "parameters"],
        ["conv", "Conv2d", "conv", "1x4x6x8", "112"],
        ["fc", "Linear", "dense", "1x2", "10"],
    ]


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        (["--shape", "2,3,9,9"], [2, 4, 7, 7]),
        (["--size", "9"], [1, 4, 7, 7]),
        (["a.png"], [1, 4, 10, 14]),
        (["a.png", "--size", "6x5"], [1, 4, 4, 3]),
    ],
)
def test_layers_of_the_input_that_was_asked_for(run, room, words, shape):
    words = [str(room / w) if w == "a.png" else w for w in words]
    found = strict(run("layers", f"{room}/nets.py:build", *words, "--json").out)
    assert found["layers"][0] == {
        "name": "conv", "type": "Conv2d", "kinds": ["conv"], "shape": shape, "parameters": 112
    }  # fmt: skip


def test_layers_of_a_model_that_takes_vectors(run, room):
    found = strict(run("layers", f"{room}/nets.py:vector", "--json").out)
    assert [(row["name"], row["shape"]) for row in found["layers"]] == [("0", [1, 2])]


def test_tape_is_a_program(run):
    ran = run("tape", "demo:digits", "--framework", "torch")
    lines = ran.out.splitlines()
    assert ran.status == 0 and ran.err == ""
    assert lines[0] == " 0  %0:float32[1,1,8,8] = input.input()"
    assert "conv.conv2d(%0)  @ conv1" in lines[1]
    assert lines[-1].strip() == f"return output=%{len(lines) - 2}"


def test_tape_for_machines(run):
    nodes = strict(run("tape", "demo:digits", "--framework", "torch", "--json").out)["nodes"]
    assert [n["index"] for n in nodes] == list(range(len(nodes)))
    assert nodes[1]["inputs"] == ["%0"] and nodes[1]["layer"] == "conv1"
    assert nodes[-1]["outputs"] == [
        {"name": f"%{len(nodes) - 1}", "shape": [1, 10], "dtype": "float32"}
    ]
    again = run("tape", "demo:digits", "--framework", "torch", "--json").out
    assert strict(again)["nodes"] == nodes


def test_explain_writes_a_picture_and_says_what_it_found(run, room, tmp_path):
    out = tmp_path / "x.png"
    ran = run("explain", "demo:digits", room / "six.png", room / "zero.png", "--out", out)
    assert ran.status == 0
    head, six, zero, _, written = ran.out.splitlines()
    names = ["image", "answer", "probability", "method", "explained", "output", "gap", "seconds"]
    assert head.split() == names
    assert six.split()[:2] == ["six.png", "8"] and zero.split()[:2] == ["zero.png", "0"]
    assert six.split()[4:6] == ["lrp", "8"]
    assert written == f"Written: {out}"
    assert out.read_bytes()[:4] == b"\x89PNG"
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
    assert "note: it reads light ink on black" in ran.err


def test_explain_into_a_folder_image_by_image(run, room, tmp_path):
    words = ["--method", "lrp", "--method", "saliency", "--out", f"{tmp_path}/new/there.d/"]
    ran = run("explain", "demo:digits", room / "six.png", room / "zero.png", *words, "--json")
    out = tmp_path / "new" / "there.d"
    made = {f"{s}{e}" for s in ("six", "zero") for e in (".png", ".lrp.npz", ".saliency.npz")}
    assert {p.name for p in out.iterdir()} == made
    found = strict(ran.out)
    assert ran.err == "" and {str(out / name) for name in made} == set(found["files"])
    kept = whence.load(out / "zero.lrp.npz")
    row = next(r for r in found["rows"] if r["image"] == "zero.png" and r["method"] == "lrp")
    assert row["output"] == pytest.approx(float(kept.output[0]))
    assert row["target"] == row["answer"] == 0 and row["class"] == "0"
    assert row["probability"] == pytest.approx(0.99, abs=0.01)
    assert row["balance"] < 1e-5
    assert kept.heatmap().shape == (1, 8, 8)


def test_explain_equals_the_library(run, room, tmp_path):
    words = ["--method", "gradient-x-input", "--target", "6", "--out", tmp_path / "e.npz"]
    assert run("explain", "demo:digits", room / "six.png", *words).status == 0
    model = whence.load_model("demo:digits", framework="torch")
    x = whence.images.read(str(room / "six.png"), model.preprocess).x
    own = whence.explain(model.model, x, "gradient-x-input", target=6)
    np.testing.assert_allclose(whence.load(tmp_path / "e.npz").attribution, own.attribution)


def explained(run, room, tmp_path, *words):
    """The JSON rows of one digit, explained with some options."""
    ran = run("explain", "demo:digits", room / "six.png", *words, "--json", "--out",
              tmp_path / "x.npz")  # fmt: skip
    assert ran.status == 0, ran.err
    return strict(ran.out)["rows"], whence.load(tmp_path / "x.npz")


def test_targets_of_each_kind(run, room, tmp_path):
    (eight,), _ = explained(run, room, tmp_path, "--target", "8")
    (six,), _ = explained(run, room, tmp_path, "--target", "6")
    (versus,), _ = explained(run, room, tmp_path, "--difference", "8", "6")
    assert versus["output"] == pytest.approx(eight["output"] - six["output"], abs=1e-5)
    assert versus["target"] is None and six["target"] == 6 and six["answer"] == 8
    (unit,), kept = explained(run, room, tmp_path, "--neuron", "conv3:4:max")
    assert unit["target"] is None and "conv3" in unit["explained"] and kept.output[0] > 0


def test_method_options_composite_and_layer(run, room, tmp_path):
    words = ("--option", "eps=0.25", "--composite", "epsilon", "--layer", "conv2")
    (row,), kept = explained(run, room, tmp_path, *words)
    assert kept.options["eps"] == 0.25 and kept.options["composite"] == "epsilon"
    assert row["layer"] == kept.layer == "conv2"
    assert sorted(kept.attribution.shape) == [1, 8, 8, 32]


def test_an_option_goes_to_the_method_that_has_it(run, room, tmp_path):
    words = ["--method", "lrp", "--method", "saliency", "--option", "eps=0.5", "--json"]
    ran = run("explain", "demo:digits", room / "six.png", *words, "--out", tmp_path / "x.svg")
    lrp, saliency = strict(ran.out)["rows"]
    assert lrp["options"]["eps"] == 0.5 and saliency["options"] == {"reduce": "max"}
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")


def test_class_names_of_a_file_are_used(run, room, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"digit {i}" for i in range(10)))
    (row,), _ = explained(run, room, tmp_path, "--class-names", names, "--target", "digit 6")
    assert (row["class"], row["explained"], row["target"]) == ("digit 8", "digit 6", 6)


def test_a_model_without_preprocessing_takes_the_size_asked_for(run, room, tmp_path):
    words = ["--size", "9x7", "--out", tmp_path / "x.npz"]
    ran = run("explain", f"{room}/nets.py:build", room / "a.png", *words)
    assert ran.status == 0
    assert whence.load(tmp_path / "x.npz").attribution.shape == (1, 3, 9, 7)
    assert "note: its source says nothing of preprocessing" in ran.err
    assert "note: ran " in ran.err


def test_one_of_several_outputs(run, room, tmp_path):
    found = []
    for name in ("a", "1"):
        words = ["--output-name", name, "--target", "1", "--out", tmp_path / "x.npz", "--json"]
        ran = run("explain", f"{room}/nets.py:two", room / "a.png", *words, "--method", "gradient")
        assert ran.status == 0, ran.err
        found.append(whence.load(tmp_path / "x.npz"))
    assert np.abs(found[0].attribution).max() > 0


def test_an_op_without_a_rule_by_the_users_choice(run, room, tmp_path):
    words = ["--option", "unknown=gradient", "--out", tmp_path / "x.npz", "--json"]
    ran = run("explain", f"{room}/nets.py:opaque", room / "a.png", *words)
    assert ran.status == 0
    assert strict(ran.out)["rows"][0]["options"]["unknown"] == "gradient"


def test_random_weights_are_not_passed_off_as_trained(run, room, tmp_path):
    words = ["--weights", "random", "--out", tmp_path / "x.png"]
    ran = run("explain", "demo:digits", room / "six.png", *words)
    assert "note: its weights are random: what it answers means nothing" in ran.err


def test_images_of_one_name_get_files_of_their_own(run, room, tmp_path):
    (tmp_path / "sub").mkdir()
    other = digit(tmp_path / "sub" / "six.png", 407)
    ran = run(
        "explain", "demo:digits", room / "six.png", other, "--out", tmp_path / "out", "--json"
    )
    assert ran.status == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "six-2.lrp.npz", "six-2.png", "six.lrp.npz", "six.png"
    ]  # fmt: skip
    rows = strict(ran.out)["rows"]
    assert [row["class"] for row in rows] == ["8", "3"]


@pytest.mark.parametrize("out", ["out/", "x.png"])
def test_a_target_for_each_image(run, room, tmp_path, out):
    words = ["--target", "3", "--target", "5", "--out", f"{tmp_path}/{out}", "--json"]
    ran = run("explain", "demo:digits", room / "six.png", room / "zero.png", *words)
    assert ran.status == 0, ran.err
    assert [row["target"] for row in strict(ran.out)["rows"]] == [3, 5]


def test_json_has_no_word_that_is_none(capsys):
    screen.say_json({"a": [math.nan, np.float32(np.inf), np.int64(3)], "b": np.ones(2), 1: {2}})
    assert strict(capsys.readouterr().out) == {"a": [None, None, 3], "b": [1.0, 1.0], "1": "{2}"}


def test_tables_spell_out_what_would_move_the_cursor():
    text = screen.table(("name", "n"), [("a\x1b[2Jb\n", "1"), ("c", "22")], right=("n",))
    assert text.splitlines() == [
        "name          n",
        r"a\x1b[2Jb\n   1",
        "c            22",
    ]
