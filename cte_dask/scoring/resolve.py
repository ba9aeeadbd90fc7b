"""Resolving: from what a user asks to an `Experiment` in which everything is settled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cte_dask.consistency import BANK_METRICS, applies, metric
from cte_dask.consistency.score_names import families_of
from cte_dask.models.described import described_bank
from cte_dask.perturb import Perturbation
from cte_dask.perturb.input import CANONICAL_PERCENTILES
from cte_dask.scoring.experiment import Experiment
from cte_dask.scoring.tile_statistics import PAIRS
from cte_dask.tiles import Shape, TileGrid
from cte_dask.volume.statistics import IntensityStatistics, intensity_statistics

if TYPE_CHECKING:
    from cte_dask.models.bank import ModelBank
    from cte_dask.models.spec import ModelSpec
    from cte_dask.volume import Volume

__all__ = ["default_tile", "resolve"]

DEFAULT_PERTURBATIONS = ("dropout:0.2", "gaussian:0.1")


def default_tile(shape: Shape, dims: Iterable[int]) -> Shape:
    """Return the tile for a target and the dimensions of the models that will see it.

    Planes of 256×256 voxels when all models are 2D (the paper's choice), boxes of 64×128×128 when
    one is 3D; cut to the target.
    """
    z, y, x = (64, 128, 128) if 3 in set(dims) else (1, 256, 256)
    return min(z, shape[0]), min(y, shape[1]), min(x, shape[2])


def resolve(
    volume: Volume,
    bank: ModelBank,
    *,
    tile: Shape | None = None,
    perturbations: Sequence[Perturbation | str] | None = None,
    metrics: Sequence[str] = ("nhd",),
    seed: int = 0,
    repeats: int = 1,
    device: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    batch: int | None = None,
    border: int = 0,
    combine: bool = False,
    block: Shape | None = None,
    workers: int = 1,
    sample: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> Experiment:
    """Settle everything a run needs: load each model once, measure the target's intensities.

    Parameters
    ----------
    volume, bank
        Target and source models.
    tile
        Extent of a tile (z, y, x), voxels; by default as `default_tile`.
    perturbations
        Names such as ``"dropout:0.2"`` or values; by default `DEFAULT_PERTURBATIONS`, or none if
        all metrics are of the whole bank.
    metrics
        Names of metrics, the first one ranks.
    seed, repeats
        Seed of every random draw; N_pert.
    device, precision, threads, batch
        How inference runs; see `Experiment`.
    border
        Width in voxels of the band along reference borders that V^Rand leaves out.
    combine
        Whether the ranking combines all scores (`cte_dask.ranking.combination`).
    block
        Tiles of a block (z, y, x); planned from chunks and halo by default.
    workers
        Number of workers the blocks should keep busy.
    sample
        Whether to measure the target's intensities; a plan does without.
    tell
        Receives one line of progress per step.

    Returns
    -------
    Experiment
        The whole run as a value; models that cannot be used are in `excluded`, with reasons.

    Raises
    ------
    ValueError
        For any bad value, naming it; also when no model of the bank is usable.
    """
    from cte_dask.arrays import dtype_of, resolve_device
    from cte_dask.scoring.block_size import plan_blocks
    from cte_dask.scoring.candidates import settle

    asked = _perturbations(perturbations, metrics)
    _check(asked, metrics, repeats=repeats, threads=threads, batch=batch, seed=seed)
    _check_combined(asked, metrics, combine=combine)
    bank = described_bank(bank)
    grid = TileGrid(volume.shape, tile or default_tile(volume.shape, (m.dims for m in bank)))
    if not len(grid):
        raise ValueError(f"no tile of {grid.tile} fits the target {grid.shape}")
    where = resolve_device(device)
    if border < 0:
        raise ValueError(f"border must be at least 0, not {border}")
    dtype_of(precision)
    precision = "float32" if precision == "auto" else precision
    wanted = sorted({q for m in bank for q in _percentiles(m)} | set(CANONICAL_PERCENTILES))
    intensity = None
    if sample:
        tell("sampling the target's intensities")
        intensity = intensity_statistics(volume, percentiles=wanted, seed=seed)
        _check_contrast(volume, intensity)
    candidates, excluded = settle(
        bank,
        tile=grid.tile,
        features=any(p.space == "feature" for p in asked),
        instances=any(set(metric(name).statistics) & set(PAIRS) for name in metrics),
        voxel_size=volume.voxel_size,
        device=where,
        precision=precision,
        threads=threads,
        batch=batch,
        tell=tell,
        perturbations=asked,
    )
    draft = Experiment(
        volume=volume,
        grid=grid,
        per_block=block or (1, 1, 1),
        candidates=candidates,
        excluded=excluded,
        perturbations=asked,
        metrics=tuple(metrics),
        intensity=intensity,
        seed=seed,
        repeats=repeats,
        device=where,
        precision=precision,
        threads=threads,
        border=border,
        combine=combine,
    )
    _ = draft.primary
    return draft if block else replace(draft, per_block=plan_blocks(draft, workers=workers))


def _perturbations(
    given: Sequence[Perturbation | str] | None, metrics: Sequence[str]
) -> tuple[Perturbation, ...]:
    """Return what is asked for, and the unperturbed prediction where the bank is compared."""
    whole_bank = set(metrics) & set(BANK_METRICS)
    if given is None:
        given = () if set(metrics) == whole_bank and metrics else DEFAULT_PERTURBATIONS
    parsed = tuple(p if isinstance(p, Perturbation) else Perturbation.parse(p) for p in given)
    none = Perturbation("none")
    return (*parsed, none) if whole_bank and none not in parsed else parsed


def _percentiles(spec: ModelSpec) -> set[float]:
    from cte_dask.models.preprocessing import required_percentiles

    return required_percentiles(spec)


def _check_contrast(volume: Volume, intensity: IntensityStatistics) -> None:
    low, high = (intensity.percentile(q) for q in CANONICAL_PERCENTILES)
    if not low < high:
        raise ValueError(
            f"target {volume.name} has no contrast: its percentiles {CANONICAL_PERCENTILES} are "
            f"{low:g} and {high:g}; choose a region with structure (--roi) or a --mask"
        )


def _check_combined(
    perturbations: Sequence[Perturbation], metrics: Sequence[str], *, combine: bool
) -> None:
    scores = [f"{m}@{p.name}" for m in metrics for p in perturbations if applies(m, p.name)]
    if combine and len(families_of(scores)) < 2:
        raise ValueError(
            f"combine needs at least two families of evidence, {scores} is one: add --perturb "
            "rotate, mirror or zoom:1.125, or --metric agreement"
        )


def _check(
    perturbations: Sequence[Perturbation],
    metrics: Sequence[str],
    *,
    repeats: int,
    threads: int,
    batch: int | None,
    seed: int,
) -> None:
    if not perturbations or not metrics:
        raise ValueError("at least one perturbation and one metric are needed")
    if len({p.name for p in perturbations}) < len(perturbations):
        raise ValueError(f"a perturbation is given twice: {[p.name for p in perturbations]}")
    for name in metrics:
        metric(name)
    for name, value in (("repeats", repeats), ("threads", threads), ("batch", batch)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, not {seed}")
