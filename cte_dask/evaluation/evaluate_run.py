"""Evaluation of a finished run: its tiles are predicted again and compared with labels."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cte_dask.engine.clusters import default_workers, open_cluster
from cte_dask.engine.dask_runner import run_jobs
from cte_dask.engine.jobs import Job, Listed
from cte_dask.engine.lost_workers import SchedulerLostError, cause_of, died
from cte_dask.evaluation.comparators.ccfv import ccfv
from cte_dask.evaluation.comparators.decoder_features import FEWEST_VOXELS
from cte_dask.evaluation.comparison import TileMeasures, evaluation_of
from cte_dask.evaluation.evaluate_block import (
    BlockEvaluation,
    BlockTask,
    empty_evaluation,
    evaluate_block,
)
from cte_dask.evaluation.labels import open_labels, read_labels
from cte_dask.evaluation.parts import Parts, parts_key
from cte_dask.evaluation.result import MEASURES
from cte_dask.ranking.bootstrap import cells
from cte_dask.ranking.rank import rank
from cte_dask.results.dataset import read_scores, told_attributes
from cte_dask.results.experiment_file import reopen
from cte_dask.results.run_folder import RunFolder
from cte_dask.results.store import DONE, counted
from cte_dask.scoring.block_scores import STATUS
from cte_dask.scoring.experiment import versions

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client
    from numpy.typing import NDArray

    from cte_dask.evaluation.result import Evaluation
    from cte_dask.scoring.experiment import Candidate, Experiment
    from cte_dask.tiles import BlockGrid, TileGrid
    from cte_dask.volume import Volume

__all__ = ["evaluate_run"]

GONE = "the scheduler is gone: what was evaluated is kept, the same command goes on"
MOST_FEATURED = 32
"""Tiles whose features CCFV compares: 496 pairs a layer."""
TELL_EVERY_S = 10.0

Tell = Callable[[str], None]


def evaluate_run(
    run: str,
    labels: object,
    *,
    cluster: str = "none",
    workers: int | None = None,
    seed: int = 0,
    resamples: int = 1000,
    bootstrap: str | Sequence[str] = "cell",
    features: bool = True,
    leave_out: Mapping[str, str] | None = None,
    tell: Tell = lambda _: None,
) -> Evaluation:
    """Compare a run's scores with performance against labels; scores and ranking stay.

    Blocks that are done are kept in the run until all are, so that the same call goes on after
    whatever ended it.

    Parameters
    ----------
    run
        Folder or URL of a finished run.
    labels
        Labels of the target, see `cte_dask.evaluation.labels.open_labels`.
    cluster, workers
        Where the tiles are predicted; see `cte_dask.engine.clusters.open_cluster`.
    seed
        Seed of the bootstrap, the permutation p-values and the voxels that CCFV samples.
    resamples
        How often the bootstrap of Kendall's τ draws.
    bootstrap
        What it draws: ``"cell"``, spatial cells of neighbouring tiles, as the ranking's intervals
        do; ``"tile"`` where tiles are images of their own, such as a stack of unrelated planes.
        Or one name a z plane of the region: planes of one name are drawn together.
    features
        Whether to compute CCFV, which looks at the features of up to 32 labelled tiles.
    leave_out
        Models that are evaluated but left out of the correlations, and why: those that have seen
        the target's domain in training.
    tell
        Receives one line of progress now and then.

    Returns
    -------
    Evaluation
        Performance of each model, and each score's correlation with it.

    Raises
    ------
    ValueError, OSError
        For any bad value, naming it; also if no scored tile has labels.
    """
    if isinstance(bootstrap, str) and bootstrap not in ("cell", "tile"):
        raise ValueError(f"bootstrap {bootstrap!r} is not one of cell, tile")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    workers = default_workers(1) if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    experiment = reopen(run)
    scores = counted(RunFolder(run).open_scores())
    _check_names(leave_out or {}, experiment.candidates, experiment.excluded)
    truth = open_labels(labels, experiment.volume)
    dataset = read_scores(scores)
    dataset.attrs |= told_attributes(experiment)
    tell("looking where the labels are")
    tasks = _tasks(experiment.blocks, dataset, truth, seed=seed, features=features)
    parts = _parts(run, experiment.digest(), truth, tasks)
    task = EvaluateBlock(experiment, truth, {t.index: t for t in tasks}, parts)
    with open_cluster(cluster, workers=workers, threads=experiment.threads) as client:
        evaluations = _evaluated(task, client, tell)
    completion = scores.done()
    missing = int((completion != DONE["complete"]).sum())
    notes = _notes(evaluations, len(experiment.candidates), missing, len(completion))
    units = _units(experiment.volume, experiment.grid, dataset, bootstrap)
    tell("comparing ranks")
    task.parts.clear()
    return evaluation_of(
        dataset,
        rank(dataset),
        _joined(experiment.candidates, dataset, evaluations, units, features=features),
        seed=seed,
        resamples=resamples,
        causes={n: c for b in evaluations for n, c in b.failures.items()},
        left_out=leave_out,
        notes=(*notes, *_early(dataset)),
        about={
            "run": run,
            "experiment": scores.layout.experiment,
            "target": experiment.volume.describe(),
            "tile": list(experiment.grid.tile),
            "labels": truth.name,
            "bootstrap": {
                "unit": bootstrap if isinstance(bootstrap, str) else "named planes",
                "resamples": resamples,
            },
            "excluded": dict(experiment.excluded),
            "versions": versions(),
        },
    )


def _parts(run: str, digest: str, truth: Volume, tasks: Sequence[BlockTask]) -> Parts:
    """Return the store of this evaluation's finished blocks."""
    # Its name is a digest of run, labels and tasks: another evaluation never reads these blocks.
    contents = [(t.index, t.scored.tobytes().hex(), sorted(t.featured)) for t in tasks]
    key = parts_key(digest, truth.describe(), contents)
    return Parts(RunFolder(run).evaluation_parts_url(key))


