"""Ranges of bytes of a file elsewhere: on a web server, in a bucket, or where fsspec reaches.

One function a kind of place, each a request that also tells the size and version of the file, so
that a file that is replaced while it is read is noticed with the first answer of the new one.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import fsspec

from cte_dask.errors import cause
from cte_dask.storage import StorageError, is_cloud, without_query
from cte_dask.storage.buckets import bucket_url, check_bucket, open_bucket
from cte_dask.storage.faults import explaining
from cte_dask.storage.retries import read_complete

__all__ = ["NO_RANGES", "Answer", "fetch"]

NO_RANGES = "the server ignores byte ranges, which reading by box needs: download the file first"
WEB_TIMEOUTS = (10, 30)
"""Seconds to connect, and between two pieces of an answer: those of `retries.TIMEOUTS`."""
_clients = threading.local()
_QUERY = re.compile(r"\?[^\s,)]*")
_TOTAL = re.compile(r"bytes (?:\d+-\d+|\*)/(\d+)")
_REFUSED = {
    401: "the server wants a login: give it in the URL, or download the file first",
    403: "access denied: a signed URL may have expired, get a new one",
    404: "it does not exist",
    410: "it does not exist",
}
"""What a web server's answer means, where asking again does not help."""


@dataclass(frozen=True)
class Answer:
    """What was asked for, and what else the answer tells.

    Parameters
    ----------
    content
        The bytes, fewer only where the file ends.
    size
        Bytes of the whole file.
    version
        Changes with the file: its entity tag, else when it was modified; empty if not told.
    ranges
        Whether any range can be asked for, not the beginning alone.
    """

    content: bytes
    size: int
    version: str = ""
    ranges: bool = True


def fetch(
    url: str, options: Mapping[str, Any], start: int, stop: int, *, patience: str = "later"
) -> Answer:
    """Return the bytes ``[start, stop)`` of a file.

    The thread that calls does it all, and shares nothing: HDF5 waits for bytes with its own lock
    held, and a thread in which garbage of HDF5 is collected waits for that lock.

    Parameters
    ----------
    url
        URL of the file.
    options
        Of an object store, ``anonymous``, ``endpoint`` and ``region``; of a web server
        ``headers``; else those of fsspec.
    start, stop
        The range, not empty; it may reach beyond the end.
    patience
        Of an object store: see `cte_dask.storage.retries.PATIENCE`.

    Raises
    ------
    StorageError
        If the file is not there, or the place refuses.
    OSError
        If there is no answer, or less than was asked for: another try may help.
    """
    if is_cloud(url):
        answer = _of_bucket(url, options, start, stop, patience)
    elif url.startswith(("http://", "https://")):
        answer = _of_web_server(url, options, start, stop)
    else:
        answer = _of_fsspec(url, options, start, stop)
    wanted = min(stop, answer.size) - start
    if len(answer.content) != wanted:
        came = f"{len(answer.content)} of {wanted} bytes came, from {start} on"
        raise OSError(f"{without_query(url)}: {came}")
    return answer


def _of_bucket(
    url: str, options: Mapping[str, Any], start: int, stop: int, patience: str
) -> Answer:
    bucket, signed = bucket_url(url), not options.get("anonymous", False)
    store, key = open_bucket(bucket, options, patience=patience), url.removeprefix(bucket)
    import obstore

    def read() -> Answer:
        with explaining(url, signed=signed):
            answer = obstore.get(store, key.strip("/"), options={"range": (start, stop)})
            meta, content = answer.meta, bytes(answer.bytes())
        return Answer(content, meta["size"], meta["e_tag"] or str(meta["last_modified"]))

    try:
        return read_complete(read)
    except FileNotFoundError as error:
        # a bucket that is not there is told as such
        check_bucket(bucket, tuple(sorted(options.items())))
        raise StorageError(cause(error)) from None


def _of_web_server(url: str, options: Mapping[str, Any], start: int, stop: int) -> Answer:
    session = _web_session()
    if other := next((name for name in options if name != "headers"), None):
        raise StorageError(f"storage option {other!r} of a web server is not read: want headers")
    headers = {
        **options.get("headers", {}),
        "Range": f"bytes={start}-{stop - 1}",
        "Accept-Encoding": "identity",
    }
    try:
        with session.get(url, headers=headers, stream=True, timeout=WEB_TIMEOUTS) as response:
            return _answer(response, url, start, stop)
    except _web_errors() as error:
        reason = _QUERY.sub("", cause(getattr(next(iter(error.args), None), "reason", error)))
        place = without_query(url)
        raise OSError(f"{place}: no answer: check address and network ({reason})") from None


def _answer(response: Any, url: str, start: int, stop: int) -> Answer:
    place, headers, status = without_query(url), response.headers, response.status_code
    version = headers.get("ETag") or headers.get("Last-Modified") or ""
    if remedy := _REFUSED.get(status):
        raise StorageError(f"{place}: {remedy} ({status} {response.reason})")
    if status == 416:
        raise StorageError(f"{place} ends before byte {start}: it is empty or was cut off")
    if status == 206:
        total = _TOTAL.match(headers.get("Content-Range", ""))
        if total is None:
            raise StorageError(f"{place}: the server does not tell the size: download it first")
        return Answer(response.content, int(total[1]), version)
    if status != 200:
        raise OSError(f"{place}: the server answers {status} {response.reason}")
    if start or "Content-Length" not in headers:
        raise StorageError(f"{place}: {NO_RANGES}")
    # the beginning is the beginning all the same; what follows is not waited for
    size = int(headers["Content-Length"])
    return Answer(response.raw.read(min(stop, size)), size, version, ranges=False)


def _web_session() -> Any:
    """Return this thread's client; a forked process has one of its own."""
    if getattr(_clients, "process", None) != os.getpid():
        try:
            _clients.session = import_module("requests").Session()
        except ImportError as error:
            raise StorageError(f"web servers need pip install 'cte-dask[http]': {error}") from error
        _clients.process = os.getpid()
    return _clients.session


def _web_errors() -> tuple[type[Exception], ...]:
    broken_off = import_module("urllib3.exceptions").HTTPError
    return import_module("requests").RequestException, broken_off


def _of_fsspec(url: str, options: Mapping[str, Any], start: int, stop: int) -> Answer:
    try:
        files, path = fsspec.core.url_to_fs(url, **options)
        about = files.info(path)
        size = about["size"]
        if size is None:
            raise StorageError(f"{without_query(url)}: {NO_RANGES}")
        content = files.cat_file(path, start=start, end=min(stop, size))
    except FileNotFoundError:
        raise StorageError(f"{without_query(url)} does not exist") from None
    except (ImportError, ValueError, TypeError) as error:
        place = without_query(url)
        raise StorageError(f"{place}: cannot open this kind of URL: {cause(error)}") from error
    names = ("ETag", "etag", "mtime", "last_modified", "modified", "created")
    version = next((str(about[name]) for name in names if about.get(name)), "")
    return Answer(bytes(content), size, version)
