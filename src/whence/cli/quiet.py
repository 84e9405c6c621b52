"""Frameworks that talk about themselves while they are imported, kept from the user's terminal."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from whence.data.installed import is_installed

__all__ = ["import_quietly", "quiet_start"]

_KERAS_FILES = (".keras", ".h5", ".hdf5")


def quiet_start() -> None:
    """TensorFlow's log of itself, unless the user asked for it, before anything imports it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def import_quietly(spec: str, framework: str | None) -> None:
    """Import TensorFlow, if that is what a model will need, without its greeting.

    The first lines of its libraries ignore every setting and go to the stream itself. Whether it
    can be imported is told by those who need it.
    """
    path = Path(spec)
    wanted = framework == "tensorflow" or spec.startswith("keras:")
    wanted |= path.suffix in _KERAS_FILES or (path / "saved_model.pb").is_file()
    if not wanted or "tensorflow" in sys.modules or not is_installed("tensorflow"):
        return
    with _held_back(), suppress(Exception):
        importlib.import_module("tensorflow")


@contextmanager
def _held_back() -> Iterator[None]:
    """What is written to the process's stderr, shown only if it is interrupted."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            aside.seek(0)
            os.write(kept, aside.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
