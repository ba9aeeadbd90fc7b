"""Targets that are a zarr in a zip file: ``FILE.zarr.zip``, ``FILE.ozx``, ``FILE.zip::FOLDER``.

Source: OME-NGFF RFC-9, zipped OME-Zarr, https://ngff.openmicroscopy.org/rfc/9/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cte_dask.errors import VolumeError, cause
from cte_dask.storage.zip_files import ZIP_SUFFIXES, top_folders
from cte_dask.volume.file_source import FileKind
from cte_dask.volume.image import Image
from cte_dask.volume.zarr_image import find_zarr

__all__ = ["find_zip"]

ZIP = FileKind("zip", ZIP_SUFFIXES, ())


def find_zip(target: object, storage_options: Mapping[str, Any]) -> Image | None:
    """Return the image of a zarr in a zip file; None if the target is none.

    Parameters
    ----------
    target
        ``FILE``, whose root or only folder is a zarr, or ``FILE::FOLDER``, on this machine.
    storage_options
        Not used.

    Raises
    ------
    VolumeError
        If the file cannot be read here, or holds no zarr or several.
    """
    place = ZIP.parse(target)
    if place is None:
        return None
    folder = place.inside.strip("/") or _only_zarr(place.file)
    return find_zarr(f"{place.file}::{folder}" if folder else place.file, {})


def _only_zarr(file: str) -> str:
    try:
        folders = top_folders(file)
    except Exception as error:  # a damaged file raises whatever its content leads to
        raise VolumeError(f"{file} cannot be opened as zip: {cause(error)}") from error
    if len(folders) == 1:
        return folders[0]
    if not folders:
        raise VolumeError(
            f"{file} holds no zarr at its root or in a folder there: zip what is in the folder of "
            f"a zarr, or name one further down as {file}::FOLDER"
        )
    raise VolumeError(
        f"{file} holds {len(folders)} zarrs: name one, as {file}::{folders[0]}; there are "
        f"{', '.join(folders)}"
    )
