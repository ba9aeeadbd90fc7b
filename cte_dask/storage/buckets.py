"""Opens object stores by URL, once a process, with retries, timeouts and no secret of ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cte_dask.storage.retries import TIMEOUTS, retry_config

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["bucket_url", "check_bucket", "open_bucket", "options_of"]

OPTIONS = {"anonymous": "skip_signature", "endpoint": "endpoint", "region": "region"}
"""The options that the environment need not hold, and obstore's names for them; no credential."""

_EXTRAS = {"s": "s3", "g": "gcs", "a": "azure"}

_ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_ENDPOINT",
    "GOOGLE_BASE_URL",
)


def bucket_url(url: str) -> str:
    """Return scheme and bucket of a URL.

    Examples
    --------
    >>> bucket_url("s3://bucket/some/image.zarr")
    's3://bucket'
    """
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def options_of(storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of an object store under obstore's names.

    Raises
    ------
    ValueError
        If an option is unknown, as credentials are: they come from the environment.
    """
    for name in storage_options:
        if name not in OPTIONS:
            raise ValueError(
                f"storage option {name!r} is not one of {', '.join(OPTIONS)}: credentials are "
                "taken from the environment only"
            )
    return {OPTIONS[name]: value for name, value in storage_options.items()}


def open_bucket(
    url: str, storage_options: Mapping[str, Any] | None = None, *, patience: str = "later"
) -> ObjectStore:
    """Return the object store below a URL; a second call returns it with its connections.

    Parameters
    ----------
    url
        URL of a bucket, or of a prefix in it.
    storage_options
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
    # one spelling of a scheme, so that s3:// and s3a:// share a store
    scheme_of_obstore = {"s3a": "s3", "gcs": "gs", "azure": "az"}.get(scheme, scheme)
    options = options_of(storage_options or {})
    # obstore calls Google's endpoint base_url
    if scheme.startswith("g") and "endpoint" in options:
        options["base_url"] = options.pop("endpoint")
    # the environment and the process are part of the cache's key: a changed endpoint, or a forked
    # child, needs a store of its own
    return _opened(
        f"{scheme_of_obstore}://{rest}",
        tuple(sorted(options.items())),
        _environment(),
        patience,
        os.getpid(),
    )


@lru_cache(maxsize=256)
def check_bucket(bucket: str, options: tuple[tuple[str, Any], ...]) -> None:
    """List one object, to learn early whether a bucket can be reached at all.

    Parameters
    ----------
    bucket
        URL of a bucket.
    options
        As `open_bucket` takes them, in pairs.

    Raises
    ------
    StorageError
        If key, bucket or region are wrong, or nobody answers.
    """
    store = open_bucket(bucket, dict(options), patience="first")
    import obstore
    from obstore.exceptions import BaseError

    from cte_dask.storage.faults import REMEDIES, explained

    try:
        next(iter(obstore.list(store, chunk_size=1)))
    except StopIteration:
        return
    except (BaseError, OSError) as error:
        # listing may be forbidden where reading is allowed
        fatal = [code for code in REMEDIES if code != "AccessDenied"]
        text = str(error)
        if "403 Forbidden" in text and not any(f">{code}<" in text for code in fatal):
            return
        raise explained(error, bucket, signed=("anonymous", True) not in options) from None


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
    # obstore refuses unencrypted requests unless told; a local MinIO has no certificate
    plain_http = any(e is not None and e.startswith("http://") for e in endpoints)
    opener: Callable[..., ObjectStore] = from_url
    try:
        return opener(
            url,
            client_options={**TIMEOUTS, "allow_http": plain_http},
            retry_config=retry_config(patience),
            **settings,
        )
    except BaseError as error:
        raise explained(error, url) from None


def _environment() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in _ENDPOINTS)
