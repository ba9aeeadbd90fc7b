"""A short trial on this machine: how long a tile takes, and how much memory it wants.

One batch of every model, all of its passes, without any of the target's voxels: what a plan turns
into hours and bytes. Reading, preprocessing and counting come on top of it, a small part.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cte_dask.consistency.binary import binary_agreement
from cte_dask.consistency.instance import v_rand

if TYPE_CHECKING:
    from cte_dask.perturb.draw import Draw
    from cte_dask.predict import Predictor

__all__ = ["load_kernels", "peak_memory", "reset_peak", "seconds_per_tile"]


def seconds_per_tile(ready: Predictor, draws: Sequence[Draw]) -> float:
    """Time all passes of one batch of a model that has run before.

    Parameters
    ----------
    ready
        The loaded model.
    draws
        The perturbed runs that it supports, the unperturbed one left out.

    Returns
    -------
    float
        Seconds of wall time a tile, under every draw.
    """
    began = time.perf_counter()
    _tried(ready, draws)
    return (time.perf_counter() - began) * ready.samples_per_tile / ready.batch


def _tried(ready: Predictor, draws: Sequence[Draw]) -> None:
    with torch.inference_mode():
        ready.try_out(draws)
    if ready.device == "cuda":
        torch.cuda.synchronize()


def load_kernels(device: str, *, instances: bool) -> None:
    """Compare two small predictions, so that this process holds what comparing takes.

    Parameters
    ----------
    device
        Where it will be done; on a GPU it takes no memory of the host worth counting.
    instances
        Whether labels will be compared too.
    """
    if device != "cpu":
        return
    empty = np.zeros((1, 8, 8), np.float32)
    binary_agreement(empty, empty)
    if instances:
        v_rand(*(np.ones((1, 8, 8), np.int32),) * 2)


def reset_peak(device: str) -> None:
    """Forget the peaks of memory so far, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_memory(device: str) -> tuple[int, int]:
    """Return the most memory in use since `reset_peak`, in bytes.

    Returns
    -------
    tuple of int
        On the host, the whole process with its libraries (0 where the system does not tell), and
        on the device.
    """
    host = 0
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        host = 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return host, torch.cuda.max_memory_allocated() if device == "cuda" else 0
