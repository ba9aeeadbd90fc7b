"""Writes small OME-Zarr images, for examples, tests and results."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.errors import ContainsGroupError

from cte_dask.errors import VolumeError
from cte_dask.storage.stores import absolute, is_remote, open_store
from cte_dask.volume.axes import checked_axes
from cte_dask.volume.pyramid import mean_pyramid, nearest_pyramid
from cte_dask.volume.voxel_size import VoxelSize, VoxelSizeLike

__all__ = ["write_ome_zarr"]

Version = Literal["0.4", "0.5"]
_KINDS = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
_METADATA = ("zarr.json", ".zgroup", ".zarray")


def write_ome_zarr(
    path: str | os.PathLike[str],
    image: NDArray[Any] | Sequence[NDArray[Any]],
    *,
    axes: str,
    voxel_size_nm: VoxelSizeLike,
    chunks: Sequence[int],
    shards: Sequence[int] | None = None,
    version: Version = "0.5",
    n_levels: int = 3,
    labels: Mapping[str, NDArray[Any]] | None = None,
    name: str = "image",
    overwrite: bool = False,
) -> None:
    """Write an image with its pyramid, and labels with theirs, as OME-Zarr.

    Parameters
    ----------
    path
        Local path or writable fsspec URL of the group.
    image
        The image, of which a pyramid is made (means of 2 along z, y and x, where there is more
        than one voxel), or the levels of a pyramid, finest first.
    axes
        Axes of the image, letters of ``tczyx`` in this order.
    voxel_size_nm
        Voxel size of the finest level in nanometre (z, y, x), or as ``"9.2,9.2,9.2 nm"``.
    chunks, shards
        Extent of a chunk and of a shard (0.5 only; a multiple of the chunk), one per axis of the
        image; None for no shards.
    version
        NGFF version: 0.5 (zarr v3) or 0.4 (zarr v2).
    n_levels
        Largest number of levels of a pyramid made here; fewer if the image gets as small as a
        voxel.
    labels
        Label images by name, integers, with the spatial axes of the image (its axes without t
        and c); their pyramids take the nearest voxel.
    name
        Name of the image.
    overwrite
        Whether to replace an image that is there.

    Raises
    ------
    ValueError
        If the arguments do not fit each other, or something is there already.

    References
    ----------
    NGFF 0.5, https://ngff.openmicroscopy.org/0.5/
    """
    if isinstance(image, list | tuple):
        levels = [np.asarray(level) for level in image]
    else:
        levels = mean_pyramid(np.asarray(image), axes=axes, n_levels=n_levels)
    _check(levels, axes, version, shards)
    _check_labels(labels or {}, axes, levels[0].shape)
    layout = _ImageLayout(axes, version, VoxelSize.of(voxel_size_nm), chunks, shards)
    root = _new_group(path, version, overwrite=overwrite)
    root.attrs.update(layout.attributes(levels, name=name, centred=True))
    layout.write_levels(root, levels)
    if labels:
        _write_labels(root, labels, layout, n_levels=len(levels))


@dataclass(frozen=True)
class _ImageLayout:
    """Storage and metadata of the levels of one image."""

    axes: str
    version: Version
    voxel_size: VoxelSize
    chunks: Sequence[int]
    shards: Sequence[int] | None

    def spatial(self) -> _ImageLayout:
        """Return the layout of an image without time and channels."""
        positions = [i for i, axis in enumerate(self.axes) if axis in "zyx"]
        return replace(
            self,
            axes="".join(self.axes[i] for i in positions),
            chunks=[self.chunks[i] for i in positions],
            shards=None if self.shards is None else [self.shards[i] for i in positions],
        )

    def write_levels(self, group: zarr.Group, levels: Sequence[NDArray[Any]]) -> None:
        for index, level in enumerate(levels):
            array = group.create_array(
                str(index),
                shape=level.shape,
                dtype=level.dtype,
                # a chunk shrinks to a small level; in a shard it must keep dividing the shard
                chunks=tuple(min(c, n) for c, n in zip(self.chunks, level.shape, strict=True))
                if self.shards is None
                else tuple(self.chunks),
                shards=None if self.shards is None else tuple(self.shards),
                **self._encoding(),
            )
            array[...] = level

    def _encoding(self) -> dict[str, Any]:
        # checksums: without them a flipped bit decodes to other voxels in silence
        if self.version == "0.5":
            codec = ZstdCodec(level=3, checksum=True)
            return {"compressors": codec, "dimension_names": list(self.axes)}
        return {
            "compressors": {"id": "zstd", "level": 3, "checksum": True},
            "chunk_key_encoding": {"name": "v2", "separator": "/"},
        }

    def attributes(
        self, levels: Sequence[NDArray[Any]], *, name: str, centred: bool, **more: Any
    ) -> dict[str, Any]:
        """Return the group's attributes; ``centred`` if voxels of a level are means."""
        first = levels[0].shape
        datasets = [
            {"path": str(i), "coordinateTransformations": self._steps(first, level.shape, centred)}
            for i, level in enumerate(levels)
        ]
        multiscale = {"name": name, "axes": self._described_axes(), "datasets": datasets}
        if self.version == "0.5":
            return {"ome": {"version": "0.5", "multiscales": [multiscale], **more}}
        return {"multiscales": [{"version": "0.4", **multiscale}], **more}

    def _described_axes(self) -> list[dict[str, str]]:
        described = []
        for axis in self.axes:
            has_size = axis in "zyx" and getattr(self.voxel_size, axis) is not None
            described.append({"name": axis, "type": _KINDS[axis]})
            described[-1] |= {"unit": "nanometer"} if has_size else {}
        return described

    def _steps(
        self, first: tuple[int, ...], shape: tuple[int, ...], centred: bool
    ) -> list[dict[str, Any]]:
        scale, shift = [], []
        for axis, finest, extent in zip(self.axes, first, shape, strict=True):
            length = getattr(self.voxel_size, axis, None) or 1.0
            # halving rounds up, so that the ratio of extents is only nearly a power of two
            factor = 2 ** round(math.log2(finest / extent)) if axis in "zyx" else 1
            scale.append(length * factor)
            # the centre of a mean of f voxels lies (f - 1) / 2 voxels after that of the first
            shift.append(length * (factor - 1) / 2 if centred else 0.0)
        steps: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        return [*steps, {"type": "translation", "translation": shift}] if any(shift) else steps


