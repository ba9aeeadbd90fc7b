"""TIFF images, in which people draw labels: read and written whole, at any URL."""

from __future__ import annotations

import io
from types import ModuleType
from typing import Any

import fsspec
import numpy as np
from numpy.typing import NDArray

from cte_dask.storage.files import replacing

__all__ = ["read_tiff", "tiff_bytes", "write_bytes"]


def tiff_bytes(image: NDArray[Any]) -> bytes:
    """Return an image as the bytes of a TIFF file; the same image gives the same bytes.

    Parameters
    ----------
    image
        Gray values, (y, x) or (z, y, x).

    Raises
    ------
    ValueError
        If tifffile is not installed.
    """
    buffer = io.BytesIO()
    axes = {"axes": "ZYX"[-image.ndim :]}
    _tifffile().imwrite(
        buffer, image, photometric="minisblack", metadata=axes, software=False, datetime=None
    )
    return buffer.getvalue()


def write_bytes(url: str, content: bytes) -> None:
    """Write a file whole, or leave the one that is there.

    Parameters
    ----------
    url
        Path or fsspec URL.
    content
        All of it.
    """
    with replacing(url, "wb") as file:
        file.write(content)


def read_tiff(url: str) -> tuple[NDArray[Any], bytes]:
    """Return the image in a TIFF file, and the bytes of the file.

    Parameters
    ----------
    url
        Path or fsspec URL.

    Raises
    ------
    ValueError
        If it is none, or tifffile is not installed.
    """
    with fsspec.open(url, "rb") as file:
        content = bytes(file.read())
    library = _tifffile()
    try:
        image = np.asarray(library.imread(io.BytesIO(content)))
    except Exception as error:  # a damaged file raises whatever its decoder does
        raise ValueError(f"{url} cannot be read as TIFF: {error}; save it again") from error
    if not image.size:
        raise ValueError(f"{url} holds no image: save it again as TIFF")
    return image, content


def _tifffile() -> ModuleType:
    try:
        import tifffile
    except ImportError as error:
        raise ValueError(
            f"tiles to label are TIFF files, which need pip install 'cte-dask[labels]': {error}"
        ) from error
    module: ModuleType = tifffile
    return module
