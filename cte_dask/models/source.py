"""Fetches the weights of a model as a verified file on this machine."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cte_dask.errors import reason
from cte_dask.models.package import folder_digest
from cte_dask.storage import is_url, open_file

if TYPE_CHECKING:
    from cte_dask.models.spec import ModelSpec

__all__ = ["cache_folder", "fetch", "pinned", "sha256_of"]

_PIECE = 1 << 20
_PACKAGES = frozenset({"bioimageio", "monai", "nnunet", "onnx", "pytorch3dunet", "state_dict"})
"""Formats whose source may be a folder."""


def fetch(spec: ModelSpec) -> Path:
    """Return the weights of a model as a local file whose digest is right.

    Downloads a URL once into :func:`cache_folder`, under the name of its digest; a download gets
    that name only after its digest was checked.

    Parameters
    ----------
    spec
        The model; format ``python`` has no file, and its source is returned unchanged.

    Returns
    -------
    Path
        The file, or the folder of a package; where `spec` has a ``sha256``, its content has that
        digest.

    Raises
    ------
    ValueError
        If there is no such file, it cannot be downloaded, or its digest is another one.
    """
    if spec.format == "python":
        return Path(spec.source)
    if is_url(spec.source):
        return _cached(spec.source, _required(spec))
    path = Path(spec.source)
    if not path.is_file() and not (path.is_dir() and spec.format in _PACKAGES):
        raise ValueError(f"no weights at {path}: the bank's source is not a file")
    if spec.sha256 is not None:
        _verify(path, spec.sha256)
    return path


def pinned(spec: ModelSpec) -> ModelSpec:
    """Return the model with the digest of its weights, so that a change of them is noticed.

    Raises
    ------
    ValueError
        If :func:`fetch` cannot get the weights.
    """
    if spec.format == "python" or spec.sha256 is not None:
        return spec
    return spec.model_copy(update={"sha256": sha256_of(fetch(spec))})


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of a folder, in hexadecimal."""
    if path.is_dir():
        return folder_digest(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Return the folder of what may be had again: downloaded weights, halos measured before.

    ``CTE_CACHE``, else ``XDG_CACHE_HOME/cte_dask``, else ``~/.cache/cte_dask``.
    """
    if folder := os.environ.get("CTE_CACHE"):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cte_dask"


def _required(spec: ModelSpec) -> str:
    if spec.sha256 is None:
        raise ValueError(f"sha256 is required for a URL ({spec.source})")
    return spec.sha256


def _verify(path: Path, expected: str) -> None:
    actual = sha256_of(path)
    if actual != expected:
        raise ValueError(f"sha256 of {path} is {actual}, the bank expects {expected}")


def _cached(url: str, digest: str) -> Path:
    suffix = Path(urlsplit(url).path).suffix
    path = cache_folder() / "weights" / f"{digest}{suffix}"
    # checked each time: a file in the cache may have been damaged since
    if path.is_file() and sha256_of(path) == digest:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # in the same folder: a rename is atomic within one file system only
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".download-")
    os.close(handle)
    download = Path(name)
    try:
        _download(url, download)
        actual = sha256_of(download)
        if actual != digest:
            raise ValueError(f"sha256 of {url} is {actual}, the bank expects {digest}")
        # A rename is atomic: another process sees the whole verified file or none.
        download.replace(path)
    finally:
        download.unlink(missing_ok=True)
    return path


def _download(url: str, target: Path) -> None:
    try:
        with open_file(url, "rb") as remote, target.open("wb") as local:
            while piece := remote.read(_PIECE):
                local.write(piece)
    # Each file system raises types of its own; the reader needs the URL and the reason.
    except Exception as error:
        raise ValueError(f"{url} cannot be read: {reason(error)}") from error
