"""Object stores as fsspec sees them: banks, weights, rankings and reports by URL."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import fsspec
from fsspec import AbstractFileSystem
from fsspec.asyn import get_loop, sync

from cte_dask.storage import PROTOCOLS, is_cloud
from cte_dask.storage.buckets import bucket_url, open_bucket
from cte_dask.storage.faults import explaining
from cte_dask.storage.retries import read_again

__all__ = ["KINDS", "CloudFiles", "check_apart", "replacing"]


def check_apart(out: str, target: str) -> None:
    """Refuse to write results over the target, or into it.

    Parameters
    ----------
    out
        Path or URL of what is to be written.
    target
        Path or URL of what is read, where it is one.

    Raises
    ------
    ValueError
        If `out` is empty, is the target, or lies in it.
    """
    if not out.strip():
        raise ValueError(f"--out {out!r} names no place: give a folder or URL for the results")
    place, read = PurePosixPath(_place_of(out)), PurePosixPath(_place_of(target))
    if place == read or read in place.parents:
        raise ValueError(
            f"--out {out} is {'' if place == read else 'in '}the target {target}, which is never "
            "written to: choose a place beside it"
        )


def _place_of(url: str) -> str:
    for scheme in ("n5://", "precomputed://", "file://"):
        url = url.removeprefix(scheme)
    # FILE::INSIDE names what lies in a file or group; a chain of protocols has none in front
    store = url.partition("::")[0]
    url = store if "://" in store or os.path.exists(store) else url
    return url.partition("?")[0] if "://" in url else os.path.realpath(url)


@contextmanager
def replacing(url: str, mode: str = "w") -> Iterator[Any]:
    """Open a file to write that takes its place when it is closed; until then the old one stays.

    Several processes may write the same file at once: it is that of the last one, never a mixture.

    Parameters
    ----------
    url
        Path or fsspec URL.
    mode
        ``"w"`` for text, UTF-8, or ``"wb"`` for bytes.

    Yields
    ------
    file
        An open file to write to.
    """
    filesystem, path = fsspec.core.url_to_fs(url)
    options = {} if "b" in mode else {"encoding": "utf-8"}
    if is_cloud(url):  # an object is there whole or not at all
        file = filesystem.open(path, mode, **options)
        try:
            yield file
        except BaseException:
            (file if "b" in mode else file.buffer).raw.abandon()
            file.close()
            raise
        file.close()
        return
    draft = f"{path}.{uuid4().hex}.part"
    try:
        with filesystem.open(draft, mode, **options) as file:
            yield file
        filesystem.mv(draft, path)
    except BaseException:
        with suppress(FileNotFoundError):
            filesystem.rm_file(draft)
        raise


class CloudFiles(AbstractFileSystem):  # type: ignore[misc]
    """Whole objects by URL, read into memory and written in parts.

    Credentials, retries and timeouts are those of all object stores, and so are the options
    ``anonymous``, ``endpoint`` and ``region``.
    """

    cachable = False
    root_marker = ""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        scheme, separator, rest = path.partition("://")
        return (rest if separator else scheme).strip("/")

    def _located(self, path: str) -> tuple[Any, str, str]:
        """Return the bucket, the key in it, and the URL."""
        scheme = self.protocol if isinstance(self.protocol, str) else self.protocol[0]
        url = f"{scheme}://{self._strip_protocol(path)}"
        bucket = bucket_url(url)
        return open_bucket(bucket, self.storage_options), url.removeprefix(bucket).strip("/"), url

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        bucket, key, url = self._located(path)
        import obstore

        if mode == "rb":
            # on fsspec's event loop, since `read_again` waits without blocking it
            async def read() -> bytes:
                with explaining(url):
                    return bytes(await (await obstore.get_async(bucket, key)).bytes_async())

            return io.BytesIO(sync(get_loop(), read_again, read))
        with explaining(url):
            if mode == "wb":
                return io.BufferedWriter(_Upload(obstore.open_writer(bucket, key), url))
        raise ValueError(f"{url}: mode {mode!r} is not one of rb, wb")

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return name, size in bytes and type of what is at a path.

        Raises
        ------
        FileNotFoundError
            If nothing is there.
        """
        bucket, key, url = self._located(path)
        import obstore

        name = self._strip_protocol(path)
        with explaining(url):
            try:
                size = obstore.head(bucket, key)["size"] if key else None
            except FileNotFoundError:
                size = None
            # an object store has no folders: a prefix with something below it stands for one
            if size is not None:
                return {"name": name, "size": size, "type": "file"}
            listing = obstore.list_with_delimiter(bucket, prefix=key or None)
        if not listing["objects"] and not listing["common_prefixes"]:
            raise FileNotFoundError(f"{url} does not exist")
        return {"name": name, "size": 0, "type": "directory"}

    def exists(self, path: str, **_: Any) -> bool:
        """Tell whether something is at a path; a refused request raises, it does not answer no."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Return the files and folders right below a path."""
        bucket, key, url = self._located(path)
        import obstore

        with explaining(url):
            listing = obstore.list_with_delimiter(bucket, prefix=key or None)
        # fsspec's names begin with the bucket, obstore's do not
        bucket_name = self._strip_protocol(path).partition("/")[0]
        files = [(o["path"], o["size"], "file") for o in listing["objects"]]
        folders = [(p, 0, "directory") for p in listing["common_prefixes"]]
        names = ("name", "size", "type")
        entries = [
            dict(zip(names, (f"{bucket_name}/{p}", *rest), strict=True))
            for p, *rest in files + folders
        ]
        return entries if detail else [entry["name"] for entry in entries]

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing: an object store has no folders."""

    def rm_file(self, path: str) -> None:
        """Delete an object."""
        bucket, key, url = self._located(path)
        import obstore

        with explaining(url):
            obstore.delete(bucket, key)


class _Upload(io.RawIOBase):
    """Writes an object; its errors are one line each."""

    def __init__(self, writer: Any, url: str) -> None:
        self._writer, self._url, self._abandoned = writer, url, False

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if self._abandoned:
            return len(data)
        with explaining(self._url):
            return int(self._writer.write(bytes(data)))

    def abandon(self) -> None:
        """Write nothing: the object stays as it was."""
        self._abandoned, self._writer = True, None  # a writer that is not closed makes no object

    def close(self) -> None:
        if not self.closed:
            super().close()
            if self._abandoned:
                return
            with explaining(self._url):
                self._writer.close()


# fsspec reads the scheme from the class, so each scheme has its own
KINDS = SimpleNamespace(
    **{p: type(f"CloudFiles_{p}", (CloudFiles,), {"protocol": p}) for p in PROTOCOLS}
)
"""A class of its own for each scheme: an fsspec file system knows the URLs that it opens by one."""
