"""Real servers, started once a test run on loopback addresses; what is not installed is skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import blobs, write_bank
from services import slurm as slurm_server

from cte_dask.volume import write_ome_zarr


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random models: real servers are tried with little work."""
    return write_bank(tmp_path_factory.mktemp("bank"), 2)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target of five blocks when a block is 1,2,2 tiles of 1,32,32 voxels."""
    path = tmp_path_factory.mktemp("small") / "target.zarr"
    image = blobs((5, 64, 64))
    write_ome_zarr(path, image, axes="zyx", voxel_size_nm=(40.0, 10.0, 10.0), chunks=(1, 32, 32))
    return path


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running SLURM, by its slurm.conf; commands of this process find it."""
    if missing := slurm_server.what_is_missing():
        pytest.skip(f"SLURM: {missing}")
    with (
        slurm_server.running(tmp_path_factory.mktemp("slurm")) as conf,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("SLURM_CONF", os.fspath(conf))
        yield conf


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The voxels of `small` in shards, as large targets are."""
    path = tmp_path_factory.mktemp("sharded") / "target.zarr"
    sizes = {"chunks": (1, 32, 32), "shards": (1, 64, 64)}
    write_ome_zarr(path, blobs((5, 64, 64)), axes="zyx", voxel_size_nm=(40.0, 10.0, 10.0), **sizes)
    return path
