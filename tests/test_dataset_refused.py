"""Runs and data that cannot be, and stores of another run: refused, saying what and why."""

from __future__ import annotations

import pytest
import torch
import zarr

from support_dataset import Counted, N, X, Y, run_of
from whence.data import digits_model
from whence.dataset import load_run
from whence.errors import (
    FileError,
    FileFormatError,
    InputError,
    MissingFramework,
    OptionError,
    UnknownName,
)


@pytest.fixture(scope="module")
def net():
    return digits_model("torch")


def loader(**options):
    return torch.utils.data.DataLoader(Counted(), **options)


REFUSED = {
    "method": ({"method": "saliency"}, "method is 'gradient-x-input' in the store, 'saliency'"),
    "option": (
        {"method": "lrp", "first": {"method": "lrp", "eps": 1e-3}},
        "eps is 0.001 in the store",
    ),
    "target": ({"target": 3}, "target is None in the store, 3 was asked for"),
    "layer": ({"at": "conv5"}, "at is None in the store, 'conv5' was asked for"),
    "size": ({"batch_size": 5}, "batch_size is 4 in the store, 5 was asked for"),
    "length": ({"data": X[:7]}, "data: length is 11 in the store, 7 was asked for"),
    "numbers": ({"data": X + 1}, "item 0 is another than it was"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_another_run_is_refused_naming_the_difference(net, tmp_path, what):
    options, said = REFUSED[what]
    options = dict(options)
    out, first = tmp_path / "run.zarr", options.pop("first", {})
    run_of(net, X, out, **first)
    if what == "numbers":  # seen where something is left to do, by a stream, or not at all
        assert run_of(net, iter(X), tmp_path / "s.zarr").done == N
        (tmp_path / "s.zarr/parts/000000/000000002.json").unlink()
        with pytest.raises(FileFormatError, match=said):
            run_of(net, iter(options["data"]), tmp_path / "s.zarr")
        return
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(FileFormatError, match="holds another run: .*" + said):
        run_of(net, options.pop("data", X), out, **options)
    assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_other_weights_are_refused(net, tmp_path):
    run_of(net, X, tmp_path / "run.zarr")
    with pytest.raises(FileFormatError, match="the model's weights are others"):
        run_of(digits_model("torch", trained=False), X, tmp_path / "run.zarr")
    run_of(digits_model("torch"), X, tmp_path / "run.zarr")


WRONG = {
    "on_error": ({"on_error": "pass"}, OptionError, "on_error is 'report' or 'raise'"),
    "size": ({"batch_size": 0}, OptionError, "batch_size is a whole number, 1 or more; got 0"),
    "methods": ({"method": ["lrp", "gradient"]}, OptionError, "one store holds one method"),
    "method": ({"method": "lrpp"}, UnknownName, "no method named 'lrpp'"),
    "option": ({"eps": 3}, UnknownName, "no option of gradient-x-input named 'eps'"),
    "layer": ({"at": "conv9"}, UnknownName, "no layer on the tape named 'conv9'"),
    "targets": ({"target": [1, 2]}, OptionError, "2 targets were given for 11 items"),
    "class": ({"target": 77}, InputError, "none of the first 4 items could be explained"),
    "data": ({"data": 5}, InputError, "the data are int: give arrays, a list"),
    "empty": ({"data": []}, InputError, "the data hold no samples"),
    "empty stream": ({"data": iter([])}, InputError, "the data hold no samples"),
    "no batch": ({"data": [X[0, 0]] * 3}, InputError, "none of the first 3 items"),
    "labels": ({"data": {"x": X, "label": Y[:3]}}, InputError, "3 labels were given for 11"),
    "extra": ({"data": {"x": X, "mask": X}}, InputError, r"\['mask'\] besides x, label, id"),
    "triples": ({"data": [(1, 2, 3)] * 3}, InputError, "the item is a tuple of 3"),
    "no folder": ({"data": "no/where"}, FileError, "there is no file or folder no/where"),
    "shuffled": ({"data": loader(shuffle=True)}, OptionError, "shuffles .* shuffle=False"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said(net, tmp_path, what):
    options, kind, said = WRONG[what]
    with pytest.raises(kind, match=said):
        run_of(net, **{"data": X, "out": tmp_path / "run.zarr", **options})
    run_of(net, X, tmp_path / "run.zarr")  # nothing that was left is in the way


def test_places_that_are_no_store(net, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("")
    with pytest.raises(FileError, match="file is a file; out= names a folder"):
        run_of(net, X, tmp_path / "file")
    with pytest.raises(FileError, match="full is a folder that holds something else"):
        run_of(net, X, tmp_path / "full")
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(FileFormatError, match="did not write, or that is damaged"):
        run_of(net, X, tmp_path / "other.zarr")
    run_of(net, X, tmp_path / "run.zarr")
    with pytest.raises(FileError, match="is there already; resume=True goes on with it"):
        run_of(net, X, tmp_path / "run.zarr", resume=False)
    with pytest.raises(FileError, match="it does not exist"):
        load_run(tmp_path / "gone.zarr")
    head = tmp_path / "run.zarr/zarr.json"
    head.write_text(head.read_text().replace('"format": 1', '"format": 7'))
    with pytest.raises(FileFormatError, match="has format 7, this whence reads 1"):
        load_run(tmp_path / "run.zarr")
    head.write_text(head.read_text()[:50])
    with pytest.raises(FileFormatError, match="did not write, or that is damaged"):
        run_of(net, X, tmp_path / "run.zarr")


def test_without_zarr(net, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    with pytest.raises(MissingFramework, match=r'needs zarr 3, .* pip install "whence\[data\]"'):
        run_of(net, X, tmp_path / "run.zarr")
    assert not (tmp_path / "run.zarr").exists()
