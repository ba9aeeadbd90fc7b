"""Calibration: which strength of a perturbation tells the models of a bank apart on a target.

Too strong a perturbation makes every model inconsistent, too weak a one none. A grid of strengths
is tried on a pilot sample of tiles, all in one experiment, so that each model's reference
prediction and encoder pass is made once; no label is used.

The pilot: a few tiles spread over a target of any size, never the list of them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np

from cte_dask.engine.checkpoint import ScoreBlock
from cte_dask.engine.clusters import ClusterOptions, open_cluster
from cte_dask.engine.dask_runner import run_jobs
from cte_dask.engine.jobs import Job, Listed
from cte_dask.models import load_bank
from cte_dask.perturb import PERTURBATIONS, Perturbation, perturbation_kind
from cte_dask.ranking.calibration.numbers import calibration_dict, calibration_table
from cte_dask.ranking.calibration.strengths import Calibration, calibrated
from cte_dask.ranking.options import CalibrationOptions
from cte_dask.results.dataset import dataset_of
from cte_dask.results.layout import layout_of
from cte_dask.results.run_folder import RunFolder
from cte_dask.scoring.block_scores import BlockScores, TileScores, joined
from cte_dask.scoring.experiment import check_at_least
from cte_dask.scoring.resolve import experiment_of
from cte_dask.scoring.settings import InferenceOptions, ScoringOptions, TargetOptions, keywords
from cte_dask.scoring.target import open_target
from cte_dask.storage.files import check_apart

if TYPE_CHECKING:
    from distributed import Client

    from cte_dask.models.bank import ModelBank
    from cte_dask.scoring.experiment import Experiment
    from cte_dask.tiles import Tile, TileGrid
    from cte_dask.volume import Volume

__all__ = ["Calibration", "calibrate", "calibrate_target", "parse_grid", "pilot_indices"]

TRIES = 16


def pilot_indices(volume: Volume, grid: TileGrid, count: int, *, seed: int) -> tuple[int, ...]:
    """Draw tiles at random, one from each of `count` equal parts of the target.

    The parts are runs of tiles in C order, so that slabs, or bands of rows of one plane, are all
    represented; within a part any tile may be drawn. Where there is a mask, up to 16 tiles of a
    part are tried, and a part in which none of them holds a voxel of the mask gives no tile.

    Parameters
    ----------
    volume, grid
        The target, which may have a mask, and its tiles.
    count
        Tiles wanted; a target of fewer gives all of them.
    seed
        Of the draws.

    Returns
    -------
    tuple of int
        Numbers of tiles, ascending.
    """
    total = len(grid)
    count = min(count, total)
    rng = np.random.default_rng(seed)
    indices = []
    for stratum in range(count):
        low, high = stratum * total // count, (stratum + 1) * total // count
        tried = dict.fromkeys(int(i) for i in rng.integers(low, high, size=TRIES))
        chosen = next((i for i in tried if _inside(volume, grid.tile_at(i))), None)
        if chosen is not None:
            indices.append(chosen)
    return tuple(indices)


def _inside(volume: Volume, tile: Tile) -> bool:
    mask = volume.read_mask(tile.start, tile.stop)
    return mask is None or bool(mask.any())


PILOT_REPEATS = 4
"""Draws of a random perturbation by default: on few tiles the noise of one draw would decide."""


def calibrate_with(volume: Volume, bank: ModelBank, options: CalibrationOptions) -> Calibration:
    """Choose the strength at which the target's tiles agree best on the order of the models.

    The chosen strength has the highest Kendall's W with tiles as raters
    (`cte_dask.ranking.concordance.kendall_w`) among those whose spread between models exceeds the
    spread within (`cte_dask.ranking.concordance.Spread.ratio` above 1); if none does, W alone
    chooses and `Calibration.fallback` says so. Models that predict nothing or everything at any
    strength (`ModelRank.degenerate`) are left out of both, and so are tiles on which a model
    compared has no consistency.

    Parameters
    ----------
    volume, bank
        Target and source models.
    options
        What is tried. `calibrate` takes its fields as keywords: kind, grid, metric, tile, seed …

    Returns
    -------
    Calibration
        The curve over the grid and the strength chosen.

    Raises
    ------
    ValueError
        For any bad value, naming it; if fewer than two models or tiles can be compared.

    Notes
    -----
    Agreement is no proof of being right. Towards strong perturbations it can rise again, when the
    tiles agree on which models withstand the perturbation rather than on which fit the target; look
    at the whole curve. ``benchmarks/calibrate_demo.py`` measures what the choice is worth.
    """
    perturbations = _perturbations(options.kind, options.grid)
    check_at_least(options.pilot_tiles, "pilot_tiles", least=2)
    drawn = PILOT_REPEATS if perturbation_kind(options.kind).random else 1
    shared = {f.name: getattr(options, f.name) for f in fields(InferenceOptions)}
    # A block of one tile: the pilot is the same tiles however a run would be cut.
    scoring = ScoringOptions(
        **shared,
        perturbations=perturbations,
        metrics=(options.metric,),
        block=(1, 1, 1),
        repeats=drawn if options.repeats is None else options.repeats,
    )
    experiment = experiment_of(volume, bank, scoring)
    indices = pilot_indices(
        experiment.volume, experiment.grid, options.pilot_tiles, seed=experiment.seed
    )
    if not indices:
        raise ValueError(f"no tile tried lies in the mask of {volume.name}: use more pilot tiles")
    tiles = _scored_tiles(experiment, indices, options.client, options.tell)
    return calibrated(experiment, dataset_of(layout_of(experiment), tiles, indices))


calibrate = keywords(CalibrationOptions)(calibrate_with)


def _perturbations(kind: str, grid: Sequence[float] | None) -> tuple[Perturbation, ...]:
    known = perturbation_kind(kind)
    if not known.has_strength:
        raise ValueError(f"{kind!r} has no strength that could be chosen")
    if grid is None:
        grid = known.strengths
        if not grid:
            raise ValueError(f"no strengths are known for {kind!r}: give a grid (--strengths)")
    if len(grid) < 2:
        raise ValueError(f"a grid needs at least two strengths, not {list(grid)}")
    return tuple(Perturbation(kind, strength) for strength in grid)


def _scored_tiles(
    experiment: Experiment,
    indices: Sequence[int],
    client: Client | None,
    tell: Callable[[str], None],
) -> TileScores:
    """Return the numbers of the pilot's tiles, (model, draw, tile)."""
    tell(f"scoring {len(indices)} of {len(experiment.grid):,} tiles")
    blocks: dict[int, BlockScores] = {}

    def keep(scores: BlockScores) -> None:
        blocks[scores.index] = scores

    run_jobs(ScoreBlock(experiment), Listed(map(Job, indices)), client=client, progress=keep)
    return joined([blocks[i].tiles for i in indices])


