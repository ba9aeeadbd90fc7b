"""NumPy's numbers in checkpoints: scores and steps, which nobody reads and torch refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["ignored_numbers"]


class _Ignored:
    """Takes the place of a number, its type or its bytes."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


# These names of NumPy resolve to a class that takes anything and does nothing, so that nothing of
# it runs.
_NAMES: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Ignored, name)
    for name in (
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "numpy.dtypes.Float32DType",
        "numpy.dtypes.Float64DType",
        "numpy.dtypes.Int64DType",
    )
]


def ignored_numbers() -> torch.serialization.safe_globals:
    """Return a context in which weights are read and the numbers of NumPy beside them ignored."""
    return torch.serialization.safe_globals(_NAMES)
