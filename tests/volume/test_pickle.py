"""A volume travels as a small recipe and reads the same voxels in another process."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from cte_dask.volume import Volume, open_volume, write_ome_zarr

ZERO = (0, 0, 0)


@pytest.fixture
def volume(voxels: NDArray[Any], tmp_path: Path) -> Volume:
    path = tmp_path / "image.zarr"
    write_ome_zarr(
        path,
        np.stack([voxels, voxels + 1]),
        axes="czyx",
        voxel_size_nm=(50, 4, 4),
        chunks=(1, 2, 8, 8),
        labels={"cells": (voxels % 3).astype(np.uint8)},
    )
    return open_volume(
        path,
        channel=1,
        roi="1:5,:,2:",
        mask=path / "labels" / "cells",
        training_voxel_size="4 nm",
        storage_options={"key": "x" * 40, "client_kwargs": {"region_name": "somewhere"}},
    )


def test_a_pickled_volume_is_small_and_equal(volume: Volume) -> None:
    volume.read(ZERO, volume.shape)
    pickled = pickle.dumps(volume)
    assert len(pickled) < 4096
    again = pickle.loads(pickled)
    assert again == volume
    assert hash(again) == hash(volume)
    assert again.view.source.storage_options == volume.view.source.storage_options


def test_storage_options_are_not_shown(volume: Volume) -> None:
    assert "xxxx" not in repr(volume)


def test_a_spawned_process_reads_the_same(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        read = pool.submit(volume.read, (-3, -3, -3), (5, 5, 5)).result()
        mask = pool.submit(volume.read_mask, ZERO, volume.shape).result()
        assert pool.submit(os.getpid).result() != os.getpid()
    np.testing.assert_array_equal(read, volume.read((-3, -3, -3), (5, 5, 5)))
    np.testing.assert_array_equal(mask, volume.read_mask(ZERO, volume.shape))


@pytest.mark.parametrize("make", [np.asarray, lambda a: zarr.array(a, store=MemoryStore())])
def test_an_array_in_memory_travels_with_its_volume(
    make: Callable[[Any], Any], voxels: NDArray[Any]
) -> None:
    again = pickle.loads(pickle.dumps(open_volume(make(voxels), roi="1:,:,:")))
    np.testing.assert_array_equal(again.read(ZERO, again.shape), voxels[1:])


def test_an_error_travels_too(volume: Volume, tmp_path: Path) -> None:
    from cte_dask.volume import VolumeReadError

    chunk = tmp_path / "image.zarr/0/c/1/0/0/0"
    chunk.write_bytes(b"nonsense")
    with pytest.raises(VolumeReadError) as caught:
        volume.read(ZERO, volume.shape)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is VolumeReadError
    assert str(again) == str(caught.value)
