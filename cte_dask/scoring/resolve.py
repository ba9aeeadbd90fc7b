"""Resolving: from what a user asks to an `Experiment` in which everything is settled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cte_dask.consistency import BANK_METRICS
from cte_dask.inference.settings import Inference
from cte_dask.models.described import described_bank
from cte_dask.models.variants import check_scales, members_of
from cte_dask.perturb import Perturbation
from cte_dask.perturb.canonical import CANONICAL_PERCENTILES
from cte_dask.scoring.block_size import plan_blocks
from cte_dask.scoring.experiment import Experiment, check_at_least, check_measures, needs_instances
from cte_dask.scoring.settings import ScoringOptions, keywords
from cte_dask.tiles import Shape, TileGrid
from cte_dask.volume.statistics import IntensityStatistics, intensity_statistics

if TYPE_CHECKING:
    from cte_dask.models.bank import ModelBank
    from cte_dask.models.spec import ModelSpec
    from cte_dask.volume import Volume

__all__ = ["default_tile", "experiment_of", "resolve"]

DEFAULT_PERTURBATIONS = ("dropout:0.2", "gaussian:0.1")


def default_tile(shape: Shape, dims: Iterable[int]) -> Shape:
    """Return the tile for a target and the dimensions of the models that will see it.

    Planes of 256×256 voxels when all models are 2D (the paper's choice), boxes of 64×128×128 when
    one is 3D; cut to the target.
    """
    z, y, x = (64, 128, 128) if 3 in set(dims) else (1, 256, 256)
    return min(z, shape[0]), min(y, shape[1]), min(x, shape[2])


def experiment_of(volume: Volume, bank: ModelBank, options: ScoringOptions) -> Experiment:
    """Settle everything a run needs: load each model once, measure the target's intensities.

    Parameters
    ----------
    volume, bank
        Target and source models.
    options
        What is measured, and how. `resolve` takes its fields as keywords: tile, perturbations,
        metrics, seed, repeats …

    Returns
    -------
    Experiment
        The whole run as a value; models that cannot be used are in `excluded`, with reasons.

    Raises
    ------
    ValueError
        For any bad value, naming it; also when no model of the bank is usable.
    """
    from cte_dask.scoring.candidates import settle

    perturbations = _perturbations(options.perturbations, options.metrics)
    check_measures(perturbations, options.metrics)
    scales = check_scales(options.scales)
    bank = described_bank(bank)
    members = members_of(bank, scales)
    tile = options.tile or default_tile(volume.shape, (m.dims for m in bank))
    inference = _inference(options, tile, perturbations)
    grid = TileGrid(volume.shape, tile)
    intensity = _intensity(volume, bank, options) if options.sample else None
    candidates, excluded = settle(
        members,
        inference,
        threads=options.threads,
        batch=options.batch,
        voxel_size=volume.voxel_size,
        perturbations=perturbations,
        tell=options.tell,
    )
    per_block = options.block or plan_blocks(grid, volume.read_unit, workers=options.workers or 1)
    return Experiment(
        volume=volume,
        grid=grid,
        per_block=per_block,
        candidates=candidates,
        excluded=excluded,
        perturbations=perturbations,
        metrics=tuple(options.metrics),
        intensity=intensity,
        seed=options.seed,
        repeats=options.repeats,
        device=inference.device,
        precision=inference.precision,
        threads=options.threads,
        border=options.border,
        combine=options.combine,
        scales=scales,
        excluded_ways={
            name: (spec.name, variant)
            for name, (spec, variant) in members.items()
            if name in excluded and not variant.plain
        },
    )


resolve = keywords(ScoringOptions)(experiment_of)


def _inference(
    options: ScoringOptions, tile: Shape, perturbations: Sequence[Perturbation]
) -> Inference:
    """Return how networks will run, by the names that users give.

    Raises
    ------
    ValueError
        If a name or a number is not accepted.
    """
    from cte_dask.arrays import dtype_of, resolve_device

    check_at_least(options.repeats, "repeats")
    check_at_least(options.threads, "threads")
    if options.batch is not None:
        check_at_least(options.batch, "batch")
    dtype_of(options.precision)
    return Inference(
        tile,
        device=resolve_device(options.device),
        precision="float32" if options.precision == "auto" else options.precision,
        features=any(p.space == "feature" for p in perturbations),
        instances=needs_instances(options.metrics),
    )


def _intensity(volume: Volume, bank: ModelBank, options: ScoringOptions) -> IntensityStatistics:
    """Measure the target's intensities: the percentiles that tiles and models are scaled by."""
    percentiles = sorted({q for m in bank for q in _percentiles(m)} | set(CANONICAL_PERCENTILES))
    options.tell("sampling the target's intensities")
    intensity = intensity_statistics(volume, percentiles=percentiles, seed=options.seed)
    _check_contrast(volume, intensity)
    return intensity


def _perturbations(
    requested: Sequence[Perturbation | str] | None, metrics: Sequence[str]
) -> tuple[Perturbation, ...]:
    """Return what is asked for, and the unperturbed prediction where the bank is compared."""
    whole_bank = set(metrics) & set(BANK_METRICS)
    if requested is None:
        requested = () if set(metrics) == whole_bank and metrics else DEFAULT_PERTURBATIONS
    parsed = tuple(p if isinstance(p, Perturbation) else Perturbation.parse(p) for p in requested)
    none = Perturbation("none")
    return (*parsed, none) if whole_bank and none not in parsed else parsed


def _percentiles(spec: ModelSpec) -> set[float]:
    from cte_dask.models.preprocessing import required_percentiles

    ways = members_of([spec]).values()
    needed = (required_percentiles(v.applied(m).preprocessing, invert=v.invert) for m, v in ways)
    return set().union(*needed)


def _check_contrast(volume: Volume, intensity: IntensityStatistics) -> None:
    low, high = (intensity.percentile(q) for q in CANONICAL_PERCENTILES)
    if not low < high:
        raise ValueError(
            f"target {volume.name} has no contrast: its percentiles {CANONICAL_PERCENTILES} are "
            f"{low:g} and {high:g}; choose a region with structure (--roi) or a --mask"
        )
