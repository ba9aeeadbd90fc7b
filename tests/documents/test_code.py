"""The Python and YAML in the documentation is run and read, and its links lead somewhere."""

from __future__ import annotations

import re
import sys
import textwrap
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from documents.pages import FENCE, REPOSITORY, Block, blocks, pages
from documents.world import copied, write_template

from cte_dask.models import ModelSpec, load_bank

PAGES_WITH_CODE = sorted({b.page for b in blocks("python")})
BASE = {
    "name": "model",
    "format": "state_dict",
    "source": "a.safetensors",
    "architecture": "cte_dask.models.unet:UNet",
}


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return write_template(tmp_path_factory.mktemp("code") / "template")


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_the_python_of_a_page_runs_from_top_to_bottom(page, template, tmp_path, monkeypatch):
    folder = copied(template, tmp_path / "world")
    monkeypatch.chdir(folder)
    if page.name == "tutorial.md":  # the demonstration's bank is of the names that the page takes
        from cte_dask.models.bank import ModelBank

        monkeypatch.setattr("cte_dask.demo.bank_path", lambda: folder / "bank.yaml")
        monkeypatch.setattr(ModelBank, "select", lambda bank, names: bank)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # dataclasses look their module up
    names = vars(module)
    for block in blocks("python"):
        if block.page == page:
            exec(compile(block.text, block.name, "exec"), names)
    check_of.get(page.name, lambda _: None)(names)


def check_of_readme(names):
    ranks = [m.rank for m in names["ranking"].models]
    assert ranks == list(range(1, 1 + len(load_bank("bank.yaml"))))


check_of = {"README.md": check_of_readme}


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda b: b.name)
def test_the_banks_in_the_documentation_are_valid(block: Block, tmp_path):
    text = textwrap.dedent(block.text)
    if text.startswith("schema:"):
        path = tmp_path / "bank.yaml"
        path.write_text(text)
        assert len(load_bank(path)) == 1
    else:
        spec = ModelSpec.model_validate({**BASE, **yaml.safe_load(text)})
        assert spec.segmenter or spec.variants or spec.preprocessing


def test_the_page_on_banks_shows_every_key_of_a_model():
    (block,) = [b for b in blocks("yaml") if b.page.name == "bank.md" and "schema:" in b.text]
    (shown,) = yaml.safe_load(block.text)["models"].values()
    assert set(shown) | {"name", "segmenter"} == set(ModelSpec.model_fields)


LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_every_link_of_a_page_leads_to_a_file_or_a_heading(page):
    for match in LINK.finditer(FENCE.sub("", page.read_text())):
        path, _, anchor = match["target"].partition("#")
        if "://" in path:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {match['target']}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {match['target']}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def rooms_of_the_readme() -> list[str]:
    """The first column of the architecture's table, from the top."""
    text = (REPOSITORY / "README.md").read_text()
    table = text[text.index("## Architecture") : text.index("## Status")]
    rows = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([a-z_]+/?)`", row)]


def rooms_of_contributing() -> list[str]:
    """What stands at the left of the drawing of the rooms, from the top."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    [drawing] = re.findall(r"^```text\n(cli .*?)^```", text, re.MULTILINE | re.DOTALL)
    return [n for line in drawing.splitlines() for n in line.partition("  ")[0].split(", ")]


def test_the_rooms_stand_in_the_order_of_the_contract():
    tools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]
    [contract] = [c for c in tools["importlinter"]["contracts"] if c["type"] == "layers"]
    layers = {n: i for i, layer in enumerate(contract["layers"]) for n in layer.split(" | ")}
    for named in (rooms_of_the_readme, rooms_of_contributing):
        heights = [layers[name.rstrip("/")] for name in named()]
        assert heights == sorted(heights), named.__name__


@pytest.mark.parametrize("named", [rooms_of_the_readme, rooms_of_contributing])
def test_the_architecture_has_a_line_for_each_room_and_no_other(named):
    package = REPOSITORY / "cte_dask"
    files = {p.stem for p in package.glob("*.py")} - {"__init__"}
    folders = {p.parent.name for p in package.glob("*/__init__.py")}
    assert sorted(name.rstrip("/") for name in named()) == sorted(files | folders)