def _check_names(
    names: Mapping[str, str], candidates: Sequence[Candidate], excluded: Mapping[str, str]
) -> None:
    accepted = {c.name for c in candidates} | set(excluded)
    if unknown := [n for n in names if n not in accepted]:
        raise ValueError(f"no model {unknown[0]!r} to leave out: there are {', '.join(accepted)}")


def _units(
    volume: Volume, grid: TileGrid, dataset: xr.Dataset, bootstrap: str | Sequence[str]
) -> NDArray[np.int64]:
    """Return the number of each tile's bootstrap unit."""
    starts = np.stack([dataset[axis].to_numpy() for axis in "zyx"], axis=1)
    if isinstance(bootstrap, str):
        return cells(starts) if bootstrap == "cell" else np.arange(len(starts))
    planes = volume.shape[0]
    if len(bootstrap) != planes or grid.tile[0] != 1:
        raise ValueError(
            f"bootstrap has {len(bootstrap)} names for {planes} planes in tiles of "
            f"{grid.tile}: one name a plane and tiles of one plane are needed"
        )
    _, unit = np.unique(np.asarray(bootstrap), return_inverse=True)
    units: NDArray[np.int64] = unit[starts[:, 0] - volume.origin[0]]
    return units


def _tasks(
    blocks: BlockGrid, dataset: xr.Dataset, truth: Volume, *, seed: int, features: bool
) -> list[BlockTask]:
    """Return the task of each block that the run has finished."""
    numbers = [int(b) for b in np.unique(dataset.block.to_numpy())]
    none = np.empty(0, np.int64)  # concatenate refuses an empty list
    labelled = np.concatenate([none, *(_labelled(blocks, truth, b) for b in numbers)])
    scored = (dataset.status == STATUS["scored"]).any("perturbation").to_numpy()
    if not (labelled[scored.any(axis=0)] > 0).any():
        raise ValueError(f"labels {truth.name} are empty (0) in every tile that was scored")
    featured = _featured(dataset, labelled, scored, seed) if features else frozenset()
    block_of = dataset.block.to_numpy()
    tiles = dataset.tile.to_numpy()
    return [
        BlockTask(b, scored[:, block_of == b], featured & frozenset(tiles[block_of == b].tolist()))
        for b in numbers
    ]


def _labelled(blocks: BlockGrid, truth: Volume, block: int) -> NDArray[np.int64]:
    """Count the labelled voxels of a block's tiles."""
    tiles = blocks.block_at(block).tiles
    return np.array([np.count_nonzero(read_labels(truth, t.start, t.stop)) for t in tiles])


def _featured(
    dataset: xr.Dataset, labelled: NDArray[np.int64], scored: NDArray[np.bool_], seed: int
) -> frozenset[int]:
    """Draw the tiles that CCFV compares: the same ones for every model."""
    usable = np.flatnonzero((labelled >= FEWEST_VOXELS) & scored.all(axis=0))
    tiles = np.sort(dataset.tile.to_numpy()[usable])
    drawn = np.random.default_rng(seed).permutation(tiles)[:MOST_FEATURED]
    return frozenset(int(t) for t in drawn)


