"""The house keeps its limits, and each check is seen red on a planted mistake."""

from __future__ import annotations

import types
from dataclasses import dataclass
from pathlib import Path

import pytest

import house

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "whence"
SOURCES = house.modules(PACKAGE)
PYTHON_FILES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for folder in ("src", "tests", "benchmarks", "docs", "scripts")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
MAX_IMPORT_SECONDS = 0.3
NEVER_LOADED = {"torch", "tensorflow", "keras", "jax", "matplotlib", "sklearn", "transformers"}

# Files and functions that may be longer, each with the reason.
LONGER_FILES: dict[str, str] = {}
LONGER_FUNCTIONS: dict[str, str] = {}


def test_a_file_imports_only_from_lines_above_it():
    assert house.out_of_order(SOURCES) == []


def test_no_two_files_import_each_other():
    assert house.cycles(SOURCES) == []


def test_frameworks_and_drawing_are_imported_when_used():
    assert house.eager(SOURCES) == []


def test_every_file_has_a_length_that_can_be_read():
    found = [f for name, text in PYTHON_FILES.items() for f in house.long_file(name, text)]
    assert [f for f in found if f.partition(":")[0] not in LONGER_FILES] == []


def test_every_function_has_a_length_that_can_be_read():
    found = [f for name, text in PYTHON_FILES.items() for f in house.long_functions(name, text)]
    assert [f for f in found if not any(f": {n} has" in f for n in LONGER_FUNCTIONS)] == []


def test_no_assert_guards_the_library():
    assert [f for name, text in SOURCES.items() for f in house.asserts(name, text)] == []


def test_every_public_name_is_explained():
    import whence

    assert whence.__all__
    assert house.undocumented(whence) == []


def test_import_is_light():
    seconds, loaded = house.loaded_by("whence", PACKAGE.parent)
    assert loaded & NEVER_LOADED == set()
    assert seconds < MAX_IMPORT_SECONDS


def test_import_order_in_contributing_is_the_one_that_is_checked():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = text.partition("<!-- order:begin -->")[2].partition("<!-- order:end -->")[0]
    lines = [line.split()[0] for line in block.splitlines() if line and not line.startswith("`")]
    assert tuple(name.removesuffix("/").removesuffix(".py") for name in lines) == house.ORDER


# Each check, red on a planted mistake.

CLEAN = {
    "pkg.__init__": "from .low import a\nfrom .high import b\n",
    "pkg.low": "a = 1\n",
    "pkg.rules.__init__": "",
    "pkg.rules.one": "from .two import c\nfrom ..low import a\n",
    "pkg.rules.two": "import pkg.low\nc = 1\n",
    "pkg.high": "import pkg.rules.one\nfrom pkg.low import a\nb = 1\n",
}
ORDER = ("low", "rules", "high")


def test_clean_package_has_no_finding():
    assert house.out_of_order(CLEAN, ORDER) == []
    assert house.cycles(CLEAN) == []


@pytest.mark.parametrize(
    "planted",
    [
        "import pkg.high\n",
        "from pkg.high import b\n",
        "from pkg import high\n",
        "from .high import b\n",
        "from . import high\n",
        "def f():\n    from .high import b\n    return b\n",
        "class C:\n    def f(self):\n        import pkg.high as h\n        return h\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .high import b\n",
        "import importlib\nh = importlib.import_module('pkg.high')\n",
        "from importlib import import_module\nh = import_module('.high', 'pkg')\n",
        "h = __import__('pkg.high')\n",
    ],
)
def test_an_import_from_below_is_found_however_it_is_spelled(planted):
    (found,) = house.out_of_order({**CLEAN, "pkg.low": planted}, ORDER)
    assert found.startswith("pkg.low:")
    assert found.endswith("imports pkg.high, which stands below 'low'")


def test_an_import_from_below_is_found_from_inside_a_folder():
    planted = {**CLEAN, "pkg.rules.two": "from ..high import b\n"}
    assert house.out_of_order(planted, ORDER) == [
        "pkg.rules.two:1: imports pkg.high, which stands below 'rules'"
    ]
    planted = {**CLEAN, "pkg.rules.__init__": "def f():\n    from ..high import b\n"}
    assert house.out_of_order(planted, ORDER) == [
        "pkg.rules.__init__:2: imports pkg.high, which stands below 'rules'"
    ]


def test_an_import_of_the_front_door_is_found():
    planted = {**CLEAN, "pkg.high": "def f():\n    import pkg\n    from pkg import b\n"}
    assert house.out_of_order(planted, ORDER) == [
        "pkg.high:2: imports pkg itself, not the file where the name is defined"
    ]


