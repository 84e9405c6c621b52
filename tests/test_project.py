"""The project's own files agree with each other: versions, pins, bibliography, README."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def pins(text: str) -> dict[str, str]:
    """Name -> version of the lines `name==version`; names as the index compares them."""
    found = re.findall(r"^([\w.-]+)==(\S+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def floors(requirements: list[str]) -> dict[str, str]:
    """Name -> lower bound ("" for none) of each requirement, whence's own extras left out."""
    found = (re.match(r"([\w.-]+)(?:\[[^]]*\])?(?:>=([\w.]+))?", each) for each in requirements)
    return {m[1].lower(): m[2] or "" for m in found if m is not None and m[1] != "whence"}


def release(version: str) -> tuple[int, ...]:
    """The version's numbers, trailing zeros dropped, so that 4.0 is 4.0.0 and 1.9 is below 1.10."""
    numbers = [int(n) for n in re.findall(r"\d+", version)]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def unpinned(requirements: list[str], pinned: dict[str, str]) -> list[str]:
    """Requirements that no pin answers, or only one that is too old."""
    return [
        name
        for name, floor in floors(requirements).items()
        if name not in pinned or release(pinned[name]) < release(floor)
    ]


def keys(bibliography: str) -> list[str]:
    """The keys of a BibTeX file, in its order."""
    return re.findall(r"^@\w+\{([^,\s]+),", bibliography, flags=re.MULTILINE)


def cited(source: str) -> set[str]:
    """Keys in square brackets, such as [bach2015] or [bach2015, zeiler2014]."""
    groups = re.findall(r"\[((?:[a-z]+(?:19|20)\d\d[a-z]*(?:,\s*)?)+)\]", source)
    return {key for group in groups for key in re.split(r",\s*", group) if key}


def test_one_version_everywhere():
    import whence

    version = PROJECT["version"]
    assert whence.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_every_requirement_is_pinned():
    extras = PROJECT["optional-dependencies"]
    wanted = PROJECT["dependencies"] + [r for name in extras for r in extras[name]]
    wanted = [r for r in wanted if not r.startswith("tensorflow>")]  # the pin is of tensorflow-cpu
    assert unpinned(wanted, pins((ROOT / "constraints/pinned.txt").read_text("utf-8"))) == []


def test_the_lowest_versions_are_those_that_are_promised():
    lowest = pins((ROOT / "constraints/lowest.txt").read_text("utf-8"))
    promised = floors(PROJECT["dependencies"])
    assert lowest.keys() == promised.keys()
    assert [n for n in lowest if release(lowest[n]) != release(promised[n])] == []


def test_every_paper_that_is_cited_is_in_the_bibliography():
    known = keys((ROOT / "docs/bibliography.bib").read_text("utf-8"))
    assert len(known) == len(set(known)) > 10
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    assert cited(sources) - set(known) == set()


def test_every_paper_of_the_catalogue_is_in_the_bibliography():
    import whence

    known = keys((ROOT / "docs/bibliography.bib").read_text("utf-8"))
    papers = {row.name: set(row.paper.split(", ")) for row in whence.methods()}
    assert papers["lrp"] >= {"bach2015"}
    assert {name: found - set(known) for name, found in papers.items() if found - set(known)} == {}


def test_every_file_that_the_documentation_links_is_there():
    missing = [
        (path.name, link)
        for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for link in re.findall(r"\]\(([^)#\s]+)\)", path.read_text("utf-8"))
        if "://" not in link and not (path.parent / link).exists()
    ]
    assert missing == []


def test_the_readme_commands_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = set()
    for name in ("README.md", "CONTRIBUTING.md", ".ci/run", ".pre-commit-config.yaml"):
        text = (ROOT / name).read_text("utf-8")
        named.update(re.findall(r"(?:\$ |`)make ([a-z-]+)", text))
        named.update(w for line in re.findall(r"for step in (.+); do", text) for w in line.split())
    assert {"demo", "test", "lint", "types", "wheel-check"} <= named
    assert [n for n in sorted(named) if not re.search(rf"^{n}:", makefile, re.MULTILINE)] == []


# Each reader, red on a planted mistake.


def test_a_missing_or_old_pin_is_found():
    pinned = pins("# words\nnumpy==1.9.0\nscikit_learn==1.10.0\n")
    assert unpinned(["numpy>=1.10", "scikit-learn>=1.9", "torch"], pinned) == ["numpy", "torch"]
    assert unpinned(["whence[demo,docs]", "numpy>=1.9"], pinned) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("LRP [bach2015].", {"bach2015"}),
        ("both [zeiler2014, springenberg2015]", {"zeiler2014", "springenberg2015"}),
        ("x[i], np.zeros([3]), list[int]", set()),
    ],
)
def test_citations_are_read(source, expected):
    assert cited(source) == expected


def test_bibliography_keys_are_read():
    assert keys("@misc{a2013,\n  title = {b}\n}\n@article{c2014,\n}") == ["a2013", "c2014"]