def calibrate_target(
    target: TargetOptions,
    bank_path: str,
    out: str,
    options: CalibrationOptions,
    *,
    cluster: ClusterOptions,
    overwrite: bool = False,
) -> Calibration:
    """Calibrate a bank on a target, and write the curve as JSON and CSV.

    Parameters
    ----------
    target
        How the target is opened.
    bank_path
        Path or URL of ``bank.yaml``.
    out
        Folder or URL of ``calibration.json`` and ``calibration.csv``.
    options
        What is tried.
    cluster
        Where the tiles are scored. The numbers are the same everywhere.
    overwrite
        Whether a calibration that is there may be replaced.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError, OSError
        For any bad value, naming it and the remedy.
    """
    check_apart(out, target.target)
    folder = RunFolder(out)
    if folder.has_calibration() and not overwrite:
        raise FileExistsError(f"{out} holds a calibration already: give --overwrite to replace it")
    folder.create()
    bank = load_bank(bank_path)
    options.tell("opening the target")
    volume = open_target(target, bank)
    with open_cluster(cluster.cluster, workers=cluster.workers, threads=options.threads) as client:
        calibration = calibrate_with(volume, bank, replace(options, client=client))
    numbers = calibration_dict(calibration)
    folder.write_calibration(numbers, calibration_table(numbers))
    return calibration


def parse_grid(perturb: str, strengths: str | None) -> tuple[str, tuple[float, ...] | None]:
    """Read a grid as the command line gives it.

    Parameters
    ----------
    perturb
        A kind, such as ``"dropout"``, or ``kind:low:high:number`` for strengths evenly apart.
    strengths
        Strengths with commas between them, such as ``"0.05,0.1,0.2"``; excludes the second form.

    Returns
    -------
    tuple
        The kind, and its strengths or None for its usual ones.

    Raises
    ------
    ValueError
        If a text has another form.

    Examples
    --------
    >>> parse_grid("gaussian:0.1:0.3:3", None)
    ('gaussian', (0.1, 0.2, 0.3))
    """
    kind, rest = PERTURBATIONS.split(perturb.strip())
    if not rest:
        return kind, None if strengths is None else _listed(strengths)
    if strengths is not None:
        raise ValueError(f"--perturb {perturb!r} has strengths already: leave out --strengths")
    try:
        low, high, number = float(rest[0]), float(rest[1]), int(":".join(rest[2:]))
    except (ValueError, IndexError):
        raise ValueError(
            f"--perturb {perturb!r} must read kind or kind:low:high:number, such as "
            "gaussian:0.02:0.2:10"
        ) from None
    if number < 2 or not np.isfinite([low, high]).all() or low == high:
        raise ValueError(f"--perturb {perturb!r} must give at least two different strengths")
    return kind, tuple(float(f"{s:.6g}") for s in np.linspace(low, high, number))


def _listed(strengths: str) -> tuple[float, ...]:
    try:
        return tuple(float(strength) for strength in strengths.split(","))
    except ValueError:
        raise ValueError(
            f"--strengths {strengths!r} must be numbers with commas between, such as 0.05,0.1,0.2"
        ) from None
