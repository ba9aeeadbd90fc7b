"""Measuring a bank on the tiles that a person labelled: once, and remembered with the run.

What was measured is in ``labels.json`` of the run: a resumed run has it without the labels, and
predicts again only those tiles whose labels are others now.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cte_dask.engine.dask_runner import run_jobs
from cte_dask.engine.jobs import Job, Listed
from cte_dask.engine.lost_workers import cause_of
from cte_dask.ranking.correction import LABELLED
from cte_dask.scoring.measure_tile import TileAccuracy, measure_tile, unmeasured_tile

if TYPE_CHECKING:
    import numpy as np
    from distributed import Client
    from numpy.typing import NDArray

    from cte_dask.results.label_folder import LabelledTile
    from cte_dask.results.run_folder import RunFolder
    from cte_dask.scoring.experiment import Experiment
    from cte_dask.tiles import Shape

__all__ = ["MeasureTile", "measure_labels"]

Entry = dict[str, Any]


@dataclass(frozen=True)
class MeasureTile:
    """Task that measures a bank on one labelled tile; see `cte_dask.engine.dask_runner.Task`.

    Parameters
    ----------
    experiment
        The run.
    labels
        Labels of each tile, by its number.
    """

    experiment: Experiment
    labels: Mapping[int, NDArray[np.int64]]
    name: str = "measure-tile"

    def __call__(self, job: Job) -> TileAccuracy:
        """Measure the tile of a job, which is a block of one tile."""
        return measure_tile(self.experiment, job.block, self.labels[job.block])

    def trials(self, _job: Job) -> list[Job]:
        """Return nothing: its models are not done apart."""
        return []

    def give_up(self, job: Job, error: BaseException) -> TileAccuracy:
        """Return a tile on which nothing was measured, and why."""
        names = [c.name for c in self.experiment.candidates]
        return unmeasured_tile(job.block, names, cause_of(error))


def measure_labels(
    folder: RunFolder,
    experiment: Experiment,
    labelled: Sequence[LabelledTile],
    *,
    client: Client | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> None:
    """Predict labelled tiles under every model, and keep in the run how well they do there.

    Parameters
    ----------
    folder
        The run's. Tiles that were measured earlier with the same labels are not predicted again.
    experiment
        The run.
    labelled
        The tiles; further ones of the run stay as they are.
    client
        A Dask client; None measures in this process.
    tell
        Receives a line on what is done.
    """
    digest = experiment.digest()
    entries = {int(e["tile"]): e for e in folder.read_labels(digest)}
    new = [t for t in labelled if not _is_measured(t, entries)]
    if not new:
        return
    tell(f"predicting {len(new)} labelled tiles once more")
    sources = {t.tile.index: t for t in new}

    def take(accuracy: TileAccuracy) -> None:
        entries[accuracy.tile] = _entry(sources[accuracy.tile], accuracy, experiment.volume.origin)

    task = MeasureTile(experiment, {number: t.labels for number, t in sources.items()})
    run_jobs(task, Listed(map(Job, sorted(sources))), client=client, progress=take)
    folder.write_labels(digest, [entries[number] for number in sorted(entries)])


def _is_measured(labelled: LabelledTile, entries: Mapping[int, Entry]) -> bool:
    entry = entries.get(labelled.tile.index)
    return entry is not None and entry["sha256"] == labelled.sha256 and not entry["failures"]


def _entry(labelled: LabelledTile, accuracy: TileAccuracy, origin: Shape) -> Entry:
    """Return what ``labels.json`` says of a tile."""
    tile = labelled.tile
    corners = {"start": tile.start, "stop": tile.stop}
    return {
        "tile": tile.index,
        **{k: [c + o for c, o in zip(v, origin, strict=True)] for k, v in corners.items()},
        "labels": labelled.name,
        "sha256": labelled.sha256,
        **{name: _plain(getattr(accuracy, name)) for name in LABELLED},
        "failures": dict(accuracy.failures),
    }


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(v) else v for name, v in values.items()}
