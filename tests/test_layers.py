"""The house rules that a machine can keep: arrows point downwards, imports are light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cte_dask"
MODULES = sorted(PACKAGE.rglob("*.py"))

TORCH = {
    "candidates", "decoders", "device", "doctor", "images", "models/bioimageio", "models/loading",
    "memory", "models/onnx",
    "models/pt2_archive", "models/python", "models/pytorch3dunet", "models/pytorch3dunet_blocks",
    "models/pytorch3dunet_network", "models/state_dict", "models/torch_export",
    "models/torchscript", "models/trial", "models/unet", "operations", "outputs", "passes",
    "perturb/bottleneck",
    "perturb/crop", "perturb/cut", "perturb/feature", "perturb/fuse", "perturb/geometric",
    "perturb/halves", "perturb/masks", "perturb/path", "perturb/shared", "perturb/trace",
    "performance",
    "predict", "probe", "scoring", "shortage", "trial_run",
}  # fmt: skip
DASK = {
    "bank_dataset",
    "evaluation_run", "run", "cluster/address", "cluster/certificate", "cluster/connection",
    "cluster/cuda", "cluster/local", "cluster/slurm", "losses", "memory",
}  # fmt: skip
LOWER = ("arrays", "tiles", "volume", "models", "perturb", "segment", "consistency")
UPPER = {
    "predict", "scoring", "run", "experiment", "candidates", "planning", "scores", "dataset",
    "ranking", "pipeline", "cli", "report", "cluster", "demo", "commands", "evaluation",
    "evaluation_run", "performance", "reopening", "decoders", "doctor", "maps", "placement",
    "viewers",
}  # fmt: skip


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE).with_suffix("")).replace("/__init__", "")


def imports(path: Path) -> set[str]:
    """Names imported anywhere but under TYPE_CHECKING."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_torch_and_dask_are_imported_only_where_they_belong(path):
    name, used = name_of(path), {i.partition(".")[0] for i in imports(path)}
    if name not in TORCH and not name.startswith("arrays"):
        assert "torch" not in used
    if name not in DASK:
        assert not used & {"dask", "distributed", "dask_jobqueue", "dask_cuda"}
    if name.startswith("consistency"):
        assert not used & {"torch", "dask", "zarr", "xarray"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrows_point_downwards(path):
    name = name_of(path)
    if not name.startswith(LOWER):
        return
    for used in imports(path):
        if used.startswith("cte_dask."):
            assert used.split(".")[1] not in UPPER, f"{name} imports {used}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_stay_small_and_have_no_attic(path):
    assert len(path.read_text().splitlines()) <= 300
    assert path.stem not in {"utils", "helpers", "misc", "common"}


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {m.partition(".")[0] for m in done.stdout.split()}


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


def test_every_public_name_resolves():
    import cte_dask

    for name in cte_dask.__all__:
        assert getattr(cte_dask, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cte_dask.nothing
