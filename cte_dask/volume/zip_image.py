"""Targets that are a zarr in a zip file: ``FILE.zarr.zip``, ``FILE.ozx``, ``FILE.zip::FOLDER``.

Which image of that zarr is meant follows behind ``::``, as of a zarr in a folder.

Source: OME-NGFF RFC-9, zipped OME-Zarr, https://ngff.openmicroscopy.org/rfc/9/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cte_dask.errors import VolumeError, cause
from cte_dask.storage.zip_files import ZIP_SUFFIXES, zarr_folders
from cte_dask.volume.file_source import FileKind
from cte_dask.volume.image import Image
from cte_dask.volume.zarr_image import image_at
from cte_dask.volume.zarr_place import ZarrPlace

__all__ = ["find_zip"]

ZIP = FileKind("zip", ZIP_SUFFIXES, ())


def find_zip(target: object, storage_options: Mapping[str, Any]) -> Image | None:
    """Return the image of a zarr in a zip file; None if the target is none.

    Parameters
    ----------
    target
        ``FILE``, a path or URL, whose root or only folder is a zarr, or ``FILE::FOLDER``; each may
        end in ``::MEMBER``.
    storage_options
        For opening a URL.

    Raises
    ------
    VolumeError
        If the file cannot be read here, or holds no zarr or several.
    """
    place = ZIP.parse(target, storage_options)
    if place is None:
        return None
    try:
        folders = zarr_folders(place.file)
    except Exception as error:  # a damaged file raises whatever its content leads to
        raise VolumeError(f"{place.name} cannot be opened as zip: {cause(error)}") from error
    folder, _, member = place.inside.strip("/").partition("::")
    folder = folder.rstrip("/")
    if not folder or folder not in folders:
        folder, member = _only_zarr(place.name, folders), place.inside
    name = place.file.name
    url = f"{name}::{folder}" if folder else name
    return image_at(ZarrPlace(url, "", storage_options), member)


def _only_zarr(file: str, folders: Sequence[str]) -> str:
    if "" in folders:
        return ""
    top = [folder for folder in folders if "/" not in folder]
    if len(top) == 1:
        return top[0]
    if not top:
        raise VolumeError(
            f"{file} holds no zarr at its root or in a folder there: zip what is in the folder of "
            f"a zarr, or name one further down as {file}::FOLDER"
        )
    raise VolumeError(
        f"{file} holds {len(top)} zarrs",
        remedy=f"name one, as {file}::{top[0]}",
        details=f"there are {', '.join(top)}",
    )
