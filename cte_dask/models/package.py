"""Reads other people's model packages, a folder or a zip: bounded, and nothing outside of it.

A format names the files that are opened; a zip is never unpacked as a whole.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["Package", "folder_digest"]

MAX_FILES = 10_000
MAX_TEXT = 1_000_000
MAX_EXPANSION = 100
"""Largest ratio of a zip's content to its size, against zip bombs; weights hardly shrink at all."""

_SMALL = 256 * 1024 * 1024
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Package:
    """The files of a model package.

    Parameters
    ----------
    path
        A folder, a ``.zip``, or one file of a folder (its description).

    Raises
    ------
    ValueError
        If it is none of these, or a zip with entries that lead out of it or expand to more than
        :data:`MAX_EXPANSION` times its size.
    """

    path: Path

    def __post_init__(self) -> None:
        if self.is_zip:
            _check_zip(self.path)
        elif not self.root.is_dir():
            raise ValueError(f"no model package at {self.path}")

    @property
    def is_zip(self) -> bool:
        """Whether the package is an archive; the content decides, not the name."""
        if not self.path.is_file():
            return False
        with self.path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"  # the first entry of a zip

    @property
    def root(self) -> Path:
        """The folder that names are relative to; for an archive, the folder that holds it."""
        return self.path if self.path.is_dir() else self.path.parent

    def names(self) -> list[str]:
        """Return the names of all files, sorted, with ``/`` between folders."""
        if self.is_zip:
            with zipfile.ZipFile(self.path) as archive:
                return sorted(i.filename for i in archive.infolist() if not i.is_dir())
        return [str(p.relative_to(self.root).as_posix()) for p in _files(self.root)]

    def text(self, name: str) -> str:
        """Return a file of the package as text.

        Raises
        ------
        ValueError
            If it is missing, longer than :data:`MAX_TEXT` bytes or not UTF-8.
        """
        with self.files(name) as (path,), path.open("rb") as file:
            data = file.read(MAX_TEXT + 1)
        if len(data) > MAX_TEXT:
            raise ValueError(f"{name} is longer than {MAX_TEXT} bytes")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} is not a UTF-8 text file") from error

    @contextmanager
    def files(self, *names: str) -> Iterator[tuple[Path, ...]]:
        """Yield paths of some files of the package, all in one folder, valid within the context.

        Raises
        ------
        ValueError
            If one is missing, or its name leads out of the package.
        """
        for name in names:
            _check_name(name)
        if not self.is_zip:
            yield tuple(_inside(self.root, name) for name in names)
            return
        with tempfile.TemporaryDirectory(prefix="cte-model-") as folder:
            yield tuple(self._unpack(name, Path(folder)) for name in names)

    def _unpack(self, name: str, folder: Path) -> Path:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with (
                zipfile.ZipFile(self.path) as archive,
                archive.open(name) as entry,
                target.open("wb") as file,
            ):
                shutil.copyfileobj(entry, file, _PIECE)
        except KeyError:
            raise ValueError(f"{self.path.name} holds no {name}") from None
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise ValueError(f"{name} of {self.path.name} cannot be read: {error}") from error
        return target


def folder_digest(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of all files of a folder.

    Raises
    ------
    ValueError
        If a link leads out of the folder, or it holds more than :data:`MAX_FILES` files.
    """
    digest = hashlib.sha256()
    for path in _files(folder):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\n{content}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Sequence[Path]:
    files = []
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            continue
        files.append(_inside(folder, path.relative_to(folder).as_posix()))
        # while listing: a folder may lie on a huge disk
        if len(files) > MAX_FILES:
            raise ValueError(f"{folder} holds more than {MAX_FILES} files: no model package")
    return sorted(files)


def _inside(root: Path, name: str) -> Path:
    """Return the path of a file in a folder, after checking where its links lead.

    The path keeps its links: a link into a cache has its neighbours beside it, its target has not.
    """
    path = root / name
    real = path.resolve()
    if not real.is_relative_to(root.resolve()):
        raise ValueError(f"{name} is a link that leads out of {root}")
    if not real.is_file():
        raise ValueError(f"{root} holds no file {name}")
    return path


def _check_name(name: str) -> None:
    parts = PurePosixPath(name).parts
    if (
        not name
        or name.startswith("/")
        or ".." in parts
        or "\\" in name
        or "\0" in name
        or re.match("[A-Za-z]:", name)  # a drive of Windows
    ):
        raise ValueError(f"the name {name!r} leads out of the package")


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not a valid zip: {error}") from error
    if len(entries) > MAX_FILES:
        raise ValueError(f"{path.name} holds more than {MAX_FILES} files: no model package")
    for entry in entries:
        _check_name(entry.filename)
        # the upper half of external_attr holds the Unix mode
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise ValueError(f"{path.name}: {entry.filename} is a link, not a file")
    # of two entries readers disagree which one counts
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError(f"{path.name}: two files of the same name")
    expanded = sum(entry.file_size for entry in entries)
    if expanded > max(_SMALL, MAX_EXPANSION * path.stat().st_size):
        raise ValueError(
            f"{path.name} expands to {expanded} bytes, more than {MAX_EXPANSION} times its size"
        )
