"""What pages, docstrings and comments call by its place is there: modules, functions, files."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from documents.pages import REPOSITORY, pages

CODE = ("cte_dask", "benchmarks", "examples")
SOURCES = [p for folder in CODE for p in (REPOSITORY / folder).rglob("*.py")]
TESTS = [p for p in (REPOSITORY / "tests").rglob("*.py") if p != Path(__file__).resolve()]
DOTTED = re.compile(r"\bcte_dask((?:\.[A-Za-z_]\w*)+)")
FILE = re.compile(r"(?<![\w/.])(?:benchmarks|cte_dask|deploy|docs|examples|tests)/[\w/.-]*\w/?")
WRITTEN = {"docs/disagreement.png", "examples/NAME"}
"""What a command writes, or stands for any file."""


def absent(names: dict[Path, Iterable[str]]) -> list[str]:
    """Names that lead nowhere, each with the file it stands in."""
    return [f"{path.relative_to(REPOSITORY)}: {n}" for path, ns in names.items() for n in ns]


def missing_part(place: str) -> str:
    """The first part of a dotted place below `cte_dask` that is not there, empty if all are."""
    here = REPOSITORY / "cte_dask"
    *parts, last = place.strip(".").split(".")
    for number, part in enumerate((*parts, last)):
        if (here / part).is_dir():
            here /= part
        elif (here / f"{part}.py").is_file():
            here = here / f"{part}.py"
        else:
            module = here if here.is_file() else here / "__init__.py"
            return "" if is_in(part, module) else ".".join((*parts, last)[: number + 1])
    return ""


def is_in(name: str, module: Path) -> bool:
    """Whether a module defines, lists or imports a name."""
    holder = rf'^(?:async )?(?:def|class) {name}\b|^{name}\b *[:=]|^from .*\b{name}\b|"{name}"'
    return re.search(holder, module.read_text(), re.MULTILINE) is not None


def test_a_module_or_function_that_is_named_exists():
    files = [*pages(), *SOURCES]
    places = {path: filter(missing_part, DOTTED.findall(path.read_text())) for path in files}
    assert absent(places) == []


def test_a_file_of_the_repository_that_is_named_exists():
    files = [*pages(), *SOURCES, *TESTS]
    paths = {p: [n for n in FILE.findall(p.read_text()) if not is_there(n, p)] for p in files}
    assert absent(paths) == []


def is_there(name: str, page: Path) -> bool:
    """Whether a file is in the repository, or beside the page that names it."""
    return name in WRITTEN or any((f / name).exists() for f in (REPOSITORY, page.parent))


@pytest.mark.parametrize(
    ("place", "missing"),
    [
        (".tiles.frame_of", ""),
        (".volume.VolumeError", ""),
        (".ranking.rank.rank", ""),
        (".scoring", ""),
        (".nothing", "nothing"),
        (".tiles.nothing", "tiles.nothing"),
        (".perturb.masks.channel_mask", "perturb.masks"),
    ],
)
def test_a_name_that_leads_nowhere_is_seen(place, missing):
    assert missing_part(place) == missing


def test_the_lines_that_the_style_recommends_are_those_of_the_code():
    style = (REPOSITORY / "CONTRIBUTING.md").read_text()
    good = re.findall(r"^yes   (.+)$", style, re.MULTILINE)
    code = "\n".join(path.read_text() for path in SOURCES)
    assert len(good) >= 10
    assert [line for line in good if line.removeprefix("# ") not in code] == []


@pytest.mark.parametrize(
    "place",
    [
        "cli:app",
        "consistency.binary:binary_agreement",
        "consistency.binary:BinaryAgreement",
        "consistency.instance:v_rand",
        "models.unet:UNet",
    ],
)
def test_what_code_from_outside_calls_stays_where_it_is(place):
    module, _, name = place.partition(":")
    assert callable(getattr(importlib.import_module(f"cte_dask.{module}"), name))
