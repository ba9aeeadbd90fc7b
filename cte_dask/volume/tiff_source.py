"""An image of a TIFF file as a source: of a box only its rows, strips or tiles are read."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cte_dask.errors import VolumeError, VolumeReadError, cause
from cte_dask.storage import without_query
from cte_dask.storage.stored_file import StoredFile
from cte_dask.volume.file_source import StoredFileSource, library
from cte_dask.volume.image import Selection

__all__ = ["OpenSeries", "TiffSource", "open_series", "open_tiff", "remarks"]

_MOST_OPEN = 32  # series a process holds parsed, each with its file
_ROWS_VOXELS = 2**24  # a plane in strips that is larger than this is read in parts

_opened: dict[tuple[object, ...], OpenSeries] = {}
_lock = RLock()


@dataclass(frozen=True)
class TiffSource(StoredFileSource):
    """One level of a series of a TIFF file.

    Parameters
    ----------
    series, level
        Their numbers in the file.
    fill
        Value of a tile that the file omits; None where it cannot omit one.
    """

    series: int
    level: int
    fill: float | int | None = field(compare=False)

    @property
    def fill_value(self) -> float | int | None:
        """Value of the voxels of a tile that the file omits."""
        return self.fill

    def missing(self, selection: Selection) -> int:
        """Return how many strips or tiles of the selection the file omits.

        Raises
        ------
        VolumeReadError
            If the file cannot tell.
        """
        if self.fill is None:
            return 0
        try:
            opened = self._opened()
            places, box = _planes_and_box(opened, selection)
            return sum(opened.missing(place, box) for place in product(*places))
        except Exception as error:  # a damaged file raises whatever its decoder does
            raise VolumeReadError(
                f"cannot look up the tiles of {without_query(self.url)}: {cause(error)}"
            ) from error

    def _read(self, selection: Selection) -> NDArray[Any]:
        opened = self._opened()
        places, box = _planes_and_box(opened, selection)
        data = np.empty([len(along) for along in (*places, *box.values())], self.dtype)

        def fill(place: Sequence[tuple[int, int]]) -> None:
            data[tuple(i for i, _ in place)] = opened.read([n for _, n in place], box)

        self.file.for_each(fill, product(*map(enumerate, places)))
        return data[tuple(0 if isinstance(s, int) else slice(None) for s in selection)]

    def _opened(self) -> OpenSeries:
        opened = open_series(self.file, self.series, self.level)
        self._check(opened.shape, opened.dtype)
        return opened


@dataclass(frozen=True)
class _Region:
    """Rows and columns of samples of a page that are stored together.

    Parameters
    ----------
    page
        Number of the page in the series.
    plane, within
        Where the samples lie: in which of the planes of a page, and where within a pixel.
    y, x
        Rows and columns.
    """

    page: int
    plane: int
    within: slice
    y: range
    x: range


class OpenSeries:
    """A level of a series, parsed; its file is closed with it.

    Parameters
    ----------
    file, series, level
        As of `TiffSource`.

    Raises
    ------
    VolumeError
        If its pages do not make up its shape, or hold more than planes.
    """

    def __init__(self, file: StoredFile, series: int, level: int) -> None:
        tiff = open_tiff(file)
        weakref.finalize(self, tiff.close)
        self._lock = RLock()
        self._file, self._tiff = file, tiff
        self._level = tiff.series[series].levels[level]
        self._byteorder = tiff.byteorder
        page = self._level.keyframe
        self.axes = _page_axes(page)
        self.shape = tuple(int(n) for n in self._level.shape)
        self.dtype = np.dtype(self._level.dtype)
        leading = len(self.shape) - len(self.axes)
        if self.shape[leading:] != tuple(page.shape) or page.dtype != self._level.dtype:
            raise VolumeError(f"pages of {page.shape} do not make up an image of {self.shape}")
        self._planes = self.shape[:leading]
        # ImageJ writes one page for all planes of a file beyond 4 GB
        cut = len(self._level) < int(np.prod(self._planes))
        self._first = self._level.dataoffset if cut else None
        if cut and self._first is None:
            raise VolumeError(f"{len(self._level)} pages do not make up an image of {self.shape}")

    @property
    def chunks(self) -> tuple[int, ...]:
        """Extent of a tile, or of a plane or a part of it where it is stored in rows."""
        page = self._level.keyframe
        extents = dict(zip(self.axes, page.shape, strict=True))
        height, width = page.chunks[:2]
        if not page.is_tiled:
            rows = max(1, _ROWS_VOXELS // max(1, width * height)) * height
            height = min(rows, extents["Y"])
        chunk = {"Y": height, "X": width, "S": extents.get("S", 1)}
        return (*[1] * len(self._planes), *(max(1, int(chunk[axis])) for axis in self.axes))

    def read(self, place: Sequence[int], box: Mapping[str, range]) -> NDArray[Any]:
        """Return a box of one plane.

        Parameters
        ----------
        place
            Index of the plane along the axes before its own.
        box
            Ranges along its own axes.

        Raises
        ------
        VolumeError
            If the file ends before the plane does, or lacks it.
        """
        page = self._level.keyframe
        regions, extent = self._regions(place, box), (len(box["Y"]), len(box["X"]))
        data = np.full((len(box.get("S", range(1))), *extent), page.nodata, self.dtype)
        fill = self._fill_rows if page.is_final else self._fill_segments
        for samples, region in zip(data.reshape(len(regions), -1, *extent), regions, strict=True):
            fill(samples, region)
        order = {"S": 0, "Y": 1, "X": 2}
        return data.transpose([order[axis] for axis in self.axes]) if "S" in self.axes else data[0]

    def missing(self, place: Sequence[int], box: Mapping[str, range]) -> int:
        """Return how many strips or tiles of a box the file omits; parameters as of `read`."""
        count = 0
        for region in self._regions(place, box):
            _, offsets, lengths = self._places(region.page)
            segments = self._segments(region)
            count += sum(not (offsets[index] and lengths[index]) for index, _, _ in segments)
        return count

    @property
    def fill(self) -> float | int | None:
        """Value of a strip or tile that is omitted; None where rows lie as they are in memory."""
        page = self._level.keyframe
        return None if page.is_final else self.dtype.type(page.nodata).item()

    def _regions(self, place: Sequence[int], box: Mapping[str, range]) -> list[_Region]:
        number = int(np.ravel_multi_index(tuple(place), self._planes)) if place else 0
        # samples beside each other come with every pixel, others are planes of their own
        samples = box.get("S", range(1))
        if self._level.keyframe.planarconfig == 1:
            within = slice(samples.start, samples.stop)
            return [_Region(number, 0, within, box["Y"], box["X"])]
        return [_Region(number, s, slice(0, 1), box["Y"], box["X"]) for s in samples]

    def _fill_rows(self, data: NDArray[Any], region: _Region) -> None:
        """Fill in rows of a plane that is stored as it is in memory."""
        page = self._level.keyframe
        samples = page.samplesperpixel if page.planarconfig == 1 else 1
        row = page.imagewidth * samples * self.dtype.itemsize
        if self._first is None:
            file, (offset, *_), _ = self._places(region.page)
        else:
            file = self._file_of(page)
            offset = self._first + region.page * page.nbytes
        offset += (region.plane * page.imagelength + region.y.start) * row
        [content] = file.read([(offset, len(region.y) * row)])
        values = np.frombuffer(content, self.dtype.newbyteorder(self._byteorder))
        columns = slice(region.x.start, region.x.stop)
        pixels = values.reshape(-1, page.imagewidth, samples)[:, columns, region.within]
        data[...] = pixels.transpose(2, 0, 1)

    def _fill_segments(self, data: NDArray[Any], region: _Region) -> None:
        """Fill in what strips or tiles of a plane hold of a box."""
        page, (y, x) = self._level.keyframe, (region.y, region.x)
        file, offsets, lengths = self._places(region.page)
        stored = [s for s in self._segments(region) if offsets[s[0]] and lengths[s[0]]]
        contents = file.read([(offsets[index], lengths[index]) for index, _, _ in stored])
        for (index, top, left), content in zip(stored, contents, strict=True):
            segment, _, shape = page.decode(content, index, **self._tables(region.page))
            bottom, right = min(y.stop, top + shape[1]), min(x.stop, left + shape[2])
            low, first = max(y.start, top), max(x.start, left)
            pixels = segment[
                0, low - top : bottom - top, first - left : right - left, region.within
            ]
            rows, columns = (low - y.start, bottom - y.start), (first - x.start, right - x.start)
            data[:, slice(*rows), slice(*columns)] = pixels.transpose(2, 0, 1)

    def _segments(self, region: _Region) -> Iterator[tuple[int, int, int]]:
        """Yield index, first row and first column of each strip or tile of a region."""
        page = self._level.keyframe
        height, width = page.chunks[:2]
        across, down = -(-page.imagewidth // width), -(-page.imagelength // height)
        rows = range(region.y.start // height, -(-region.y.stop // height))
        columns = range(region.x.start // width, -(-region.x.stop // width))
        for i, j in product(rows, columns):
            yield (region.plane * down + i) * across + j, i * height, j * width

    def _places(self, number: int) -> tuple[StoredFile, Sequence[int], Sequence[int]]:
        """Return the file of a page, and offset and length of each of its strips or tiles."""
        page = self._page(number)
        return self._file_of(page), page.dataoffsets, page.databytecounts

    def _file_of(self, page: Any) -> StoredFile:
        # an OME-TIFF on this machine may have pages in files beside it
        is_own = page.parent is self._tiff
        return self._file if is_own else StoredFile(page.parent.filehandle.path)

    def _tables(self, number: int) -> dict[str, Any]:
        page = self._page(number)
        tables = {name: getattr(page, name, None) for name in ("jpegtables", "jpegheader")}
        return {name: table for name, table in tables.items() if table}

    def _page(self, number: int) -> Any:
        with self._lock:  # pages are parsed when they are first asked for
            page = self._level[number]
        if page is None:  # of OME-TIFF, where a file of several is gone or writing was broken off
            raise VolumeError(f"page {number} is described, but in no file that is here")
        return page


@contextmanager
def remarks() -> Iterator[list[str]]:
    """Collect what tifffile would log, so that a file that it mends in silence is noticed."""
    messages: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        messages.append(record.getMessage())
        return False

    log = logging.getLogger("tifffile")
    with _lock:
        log.addFilter(collect)
        try:
            yield messages
        finally:
            log.removeFilter(collect)


def open_tiff(file: StoredFile) -> Any:
    """Return a file as tifffile's ``TiffFile``."""
    tifffile = library("tifffile", extra="tiff", kind="TIFF")
    return tifffile.TiffFile(file.open() if file.is_remote else file.name)


