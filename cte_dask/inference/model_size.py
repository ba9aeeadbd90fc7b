"""How much memory the weights of a loaded model take."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cte_dask.inference.graph.winograd import weight_bytes

if TYPE_CHECKING:
    from cte_dask.inference.predictor import Predictor

__all__ = ["bytes_of"]


def bytes_of(loaded: Predictor) -> int:
    """Return the bytes of a loaded model's weights, transformed ones included.

    Of its file where it does not show them.
    """
    forward = loaded.network.forward
    known: list[Any] = [*forward.parameters(), *forward.buffers()]
    size = int(sum(t.numel() * t.element_size() for t in known))
    if loaded.device == "cpu":
        size += sum(weight_bytes(t.shape) for t in known)
    with suppress(OSError):
        size = size or Path(str(loaded.spec.source)).stat().st_size
    return size
