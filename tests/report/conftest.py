"""A run with every kind of trouble in it, once for all tests of reports and maps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from troubled import write_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run; its bank and target lie beside it."""
    return write_run(tmp_path_factory.mktemp("troubled"))


@pytest.fixture
def moved(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(run, tmp_path / "RUN", ignore=shutil.ignore_patterns("maps.zarr")))
