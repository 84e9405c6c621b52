"""The checks behind test_house.py: each takes source text or paths and returns what is wrong.

A finding is one line that says where and what; an empty list means that all is well.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import os
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

# A file imports only from the lines above its own; a folder is one line.
ORDER = (
    "errors",
    "ops",
    "arrays",
    "tape",
    "layout",
    "frameworks",
    "targets",
    "checks",
    "backward",
    "rules",
    "recording",
    "ledger",
    "result",
    "storage",
    "tokens",
    "baselines",
    "segments",
    "perturb",
    "readout",
    "optimise",
    "methods",
    "quality",
    "images",
    "data",
    "models",
    "dataset",
    "render",
    "report",
    "demo",
    "cli",
    "testing",
)

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# Imported when it is used, or in a file that exists for it: one with such a word in its name.
HEAVY = {
    "torch": ("torch",),
    "torchvision": ("torch",),
    "timm": ("torch",),
    "transformers": ("torch",),
    "tensorflow": ("tensorflow", "keras"),
    "keras": ("tensorflow", "keras"),
    "jax": ("jax",),
    "sklearn": ("sklearn",),
    "matplotlib": ("render",),
}


def modules(package: Path) -> dict[str, str]:
    """Dotted name -> source of every file in a package folder, ``__init__`` spelled out."""
    return {
        ".".join(path.relative_to(package.parent).with_suffix("").parts): path.read_text("utf-8")
        for path in sorted(package.rglob("*.py"))
    }


def _asked(node: ast.AST, module: str) -> Iterator[str]:
    """The dotted names that one statement or call imports, relative ones made absolute."""
    folder = module.split(".")[:-1]
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            kept = folder[: len(folder) - node.level + 1]
            base = ".".join([*kept, base] if base else kept)
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else None
        called = node.func.id if isinstance(node.func, ast.Name) else called
        name = node.args[0].value
        if called in ("import_module", "__import__") and isinstance(name, str):
            level = len(name) - len(name.lstrip("."))
            kept = folder[: len(folder) - level + 1]
            yield ".".join([*kept, name.lstrip(".")]) if level else name


def _settled(name: str, known: Mapping[str, str]) -> str:
    """The file that a dotted name lies in: that of the longest beginning for which there is one.

    For ``pkg.gone.name``, where there is no such file, that is ``pkg.gone`` and not the front door.
    """
    parts = name.split(".")
    beginnings = [".".join(parts[:n]) for n in range(len(parts), 1 if len(parts) > 2 else 0, -1)]
    files = (file for b in beginnings for file in (b, f"{b}.__init__"))
    return next((file for file in files if file in known), beginnings[-1])


def imports(sources: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """File -> {file of the same package that it imports: the line}, at any depth.

    Imports inside functions, under TYPE_CHECKING and by import_module("...") count like any other.
    """
    root = next(iter(sources)).partition(".")[0]
    graph: dict[str, dict[str, int]] = {}
    for module, source in sources.items():
        graph[module] = {}
        for node in ast.walk(ast.parse(source)):
            for asked in _asked(node, module):
                if asked.partition(".")[0] == root:
                    graph[module].setdefault(_settled(asked, sources), getattr(node, "lineno", 0))
        graph[module].pop(module, None)
    return graph


def out_of_order(sources: Mapping[str, str], order: tuple[str, ...] = ORDER) -> list[str]:
    """Imports of a later line of the order or of the package's front door, and unlisted files."""
    graph = imports(sources)
    root = next(iter(sources)).partition(".")[0]
    found = []
    for module, wanted in graph.items():
        line = module.split(".")[1]
        if line == "__init__":
            continue  # the front door itself may import everything
        if line not in order:
            found.append(f"{module}: {line!r} has no line in the import order")
            continue
        for other, number in wanted.items():
            above = other.split(".")[1]
            if above == "__init__":
                wrong = f"{root} itself, not the file where the name is defined"
            elif above not in order:
                wrong = f"{other}, which has no line in the order"
            elif order.index(above) > order.index(line):
                wrong = f"{other}, which stands below {line!r}"
            else:
                continue
            found.append(f"{module}:{number}: imports {wrong}")
    return found


