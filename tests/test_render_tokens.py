"""Coloured text: the right colour at the right word, nothing taken for markup or codes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from whence.errors import NotFinite, UnknownName
from whence.render.palette import diverging, sequential
from whence.render.tokens import draw, draw_tokens, tokens_html, tokens_terminal
from whence.tokens import Tokens

SIMPLE = Tokens(("good", "zero", "bad"), np.array([2.0, 0.0, -2.0]), (), "class 1", "lrp")
NASTY = Tokens(
    ("<script>alert(1)</script>", '"&', "\x1b[31m", " ", "\n", "$x$"),
    np.arange(6.0),
    (),
    "<i>",
    "a",
)


def hexed(rgb):
    return "#" + "".join(f"{round(c * 255):02x}" for c in rgb)


def test_html_has_the_palette_at_its_words():
    found = dict(
        re.findall(
            r'<span style="background:(#\w+)[^"]*" title="[^"]*">(\w+)</span>', SIMPLE.html()
        )
    )
    assert found[hexed(diverging()[-1])] == "good"
    assert found[hexed(diverging()[0])] == "bad"
    light = {v: k for k, v in found.items()}["zero"]
    assert all(int(light[i : i + 2], 16) > 0xF0 for i in (1, 3, 5))
    assert "lrp · class 1" in SIMPLE.html()
    assert "Orange-red speaks for the target" in SIMPLE.html()
    assert 'title="−2"' in SIMPLE.html()
    unsigned = Tokens(("a", "b"), np.array([0.0, 1.0]), signed=False)
    assert hexed(sequential()[-1]) in unsigned.html()


def test_letters_stay_readable():
    spans = dict(re.findall(r"color:(#\w+);padding[^>]*>(\w+)</span>", SIMPLE.html())[::-1])
    assert spans["#fff"] in ("good", "bad")
    assert spans["#1f2328"] == "zero"


def test_html_takes_nothing_for_markup():
    page = NASTY.html()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&quot;&amp;" in page
    assert "\x1b" not in page
    assert r"\x1b[31m" in page
    assert "&lt;i&gt;" in page
    assert "␣" in page
    assert r"\n" in page
    assert page.count("<span") == page.count("</span>")
    assert page.count("<div") == page.count("</div>")
    assert not re.search(r"https?:|<link|<style|src=", page)


def test_html_of_several_and_without_a_title():
    assert tokens_html([SIMPLE, NASTY]).count('class="whence-tokens"') == 2
    assert "lrp" not in tokens_html(SIMPLE, title="")
    assert "mine" in tokens_html(SIMPLE, title="mine")
    assert "All zero." in Tokens(("a",), np.zeros(1)).html()
    assert SIMPLE._repr_html_() == SIMPLE.html()
    clipped = Tokens(tuple("abcd"), np.array([1.0, 1, 1, 9]))
    assert "Colours clipped at 50" in clipped.html(percent=50)
    assert "clipped" not in clipped.html()


def test_terminal_colours():
    text = tokens_terminal(SIMPLE, colour=True)
    codes = re.findall(r"\x1b\[48;2;([\d;]+)m\x1b\[38;2;([\d;]+)m (\w+) \x1b\[0m", text)
    wanted = ";".join(str(round(c * 255)) for c in diverging()[-1])
    assert codes[0] == (wanted, "255;255;255", "good")
    assert codes[1][1:] == ("31;35;40", "zero")
    nasty = tokens_terminal(NASTY, colour=True)
    assert r"\x1b[31m" in nasty
    assert "\x1b[31m" not in nasty
    assert tokens_terminal([SIMPLE, SIMPLE], colour=True).count("class 1") == 2


def test_terminal_without_colour():
    assert tokens_terminal(SIMPLE, colour=False) == "lrp · class 1\ngood(2) zero(0) bad(−2)"
    assert "\x1b" not in tokens_terminal(NASTY, colour=False)


@pytest.mark.parametrize("colour", [True, False])
def test_terminal_lines_fit(colour):
    many = Tokens(("word", "東京") * 20, np.arange(40.0), (), "", "")
    lines = tokens_terminal(many, colour=colour, width=30).split("\n")
    plain = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]
    assert all(len(line) + line.count("東") + line.count("京") <= 30 for line in plain)
    assert len(lines) > 5
    assert sum(line.count("word") for line in plain) == 20


def test_terminal_asks_where_it_is(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[48" in SIMPLE.terminal()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in SIMPLE.terminal()
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in SIMPLE.terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    assert "\x1b" not in SIMPLE.terminal()


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def test_the_picture_has_boxes_of_the_right_colour():
    pytest.importorskip("matplotlib")
    seen = {tuple(p) for p in pixels(SIMPLE.show()).reshape(-1, 3)[::3]}
    for row in (0, -1):
        assert tuple(np.round(diverging()[row] * 255).astype(int)) in seen
    assert tuple(np.round(sequential()[-1] * 255).astype(int)) not in seen


def test_the_picture_grows_with_the_text():
    pytest.importorskip("matplotlib")
    many = Tokens(("word",) * 100, np.arange(100.0))
    one, two = draw_tokens(SIMPLE), draw_tokens([SIMPLE, many], title="Words")
    assert two.get_figheight() > one.get_figheight() + 1
    shown = [t.get_text() for t in two.axes[0].texts]
    assert shown.count("word") == 100
    assert "Words" in shown
    assert "lrp · class 1" in shown
    nasty = [t.get_text() for t in draw_tokens(NASTY).axes[0].texts]
    assert {r"\x1b[31m", "␣", r"\n", "$x$"} <= set(nasty)


def test_what_is_not_drawn():
    with pytest.raises(NotFinite, match="the text holds 1 NaN"):
        tokens_html(Tokens(("a",), np.array([np.nan])))
    with pytest.raises(UnknownName, match="way to draw tokens"):
        draw("gif", SIMPLE)
