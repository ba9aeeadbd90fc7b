"""How much memory a process may use, and how many models of a bank it holds at once.

A bank whose weights need more than half of that is scored a group of models after the other: a
worker reads each of its blocks once a group, and loads a group's models once a block.

Out of memory inside a block: the batch is halved, and the process remembers it.

A model's predictions depend on the batch by a unit in the last place
(`cte_dask.inference.predictor`): a model that ran short has, from that slab of a block on
(`cte_dask.scoring.block_reader`), the numbers of a run with the smaller ``--batch``. Within a slab
all of a model's numbers are of one batch.
"""

from __future__ import annotations

import gc
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from cte_dask.arrays import dtype_of
from cte_dask.inference.device import arithmetic, free_memory, peak_of
from cte_dask.tiles import Shape

if TYPE_CHECKING:
    from cte_dask.inference.predictor import Predictor
    from cte_dask.inference.settings import Inference
    from cte_dask.models.network import Network

__all__ = [
    "batch_size",
    "bytes_for_models",
    "filling_batch",
    "limited_memory",
    "out_of_memory",
    "peak_memory",
    "reset_peak",
    "with_smaller_batches",
]

MODELS_SHARE = 0.5
"""Part of the memory that loaded models may take; the rest is for voxels and activations."""


BATCH_VOXELS = {"cpu": 2**17, "cuda": 2**24}
"""Of a batch, at most: a GPU's last batch of a slab is padded, and costs as much as a full one."""

FREE_SHARE = 0.5
"""Part of a card's free memory that one pass of a network may take; the rest is for what passes
share, for predictions, and for the voxels of the target."""

_LIMIT: ContextVar[int | None] = ContextVar("limit", default=None)


@contextmanager
def limited_memory(limit: int | None) -> Iterator[None]:
    """Limit the host memory that models may count on inside the context.

    Parameters
    ----------
    limit
        Bytes that a Dask worker may use; None for what the system allows.
    """
    token = _LIMIT.set(limit)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def bytes_for_models(device: str) -> int:
    """Return how many bytes of weights this process may hold.

    Parameters
    ----------
    device
        Where the models are, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    int
        A share of the GPU's memory; without one, a share of what this Dask worker, this control
        group or this machine may use.
    """
    return int(MODELS_SHARE * (_device_memory() if device == "cuda" else _host_memory()))


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


def _host_memory() -> int:
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError):  # "max" where there is no limit
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    limit = _LIMIT.get()
    return min(limits if limit is None else [*limits, limit])


def _device_memory() -> int:
    import torch

    return int(torch.cuda.mem_get_info()[1])


_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that host or device memory ran out.

    Torch has a class of its own for devices alone; of the host it tells in a plain RuntimeError.
    CuPy's is a MemoryError.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def with_smaller_batches(ready: Predictor, work: Callable[[], _T]) -> _T:
    """Do some work with a model; each time that memory runs out, again with half the batch.

    Parameters
    ----------
    ready
        The loaded model, changed in place.
    work
        What is done; it may be called several times.

    Raises
    ------
    Exception
        Whatever `work` raises, also if memory runs out for a single sample.
    """
    while True:
        try:
            return work()
        except Exception as error:
            if not out_of_memory(error) or ready.network.fixed_batch or ready.batch == 1:
                raise
        # only here is the error gone, and with it what its frames held
        halve(ready)


def halve(ready: Predictor) -> None:
    """Halve the batch of a loaded model; a traced network is traced anew."""
    gc.collect()
    if ready.device == "cuda":
        torch.cuda.empty_cache()
    ready.batch //= 2
    name, size = ready.spec.name, ready.batch
    _logger.warning("out of memory: model %s goes on in batches of %d", name, size)
    if ready.passes.path is not None:
        with_smaller_batches(ready, ready.open)


def filling_batch(
    network: Network,
    shape: tuple[int, ...],
    inference: Inference,
    most: int,
    *,
    free: Callable[[], int] = free_memory,
    peak: Callable[[Callable[[], object]], int] = peak_of,
) -> int:
    """Return the samples of a forward pass that fill `FREE_SHARE` of a card's free memory.

    Parameters
    ----------
    network
        On the card.
    shape
        Of one sample (C, [z,] y, x).
    inference
        Gives device and precision.
    most
        Samples, at most.
    free, peak
        How much memory is free, and what some work takes.

    Returns
    -------
    int
        `most`, or a smaller power of two, so that a little more or less of free memory changes no
        number. `most` also where the allocator keeps no account; that is halved if it does not fit.
    """
    device, dtype = inference.device, dtype_of(inference.precision)

    def run(samples: int) -> None:
        x = torch.rand(samples, *shape, device=device).to(dtype)
        with torch.inference_mode(), arithmetic(device, inference.precision):
            network.forward(x)

    run(1)  # what is allocated once is no part of a pass
    try:
        one, two = (peak(partial(run, samples)) for samples in (1, 2))
    except RuntimeError as error:
        return 1 if out_of_memory(error) else most
    each = max(1, two - one)
    fits = int(FREE_SHARE * free() - (one - each)) // each
    return most if fits >= most else 2 ** (max(1, fits).bit_length() - 1)


def batch_size(frame: Shape, *, dims: int, device: str) -> int:
    """Return the samples of a forward pass that keep a device busy, if its memory holds them."""
    voxels = math.prod(frame) if dims == 3 else frame[1] * frame[2]
    return max(1, BATCH_VOXELS[device] // voxels)
