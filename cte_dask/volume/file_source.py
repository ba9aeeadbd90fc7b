"""Targets that are files, ``FILE`` or ``FILE::INSIDE``, a path or URL, read by box.

What workers pickle is a path or URL. Every read of a file on this machine opens it and closes it,
so that threads and forked processes share no handle, and nothing is left open. Of a file elsewhere
each process keeps what would cost requests again (`cte_dask.storage.stored_file`).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cte_dask.errors import VolumeError, VolumeReadError, cause
from cte_dask.storage import without_query
from cte_dask.storage.retries import read_patiently
from cte_dask.storage.stored_file import StoredFile, find_file, split_url, suffix_path
from cte_dask.storage.stores import absolute, is_remote
from cte_dask.volume.image import Selection, shown

__all__ = ["FileKind", "FileSource", "FileTarget", "StoredFileSource", "find_stored", "library"]


@dataclass(frozen=True)
class FileTarget:
    """A file, and which of its images is meant; empty where the target does not say."""

    file: StoredFile
    inside: str = ""

    @property
    def name(self) -> str:
        """Path or URL of the file, as messages name it."""
        return without_query(self.file.name)


@dataclass(frozen=True)
class FileKind:
    """A kind of file, recognised by its first bytes; by its suffix alone at a URL.

    Parameters
    ----------
    name
        As messages call it.
    suffixes
        Ends of file names, in small letters.
    magic
        First bytes of such a file, one of these.
    whole
        Whether such files are read whole, not by box.
    """

    name: str
    suffixes: tuple[str, ...]
    magic: tuple[bytes, ...]
    whole: bool = False

    def parse(self, target: object, storage_options: Mapping[str, Any]) -> FileTarget | None:
        """Split a target in file and place inside; None if it is no file of this kind.

        Raises
        ------
        VolumeError
            If there is no such file, or it cannot be reached.
        """
        if not isinstance(target, str | os.PathLike):
            return None
        text = os.fspath(target)
        if is_remote(text):
            file, inside = split_url(text)
            if not suffix_path(file).endswith(self.suffixes):
                return None
            return FileTarget(find_stored(file, storage_options, whole=self.whole), inside)
        file, _, inside = text.removeprefix("file://").partition("::")
        is_named = file.lower().endswith(self.suffixes)
        file = absolute(file)
        if os.path.isfile(file):
            return FileTarget(StoredFile(file), inside) if is_named or self._begins(file) else None
        if is_named and not os.path.exists(file):
            raise VolumeError(f"{file} does not exist")
        return None

    def _begins(self, file: str) -> bool:
        try:
            with open(file, "rb") as opened:
                return opened.read(8).startswith(self.magic)
        except OSError:  # whoever reads it in earnest says why
            return False


def find_stored(
    name: str, storage_options: Mapping[str, Any], *, whole: bool = False
) -> StoredFile:
    """Return a file as it is now; parameters as of `cte_dask.storage.stored_file.find_file`.

    Raises
    ------
    VolumeError
        If it cannot be reached, or not be read by ranges.
    """
    try:
        return find_file(name, storage_options, whole=whole)
    except (OSError, ValueError) as error:  # its message names the place and the remedy
        raise VolumeError(cause(error)) from error


@dataclass(frozen=True)
class FileSource(ABC):
    """An array in files, as a recipe that opens them in any process.

    Parameters
    ----------
    url
        The target that opens it again.
    shape, dtype, chunks
        Extents, element type and chunks; :class:`~cte_dask.volume.image.Source` defines them.
    """

    url: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]

    path = ""
    shards = None

    @property
    def fill_value(self) -> float | int | None:
        """Value of the voxels of an omitted chunk; None where none can be omitted."""
        return None

    def read(self, selection: Selection) -> NDArray[Any]:
        """Return the selected elements; a failed read is repeated.

        Raises
        ------
        VolumeReadError
            If they cannot be read or decoded, or the file is no longer as it was.
        """
        try:
            data = read_patiently(lambda: self._read(selection))
        except MemoryError:
            raise
        except Exception as error:
            # a damaged file raises whatever its decoder does
            raise VolumeReadError(
                f"cannot read {without_query(self.url)} at {shown(selection)}: {cause(error)}"
            ) from error
        return np.ascontiguousarray(data).astype(self.dtype, copy=False)

    def missing(self, selection: Selection) -> int:
        """Return how many chunks of the selection the file omits."""
        return 0

    @abstractmethod
    def _read(self, selection: Selection) -> NDArray[Any]:
        """Return the selected elements."""

    def _check(self, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        if tuple(shape) != self.shape or dtype.name != self.dtype:
            raise VolumeError("it has changed since it was opened: open it again")


@dataclass(frozen=True)
class StoredFileSource(FileSource):
    """An array in one file, or in a folder of them.

    Parameters
    ----------
    file
        The file or folder.
    """

    file: StoredFile

    @property
    def storage_options(self) -> Mapping[str, Any]:
        """How the URL is opened; never printed."""
        return self.file.storage_options


def library(name: str, *, extra: str, kind: str) -> Any:
    """Import what reads a kind of file.

    Raises
    ------
    VolumeError
        Naming the extra, if it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise VolumeError(f"{kind} files need pip install 'cte-dask[{extra}]': {error}") from error
