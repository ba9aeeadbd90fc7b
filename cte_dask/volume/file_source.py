"""Targets that are files on this machine: ``FILE`` or ``FILE::INSIDE``, read by box.

Every read opens the file and closes it, so that what workers pickle is a path, threads and forked
processes share no handle, and nothing is left open.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cte_dask.errors import VolumeError, VolumeReadError, cause
from cte_dask.storage import is_url
from cte_dask.storage.retries import read_patiently
from cte_dask.volume.image import Selection, shown

__all__ = ["FileKind", "FileSource", "FileTarget", "library"]


@dataclass(frozen=True)
class FileTarget:
    """A file, and which of its images is meant; empty where the target does not say."""

    file: str
    inside: str = ""


@dataclass(frozen=True)
class FileKind:
    """A kind of file, recognised by its first bytes; one that cannot be read here by its suffix.

    Parameters
    ----------
    name
        As messages call it.
    suffixes
        Ends of file names, in small letters.
    magic
        First bytes of such a file, one of these.
    """

    name: str
    suffixes: tuple[str, ...]
    magic: tuple[bytes, ...]

    def parse(self, target: object) -> FileTarget | None:
        """Split a target in file and place inside; None if it is no file of this kind.

        Raises
        ------
        VolumeError
            If there is no such file, or it is not on this machine.
        """
        if not isinstance(target, str | os.PathLike):
            return None
        file, _, inside = os.fspath(target).removeprefix("file://").partition("::")
        is_named = file.lower().endswith(self.suffixes)
        if is_url(file):
            if is_named:
                raise VolumeError(
                    f"{file}: {self.name} files are read from this machine's disks only: download "
                    "it first, or convert it to zarr"
                )
            return None
        file = os.path.abspath(os.path.expanduser(file))
        if os.path.isfile(file):
            return FileTarget(file, inside) if is_named or self._begins(file) else None
        if is_named and not os.path.exists(file):
            raise VolumeError(f"{file} does not exist")
        return None

    def _begins(self, file: str) -> bool:
        try:
            with open(file, "rb") as opened:
                return opened.read(8).startswith(self.magic)
        except OSError:  # whoever reads it in earnest says why
            return False


@dataclass(frozen=True)
class FileSource(ABC):
    """An array in a file, as a recipe that opens the file for every read.

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
                f"cannot read {self.url} at {shown(selection)}: {cause(error)}"
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
