"""README gives the reason and the licence of every package that pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict

from documents.pages import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def wanted() -> dict[str, set[str]]:
    """Return the extras that ask for each package; none for a package that all need."""
    extras = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    packages: dict[str, set[str]] = defaultdict(set)
    for extra, requirements in extras.items():
        for requirement in requirements:
            name = re.match(r"[\w.-]+", requirement)[0].lower()
            packages[name] |= {extra} - {""}
    del packages["cte-dask"]
    return packages


def rows() -> list[list[str]]:
    """Return the cells of README's table: packages, extras, licence, reason."""
    section = (REPOSITORY / "README.md").read_text().partition("\n## Dependencies\n")[2]
    table = section.partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_dependency_has_one_row_under_its_extras():
    packages = wanted()
    names = [row[0].lower().split(", ") for row in rows()]
    assert sorted(name for row in names for name in row) == sorted(packages)
    for row, (_, cell, _, _) in zip(names, rows(), strict=True):
        extras = set(re.findall(r"`([\w-]+)`", cell))
        assert extras == set().union(*(packages[name] for name in row)), row


def test_every_row_gives_a_licence_and_a_reason():
    for packages, _, licence, reason in rows():
        assert re.search(r"Apache|BSD|MIT|MPL|PSF", licence), packages
        assert len(reason.split()) > 1, packages
