"""Bytes in object stores (s3://, gs://, az://): one way for targets, scores, banks and results.

Importing this package makes ``fsspec.open`` use it for those URLs in this process, and loads
neither zarr nor obstore. Arrays do not pass through fsspec: zarr reads them from a `zarr_store` of
`objects`. Both take credentials from the environment alone (`buckets`), repeat failed reads alike
(`retries`), and report errors in one line that shows no secret (`faults`).
"""

from __future__ import annotations

import re
from importlib import import_module

import fsspec
from fsspec.registry import registry

from cte_dask.storage.faults import StorageError

__all__ = ["StorageError", "is_cloud", "is_url", "open_file", "without_query"]

PROTOCOLS = ("s3", "s3a", "gs", "gcs", "az", "azure", "abfs", "abfss")
"""URL schemes of object stores: Amazon's (and all that speak its language), Google's, Azure's."""

open_file = fsspec.open
"""fsspec's ``open``, once `register` has run."""


def is_url(target: str) -> bool:
    """Tell an fsspec URL from a path.

    Parameters
    ----------
    target
        A path or URL.

    Returns
    -------
    bool
        Whether it begins with a scheme; also that of a chained URL, ``zip::https://…``.
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*(::|://)", target) is not None


def is_cloud(url: str) -> bool:
    """Tell the URL of an object store from other URLs and paths.

    Parameters
    ----------
    url
        A path or URL.

    Returns
    -------
    bool
        Whether it begins as those of S3, Google or Azure do.
    """
    return "://" in url and url.partition("://")[0] in PROTOCOLS


def without_query(url: str) -> str:
    """Return a URL as messages show it: the query of a signed one opens the file to who reads it.

    Parameters
    ----------
    url
        A URL, also one that is followed by a place inside the file.

    Returns
    -------
    str
        One of http and https without query and fragment; any other as it is.

    Examples
    --------
    >>> without_query("https://host/a.h5?X-Amz-Signature=1"), without_query("s3://bucket/a.h5")
    ('https://host/a.h5', 's3://bucket/a.h5')
    """
    return re.sub(r"(https?://[^?#]*)[?#].*?(?=::|$)", r"\1", url)


def register() -> None:
    """Make ``fsspec.open`` and its like use our files for object stores in this process."""
    for protocol in PROTOCOLS:
        kind = f"cte_dask.storage.files:KINDS.{protocol}"  # imported when the first file is opened
        fsspec.register_implementation(protocol, kind, clobber=True)
        if protocol in registry:  # another library's class, which the name alone does not replace
            kinds = import_module("cte_dask.storage.files").KINDS
            fsspec.register_implementation(protocol, getattr(kinds, protocol), clobber=True)


register()
