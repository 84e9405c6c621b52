"""The bar over many pieces of work, as a terminal shows it, with the bars of the pieces below."""

from __future__ import annotations

import io
import re
import time
from contextlib import redirect_stderr
from types import SimpleNamespace

import pytest

from whence.cli import bar
from whence.perturb import progress


class Terminal(io.StringIO):
    """A terminal of 80 columns that remembers every screen; as stderr, it takes what is written."""

    def __init__(self):
        super().__init__()
        self.rows, self.row, self.column = [""], 0, 0
        self.screens = []

    def isatty(self):
        return True

    def write(self, text):
        for code, sign in re.findall(r"\x1b\[\??([\d;]*[A-Za-z])|([^\x1b])", text):
            if code:
                self.control(code[-1], int(code[:-1]) if code[:-1].isdigit() else 1)
            elif sign == "\r":
                self.column = 0
            elif sign == "\n":
                self.row += 1
                self.rows += [""] * (self.row + 1 - len(self.rows))
            else:
                line = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = line[: self.column] + sign + line[self.column + 1 :]
                self.column += 1
        self.screens.append([line.strip() for line in self.rows if line.strip()])
        return len(text)

    def control(self, kind, number):
        if kind == "A":
            assert self.row >= number, "above the first line that is ours"
            self.row -= number
        elif kind == "K":
            self.rows[self.row] = "" if number == 2 else self.rows[self.row][: self.column]


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(bar, "_DELAY", 0.0)
    monkeypatch.setattr(bar, "_EVERY", 0.0)
    return Terminal()


def appeared(terminal):
    end = time.monotonic() + 10
    while not terminal.screens and time.monotonic() < end:
        time.sleep(0.005)


def words(screen):
    """A screen without the bars themselves."""
    return [" ".join(line.replace("━", " ").replace("╺", " ").split()) for line in screen]


def test_a_piece_shows_its_own_bar_below(terminal, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with redirect_stderr(terminal), bar.pieces(alike=False) as step:
        step(0, 3, "images")
        appeared(terminal)
        assert words(terminal.screens[-1]) == ["0/3 images"]
        step(1, 3, "images, 1 failed")
        assert words(terminal.screens[-1]) == ["1/3 images, 1 failed"]
        with progress.Progress("masks", 100) as own:
            own.at(40)
            own.bar.refresh()
            upper, lower = words(terminal.screens[-1])
            assert upper == "1/3 images, 1 failed" and lower.startswith("masks")
            assert "40/100" in lower
        assert words(terminal.screens[-1]) == ["1/3 images, 1 failed"]
        step(2, 3, "images [b]\n")
        assert words(terminal.screens[-1]) == [r"2/3 images [b]\n"]
    assert terminal.screens[-1] == [] and (terminal.row, terminal.column) == (0, 0)


def test_words_of_more_than_a_line_are_cut(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    with redirect_stderr(terminal), bar.pieces() as step:
        step(0, 3, "a long story about images")
        appeared(terminal)
        assert terminal.screens[-1] == ["a long story about …"]
        step(1, 3, "a longer one than that")
    assert terminal.screens[-1] == [] and terminal.row == 0


def test_what_an_interrupt_echoes_is_taken_away_too(terminal):
    with pytest.raises(KeyboardInterrupt), redirect_stderr(terminal), bar.pieces() as step:
        step(0, 3, "images")
        appeared(terminal)
        terminal.write("^C")
        raise KeyboardInterrupt
    assert terminal.screens[-1] == [] and terminal.row == 0


def test_the_time_that_is_left(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(bar, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    pace = bar._Pace()

    def left(seconds, done, total):
        clock[0] += seconds
        return pace.left(done, total)

    assert left(0, 0, 1) == ""
    assert left(9, 10, 40) == ""  # the loading before does not count, nor what was done before
    assert left(5, 15, 40) == "0:00:25 left"
    assert left(7, 16, 40) == "0:00:48 left"
    assert left(5000, 17, 40) == "4:34:28 left"
    assert left(1, 40, 40) == ""


def test_the_time_is_told_of_pieces_that_are_alike(terminal):
    for alike, told in ((True, True), (False, False)):
        terminal.screens.clear()
        with redirect_stderr(terminal), bar.pieces(alike) as step:
            step(0, 3, "a")
            appeared(terminal)
            step(1, 3, "b")
            assert words(terminal.screens[-1]) == ["1/3 b, 0:00:00 left" if told else "1/3 b"]


def test_no_bar_before_its_time_nor_without_a_terminal(terminal, monkeypatch):
    monkeypatch.setattr(bar, "_DELAY", 60.0)
    with redirect_stderr(terminal), bar.pieces() as step:
        step(0, 3, "a")
        step(1, 3, "b")
    monkeypatch.setattr(bar, "_DELAY", 0.0)
    for change in (
        lambda: monkeypatch.setenv("TERM", "dumb"),
        lambda: monkeypatch.setattr(terminal, "isatty", lambda: False),
    ):
        change()
        with redirect_stderr(terminal), bar.pieces() as step:
            step(0, 3, "a")
            time.sleep(0.05)
            step(1, 3, "b")
        monkeypatch.setenv("TERM", "xterm")
    assert terminal.screens == []


def test_it_is_not_drawn_more_often_than_eyes_can_see(terminal, monkeypatch):
    monkeypatch.setattr(bar, "_EVERY", 60.0)
    with redirect_stderr(terminal), bar.pieces(alike=False) as step:
        step(0, 1000, "a")
        appeared(terminal)
        for done in range(1000):
            step(done, 1000, "a")
        assert words(terminal.screens[-1]) == ["0/1000 a"] and len(terminal.screens) == 1
