"""Object stores by URL, opened once a process, with patience, timeouts and no secret of ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cte_dask.storage.retries import TIMEOUTS, retry_config

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["PROTOCOLS", "bucket_url", "is_cloud", "open_bucket", "options_of"]

PROTOCOLS = ("s3", "s3a", "gs", "gcs", "az", "azure", "abfs", "abfss")
"""URL schemes of object stores: Amazon's (and all that speak its language), Google's, Azure's."""

OPTIONS = {"anonymous": "skip_signature", "endpoint": "endpoint", "region": "region"}
"""Options beside the environment, and what obstore calls them; never a credential."""

_EXTRAS = {"s": "s3", "g": "gcs", "a": "azure"}

_ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_ENDPOINT",
    "GOOGLE_BASE_URL",
)


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


def bucket_url(url: str) -> str:
    """Return scheme and bucket of a URL.

    Examples
    --------
    >>> bucket_url("s3://bucket/some/image.zarr")
    's3://bucket'
    """
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def options_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of an object store in its own words.

    Raises
    ------
    ValueError
        If a name is not known; credentials are not, they come from the environment.
    """
    for name in options:
        if name not in OPTIONS:
            raise ValueError(
                f"storage option {name!r} is not one of {', '.join(OPTIONS)}: credentials are "
                "taken from the environment only"
            )
    return {OPTIONS[name]: value for name, value in options.items()}


def open_bucket(
    url: str, options: Mapping[str, Any] | None = None, *, patience: str = "later"
) -> ObjectStore:
    """Return the object store below a URL, the same one each time: its connections are used again.

    Parameters
    ----------
    url
        Of a bucket, or a prefix in it.
    options
        ``anonymous``, ``endpoint`` and ``region``; the rest is in the environment, by the names
        that the providers' own tools use.
    patience
        ``"first"`` or ``"later"``, see `cte_dask.storage.retries.PATIENCE`.

    Raises
    ------
    ValueError
        If an option or a value in the environment is wrong, or the extra is not installed.
    """
    scheme, _, rest = url.partition("://")
    provider = {"s3a": "s3", "gcs": "gs", "azure": "az"}.get(scheme, scheme)
    settings = options_of(options or {})
    if scheme.startswith("g") and "endpoint" in settings:
        settings["base_url"] = settings.pop("endpoint")
    cache_key = tuple(sorted(settings.items()))
    return _opened(f"{provider}://{rest}", cache_key, _environment(), patience, os.getpid())


@lru_cache(maxsize=256)
def _opened(
    url: str,
    options: tuple[tuple[str, Any], ...],
    environment: tuple[str | None, ...],
    patience: str,
    _process: int,
) -> ObjectStore:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        extra = _EXTRAS[url.partition("://")[0][0]]
        raise ValueError(f"{url} needs pip install 'cte-dask[{extra}]': {error}") from error

    from cte_dask.storage.faults import explained

    settings: dict[str, Any] = dict(options)
    endpoints = [settings.get("endpoint"), settings.get("base_url"), *environment]
    plain = any(e is not None and e.startswith("http://") for e in endpoints)
    opener: Callable[..., ObjectStore] = from_url
    try:
        return opener(
            url,
            client_options={**TIMEOUTS, "allow_http": plain},
            retry_config=retry_config(patience),
            **settings,
        )
    except BaseError as error:
        raise explained(error, url) from None


def _environment() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in _ENDPOINTS)
