"""Targets that are datasets of an HDF5 file: ``FILE`` or ``FILE::path/of/dataset``.

A file elsewhere is kept open by each process, and what a box needs of it is fetched in few requests
before HDF5 reads it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cte_dask.errors import VolumeError, VolumeReadError, cause
from cte_dask.registry import unknown
from cte_dask.storage import without_query
from cte_dask.storage.stored_file import Range, StoredFile
from cte_dask.volume.axes import letters
from cte_dask.volume.file_source import FileKind, FileTarget, StoredFileSource, library
from cte_dask.volume.hdf5_file import open_hdf5
from cte_dask.volume.image import Image, Selection, checked_dtype
from cte_dask.volume.ngff import LevelScale
from cte_dask.volume.rows import box_of_rows, rows
from cte_dask.volume.voxel_size import VoxelSize

__all__ = ["find_hdf5"]

HDF5 = FileKind("HDF5", (".h5", ".hdf5", ".hdf"), (b"\x89HDF\r\n\x1a\n",))
SIZES = {"element_size_um": 1000.0, "resolution": 1.0}
"""Attributes (z, y, x) that hold a voxel size, and their unit in nanometre: of Fiji and ilastik
(https://github.com/fiji/HDF5_Vibez), and of CREMI (https://cremi.org/data)."""
MOST_LISTED = 12


@dataclass(frozen=True)
class HDF5Source(StoredFileSource):
    """A dataset of an HDF5 file."""

    dataset: str
    fill: float | int | None = field(compare=False)

    @property
    def fill_value(self) -> float | int | None:
        """Value of the voxels of a chunk that was never written; None if not stored in chunks."""
        return self.fill

    def _read(self, selection: Selection) -> NDArray[Any]:
        with open_hdf5(self.file) as file:
            dataset = self._dataset(file)
            if not self.file.is_remote:
                return np.asarray(dataset[selection])
            offset, stored = dataset.id.get_offset(), dataset.dtype
            ranges = self._chunks_of(dataset, selection)
        if offset is not None:  # in one piece
            pieces = self.file.read(rows(selection, self.shape, stored.itemsize, offset))
            return box_of_rows(pieces, selection, self.shape, stored)
        contents = self.file.read(ranges)
        with open_hdf5(self.file, ranges, contents) as file:
            return np.asarray(self._dataset(file)[selection])

    def _dataset(self, file: Any) -> Any:
        dataset = file[self.dataset]
        self._check(dataset.shape, dataset.dtype)
        return dataset

    def _chunks_of(self, dataset: Any, selection: Selection) -> list[Range]:
        """Return where the file holds the chunks of a box; none if it is not stored in chunks."""
        if dataset.chunks is None:
            return []
        stored = dataset.id.get_chunk_info_by_coord
        chunks = (stored(corner) for corner in product(*map(_corners, selection, self.chunks)))
        return [(c.byte_offset, c.size) for c in chunks if c.byte_offset is not None]

    def missing(self, selection: Selection) -> int:
        """Return how many chunks of the selection were never written.

        Raises
        ------
        VolumeReadError
            If the file cannot tell.
        """
        if self.fill is None:
            return 0
        corners = product(*map(_corners, selection, self.chunks))
        try:
            with open_hdf5(self.file) as file:
                stored = file[self.dataset].id.get_chunk_info_by_coord
                return sum(stored(corner).byte_offset is None for corner in corners)
        except Exception as error:  # a damaged index raises whatever HDF5 does
            raise VolumeReadError(
                f"cannot look up the chunks of {without_query(self.url)}: {cause(error)}"
            ) from error


def find_hdf5(target: object, storage_options: Mapping[str, Any]) -> Image | None:
    """Return the dataset that a target names, or the only one of 2 to 5 axes; None if no HDF5.

    Parameters
    ----------
    target
        ``FILE`` or ``FILE::path/of/dataset``, a path or URL.
    storage_options
        For opening a URL.

    Raises
    ------
    VolumeError
        If the file cannot be read here, or does not hold the dataset.
    """
    place = HDF5.parse(target, storage_options)
    if place is None:
        return None
    try:
        with open_hdf5(place.file) as file:
            dataset = _dataset(file, place)
            return _image(dataset, place.file)
    except (VolumeError, MemoryError):
        raise
    except Exception as error:  # a damaged file raises whatever HDF5 does
        raise VolumeError(f"{place.name} cannot be opened as HDF5: {cause(error)}") from error


def _dataset(file: Any, place: FileTarget) -> Any:
    inside = place.inside.strip("/")
    group = file
    if inside:
        if inside not in file:
            names = [d.name.strip("/") for d in _candidates(file)]
            raise VolumeError(f"{place.name}: {unknown('dataset', inside, names)}")
        group = file[inside]
    if hasattr(group, "shape"):
        return group
    candidates = _candidates(group)
    if len(candidates) == 1:
        return candidates[0]
    name = f"{place.name}::{inside}" if inside else place.name
    if not candidates:
        raise VolumeError(f"{name} holds no dataset of numbers with 2 to 5 axes")
    listed = [f"{d.name.strip('/')} {d.dtype}{d.shape}" for d in candidates[:MOST_LISTED]]
    more = f" and {len(candidates) - MOST_LISTED} more" if len(candidates) > MOST_LISTED else ""
    raise VolumeError(
        f"{name} holds {len(candidates)} datasets",
        remedy=f"name one, as {place.name}::{candidates[0].name.strip('/')}",
        details=f"there are {', '.join(listed)}{more}",
    )


def _candidates(group: Any) -> list[Any]:
    datasets: list[Any] = []

    def visit(_: str, node: Any) -> None:
        if 2 <= len(getattr(node, "shape", None) or ()) <= 5 and node.dtype.kind in "buif":
            datasets.append(node)

    group.visititems(visit)
    return sorted(datasets, key=lambda d: str(d.name))


def _image(dataset: Any, file: StoredFile) -> Image:
    name = dataset.name.strip("/")
    url = f"{file.name}::{name}"
    if dataset.shape is None:
        raise VolumeError(f"{url} holds no voxels")
    shape = tuple(int(n) for n in dataset.shape)
    _check_filters(dataset, url)
    if file.is_remote:
        _check_alone(dataset, url)
    source = HDF5Source(
        url=url,
        shape=shape,
        dtype=checked_dtype(dataset.dtype, url),
        # in one piece on the disk: a plane of it is a good read
        chunks=dataset.chunks or (*[1] * len(shape[:-2]), *(max(1, n) for n in shape[-2:])),
        file=file,
        dataset=name,
        fill=dataset.fillvalue.item() if dataset.chunks else None,
    )
    level, notes = _scale(dataset.attrs)
    return Image(url, _axes(dataset), (level,), lambda _: source, notes=notes)


def _check_alone(dataset: Any, url: str) -> None:
    # HDF5 looks on this machine, and has fill values where it finds nothing
    others = [name for name, *_ in dataset.external or ()]
    if dataset.is_virtual:
        others += [source.file_name for source in dataset.virtual_sources()]
    if others := [name for name in others if name != "."]:
        raise VolumeError(
            f"{url} lies in other files, such as {others[0]}, which are read on this machine alone",
            "download all of them first, or rewrite it as one dataset with h5repack",
        )


def _check_filters(dataset: Any, url: str) -> None:
    h5z = library("h5py", extra="h5", kind="HDF5").h5z
    steps = dataset.id.get_create_plist()
    for number in range(steps.get_nfilters()):
        code, _, _, label = steps.get_filter(number)
        if not h5z.filter_avail(code):
            title = label.decode(errors="replace") or "no name"
            raise VolumeError(
                f"{url} is compressed by filter {code} ({title}), which is not installed: set "
                "HDF5_PLUGIN_PATH to a folder that has it (the package hdf5plugin brings one), or "
                "rewrite the file with h5repack -f GZIP=4"
            )


def _axes(dataset: Any) -> str | None:
    labels = [dimension.label for dimension in dataset.dims]
    if not any(labels):
        labels = _vigra_axes(dataset.attrs.get("axistags"))
    return letters(labels) if len(labels) == len(dataset.shape) else None


def _vigra_axes(text: object) -> list[str]:
    """Return the axes that ilastik notes as JSON, see vigra's AxisTags."""
    try:
        return [str(axis["key"]) for axis in json.loads(str(text))["axes"]]
    except (ValueError, LookupError, TypeError):
        return []


def _scale(attributes: Mapping[str, Any]) -> tuple[LevelScale, tuple[str, ...]]:
    for name, unit in SIZES.items():
        if name not in attributes:
            continue
        size = _triple(attributes[name])
        if size is None or not all(math.isfinite(v) and v > 0 for v in size):
            note = f"attribute {name} is not three lengths: the voxel size is taken as not known"
            return LevelScale(""), (note,)
        # float32 is common: 0.0092 µm shall be 9.2 nm
        nanometres = [float(f"{v * unit:.7g}") for v in size]
        offset = _triple(attributes.get("offset")) if name == "resolution" else None
        z, y, x = (o / n for o, n in zip(offset or (0.0, 0.0, 0.0), nanometres, strict=True))
        return LevelScale("", tuple(nanometres), (z, y, x), VoxelSize(*nanometres)), ()
    return LevelScale(""), ()


def _triple(value: object) -> tuple[float, float, float] | None:
    try:
        z, y, x = np.asarray(value, np.float64).reshape(-1).tolist()
    except (TypeError, ValueError):
        return None
    return z, y, x


def _corners(selected: slice | int, chunk: int) -> range:
    start, stop = (
        (selected, selected + 1) if isinstance(selected, int) else (selected.start, selected.stop)
    )
    return range(start // chunk * chunk, stop, chunk)
