"""Writing pictures, and leaving the rest of the world as it was."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from render_standins import explained, row
from whence.errors import FileError, MissingFramework, UnknownName
from whence.ledger import Ledger
from whence.render import draw, draw_ledger, files, image_bytes, save


@pytest.fixture
def figure():
    return draw(explained(1), title="$a$ & <b> -- \x00")


def test_png_and_svg_by_suffix(figure, tmp_path):
    assert save(figure, tmp_path / "a.PNG").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    path = save(figure, str(tmp_path / "b.svg"))
    assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.PNG", "b.svg"]


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_same_picture_same_bytes(kind):
    ledger = Ledger([row(0, "a", "conv", {"bias": np.array([1.0])})], np.array([5.0]),
                  np.array([4.0]))  # fmt: skip
    for make in (lambda: draw(explained(2)), lambda: draw_ledger(explained(1, ledger=ledger))):
        one, two = image_bytes(make(), kind), image_bytes(make(), kind)
        assert one == two
        for word in (b"Matplotlib", b"dc:date", b"202"):
            assert word not in one[:1500]


def test_unknown_suffix_lists_the_known(figure, tmp_path):
    with pytest.raises(UnknownName, match=r"no picture format named '\.jpg'.*'\.png', '\.svg'"):
        save(figure, tmp_path / "a.jpg")
    with pytest.raises(UnknownName):
        save(figure, tmp_path / "noending")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_not_there(figure, tmp_path):
    with pytest.raises(FileError, match=r"cannot be written to .*nowhere.*a\.png: No such file"):
        save(figure, tmp_path / "nowhere" / "a.png")


def test_a_failed_write_leaves_the_old_file_and_no_rest(figure, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(FileError, match="Permission denied; give a path in a folder"):
        save(figure, path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(figure, path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.skipif(not hasattr(os, "umask"), reason="POSIX permissions")
def test_files_have_ordinary_permissions(figure, tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert save(figure, tmp_path / "a.png").stat().st_mode == plain.stat().st_mode


def test_the_user_s_settings_neither_matter_nor_change(tmp_path):
    import matplotlib

    usual = image_bytes(draw(explained(1)))
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "black", "font.size": 30,
                                "savefig.dpi": 17, "savefig.bbox": "tight"}):  # fmt: skip
        before = dict(matplotlib.rcParams)
        assert image_bytes(draw(explained(1))) == usual
        assert dict(matplotlib.rcParams) == before


def test_import_loads_no_matplotlib_and_drawing_no_pyplot():
    code = (
        "import sys, whence.render as r; assert 'matplotlib' not in sys.modules\n"
        f"sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "from render_standins import explained\n"
        "r.to_png(explained(1)); assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


def test_without_matplotlib_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(MissingFramework, match="pip install matplotlib"):
        draw(explained(1))