@dataclass(frozen=True)
class EvaluateBlock:
    """Task that evaluates one block; see `cte_dask.engine.dask_runner.Task`.

    Parameters
    ----------
    experiment, labels
        The run, and the labels of its target.
    tasks
        The models and tiles to evaluate of each block, by its number.
    parts
        Store of the finished blocks.
    """

    experiment: Experiment
    labels: Volume
    tasks: Mapping[int, BlockTask]
    parts: Parts

    @property
    def name(self) -> str:
        """Name of its tasks on a dashboard."""
        return "evaluate-block"

    def __call__(self, job: Job) -> BlockEvaluation:
        """Evaluate a block, or read what an earlier attempt saved of it."""
        if (saved := self.parts.read(job.block)) is not None:
            return saved
        evaluation = evaluate_block(self.experiment, self.labels, self.tasks[job.block])
        self.parts.write(job.block, evaluation)
        return evaluation

    def trials(self, _job: Job) -> list[Job]:
        """Return nothing: its models are not done apart."""
        return []

    def give_up(self, job: Job, error: BaseException) -> BlockEvaluation:
        """Return a block under which workers died as one that every model failed on.

        Raises
        ------
        BaseException
            Any other error that ended the task: the target or the labels cannot be read.
        """
        if not died(error):
            raise error
        names = [c.name for c in self.experiment.candidates]
        block = self.experiment.blocks.block_at(job.block)
        return empty_evaluation(block, len(names), dict.fromkeys(names, cause_of(error)))


def _evaluated(task: EvaluateBlock, client: Client | None, tell: Tell) -> list[BlockEvaluation]:
    """Return the evaluations of all blocks in order, and tell the progress."""
    evaluations: list[BlockEvaluation] = []
    began = last_message = time.monotonic()

    def progress(block: BlockEvaluation) -> None:
        nonlocal last_message
        evaluations.append(block)
        number, total, now = len(evaluations), len(task.tasks), time.monotonic()
        if now - last_message > TELL_EVERY_S or number == total:
            left = (now - began) / number * (total - number)
            tell(f"predicted {number} of {total} blocks, about {left:.0f} s left")
            last_message = now

    try:
        run_jobs(task, Listed(map(Job, task.tasks)), client=client, progress=progress)
    except SchedulerLostError as error:
        raise SchedulerLostError(GONE) from error
    return sorted(evaluations, key=lambda block: int(block.tiles[0]))


def _joined(
    candidates: Sequence[Candidate],
    dataset: xr.Dataset,
    evaluations: Sequence[BlockEvaluation],
    units: NDArray[np.int64],
    *,
    features: bool,
) -> TileMeasures:
    """Put the blocks' measures into the order of the run's tiles."""
    place = {int(t): i for i, t in enumerate(dataset.tile.to_numpy())}
    values = np.full((len(candidates), len(MEASURES), len(place)), math.nan)
    labelled = np.zeros(len(place), np.int64)
    for block in evaluations:
        columns = [place[int(t)] for t in block.tiles]
        values[:, :, columns] = block.values
        labelled[columns] = block.labelled
    return TileMeasures(values, labelled, units, _ccfv(candidates, evaluations) if features else {})


def _ccfv(
    candidates: Sequence[Candidate], evaluations: Sequence[BlockEvaluation]
) -> dict[str, float]:
    """Return each model's CCFV, NaN where its features cannot be read."""
    scores = {}
    for candidate in candidates:
        tiles = {
            tile: features
            for block in evaluations
            for (name, tile), features in block.features.items()
            if name == candidate.name
        }
        # From a tuple of layers a tile to a tuple of tiles a layer, tiles in one order for all.
        layers = list(zip(*(tiles[t] for t in sorted(tiles)), strict=True))
        scores[candidate.name] = ccfv(layers) if len(tiles) >= 2 else math.nan
    return scores


def _notes(
    evaluations: Sequence[BlockEvaluation], models: int, missing: int, total: int
) -> tuple[str, ...]:
    unreached = {n: why for b in evaluations for n, why in b.unreached.items()}
    featured = len({tile for b in evaluations for _, tile in b.features})
    notes = [f"CCFV is not available for {n}: {why}" for n, why in unreached.items()]
    if len(unreached) < models and featured:
        notes.append(f"CCFV compares the features of {featured} tiles")
    if missing:
        notes.append(f"{missing} of {total} blocks of the run are not complete")
    return tuple(notes)


def _early(dataset: xr.Dataset) -> tuple[str, ...]:
    absent = (dataset.status == STATUS["absent"]).any(["perturbation", "tile"]).to_numpy()
    names = ", ".join(map(str, dataset.model.to_numpy()[absent]))
    return (f"beaten early, evaluated on fewer tiles than others: {names}",) if names else ()
