"""How much memory a process may use, and how many models of a bank it holds at once.

A bank whose weights need more than half of that is scored a group of models after the other: a
worker reads each of its blocks once a group, and loads a group's models once a block.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cte_dask.predict import Predictor

__all__ = ["bytes_for_models", "bytes_of", "groups_that_fit"]

MODELS_SHARE = 0.5
"""Part of the memory that loaded models may take; the rest is for voxels and activations."""


def bytes_for_models(device: str) -> int:
    """Return how many bytes of weights this process may hold.

    Parameters
    ----------
    device
        Where the models are, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    int
        Of the GPU's memory; else of the limit of this Dask worker, of this control group, or of
        this machine's memory.
    """
    return int(MODELS_SHARE * (_device_memory() if device == "cuda" else _host_memory()))


def groups_that_fit(sizes: Sequence[int], limit: int) -> list[range]:
    """Cut a bank into groups of neighbouring models that fit into memory together.

    Parameters
    ----------
    sizes
        Bytes of each model.
    limit
        Bytes that a group may have; a model larger than that is a group of its own.

    Returns
    -------
    list of range
        Positions of the models of each group, as few groups as there can be.

    Examples
    --------
    >>> groups_that_fit([4, 4, 3, 9, 1], 8)
    [range(0, 2), range(2, 3), range(3, 4), range(4, 5)]
    """
    groups: list[range] = []
    held = 0
    for number, size in enumerate(sizes):
        if groups and held + size <= limit:
            groups[-1] = range(groups[-1].start, number + 1)
            held += size
        else:
            groups.append(range(number, number + 1))
            held = size
    return groups


def bytes_of(loaded: Predictor) -> int:
    """Return the bytes of a loaded model's weights; of its file where it does not show them."""
    forward = loaded.network.forward
    known: list[Any] = [*forward.parameters(), *forward.buffers()]
    size = int(sum(t.numel() * t.element_size() for t in known))
    with suppress(OSError):
        size = size or Path(str(loaded.spec.source)).stat().st_size
    return size


def _host_memory() -> int:
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError):  # "max" where there is no limit
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    if "distributed" in sys.modules:
        from distributed import get_worker

        with suppress(ValueError):  # not in a task
            limits.append(get_worker().memory_manager.memory_limit or limits[0])
    return min(limits)


def _device_memory() -> int:
    import torch

    return int(torch.cuda.mem_get_info()[1])
