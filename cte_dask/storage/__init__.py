"""Bytes in object stores (s3://, gs://, az://): one way for targets, scores, banks and results.

Importing this package makes ``fsspec.open`` use it for those URLs in this process. Arrays do not
pass through fsspec: zarr reads them from a `zarr_store`. Both take credentials from the environment
alone (`buckets`), repeat failed reads alike (`retries`), and report errors in one line that shows
no secret (`faults`).
"""

from __future__ import annotations

from cte_dask.storage.buckets import is_cloud
from cte_dask.storage.faults import StorageError
from cte_dask.storage.files import open_file, register
from cte_dask.storage.objects import zarr_store

__all__ = ["StorageError", "is_cloud", "open_file", "zarr_store"]

register()
