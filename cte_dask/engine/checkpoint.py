"""Scoring a block once: what a store holds complete is not computed, nor written, again."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.engine.jobs import failed_job, score_job
from cte_dask.results.store import CAUSE_BYTES, DONE, Scores, open_scores
from cte_dask.scoring.score_block import BlockScores
from cte_dask.scoring.score_tiles import STATUS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.engine.jobs import Job
    from cte_dask.scoring.experiment import Experiment

__all__ = ["Checkpoint", "write_block"]


@dataclass(frozen=True)
class Checkpoint:
    """An experiment and the store that its blocks are written to: what all its tasks share.

    The store's documents are read with the first block; every process opens the store itself.

    Parameters
    ----------
    experiment
        The run.
    url
        The score store.
    """

    experiment: Experiment
    url: str

    @cached_property
    def store(self) -> Scores:
        """The store, to read and write."""
        return open_scores(self.url, writable=True)

    def score(self, job: Job) -> BlockScores:
        """Return a block's scores, computed and written unless the store has them complete.

        A worker may die between a block's mark and telling the scheduler, and a client that dies
        leaves tasks behind that go on: the same block is then asked for again, with the first
        answer already there, or about to be. Of two that compute it at once, the first one's stays.

        Parameters
        ----------
        job
            The block, and the models it is wanted for.

        Raises
        ------
        OSError
            If the store's disk is full; blocks that are complete stay, the run can be resumed.
        """
        if (known := self._complete(job.block)) is not None:
            return known
        scores = score_job(self.experiment, job)
        if self.store.mark(job.block) != DONE["complete"]:
            self._write(scores)
        return scores

    def give_up(self, job: Job, cause: str) -> BlockScores:
        """Write and return the scores of a block of which nothing was computed, and why."""
        scores = failed_job(self.experiment, job, cause)
        self._write(scores)
        return scores

    def _complete(self, index: int) -> BlockScores | None:
        store = self.store
        if store.mark(index) != DONE["complete"]:
            return None
        return BlockScores(index, store.block(index), {}, store.overlaps(index))

    def _write(self, scores: BlockScores) -> None:
        try:
            write_block(self.store, scores)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            told = f"no space left for {self.url}: make room, then go on with --resume"
            raise OSError(errno.ENOSPC, told) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"experiment": self.experiment, "url": self.url}


def write_block(store: Scores, scores: BlockScores) -> None:
    """Write one block: first its numbers, then its mark.

    Models that are absent from it keep the numbers that the store may hold of them.

    Parameters
    ----------
    store
        Opened to be written.
    scores
        The numbers.
    """
    arrays, index, values = store.arrays, scores.index, scores.values
    causes = _causes(scores.failures, store.layout.models)
    absent = _absent(values)
    if absent.any() and arrays["done"][index] != DONE["missing"]:
        kept = np.asarray(arrays["values"][index])[..., : values.shape[-1]]
        values = np.where(absent[:, None, None, None], kept, values)
        causes = np.where(absent[:, None], np.asarray(arrays["causes"][index]), causes)
    tiles = store.layout.blocks.tiles_per_block
    arrays["values"][index] = _padded(values, tiles)
    if scores.overlaps is not None:
        arrays["overlaps"][index] = _padded(scores.overlaps, tiles)
    failed = bool(causes.any())
    if failed or absent.any():
        arrays["causes"][index] = causes
    partial = bool(_absent(values).any())
    mark = "failures" if failed else "partial" if partial else "complete"
    arrays["done"][index] = DONE[mark]


def _padded(values: NDArray[np.float64], tiles: int) -> NDArray[np.float64]:
    """Return what fills a chunk: zarr reads one before it writes a part of it."""
    full = np.full((*values.shape[:-1], tiles), np.nan)
    full[..., : values.shape[-1]] = values
    return full


def _causes(failures: Mapping[str, str], models: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return causes as the ledger holds them, (model, byte)."""
    causes = np.zeros((len(models), CAUSE_BYTES), np.uint8)
    for row, name in enumerate(models):
        text = failures.get(name, "").encode()[:CAUSE_BYTES]
        causes[row, : len(text)] = np.frombuffer(text, np.uint8)
    return causes


def _absent(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which models were not asked for on a block, (model,)."""
    status = values[:, :, -1]
    absent: NDArray[np.bool_] = (np.isnan(status) | (status == STATUS["absent"])).all(axis=(1, 2))
    return absent
