"""From the words on the command line to an exit status; errors come out as one line each."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress

from cyclopts import CycloptsError

from whence.cli.commands import app
from whence.cli.quiet import quiet_start
from whence.cli.words import UsageError, as_typed
from whence.errors import WhenceError
from whence.render.words import plain

__all__ = ["main"]

DONE, FAILED, USAGE = 0, 1, 2
INTERRUPTED, BROKEN_PIPE = 130, 141  # what a shell reports of SIGINT and SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    arguments: the words after ``whence``; None takes those of the process.
    0: done. 1: it could not be done (a file, a model, the data). 2: the command line is wrong.
    130: interrupted. 141: nobody reads the output any more.

    Example:
        >>> main(["methods", "--no-such-option"])
        2
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = _take(words, "--debug")
    quiet_start()
    try:
        with warnings.catch_warnings():
            if not debug:  # of frameworks, about themselves; our own notes are not warnings
                warnings.simplefilter("ignore")
            command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
            command(*bound.args, **bound.kwargs)
        sys.stdout.flush()
        return DONE
    except BrokenPipeError:
        # What is still in the buffer would raise again when Python flushes it at the end.
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt as error:
        # A store says in a note what is kept, and how to go on.
        text = "; ".join(["interrupted", *getattr(error, "__notes__", ())])
        return _report(error, plain(as_typed(text)), INTERRUPTED, debug)
    except (CycloptsError, UsageError) as error:
        text = _one_line(error).rstrip(".")
        return _report(error, f"{text}. {_help_hint(words)}", USAGE, debug)
    except WhenceError as error:
        return _report(error, _one_line(error), FAILED, debug)
    except Exception as error:
        # Not foreseen, so a fault of whence or of a package below it: still one line.
        text = f"{type(error).__name__}: {_one_line(error)} (not foreseen; --debug shows where)"
        return _report(error, text, FAILED, debug)


def _take(words: list[str], flag: str) -> bool:
    """Whether a flag that every command knows is there; it is taken out."""
    end = words.index("--") if "--" in words else len(words)
    found = flag in words[:end]
    words[:end] = [w for w in words[:end] if w != flag]
    return found


def _report(error: BaseException, text: str, status: int, debug: bool) -> int:
    with suppress(OSError):
        if debug:
            traceback.print_exception(error)
        print(f"whence: {text}", file=sys.stderr)
    return status


def _one_line(error: BaseException) -> str:
    return plain(as_typed(" ".join(str(error).split()))) or type(error).__name__


def _help_hint(words: Sequence[str]) -> str:
    known = words[:1] if words and words[0] in app else []
    return f"See: {' '.join(['whence', *known])} --help"
