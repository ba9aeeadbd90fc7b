"""Out of memory inside a block: the batch is halved, and the process remembers it.

A model's predictions depend on the batch by a unit in the last place (`cte_dask.predict`): a model
that ran short has, from that slab of a block on (`cte_dask.slabs`), the numbers of a run with the
smaller ``--batch``. Within a slab all of a model's numbers are of one batch.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from cte_dask.predict import Predictor

__all__ = ["out_of_memory", "with_smaller_batches"]

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
