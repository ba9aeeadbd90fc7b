"""The library behind every segmenter but `components`: bioimage-cpp, imported when first needed.

PlantSeg runs nifty and affogato, which pip cannot install; the same group wrote bioimage-cpp (MIT
license). Its wheels need NumPy alone, and it releases Python's lock, so that other threads run. Its
components, watersheds and mutex watersheds equal those of SciPy, scikit-image and mwatershed.
"""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["library"]


def library() -> ModuleType:
    """Return bioimage_cpp.

    Raises
    ------
    ImportError
        If it is not installed, naming the extra that brings it.
    """
    try:
        return importlib.import_module("bioimage_cpp")
    except ImportError as error:
        raise ImportError(
            "this segmenter needs bioimage-cpp: pip install 'cte-dask[segment]'"
        ) from error
