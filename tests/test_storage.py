"""Files: what is written comes back, whole or not at all; what is foreign or damaged says so."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch

import whence
from support_nets import conv_twin
from whence import storage
from whence.errors import FileError, FileFormatError
from whence.result import Explanation


@pytest.fixture
def explained():
    twin = conv_twin("torch")
    return whence.explain(twin.model, twin.array(twin.x), "lrp", target=whence.difference(0, 2))


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if hasattr(a, "shape"):
        a, b = np.asarray(a), np.asarray(b)
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
    return a == b


def test_round_trip(explained, tmp_path):
    path = explained.save(tmp_path / "e.npz")
    back = whence.load(path)
    for name in vars(explained):
        if name not in ("ledger", "options"):
            assert same(getattr(explained, name), getattr(back, name)), name
    assert back.options == json.loads(json.dumps(explained.options))  # tuples come as lists
    assert same(vars(back.ledger)["seed"], explained.ledger.seed)
    assert same(back.ledger.total, explained.ledger.total)
    assert len(back.ledger) == len(explained.ledger)
    for a, b in zip(back.ledger, explained.ledger, strict=True):
        for name in vars(b):
            assert same(getattr(a, name), getattr(b, name)), name
    assert repr(back) == repr(explained)
    np.testing.assert_array_equal(back.heatmap(), explained.heatmap())


def test_structures_and_odd_content(tmp_path):
    e = Explanation(
        attribution={"a": torch.ones(2, 3, dtype=torch.bfloat16), "b.c": None, "d": (np.ones(2),)},
        raw=None, target="top class", output=np.array([np.nan, np.inf]), method="ünïcode ☃",
        options={"eps": np.float32(0.5), "root": np.ones((2, 2)), "list": (1, None, "x")},
        inputs=("text", 3, True, None), notes=["<b>", "\u2028"],
        extras={"root": {"x": np.arange(3)}, "words": "plain"}, gap=None,
    )  # fmt: skip
    back = whence.load(e.save(tmp_path / "odd"))
    assert (tmp_path / "odd.npz").is_file()
    assert back.attribution["a"].dtype == np.float32
    assert back.attribution["b.c"] is None
    assert back.attribution["d"][0].tolist() == [1, 1]
    assert back.target == "top class"
    assert back.method == "ünïcode ☃"
    assert np.isnan(back.output[0])
    assert back.options == {"eps": 0.5, "root": "array(2, 2)", "list": [1, None, "x"]}
    assert back.inputs == ("text", 3, True, None)
    assert back.extras["root"]["x"].tolist() == [0, 1, 2]
    assert back.extras["words"] == "plain"
    assert back.ledger is None
    assert back.gap is None


def test_both_frameworks(tmp_path):
    pytest.importorskip("tensorflow")
    twin = conv_twin("tensorflow")
    e = whence.explain(twin.model, twin.array(twin.x), "lrp")
    back = whence.load(e.save(tmp_path / "e"))
    np.testing.assert_array_equal(back.attribution, e.to_numpy())
    assert back.channels == "last"


def test_no_pickle(explained, tmp_path):
    """Neither written nor read: a file that holds an object is refused before it is built."""
    path = explained.save(tmp_path / "e.npz")
    with zipfile.ZipFile(path) as held:
        for name in held.namelist():
            array = np.lib.format.read_array(io.BytesIO(held.read(name)), allow_pickle=False)
            assert array.dtype != object

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    evil = tmp_path / "evil.npz"
    np.savez(evil, header=np.array([Trap()], dtype=object))
    with pytest.raises(FileFormatError, match=r"evil\.npz is not an explanation, or is damaged"):
        whence.load(evil)
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(FileFormatError, match=r"bare.npz is not an explanation: whence.load reads"):
        whence.load(tmp_path / "bare.npz")
    assert not (tmp_path / "sprung").exists()


def header_of(path):
    with np.load(path) as held:
        arrays = dict(held)
    return json.loads(arrays.pop("header").tobytes()), arrays


def rewritten(path, header, arrays):
    encoded = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, header=encoded, **arrays)
    return path


def test_other_versions(explained, tmp_path):
    header, arrays = header_of(explained.save(tmp_path / "e.npz"))
    header["versions"] = {"whence": "9.9"}
    newer = rewritten(tmp_path / "new.npz", header | {"whence": storage.FORMAT + 1}, arrays)
    text = f"has format {storage.FORMAT + 1}, this whence reads {storage.FORMAT}; it was written by"
    with pytest.raises(FileFormatError, match=f"{text} whence 9.9: upgrade whence to read it"):
        whence.load(newer)
    older = rewritten(tmp_path / "old.npz", header | {"whence": 0}, arrays)
    with pytest.raises(FileFormatError, match="read it with that version, or explain again"):
        whence.load(older)
    strange = rewritten(tmp_path / "odd.npz", {"whence": "x", "versions": [1]}, arrays)
    with pytest.raises(FileFormatError, match="has format 'x'"):
        whence.load(strange)


def test_what_is_missing_inside(explained, tmp_path):
    header, arrays = header_of(explained.save(tmp_path / "e.npz"))
    for name in header:
        if name in ("whence", "target", "ledger"):
            continue
        less = {k: v for k, v in header.items() if k != name}
        with pytest.raises(FileFormatError, match="is damaged"):
            whence.load(rewritten(tmp_path / "less.npz", less, arrays))
    for name in ("attribution", "output", "ledger.0", "ledger.seed"):
        less = {k: v for k, v in arrays.items() if k != name}
        with pytest.raises(FileFormatError, match=f"is damaged: '{name}'"):
            whence.load(rewritten(tmp_path / "less.npz", header, less))
    for name, wrong in {"attribution": {}, "ledger": [{}], "axes": 3, "extras": [1]}.items():
        with pytest.raises(FileFormatError, match="is damaged"):
            whence.load(rewritten(tmp_path / "wrong.npz", header | {name: wrong}, arrays))
    arrays["ledger.0"] = arrays["ledger.0"][:1]
    with pytest.raises(FileFormatError, match="is damaged"):
        whence.load(rewritten(tmp_path / "short.npz", header, arrays))


@pytest.mark.parametrize("kept", [0, 1, 20, 0.3, 0.7, 0.99])
def test_truncated(explained, tmp_path, kept):
    path = explained.save(tmp_path / "e.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(FileFormatError, match=r"e\.npz is not an explanation"):
        whence.load(path)


def test_damaged_bytes(explained, tmp_path):
    """Whatever byte is wrong, it is a FileFormatError or still a file that can be read."""
    path = explained.save(tmp_path / "e.npz")
    whole = path.read_bytes()
    refused = 0
    for place in np.random.default_rng(0).integers(0, len(whole), 150):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        path.write_bytes(bytes(broken))
        try:
            whence.load(path)
        except FileFormatError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", b"hello"), ("a.npz", b"hello, this is no zip"), ("a.png", b"\x89PNG\r\n\x1a\n0000")],
)
def test_foreign_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    text = "is not an explanation: whence.load reads the .npz files that Explanation.save writes"
    with pytest.raises(FileFormatError, match=re.escape(text)):
        whence.load(tmp_path / name)


def test_foreign_arrays(tmp_path):
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(FileFormatError, match="is not an explanation"):
        whence.load(tmp_path / "one.npy")
    np.savez(tmp_path / "some.npz", a=np.ones(2), b=np.ones(3))
    text = r"is not an explanation: it has no header (arrays: ['a', 'b'])"
    with pytest.raises(FileFormatError, match=re.escape(text)):
        whence.load(tmp_path / "some.npz")
    np.savez(tmp_path / "odd.npz", header=np.ones(3))
    with pytest.raises(FileFormatError, match="its header cannot be read"):
        whence.load(tmp_path / "odd.npz")
    with zipfile.ZipFile(tmp_path / "plain.npz", "w") as held:
        held.writestr("notes.txt", "hello")
    with pytest.raises(FileFormatError, match="is not an explanation"):
        whence.load(tmp_path / "plain.npz")


def test_no_file(tmp_path):
    with pytest.raises(FileError, match=r"no file .*nothing\.npz"):
        whence.load(tmp_path / "nothing.npz")
    with pytest.raises(FileError, match="is a folder, not a file"):
        whence.load(tmp_path)


def left(folder):
    return sorted(p.name for p in folder.iterdir())


def test_no_place_to_write(explained, tmp_path):
    with pytest.raises(FileError, match=r"cannot write .*gone/e.npz: No such file or directory"):
        explained.save(tmp_path / "gone" / "e.npz")
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match=r"cannot write .*: Not a directory"):
        explained.save(tmp_path / "file" / "e.npz")
    (tmp_path / "e.npz").mkdir()
    with pytest.raises(FileError, match=r"cannot write .*: Is a directory"):
        explained.save(tmp_path / "e.npz")
    assert left(tmp_path) == ["e.npz", "file"]


def test_an_unwritable_folder(explained, tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(storage.tempfile, "mkstemp", refuse)
    with pytest.raises(FileError, match=r"cannot write .*: Permission denied") as caught:
        explained.save(tmp_path / "e.npz")
    assert isinstance(caught.value, OSError)
    assert left(tmp_path) == []


@pytest.mark.parametrize("where", ["write", "replace"])
@pytest.mark.parametrize("what", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_whole_or_not_at_all(explained, tmp_path, monkeypatch, where, what):
    """Interrupted or out of space at any moment: the old file stays, and nothing beside it."""
    path = tmp_path / "e.npz"
    path.write_bytes(b"the old one")

    class Full(io.FileIO):
        def write(self, content):
            super().write(bytes(content)[:100])
            raise what

    def fail(*args):
        raise what

    if where == "write":
        monkeypatch.setattr(storage.os, "fdopen", lambda handle, mode: Full(handle, mode))
    else:
        monkeypatch.setattr(storage.os, "replace", fail)
    expected = KeyboardInterrupt if isinstance(what, KeyboardInterrupt) else FileError
    with pytest.raises(expected):
        explained.save(path)
    monkeypatch.undo()
    assert left(tmp_path) == ["e.npz"]
    assert path.read_bytes() == b"the old one"


def test_written_as_the_user_would(explained, tmp_path):
    before = os.umask(0o027)
    try:
        path = explained.save(tmp_path / "e.npz")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
