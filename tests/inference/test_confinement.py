"""A process that checks a model nobody trusts writes nowhere but in its own folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import cte_dask.inference.confinement
from cte_dask.cli import app
from cte_dask.inference.confinement import can_forbid_writes

TRIES = """
import os, sys
from pathlib import Path
from cte_dask.inference.confinement import forbid_writes

inside, outside = map(Path, sys.argv[1:])
confined = forbid_writes(inside)
(inside / "file").write_text("written")
Path(os.devnull).write_text("written")
tries = {
    "make": lambda: (outside / "new").write_text("x"),
    "make a folder": lambda: (outside / "folder").mkdir(),
    "overwrite": lambda: (outside / "overwritten").write_text("x"),
    "truncate": lambda: os.truncate(outside / "truncated", 0),
    "remove": lambda: (outside / "removed").unlink(),
    "rename out": lambda: (inside / "file").rename(outside / "renamed"),
    "a child": lambda: os.system(f"echo x > {outside}/child 2> /dev/null") and 1 / 0,
}
refused = set()
for name, attempt in tries.items():
    try:
        attempt()
    except (PermissionError, ZeroDivisionError):
        refused.add(name)
assert refused == (set(tries) if confined else set()), refused
print(confined)
"""

# The check of an archive, as if it knew nothing: what it might miss still overwrites no file.
CARELESS = """
import sys
from contextlib import suppress
from pathlib import Path
import cte_dask.models.formats.torchscript as torchscript
from cte_dask.inference.check import _check
from cte_dask.models.network import ModelError
from cte_dask.models.spec import ModelSpec

torchscript.refuse_operators = torchscript.refuse_graphs = lambda _: None
spec = ModelSpec(name="evil", format="torchscript", source=sys.argv[1])
with suppress(ModelError):
    _check(spec.model_dump_json(exclude_unset=True), Path(sys.argv[2]))
"""


class Saves(nn.Module):
    """Writes a file whenever it predicts."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, self.path)
        return x


def _run(code: str, *arguments: Path) -> str:
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    for name in ("overwritten", "truncated", "removed"):
        (outside / name).write_text("mine")
    return inside, outside


def test_nothing_is_written_outside_of_the_folder(folders: tuple[Path, Path]) -> None:
    inside, outside = folders
    assert _run(TRIES, inside, outside) == str(can_forbid_writes())
    if can_forbid_writes():
        assert sorted(p.name for p in outside.iterdir()) == ["overwritten", "removed", "truncated"]
        assert {p.read_text() for p in outside.iterdir()} == {"mine"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_model_that_slips_through_the_check_of_its_file_writes_nothing(
    folders: tuple[Path, Path],
) -> None:
    inside, outside = folders
    torch.jit.save(torch.jit.script(Saves(str(outside / "canary"))), outside / "script.pt")
    _run(CARELESS, outside / "script.pt", inside)
    assert (outside / "canary").exists() == (not can_forbid_writes())


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("trust", [True, False])
def test_a_system_that_cannot_forbid_writing_is_named_once(
    able: bool, trust: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cte_dask.inference.confinement, "can_forbid_writes", lambda: able)
    entry = f"{{format: torchscript, source: a.pt, trust: {str(trust).lower()}}}"
    bank = tmp_path / "bank.yaml"
    bank.write_text(f"schema: cte-bank/1\nmodels:\n  a: {entry}\n  b: {entry}\n")
    for name in "ab":
        (tmp_path / f"{name}.pt").write_bytes(b"no archive")
    result = CliRunner().invoke(app, ["models", "check", str(bank)])
    assert result.exit_code == 3
    assert result.stderr.count("has no Landlock") == (not able and not trust)
