"""Arrays that tensorstore reads (N5, Neuroglancer precomputed), on disks, web servers and buckets.

A target is ``n5://PLACE`` or ``precomputed://PLACE``, the place a path or a URL of http, s3 or gs;
a folder on this machine needs no prefix. https://google.github.io/tensorstore
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cte_dask.errors import VolumeError, VolumeReadError, cause
from cte_dask.storage.stores import absolute, is_remote
from cte_dask.volume.file_source import FileSource, library
from cte_dask.volume.image import Selection

__all__ = ["Place", "TensorStoreSource", "place_of", "read_json"]

MOST_LOOKED_UP = 4096
_MOST_OPEN = 64
_opened: OrderedDict[tuple[object, ...], Any] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True)
class Place:
    """Where a format's files lie.

    Parameters
    ----------
    scheme
        Prefix that names the format, as ``"n5"``.
    url
        Absolute path, or URL without that prefix.
    storage_options
        ``anonymous``, ``endpoint`` and ``region`` of a bucket; no credential, and never printed.
    """

    scheme: str
    url: str
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def target(self) -> str:
        """What opens it again."""
        return f"{self.scheme}://{self.url}"

    def below(self, name: str) -> Place:
        """Return the place of a folder in this one."""
        url = "/".join(filter(None, (self.url.rstrip("/"), name.strip("/"))))
        return Place(self.scheme, url, self.storage_options)

    def kvstore(self) -> dict[str, Any]:
        """Return it as tensorstore describes a store of keys and values.

        Raises
        ------
        VolumeError
            If it is a URL of another protocol.
        """
        folder = self.url.rstrip("/") + "/"
        protocol, _, rest = folder.partition("://")
        match protocol if is_remote(self.url) else "file":
            case "file":
                return {"driver": "file", "path": folder}
            case "http" | "https":
                return {"driver": "http", "base_url": folder}
            case "gs" | "gcs":
                bucket, _, path = rest.partition("/")
                return {"driver": "gcs", "bucket": bucket, "path": path}
            case "s3":
                bucket, _, path = rest.partition("/")
                return {"driver": "s3", "bucket": bucket, "path": path, **self._s3()}
        raise VolumeError(f"{self.target}: want a path, or a URL of http, https, s3 or gs")

    def _s3(self) -> dict[str, Any]:
        endpoint = self.storage_options.get("endpoint") or next(
            filter(None, map(os.environ.get, ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))), None
        )
        region = self.storage_options.get("region") or os.environ.get("AWS_REGION")
        anonymous = self.storage_options.get("anonymous", False)
        return {
            **({"endpoint": endpoint} if endpoint else {}),
            **({"aws_region": region} if region else {}),
            **({"aws_credentials": {"type": "anonymous"}} if anonymous else {}),
        }


def place_of(
    target: object, scheme: str, storage_options: Mapping[str, Any], *, sign: str
) -> Place | None:
    """Return where a target's files lie; None if it is not of a format.

    Parameters
    ----------
    target
        What the user named.
    scheme
        Prefix that names the format.
    storage_options
        Of the place.
    sign
        File that a local folder of the format holds.
    """
    if not isinstance(target, str | os.PathLike):
        return None
    text = os.fspath(target)
    if text.startswith(f"{scheme}://"):
        return Place(scheme, absolute(text.removeprefix(f"{scheme}://")), storage_options)
    if is_remote(text):
        return None
    folder = absolute(text)
    return Place(scheme, folder) if os.path.isfile(os.path.join(folder, sign)) else None


def read_json(place: Place, name: str) -> dict[str, Any] | None:
    """Return what a JSON file holds; None if there is no such file.

    Raises
    ------
    VolumeError
        If it cannot be read, or is no JSON object.
    """
    ts = library("tensorstore", extra="tensorstore", kind=place.scheme)
    try:
        store = ts.KvStore.open(place.kvstore(), context=_context()).result()
        answer = store.read(name).result()
        if answer.state == "missing":
            return None
        content = json.loads(answer.value)
    except VolumeError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # no network, a refusal, no JSON: whatever the libraries raise
        raise VolumeError(f"{place.target}/{name} cannot be read: {_first(error)}") from error
    if not isinstance(content, dict):
        raise VolumeError(f"{place.target}/{name} holds no JSON object")
    return content


def _context() -> Any:
    # waiting for a store that falters has one owner: `cte_dask.storage.retries`
    ts = library("tensorstore", extra="tensorstore", kind="such")
    few = {"max_retries": 2}
    names = ("http_request_retries", "s3_request_retries", "gcs_request_retries")
    return ts.Context(dict.fromkeys(names, few))


def _first(error: BaseException) -> str:
    """Return an error without the specification that tensorstore adds to it."""
    return cause(error).partition(" [")[0]


@dataclass(frozen=True)
class TensorStoreSource(FileSource):
    """One array of a format that tensorstore reads, voxels counted from 0.

    Parameters
    ----------
    place
        Where its files lie.
    driver
        Tensorstore's name of the format, and what it wants to know beside the place, as JSON.
    path
        Folder of the array below `place`.
    prefix
        Folder of the voxels below `place`, where they lie one chunk an object; else empty.
    origin
        First voxel along each axis as the format counts.
    """

    place: Place
    driver: str
    path: str = ""
    prefix: str = ""
    origin: tuple[int, ...] = ()

    @property
    def storage_options(self) -> Mapping[str, Any]:
        """Options of the place."""
        return self.place.storage_options

    @property
    def fill_value(self) -> int | None:
        """Value of the voxels of an omitted chunk."""
        return 0

    def _read(self, selection: Selection) -> NDArray[Any]:
        array = self._array()
        self._check([*array.shape], np.dtype(array.dtype.numpy_dtype))
        return np.asarray(array[selection].read().result())

    def missing(self, selection: Selection) -> int:
        """Return how many chunks of the selection are omitted.

        Raises
        ------
        VolumeReadError
            If the store cannot tell: a web server lists nothing, a shard holds many chunks.
        """
        boxes = list(_chunks(selection, self.shape, self.chunks))
        if len(boxes) > MOST_LOOKED_UP or (not self.prefix and "n5" not in self.driver):
            raise VolumeReadError(f"{self.url}: which of its chunks are stored cannot be told")
        try:
            return self._unlisted(boxes) if self.prefix else self._unstored(boxes)
        except MemoryError:
            raise
        except Exception as error:  # whatever the network raises
            message = f"cannot look up the chunks of {self.url}: {_first(error)}"
            raise VolumeReadError(message) from error

    def _unstored(self, boxes: list[tuple[slice, ...]]) -> int:
        array = self._array()
        asked = [array[box].storage_statistics(query_not_stored=True) for box in boxes]
        return sum(bool(future.result().not_stored) for future in asked)

    def _unlisted(self, boxes: list[tuple[slice, ...]]) -> int:
        ts = library("tensorstore", extra="tensorstore", kind="such")
        store = ts.KvStore.open(self.place.below(self.prefix).kvstore(), context=_context())
        listed = {key.decode() for key in store.result().list().result()}
        return sum(self._key(box) not in listed for box in boxes)

    def _key(self, box: tuple[slice, ...]) -> str:
        """Return the name of a chunk, as Neuroglancer's format defines it."""
        spans = zip(box[:3], self.origin, strict=False)
        return "_".join(f"{s.start + o}-{s.stop + o}" for s, o in spans)

    def _array(self) -> Any:
        key = (
            os.getpid(),
            self.url,
            self.path,
            self.driver,
            repr(sorted(self.storage_options.items())),
        )
        with _lock:
            if key not in _opened:
                _opened[key] = self._open()
                while len(_opened) > _MOST_OPEN:
                    _opened.popitem(last=False)
            return _opened[key]

    def _open(self) -> Any:
        return opened(self.place.below(self.path), json.loads(self.driver))


def opened(place: Place, driver: Mapping[str, Any]) -> Any:
    """Open an array, its voxels counted from 0.

    Raises
    ------
    VolumeError
        If it cannot be opened.
    """
    ts = library("tensorstore", extra="tensorstore", kind=place.scheme)
    spec = {**driver, "kvstore": place.kvstore()}
    try:
        array = ts.open(spec, open=True, read=True, context=_context()).result()
    except Exception as error:  # whatever the network, or a damaged description, makes it raise
        raise VolumeError(f"{place.target} cannot be opened: {_first(error)}") from error
    return array[ts.d[:].translate_to[0]]


def _chunks(
    selection: Selection, shape: tuple[int, ...], chunks: tuple[int, ...]
) -> Iterator[tuple[slice, ...]]:
    """Yield the chunks that a selection touches, cut to the array."""
    ranges = []
    for selected, extent, chunk in zip(selection, shape, chunks, strict=True):
        low, high = (
            (selected, selected + 1)
            if isinstance(selected, int)
            else (selected.start, selected.stop)
        )
        starts = range(low // chunk * chunk, high, chunk)
        ranges.append([slice(start, min(start + chunk, extent)) for start in starts])
    return product(*ranges)