def cycles(sources: Mapping[str, str]) -> list[str]:
    """Modules that import each other, in however many steps; the front door is left out."""
    door = next(iter(sources)).partition(".")[0] + ".__init__"
    graph = {m: [o for o in wanted if o != door] for m, wanted in imports(sources).items()}
    graph.pop(door, None)
    found: dict[frozenset[str], str] = {}
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            ring = path[path.index(module) :]
            found.setdefault(frozenset(ring), " -> ".join([*ring, module]))
        elif module not in done:
            for other in graph.get(module, ()):
                walk(other, [*path, module])
            done.add(module)

    for module in graph:
        walk(module, [])
    return list(found.values())


def eager(sources: Mapping[str, str]) -> list[str]:
    """Heavy packages imported as soon as a file is, outside the files that exist for them."""

    def at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
        for statement in body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
                yield from at_import(statement.orelse)
                continue
            yield statement
            for block in ("body", "orelse", "finalbody"):
                yield from at_import(getattr(statement, block, []))
            for handler in getattr(statement, "handlers", []):
                yield from at_import(handler.body)

    found = []
    for module, source in sources.items():
        for node in at_import(ast.parse(source).body):
            for name in _asked(node, module):
                top = name.partition(".")[0]
                if top in HEAVY and not any(word in module for word in HEAVY[top]):
                    found.append(f"{module}:{node.lineno}: imports {top} before it is used")
    return found


def long_file(name: str, source: str, limit: int = MAX_FILE_LINES) -> list[str]:
    """The file, if it has more lines than the limit."""
    count = len(source.splitlines())
    return [f"{name}: {count} lines, {limit} at most"] if count > limit else []


def _code_lines(source: str) -> set[int]:
    """The numbers of the lines that hold code: neither blank nor only a comment."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent and token.type != tokenize.ENDMARKER:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def long_functions(name: str, source: str, limit: int = MAX_FUNCTION_LINES) -> list[str]:
    """Functions of more lines of code than the limit; docstring, comments and blanks are free."""
    code = _code_lines(source)
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        lines = code & set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        if ast.get_docstring(node) is not None:
            text = node.body[0]
            lines -= set(range(text.lineno, (text.end_lineno or text.lineno) + 1))
        if len(lines) > limit:
            place = f"{name}:{node.lineno}: {node.name}"
            found.append(f"{place} has {len(lines)} lines of code, {limit} at most")
    return found


def asserts(name: str, source: str) -> list[str]:
    """Assert statements, which vanish under `python -O` and say nothing to a user."""
    nodes = ast.walk(ast.parse(source))
    return [f"{name}:{n.lineno}: assert" for n in nodes if isinstance(n, ast.Assert)]


def undocumented(namespace: object) -> list[str]:
    """Names in ``__all__`` that do not exist, or that are called and have no words of their own."""
    found = []
    for name in getattr(namespace, "__all__", ()):
        if not hasattr(namespace, name):
            found.append(f"{name}: in __all__, but there is none")
            continue
        thing = getattr(namespace, name)
        if not (inspect.isclass(thing) or callable(thing) or inspect.ismodule(thing)):
            continue
        text = (thing.__doc__ or "").strip()
        # A dataclass without a docstring is given its signature for one.
        if dataclasses.is_dataclass(thing) and text.startswith(f"{name}("):
            text = ""
        if not text:
            found.append(f"{name}: no docstring")
    return found


def loaded_by(module: str, where: Path, tries: int = 7) -> tuple[float, set[str]]:
    """What importing a module costs a fresh Python: seconds, best of some tries, and what it loads.

    ``where`` is the folder that the module is found in. The best of several is taken since a busy
    machine only ever adds to the time. The second value holds the names of the top-level packages.
    """
    program = (
        "import sys, time; start = time.perf_counter(); "
        f"import {module}; took = time.perf_counter() - start; "
        "print(took, *{name.partition('.')[0] for name in sys.modules})"
    )
    environment = {**os.environ, "PYTHONPATH": str(where)}
    best, names = float("inf"), set()
    for _ in range(tries):
        ran = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            cwd=where,
        )
        seconds, *loaded = ran.stdout.split()
        best, names = min(best, float(seconds)), set(loaded)
    return best, names
