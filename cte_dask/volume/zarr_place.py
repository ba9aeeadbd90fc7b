"""A path in a zarr store, and the target that names it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import zarr
from fsspec import available_protocols
from zarr.abc.store import Store

from cte_dask.storage import is_cloud
from cte_dask.storage.stores import absolute
from cte_dask.storage.zip_files import is_zip_file
from cte_dask.volume.zarr_source import ZarrSource, open_node, open_zarr_source, strict_store

__all__ = ["ZarrPlace", "split_target"]


@dataclass(frozen=True)
class ZarrPlace:
    """A path in a store; opens what is there.

    Parameters
    ----------
    url
        URL or absolute path of the store, or ``FILE::FOLDER`` of a zip file.
    path
        Path in it.
    storage_options
        Options of fsspec for opening the URL.
    store
        A store from Python that has no URL; None otherwise.
    """

    url: str
    path: str
    storage_options: Mapping[str, Any]
    store: Store | None = None

    @property
    def name(self) -> str:
        """URL of the store and path in it, joined."""
        return f"{self.url}/{self.path}" if self.path else self.url

    def below(self, path: str) -> ZarrPlace:
        """Return a path below this one, in the same store."""
        return replace(self, path=f"{self.path}/{path}" if self.path else path)

    def member(self, path: str) -> ZarrPlace:
        """Return a path below this one as a store of its own, so that its URL alone opens it."""
        path = path.strip("/")
        if self.store is not None:
            return self.below(path)
        joint = "::" if not self.path and is_zip_file(self.url) else "/"
        return replace(self, url=f"{self.name}{joint}{path}", path="")

    def node(self) -> zarr.Array[Any] | zarr.Group:
        """Open the array or group; raises VolumeError where there is none."""
        store = strict_store(self.url, self.storage_options, self.store)
        return open_node(self.url, store, self.path)

    def source(self) -> ZarrSource:
        """Open the array as a source; raises VolumeError where there is none."""
        return open_zarr_source(
            self.url, self.path, storage_options=self.storage_options, store=self.store
        )


def split_target(target: str | os.PathLike[str]) -> tuple[str, str]:
    """Split ``PLACE::MEMBER``; the member is empty where the target names none.

    Returns
    -------
    place : str
        URL or absolute path.
    member : str
        Which of the images there is meant.

    Examples
    --------
    >>> split_target("/data/plate.zarr::A/1/0"), split_target("s3://bucket/a.zarr::raw")
    (('/data/plate.zarr', 'A/1/0'), ('s3://bucket/a.zarr', 'raw'))
    >>> split_target("simplecache::s3://bucket/a.zarr")
    ('simplecache::s3://bucket/a.zarr', '')
    """
    text = os.fspath(target)
    place, separator, member = text.rpartition("::")
    if separator and not _is_chained(place, member):
        return absolute(place), member
    return absolute(text), ""


def _is_chained(place: str, rest: str) -> bool:
    """Whether fsspec opens ``place::rest`` as one URL: a cache, or a file in an archive."""
    if "://" in rest or rest.startswith("/"):
        return True
    last = place.rpartition("::")[2]
    if "://" in last:
        return not (is_cloud(last) or last.startswith(("http://", "https://", "file://")))
    return last in available_protocols() and not os.path.exists(place)
