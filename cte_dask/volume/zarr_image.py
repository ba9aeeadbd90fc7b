"""Targets that are zarr arrays, groups of one array, or OME-Zarr images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore

from cte_dask.errors import VolumeError, cause
from cte_dask.storage.stores import absolute
from cte_dask.volume.axes import letters
from cte_dask.volume.image import Image
from cte_dask.volume.ngff import LevelScale, Multiscale, ome_attributes, parse_multiscale
from cte_dask.volume.zarr_source import ZarrSource, open_node, open_zarr_source, strict_store

__all__ = ["find_zarr"]


@dataclass(frozen=True)
class _Place:
    """A path in a store; opens what is there."""

    url: str
    path: str
    storage_options: Mapping[str, Any]
    store: Store | None = None

    @property
    def name(self) -> str:
        return f"{self.url}/{self.path}" if self.path else self.url

    def below(self, path: str) -> _Place:
        return replace(self, path=f"{self.path}/{path}" if self.path else path)

    def node(self) -> zarr.Array[Any] | zarr.Group:
        store = strict_store(self.url, self.storage_options, self.store)
        return open_node(self.url, store, self.path)

    def source(self) -> ZarrSource:
        return open_zarr_source(
            self.url, self.path, storage_options=self.storage_options, store=self.store
        )


def find_zarr(target: object, storage_options: Mapping[str, Any]) -> Image | None:
    """Return the image at a path, URL or zarr node, None if the target is none of these.

    Parameters
    ----------
    target
        A zarr array; a group holding one array; an OME-Zarr image, its labels or its
        bioformats2raw layout (the first series).
    storage_options
        Options of fsspec for opening a URL.

    Raises
    ------
    VolumeError
        If nothing is there, it cannot be read, or it does not hold exactly one image.
    """
    if isinstance(target, zarr.Array | zarr.Group):
        return _image(_place_of(target))
    if isinstance(target, str | os.PathLike):
        return _image(_Place(absolute(target), "", storage_options))
    return None


def _place_of(node: zarr.Array[Any] | zarr.Group) -> _Place:
    store, path = node.store_path.store, node.store_path.path
    # a local store is opened again by path, so that the target pickles small; others are pickled
    if type(store) is LocalStore:
        return _Place(absolute(store.root), path, {})
    return _Place(str(store), path, {}, store)


def _image(place: _Place) -> Image:
    node = place.node()
    if isinstance(node, zarr.Array):
        return _array_image(place, node)
    attributes = node.attrs.asdict()
    try:
        multiscale = parse_multiscale(attributes)
    except VolumeError as error:
        raise VolumeError(f"{place.name}: {error}") from error
    if multiscale is not None:
        return _multiscale_image(place, multiscale)
    ome = ome_attributes(attributes)
    if "bioformats2raw.layout" in ome:
        image = _image(place.below("0"))
        return replace(image, notes=("series 0 of a bioformats2raw layout", *image.notes))
    if "plate" in ome or "well" in ome:
        raise VolumeError(f"{place.name} is a plate or well: name one field of it, as …/A/1/0")
    return _only_array_image(place, node)


def _array_image(place: _Place, array: zarr.Array[Any]) -> Image:
    # zarr v3 names dimensions itself, xarray names them in the attributes of v2
    stated = getattr(array.metadata, "dimension_names", None)
    names = stated or array.attrs.get("_ARRAY_DIMENSIONS")
    return Image(place.name, letters(names), (LevelScale(place.path),), lambda _: place.source())


def _multiscale_image(place: _Place, multiscale: Multiscale) -> Image:
    levels = multiscale.levels
    axes = multiscale.axes
    if multiscale.assumed and axes and len(place.below(levels[0].path).source().shape) != len(axes):
        axes = None  # as an array without metadata
    return Image(
        name=place.name,
        axes=axes,
        levels=levels,
        open_level=lambda level: place.below(levels[level].path).source(),
        channels=multiscale.channels,
        notes=multiscale.notes,
    )


def _only_array_image(place: _Place, group: zarr.Group) -> Image:
    try:
        members = dict(group.members())
    except Exception as error:
        # listing is up to each file system, and so is what it raises
        raise VolumeError(
            f"{place.name} is a group that cannot be listed ({cause(error)}): name an array in it"
        ) from error
    arrays = sorted(name for name, node in members.items() if isinstance(node, zarr.Array))
    if len(arrays) != 1:
        content = f"holds {len(arrays)} arrays" if arrays else "holds no array that can be listed"
        choice = ", ".join(arrays or sorted(members))
        raise VolumeError(
            f"{place.name} is a group without OME-Zarr metadata that {content}: "
            f"name one{': ' + choice if choice else ''}"
        )
    below = place.below(arrays[0])
    array = members[arrays[0]]
    return _array_image(below, array) if isinstance(array, zarr.Array) else _image(below)