def open_series(file: StoredFile, series: int, level: int) -> OpenSeries:
    """Return a level of a series, parsed once by a process as long as the file is not rewritten."""
    version: tuple[object, ...] = (repr(sorted(file.storage_options.items())),)
    if not file.is_remote:
        status = os.stat(file.name)
        version = status.st_mtime_ns, status.st_size
    key = os.getpid(), file, version, series, level
    with _lock:
        if key not in _opened:
            with remarks():  # whoever opened the target has heard them
                _opened[key] = OpenSeries(file, series, level)
            if len(_opened) > _MOST_OPEN:
                del _opened[next(iter(_opened))]
        return _opened[key]


def _planes_and_box(
    opened: OpenSeries, selection: Selection
) -> tuple[list[range], dict[str, range]]:
    """Return the ranges of a selection along the axes before those of a page, and along those."""
    ranges = [range(s, s + 1) if isinstance(s, int) else range(s.start, s.stop) for s in selection]
    planes = len(ranges) - len(opened.axes)
    return ranges[:planes], dict(zip(opened.axes, ranges[planes:], strict=True))


def _page_axes(page: Any) -> str:
    """Return the axes of a page: YX, YXS or SYX."""
    if page.axes not in ("YX", "YXS", "SYX"):
        raise VolumeError(f"pages with axes {page.axes} are not read: convert it to zarr")
    return str(page.axes)
