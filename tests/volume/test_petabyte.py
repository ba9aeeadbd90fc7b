"""A petabyte that holds next to nothing opens, and is sampled, in seconds and little memory."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from cte_dask.volume import intensity_statistics, open_volume

SHAPE = (100_000, 100_000, 100_000)


@pytest.mark.parametrize("shards", [None, (1024, 1024, 1024)])
def test_a_petabyte_opens_and_says_that_it_is_empty(
    shards: tuple[int, int, int] | None, tmp_path: Path
) -> None:
    zarr.create_array(
        tmp_path / "pb", shape=SHAPE, dtype="u1", chunks=(128, 128, 128), shards=shards
    )
    start = time.perf_counter()
    volume = open_volume(tmp_path / "pb")
    assert volume.missing_chunks((0, 0, 0), SHAPE) == volume.storage_objects((0, 0, 0), SHAPE)
    with pytest.raises(ValueError, match="no intensities found in 1024 of"):
        intensity_statistics(volume)
    assert time.perf_counter() - start < 10


def test_what_a_sparse_petabyte_holds_is_found_within_a_roi(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "pb", shape=SHAPE, dtype="u1", chunks=(64, 64, 64))
    data = np.random.default_rng(0).integers(10, 90, (64, 128, 128)).astype(np.uint8)
    array[64_000:64_064, 64_000:64_128, 64_000:64_128] = data
    volume = open_volume(tmp_path / "pb", roi="63936:64128,63936:64192,63936:64192")
    statistics = intensity_statistics(volume, max_voxels=2**20)
    assert (statistics.minimum, statistics.maximum) == (10, 89)
    assert statistics.n_units_missing > 0
    assert volume.missing_chunks((0, 0, 0), volume.shape) == 3 * 4 * 4 - 4


def test_a_petabyte_takes_little_memory(tmp_path: Path) -> None:
    code = f"""
import resource, zarr
from cte_dask.volume import intensity_statistics, open_volume
zarr.create_array({str(tmp_path / "pb")!r}, shape={SHAPE}, dtype="u2", chunks=(64, 64, 64))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
volume = open_volume({str(tmp_path / "pb")!r})
try:
    intensity_statistics(volume)
except ValueError:
    pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # MiB