def test_a_file_without_a_line_in_the_order_is_found():
    planted = {**CLEAN, "pkg.extra": "", "pkg.high": "from .extra import d\n"}
    assert house.out_of_order(planted, ORDER) == [
        "pkg.high:1: imports pkg.extra, which has no line in the order",
        "pkg.extra: 'extra' has no line in the import order",
    ]


def test_a_file_that_is_not_there_keeps_its_place_in_the_order():
    planted = {**CLEAN, "pkg.low": "from .high import b\n"}
    del planted["pkg.high"]
    assert house.out_of_order(planted, ORDER) == [
        "pkg.low:1: imports pkg.high, which stands below 'low'"
    ]


def test_a_cycle_is_found_lazy_and_inside_one_folder_too():
    planted = {**CLEAN, "pkg.rules.two": "def f():\n    from .one import d\n"}
    assert house.out_of_order(planted, ORDER) == []
    assert house.cycles(planted) == ["pkg.rules.one -> pkg.rules.two -> pkg.rules.one"]


def test_a_cycle_through_the_front_of_a_folder_is_found():
    planted = {"pkg.rules.__init__": "from .two import c\n", "pkg.rules.two": "from . import c\n"}
    assert house.cycles({**CLEAN, **planted}) == [
        "pkg.rules.__init__ -> pkg.rules.two -> pkg.rules.__init__"
    ]


def test_a_long_cycle_is_found():
    planted = {"pkg.a": "import pkg.b", "pkg.b": "import pkg.c", "pkg.c": "import pkg.a"}
    assert house.cycles(planted) == ["pkg.a -> pkg.b -> pkg.c -> pkg.a"]


@pytest.mark.parametrize(
    "planted",
    [
        "import torch\n",
        "from torch.nn import functional\n",
        "try:\n    import torch\nexcept ImportError:\n    torch = None\n",
        "class C:\n    import torch\n",
        "if True:\n    import torch.nn as nn\n",
    ],
)
def test_an_early_import_of_a_framework_is_found(planted):
    (found,) = house.eager({"pkg.low": planted})
    assert found.endswith("imports torch before it is used")


def test_a_late_or_homely_import_of_a_framework_is_no_finding():
    lazy = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
    lazy += "def f():\n    import torch\n    return torch\n"
    assert house.eager({"pkg.low": lazy, "pkg.frameworks.torch": "import torch\n"}) == []
    assert house.eager({"pkg.render.grid": "import matplotlib\n"}) == []
    assert house.eager({"pkg.frameworks.torch": "import tensorflow\n"}) != []


def test_a_long_file_is_found():
    assert house.long_file("a.py", "x = 1\n" * 400) == []
    assert house.long_file("a.py", "x = 1\n" * 401) == ["a.py: 401 lines, 400 at most"]


def test_a_long_function_is_found_and_words_are_free():
    def source(count: int) -> str:
        free = '"""Words.\n\n    More words.\n    """\n    # why\n\n'
        return "# a\ndef f():\n    " + free + "    x = 1\n" * count

    assert house.long_functions("a.py", source(59)) == []
    assert house.long_functions("a.py", source(60)) == [
        "a.py:2: f has 61 lines of code, 60 at most"
    ]


def test_a_long_text_inside_a_function_is_code():
    source = 'def f():\n    return """' + "\n" * 70 + '"""\n'
    assert house.long_functions("a.py", source) == ["a.py:1: f has 72 lines of code, 60 at most"]


def test_an_assert_is_found():
    assert house.asserts("a.py", "def f(x):\n    assert x\n") == ["a.py:2: assert"]


def test_a_missing_docstring_is_found():
    @dataclass
    class Silent:
        a: int = 0

    class Told:
        """Something."""

    class Heir(Told):
        pass

    def mute(): ...

    names = {"Silent": Silent, "Told": Told, "Heir": Heir, "mute": mute, "pi": 3.14}
    space = types.SimpleNamespace(**names, __all__=[*names, "ghost"])
    assert house.undocumented(space) == [
        "Silent: no docstring",
        "Heir: no docstring",
        "mute: no docstring",
        "ghost: in __all__, but there is none",
    ]


def test_a_slow_import_is_found(tmp_path):
    (tmp_path / "sluggish.py").write_text("import time\ntime.sleep(0.31)\n")
    seconds, _ = house.loaded_by("sluggish", tmp_path, tries=2)
    assert seconds > MAX_IMPORT_SECONDS


def test_a_heavy_import_is_found(tmp_path):
    (tmp_path / "torch.py").write_text("")
    (tmp_path / "greedy.py").write_text("import torch\n")
    _, loaded = house.loaded_by("greedy", tmp_path, tries=1)
    assert loaded & NEVER_LOADED == {"torch"}
