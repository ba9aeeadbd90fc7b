"""Targets on disk: one small volume, stored in every way that must open the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem
from numpy.typing import NDArray
from volume.web_server import serving

SHAPE = (6, 20, 26)


@pytest.fixture(autouse=True)
def _empty_memory() -> Iterator[None]:
    """Leave nothing in fsspec's memory file system, which all tests of a process share."""
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def voxels() -> NDArray[np.uint16]:
    # never the fill value, so that a voxel filled in by mistake shows
    return np.random.default_rng(3).integers(1, 60000, SHAPE).astype(np.uint16)


@pytest.fixture
def write_array(tmp_path: Path) -> Callable[..., str]:
    """Return a writer of a zarr array that gives its path."""

    def write(data: NDArray[Any], name: str = "array.zarr", **options: Any) -> str:
        options.setdefault("chunks", tuple(min(8, n) for n in data.shape))
        path = tmp_path / name
        array = zarr.create_array(path, shape=data.shape, dtype=data.dtype, **options)
        array[...] = data
        return str(path)

    return write


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Return a starter of a web server of the test's folder, which gives its URL."""
    with ExitStack() as servers:
        yield lambda **changes: servers.enter_context(serving(tmp_path, **changes))
