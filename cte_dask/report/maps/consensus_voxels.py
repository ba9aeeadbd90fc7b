"""The consensus of a bank at the target's own voxels, predicted once more, a block at a time.

The models that have a say predict each tile, unperturbed; the run's fit turns their votes into the
probability of foreground. Nothing larger than a block is ever in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from cte_dask.arrays import set_threads
from cte_dask.engine.clusters import open_cluster
from cte_dask.engine.dask_runner import run_jobs
from cte_dask.engine.jobs import Job, Listed
from cte_dask.ranking.consensus import seen_by, uncertainty_of
from cte_dask.scoring.score_block import predict_tiles
from cte_dask.storage.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cte_dask.engine.clusters import ClusterOptions
    from cte_dask.ranking.consensus import Consensus
    from cte_dask.ranking.latent_truth import Fit
    from cte_dask.scoring.experiment import Experiment
    from cte_dask.tiles import Tile

__all__ = ["CERTAIN", "CONSENSUS", "UNCERTAINTY", "ConsensusBlock", "voxel_maps", "write_voxels"]

CONSENSUS, UNCERTAINTY = "consensus", "uncertainty"
TOLD = 20
"""Lines of progress, about."""
CERTAIN = 255
"""The number that stands for 1 where a map holds bytes."""


@dataclass(frozen=True)
class BlockWritten:
    """A block whose consensus is written."""

    index: int
    failures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ConsensusBlock:
    """Predict a block by the models that have a say and write their consensus.

    Parameters
    ----------
    experiment
        The run, of those models alone, in the order of `fit`.
    fit
        Their rates.
    maps
        Folder or URL of the maps, whose arrays exist.
    """

    experiment: Experiment
    fit: Fit
    maps: str

    @property
    def name(self) -> str:
        """What its tasks are called on a dashboard."""
        return "consensus-block"

    def __call__(self, job: Job) -> BlockWritten:
        """Write one block."""
        import zarr

        set_threads(self.experiment.threads)
        group = zarr.open_group(open_store(self.maps, {}, read_only=False), mode="r+")
        seen, unsure = (group[f"{name}/0"] for name in (CONSENSUS, UNCERTAINTY))
        for box, consensus, uncertainty in voxel_maps(self.experiment, self.fit, job.block):
            seen[box], unsure[box] = consensus, uncertainty  # type: ignore[index]
        return BlockWritten(job.block)

    def trials(self, _job: Job) -> list[Job]:
        """Return nothing: its models are not done apart."""
        return []

    def give_up(self, job: Job, error: BaseException) -> BlockWritten:
        """Raise what ended the task: a map with holes would pass for one without foreground."""
        raise error


def voxel_maps(
    experiment: Experiment, fit: Fit, block: int
) -> list[tuple[tuple[slice, ...], NDArray[np.uint8], NDArray[np.uint8]]]:
    """Return the consensus of the tiles of a block and its uncertainty.

    Parameters
    ----------
    experiment
        The run, of the models that have a say alone, in the order of `fit`.
    fit
        Their rates.
    block
        Number of the block.

    Returns
    -------
    list of tuple
        Of each tile its box in the region and two uint8 arrays (z, y, x): the probability of
        foreground, and `cte_dask.ranking.consensus.uncertainty_of` it, 255 for 1.
    """
    thresholds = {
        c.name: 0.0 if c.spec.output.classes else c.spec.output.threshold
        for c in experiment.candidates
    }
    masks: dict[Tile, list[NDArray[np.bool_]]] = {}
    for name, tile, (probability,) in predict_tiles(experiment, block, []):
        masks.setdefault(tile, []).append(probability > thresholds[name])
    return [(_box(tile), *_tile_maps(fit, votes)) for tile, votes in masks.items()]


def _box(tile: Tile) -> tuple[slice, ...]:
    return tuple(slice(low, high) for low, high in zip(tile.start, tile.stop, strict=True))


def _tile_maps(
    fit: Fit, masks: Sequence[NDArray[np.bool_]]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Look every distinct pattern of votes up once: a tile has few."""
    packed = np.packbits(np.stack([m.reshape(-1) for m in masks], axis=1), axis=1)
    patterns, place = np.unique(packed, axis=0, return_inverse=True)
    votes = np.unpackbits(patterns, axis=1, count=len(masks)).astype(bool)
    fitted, tempered = seen_by(fit, votes, np.ones(len(masks), bool))
    levels = (np.rint(CERTAIN * v).astype(np.uint8) for v in (fitted, uncertainty_of(tempered)))
    seen, unsure = (level[place.reshape(-1)].reshape(masks[0].shape) for level in levels)
    return seen, unsure


def write_voxels(
    experiment: Experiment,
    consensus: Consensus,
    maps: str,
    blocks: Sequence[int],
    *,
    cluster: ClusterOptions,
    tell: Callable[[str], None],
) -> None:
    """Write the consensus of some blocks into arrays that exist.

    Parameters
    ----------
    experiment
        The run.
    consensus
        What its models see.
    maps
        Folder or URL of the maps.
    blocks
        Numbers of the blocks.
    cluster
        Where the models run; see `cte_dask.engine.clusters.open_cluster`.
    tell
        Receives a line of progress now and then.
    """
    by_name = {c.name: c for c in experiment.candidates}
    own = replace(experiment, candidates=tuple(by_name[name] for name in consensus.models))
    task, written = ConsensusBlock(own, consensus.fit, maps), 0

    def progress(_: BlockWritten) -> None:
        nonlocal written
        written += 1
        if written == len(blocks) or written * 20 // len(blocks) != (written - 1) * 20 // len(
            blocks
        ):
            tell(f"consensus of {written} of {len(blocks)} blocks written")

    threads = experiment.threads
    with open_cluster(cluster.cluster, workers=cluster.workers, threads=threads) as client:
        run_jobs(task, Listed(map(Job, blocks)), client=client, progress=progress)
