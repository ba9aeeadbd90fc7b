"""Imports are light, and no module is an attic. Arrows between rooms: `lint-imports`."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cte_dask"
MOST_LINES = 400
MOST_FLOORS = 13


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {m.partition(".")[0] for m in done.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize(
    "code",
    [
        "import cte_dask",
        "import cte_dask.cli",
        "import cte_dask; cte_dask.load_bank",
        "import cte_dask.consistency.binary, cte_dask.perturb",
        "from cte_dask import demo, load_bank; load_bank(demo.bank_path())",
    ],
)
def test_light_imports_load_neither_torch_nor_dask(code):
    assert not loaded_by(code) & {"torch", "dask", "distributed"}


def test_a_ranking_without_workers_loads_no_library_of_tables_or_formulas(
    target, bank_path, tmp_path
):
    command = ["rank", str(target), "--bank", str(bank_path), "--out", str(tmp_path / "RUN")]
    options = ["--tile", "1,32,32", "--roi", "0:1,0:32,0:32", "--cluster", "none", "--quiet"]
    code = f"""
from cte_dask.cli import app
try:
    app({[*command, *options]})
except SystemExit as end:
    assert end.code == 0, end
"""
    loaded = loaded_by(code)
    assert "torch" in loaded
    assert not loaded & {"xarray", "pandas", "dask", "distributed", "scipy", "numba"}
    assert (tmp_path / "RUN" / "tiles.parquet").is_file()


def test_consistency_needs_an_array_library_alone():
    loaded = loaded_by("import cte_dask.consistency.binary, cte_dask.consistency.instance")
    assert not loaded & {"torch", "dask", "distributed", "zarr", "xarray", "pydantic", "fsspec"}


def test_every_public_name_resolves():
    import cte_dask

    for name in cte_dask.__all__:
        assert getattr(cte_dask, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cte_dask.nothing


def test_the_top_level_is_rooms_and_six_files():
    files = {p.name for p in PACKAGE.iterdir() if p.suffix == ".py"}
    assert len(files) <= 6, files


def test_no_module_is_an_attic_or_large_without_a_reason():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert path.stem not in {"utils", "helpers", "misc", "common"}
        if len(text.splitlines()) > MOST_LINES:
            assert "one module because" in (ast.get_docstring(ast.parse(text)) or ""), path


def longest_chain(imports: dict[str, set[str]]) -> list[str]:
    """The longest chain of modules of which each imports the next."""
    chains: dict[str, list[str]] = {}
    for module in TopologicalSorter(imports).static_order():  # what is imported comes first
        below = max((chains[i] for i in sorted(imports.get(module, ()))), key=len, default=[])
        chains[module] = [module, *below]
    return max(chains.values(), key=len)


def test_the_longest_chain_is_that_of_the_deepest_import():
    assert longest_chain({"a": {"b", "d"}, "b": {"c"}, "c": {"d"}, "e": {"a"}}) == list("eabcd")
    assert longest_chain({"alone": set()}) == ["alone"]


def test_a_newcomer_climbs_few_floors():
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("cte_dask", exclude_type_checking_imports=True, cache_dir=None)
    imports = {m: graph.find_modules_directly_imported_by(m) for m in graph.modules}
    chain = longest_chain(imports)
    assert len(chain) <= MOST_FLOORS, " imports ".join(chain)