def _write_labels(
    root: zarr.Group, labels: Mapping[str, NDArray[Any]], layout: _ImageLayout, *, n_levels: int
) -> None:
    listed = {"labels": list(labels)}
    attributes = {"ome": {"version": "0.5", **listed}} if layout.version == "0.5" else listed
    group = root.create_group("labels", attributes=attributes)
    spatial = layout.spatial()
    # NGFF: the way from a label image up to its image group
    source: dict[str, Any] = {"source": {"image": "../../"}}
    if layout.version == "0.4":
        source["version"] = "0.4"
    for name, values in labels.items():
        levels = nearest_pyramid(values, axes=spatial.axes, n_levels=n_levels)
        image = group.create_group(name)
        more = {"image-label": source}
        image.attrs.update(spatial.attributes(levels, name=name, centred=False, **more))
        spatial.write_levels(image, levels)


def _check(
    levels: Sequence[NDArray[Any]], axes: str, version: str, shards: Sequence[int] | None
) -> None:
    if not levels:
        raise ValueError("no level to write")
    for level in levels:
        checked_axes(axes, level.ndim)
    if list(axes) != [axis for axis in "tczyx" if axis in axes]:
        raise ValueError(f"axes {axes!r}: NGFF wants them in the order of 'tczyx'")
    if version not in ("0.4", "0.5"):
        raise ValueError(f"NGFF version {version!r}: want '0.4' or '0.5'")
    if shards is not None and version == "0.4":
        raise ValueError("NGFF 0.4 (zarr v2) has no shards: leave them out or write 0.5")


def _check_labels(labels: Mapping[str, NDArray[Any]], axes: str, shape: tuple[int, ...]) -> None:
    expected = tuple(n for axis, n in zip(axes, shape, strict=True) if axis in "zyx")
    for name, values in labels.items():
        if values.dtype.kind not in "ui" or values.shape != expected:
            raise ValueError(
                f"labels {name!r} are {values.dtype} of shape {values.shape}: "
                f"want integers of shape {expected}"
            )


def _new_group(path: str | os.PathLike[str], version: Version, *, overwrite: bool) -> zarr.Group:
    url = absolute(path)
    # zarr deletes whatever is at the path before it writes: never a folder that is no zarr
    if not is_remote(url) and os.path.exists(url):
        if not overwrite:
            raise VolumeError(f"{url} exists already: choose another path or overwrite=True")
        if os.listdir(url) and not any(os.path.exists(f"{url}/{name}") for name in _METADATA):
            raise VolumeError(f"{url} exists and is not a zarr: it is not replaced")
    store = open_store(url, {}, read_only=False)
    try:
        return zarr.create_group(
            store, zarr_format=3 if version == "0.5" else 2, overwrite=overwrite
        )
    except ContainsGroupError as error:
        raise VolumeError(f"{url} exists already: choose another path or overwrite=True") from error
