"""What is typed, as values; and what is not understood, said in one sentence."""

from __future__ import annotations

import json

import pytest

from whence.cli.words import (
    UsageError,
    as_typed,
    class_index,
    class_names,
    neuron_of,
    options_of,
    shape_of,
    size_of,
    target_of,
)
from whence.errors import FileError, FileFormatError, UnknownName
from whence.targets import difference, neuron, output


@pytest.mark.parametrize(
    ("text", "size"), [("224", (224, 224)), ("3x40", (3, 40)), (" 10X20 ", (10, 20))]
)
def test_sizes(text, size):
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "x", "0", "0x4", "3x", "-3x4", "3.5", "3x4x5", "wide"])
def test_sizes_that_are_none(text):
    with pytest.raises(UsageError, match=r"--size .*: give HEIGHTxWIDTH in pixels, such as"):
        size_of(text)


def test_shapes():
    assert shape_of("1,3,64,32") == (1, 3, 64, 32)
    assert shape_of("2x5") == (2, 5)
    for text in ("", "1,,3", "0,3", "1,-3", "a,b", "1.5,3"):
        with pytest.raises(UsageError, match=r"--shape .*whole numbers above 0, the batch first"):
            shape_of(text)


def test_options_are_numbers_where_they_look_like_it():
    found = options_of(["eps=1e-4", "root=nearest", "unknown=None", "my-flag=True", "q='3'", "e="])
    assert found == {
        "eps": 1e-4, "root": "nearest", "unknown": None, "my_flag": True, "q": "3", "e": "",
    }  # fmt: skip
    for wrong in ("eps", "=3", "a b=3"):
        with pytest.raises(UsageError, match=r"--option .*: give NAME=VALUE"):
            options_of([wrong])
    with pytest.raises(UsageError, match="--option eps was given twice"):
        options_of(["eps=1", "eps=2"])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("layer4.1.conv2:37", neuron("layer4.1.conv2", 37)),
        ("fc", neuron("fc")),
        ("block:3:max", neuron("block", 3, "max")),
        ("block::mean", neuron("block", None, "mean")),
        ("block#2:3:4,5", neuron("block#2", 3, (4, 5))),
        ("tokens:3:7", neuron("tokens", 3, 7)),
    ],
)
def test_neurons(text, wanted):
    assert neuron_of(text) == wanted


@pytest.mark.parametrize("text", ["", ":3", "a:b", "a:1:middle", "a:1:2,", "a:1:2:3"])
def test_neurons_that_are_none(text):
    with pytest.raises(UsageError, match=r"--neuron .*: give LAYER:CHANNEL, such as"):
        neuron_of(text)


NAMES = ("tench", "Tabby", "tabby", "Egyptian cat", "crane", "crane")


def test_a_class_by_number_or_name():
    assert class_index("3", None, "--target") == 3
    assert class_index("Tabby", NAMES, "--target") == 1
    assert class_index("tabby", NAMES, "--target") == 2
    assert class_index("egyptian CAT", NAMES, "--target") == 3


def test_a_class_that_cannot_be_told():
    with pytest.raises(UnknownName, match="no class named 'taby'; did you mean 'tabby'"):
        class_index("taby", NAMES, "--target")
    with pytest.raises(UsageError, match=r"--target 'crane' names several classes: .* 4, 5"):
        class_index("crane", NAMES, "--target")
    with pytest.raises(UsageError, match=r"'cat': the model's class names are not known.*FILE"):
        class_index("cat", None, "--target")


def test_targets():
    def of(*target, versus=None, unit=None, name=None, images=1):
        return target_of(target, versus, unit, name, NAMES, images)

    assert of() is None
    assert of("tench") == [0]
    assert of("3", "tench", images=2) == [3, 0]
    assert of(versus=("3", "tench")) == difference(3, 0)
    assert of(unit="fc:1") == neuron("fc", 1)
    assert of("3", name="logits") == output("logits", 3)
    assert of(name="1") == output(1)
    with pytest.raises(UsageError, match="--target and --neuron were given; one number"):
        of("3", unit="fc:1")
    with pytest.raises(UsageError, match="given 2 times for 3 image"):
        of("3", "4", images=3)
    with pytest.raises(UsageError, match="--output-name is of the model's outputs"):
        of(unit="fc:1", name="a")


def test_class_names_from_files(tmp_path):
    lines, as_list, as_map = (tmp_path / n for n in ("a.txt", "b.json", "c.json"))
    lines.write_text("cat\n dog \nbird\n\n", encoding="utf-8")
    as_list.write_text('["cat", "dog"]')
    as_map.write_text(json.dumps({"1": "dog", "0": "cat"}))
    assert class_names(str(lines)) == ("cat", "dog", "bird")
    assert class_names(str(as_list)) == class_names(str(as_map)) == ("cat", "dog")
    assert class_names(None) is None


@pytest.mark.parametrize(
    ("name", "content", "error", "text"),
    [
        ("a.txt", b"", FileFormatError, "is empty"),
        ("a.txt", b"\xff\xfe\x00", FileFormatError, "cannot read the class names"),
        ("a.json", b"[1, 2]", FileFormatError, "holds no class names"),
        ("a.json", b'{"0": "a", "2": "b"}', FileFormatError, "holds no class names"),
        ("a.json", b"{", FileFormatError, "is not JSON"),
        ("b.txt", None, FileError, r"there is no file .*b\.txt \(class names\)"),
    ],
)
def test_class_names_that_are_none(tmp_path, name, content, error, text):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=text):
        class_names(str(tmp_path / name))


def test_ways_out_as_they_are_typed():
    assert as_typed('unknown="gradient" hands it on') == "--option unknown=gradient hands it on"
    named = "name one: target=whence.targets.output('b', class)"
    assert as_typed(named) == "name one: --output-name b"
    assert as_typed("x is there; resume=True goes on with it. Give another out=, or take") == (
        "x is there; without --no-resume the command goes on with it. Give another --out, or take"
    )
    assert as_typed("kept, and the same call goes on") == "kept, and the same command goes on"
    differs = "x: at is 'a' in the store, None was asked for; batch_size is 2 in the store, 3 was"
    assert as_typed(differs) == (
        "x: --layer is 'a' in the store, None was asked for; --batch-size is 2 in the store, 3 was"
    )
    assert as_typed("what at is one, batch_size is 3") == "what at is one, batch_size is 3"
