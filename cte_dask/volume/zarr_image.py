"""Targets that are zarr arrays, groups of one array, or OME-Zarr images."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import zarr
from zarr.storage import LocalStore

from cte_dask.errors import VolumeError, cause
from cte_dask.storage.stores import absolute, is_remote
from cte_dask.volume.axes import letters
from cte_dask.volume.image import Image
from cte_dask.volume.ngff import LevelScale, Multiscale, ome_attributes, parse_multiscales
from cte_dask.volume.zarr_members import MOST_LISTED, Members, members_of
from cte_dask.volume.zarr_place import ZarrPlace, split_target
from cte_dask.volume.zarr_source import NotZarrError

__all__ = ["find_zarr", "image_at"]


def find_zarr(target: object, storage_options: Mapping[str, Any]) -> Image | None:
    """Return the image at a path, URL or zarr node; None of others, and where a URL has no zarr.

    Parameters
    ----------
    target
        A zarr array; a group holding one array; an OME-Zarr image or its labels. A group that leads
        to several images (multiscales, series, fields of a plate or well) is followed by the one
        that is meant: ``PLACE::MEMBER``, name or number of a multiscale image, or a path.
    storage_options
        Options of fsspec for opening a URL.

    Raises
    ------
    VolumeError
        If nothing is there, it cannot be read, or it does not hold exactly one image.
    """
    if isinstance(target, zarr.Array | zarr.Group):
        return image_at(_place_of(target))
    if isinstance(target, str | os.PathLike):
        url, member = split_target(target)
        try:
            return image_at(ZarrPlace(url, "", storage_options), member)
        except NotZarrError as error:
            # asked for nothing else before: where a zarr is, each request costs
            if member or error.place != url or not is_remote(url):
                raise
    return None


def _place_of(node: zarr.Array[Any] | zarr.Group) -> ZarrPlace:
    store, path = node.store_path.store, node.store_path.path
    # a local store is opened again by path, so that the target pickles small; others are pickled
    if type(store) is LocalStore:
        return ZarrPlace(absolute(store.root), path, {})
    return ZarrPlace(str(store), path, {}, store)


def image_at(place: ZarrPlace, member: str = "") -> Image:
    """Return the image at a place, or that of its members which has a name.

    Raises
    ------
    VolumeError
        As `find_zarr` does.
    """
    node = place.node()
    attributes = node.attrs.asdict()
    try:
        multiscales = () if isinstance(node, zarr.Array) else parse_multiscales(attributes)
    except VolumeError as error:
        raise VolumeError(f"{place.name}: {error}") from error
    if multiscales:
        image = _chosen_image(place, multiscales, member)
        return replace(image, labelled=_labelled(place, ome_attributes(attributes)))
    if member:
        return image_at(place.member(member))
    if isinstance(node, zarr.Array):
        return _array_image(place, node)
    members = members_of(place, ome_attributes(attributes))
    return _only_array_image(place, node) if members is None else _only_member(place, members)


def _array_image(place: ZarrPlace, array: zarr.Array[Any]) -> Image:
    # zarr v3 names dimensions itself, xarray names them in the attributes of v2
    stated = getattr(array.metadata, "dimension_names", None)
    names = stated or array.attrs.get("_ARRAY_DIMENSIONS")
    return Image(place.name, letters(names), (LevelScale(place.path),), lambda _: place.source())


def _chosen_image(place: ZarrPlace, multiscales: Sequence[Multiscale], member: str) -> Image:
    names = _names(multiscales)
    images = [_multiscale_image(place, multiscale) for multiscale in multiscales]
    if not member and len(images) == 1:
        return images[0]
    if member not in names and not (member.isdecimal() and int(member) < len(names)):
        raise VolumeError(
            f"{place.name} holds " + (f"no image {member!r}" if member else f"{len(names)} images"),
            remedy=f"name one, as {place.name}::{names[0]}",
            details=_listed([_described(*each) for each in zip(names, images, strict=True)]),
        )
    number = names.index(member) if member in names else int(member)
    if len(images) == 1:
        return images[0]
    name = f"{place.name}::{names[number]}"
    return replace(images[number], name=name, member=names[number])


def _labelled(place: ZarrPlace, ome: Mapping[str, Any]) -> str | None:
    """Return what a label image labels: see https://ngff.openmicroscopy.org/0.5/#label-md."""
    label = ome.get("image-label")
    if label is None:
        return None
    source = label.get("source") if isinstance(label, Mapping) else None
    path = source.get("image") if isinstance(source, Mapping) else None
    if not isinstance(path, str) or "::" in place.name:  # of a zip file there may be no folder up
        return ""
    scheme, separator, name = place.name.rpartition("://")
    return f"{scheme}{separator}{posixpath.normpath(posixpath.join(name, path))}"


def _names(multiscales: Sequence[Multiscale]) -> list[str]:
    """Return what the images of a group are called: by name, or by number where that is not one."""
    names = [multiscale.name for multiscale in multiscales]
    return [n if n and names.count(n) == 1 else str(i) for i, n in enumerate(names)]


def _multiscale_image(place: ZarrPlace, multiscale: Multiscale) -> Image:
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


def _only_member(place: ZarrPlace, members: Members) -> Image:
    paths, noun = members.paths, members.noun
    if not paths:
        raise VolumeError(f"{place.name} is a {members.kind} without any {noun}")
    if len(paths) > 1:
        # fields of a plate are alike, and each would cost requests
        names = [_series(place, p) if noun == "series" else p for p in paths[:MOST_LISTED]]
        raise VolumeError(
            f"{place.name} is a {members.kind} of several {noun.removesuffix('s')}s",
            remedy=f"name one, as {place.name}::{paths[0]}",
            details=_listed([*names, *paths[MOST_LISTED:]]),
        )
    image = image_at(place.below(paths[0]))
    return replace(image, notes=(f"{noun} {paths[0]} of a {members.kind}", *image.notes))


def _series(place: ZarrPlace, path: str) -> str:
    try:
        return _described(path, image_at(place.below(path)))
    except VolumeError:  # the others can be chosen all the same
        return path


def _listed(names: Sequence[str]) -> str:
    more = ", …" if len(names) > MOST_LISTED else ""
    return f"there are {', '.join(names[:MOST_LISTED])}{more}"


def _described(name: str, image: Image) -> str:
    try:
        source = image.open_level(0)
    except VolumeError:  # the others can be chosen all the same
        return name
    size = image.levels[0].voxel_size
    return f"{name} {source.dtype}{source.shape}{f' {size}' if size else ''}"


def _only_array_image(place: ZarrPlace, group: zarr.Group) -> Image:
    try:
        members = dict(group.members())
    except Exception as error:
        # listing is up to each file system, and so is what it raises
        raise VolumeError(
            f"{place.name} is a group that cannot be listed ({cause(error)})",
            remedy=f"name an array in it, as {place.name}::PATH",
        ) from error
    arrays = sorted(name for name, node in members.items() if isinstance(node, zarr.Array))
    if len(arrays) != 1:
        content = f"holds {len(arrays)} arrays" if arrays else "holds no array that can be listed"
        choice = arrays or sorted(members)
        raise VolumeError(
            f"{place.name} is a group without OME-Zarr metadata that {content}",
            remedy=f"name one, as {place.name}::{choice[0] if choice else 'PATH'}",
            details=_listed(choice) if choice else "",
        )
    below = place.below(arrays[0])
    array = members[arrays[0]]
    return _array_image(below, array) if isinstance(array, zarr.Array) else image_at(below)
