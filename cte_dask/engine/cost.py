"""Planning: what a run will read, compute and store.

Every model runs one batch, all of its passes, without any of the target's voxels: that becomes
hours and bytes. Reading, preprocessing and counting come on top of it, a small part.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cte_dask.arrays import numba_pays
from cte_dask.consistency.binary import binary_agreement
from cte_dask.consistency.instance import v_rand
from cte_dask.inference.memory import peak_memory, reset_peak
from cte_dask.inference.trial import seconds_per_tile
from cte_dask.inference.try_out import flops_per_tile
from cte_dask.results.block_codec import COLUMNS, vote_columns
from cte_dask.scoring.bank_votes import bytes_of_tile, kept_bytes
from cte_dask.scoring.block_reader import largest_slab, margins_of, slabs_of
from cte_dask.scoring.loaded import predictor
from cte_dask.tiles import BlockGrid, Shape

if TYPE_CHECKING:
    from cte_dask.inference.settings import Inference
    from cte_dask.perturb import Draw
    from cte_dask.scoring.block_reader import Margins
    from cte_dask.scoring.experiment import Candidate, Experiment
    from cte_dask.volume import Volume

__all__ = ["ModelCost", "Plan", "load_kernels", "plan"]


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
    numba_pays(math.inf)  # as in a worker, sooner or later
    empty = np.zeros((1, 8, 8), np.float32)
    binary_agreement(empty, empty)
    if instances:
        v_rand(*(np.ones((1, 8, 8), np.int32),) * 2)


TRIAL_S = 3.0
"""Seconds of a plan that are spent on trials; models that come later are inferred."""


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What one model costs.

    Parameters
    ----------
    name
        The model.
    passes
        Whole-network runs a tile, where encoders are shared counted as FLOPs tell.
    flops
        Floating-point operations of one tile, all draws (2 a multiply-add); 0 if not countable.
    seconds
        Wall time of one tile's passes on this machine, measured or, after `TRIAL_S`, inferred from
        the operations.
    """

    name: str
    passes: int
    flops: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will read, compute and store.

    Parameters
    ----------
    blocks, tiles
        Their numbers.
    block_shape
        Voxels of a whole block (z, y, x).
    bytes_read
        Decoded bytes of all chunks touched, halos included; of a shard only its chunks touched.
    bytes_target
        Decoded bytes of the target's region.
    bytes_window
        Host memory of the largest slab of a block (`cte_dask.scoring.block_reader`).
    bytes_worker, bytes_device
        Most host memory of a worker process (0 where it cannot be measured), and of its GPU.
    bytes_stored
        Score store, before compression.
    models
        Cost of each model.
    """

    blocks: int
    tiles: int
    block_shape: Shape
    bytes_read: int
    bytes_target: int
    bytes_window: int
    bytes_worker: int
    bytes_device: int
    bytes_stored: int
    models: tuple[ModelCost, ...]

    @property
    def flops(self) -> int:
        """Floating-point operations of the whole run."""
        return self.tiles * sum(m.flops for m in self.models)

    def hours(self, workers: int) -> float:
        """Return how long the passes of the whole target would take.

        Parameters
        ----------
        workers
            How many processes like this one work at once.

        Returns
        -------
        float
            Hours, reading and counting left out.
        """
        return self.tiles * sum(m.seconds for m in self.models) / workers / 3600


def plan(experiment: Experiment, *, tell: Callable[[str], None] = lambda _: None) -> Plan:
    """Work out what a run will read, compute and store: from metadata and one batch a model.

    Parameters
    ----------
    experiment
        The resolved run.
    tell
        Receives one line of progress per model.

    Returns
    -------
    Plan
    """
    volume, blocks = experiment.volume, experiment.blocks
    size = volume.dtype.itemsize * max(1, len(volume.channels))
    tile = experiment.grid.tile
    margins = margins_of(tile, experiment.candidates, experiment.perturbations)
    columns = len(experiment.draws) * len(COLUMNS)
    models = len(experiment.candidates)
    pairs = models * (models - 1) // 2 if experiment.instances else 0
    numbers = 8 * (columns * models + pairs + vote_columns(models))
    middle = blocks.block_at(len(blocks) // 2)
    window = largest_slab(volume, middle, tile, margins)
    slabs = slabs_of(volume, middle, tile, margins)
    tiles = max(s.tiles.stop - s.tiles.start for s in slabs)
    masks = kept_bytes(tiles, bytes_of_tile(models, tile, instances=experiment.instances))
    reset_peak(experiment.device)
    costs = _costs(experiment.candidates, experiment.inference, experiment.draws, tell)
    load_kernels(experiment.device, instances=experiment.instances)
    host, device = peak_memory(experiment.device)
    return Plan(
        blocks=len(blocks),
        tiles=len(experiment.grid),
        block_shape=blocks.block_shape,
        bytes_read=size * _voxels_read(volume, blocks, margins),
        bytes_target=size * math.prod(volume.shape),
        bytes_window=window,
        # the slab that is scored, the next one as it is read and joined to what is kept of the one
        # before; the numbers twice, as made and as written; and the bank's masks, or in their place
        # the two buffers that a GPU reads from (`cte_dask.inference.device`): it has as many itself
        bytes_worker=host
        and host
        + 3 * window
        + 2 * numbers * blocks.tiles_per_block
        + (2 * window if experiment.device == "cuda" else masks),
        bytes_device=device and device + 2 * window + masks,
        bytes_stored=numbers * len(experiment.grid),
        models=tuple(costs),
    )


def _voxels_read(volume: Volume, blocks: BlockGrid, margins: Margins) -> int:
    """Voxels of all chunks that the blocks touch, of a shard those alone: a product of sums."""
    before, after = margins
    total = 1
    for axis in range(3):
        step = blocks.per_block[axis] * blocks.grid.tile[axis]
        last = blocks.grid.counts[axis] * blocks.grid.tile[axis]
        unit, extent = volume.chunks[axis], volume.array_shape[axis]
        origin = volume.origin[axis]
        touched = 0
        for number in range(blocks.counts[axis]):
            low = max(0, origin + number * step - before[axis])
            high = min(extent, origin + min((number + 1) * step, last) + after[axis])
            # whole chunks: from the start of the first one touched to the end of the last
            first = low // unit * unit
            touched += min(extent, -(-high // unit) * unit) - first
        total *= touched
    return total


def _costs(
    candidates: Sequence[Candidate],
    inference: Inference,
    draws: Sequence[Draw],
    tell: Callable[[str], None],
) -> list[ModelCost]:
    """Count and time the passes of every model, once for all that differ in their weights alone."""
    costs: list[ModelCost] = []
    measured: dict[Hashable, tuple[int, float]] = {}
    began = time.monotonic()
    for candidate in candidates:
        tell(f"counting operations: {candidate.name}")
        ready = predictor(candidate, inference)
        possible = [d for d in draws if candidate.supports(d.perturbation)]
        key = (ready.network.code or candidate.name, ready.passes.form, ready.batch, len(possible))
        if key not in measured:
            flops = flops_per_tile(ready, possible)
            if not costs or time.monotonic() - began < TRIAL_S:
                seconds = seconds_per_tile(ready, possible)
            else:
                seconds = _likely(flops, costs)
            measured[key] = flops, seconds
        costs.append(ModelCost(candidate.name, 1 + len(possible), *measured[key]))
    return costs


def _likely(flops: int, costs: Sequence[ModelCost]) -> float:
    """Return the seconds that operations take at the rate of the models timed so far."""
    return flops * sum(c.seconds for c in costs) / max(1, sum(c.flops for c in costs))
