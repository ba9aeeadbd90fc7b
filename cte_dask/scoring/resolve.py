"""Resolving: from what a user asks to an `Experiment` in which everything is settled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cte_dask.consistency import needs_instances
from cte_dask.errors import VolumeError
from cte_dask.inference.settings import Inference
from cte_dask.models.described import described_bank
from cte_dask.models.variants import check_scales, members_of
from cte_dask.perturb import Perturbation
from cte_dask.perturb.canonical import CANONICAL_PERCENTILES
from cte_dask.scoring.block_size import plan_blocks
from cte_dask.scoring.certificate import CALIBRATION_TILES
from cte_dask.scoring.defaults import default_perturbations, possible_defaults
from cte_dask.scoring.experiment import (
    RULES,
    Experiment,
    check_at_least,
    check_measures,
)
from cte_dask.scoring.real_tile import real_tiles
from cte_dask.scoring.runtimes import RuntimeChoice, check_runtime
from cte_dask.scoring.settings import ScoringOptions, keywords
from cte_dask.tiles import BlockGrid, Shape, TileGrid
from cte_dask.volume.channels import channel_indices, channels_shown
from cte_dask.volume.statistics import IntensityStatistics, intensity_statistics

if TYPE_CHECKING:
    from cte_dask.models.bank import ModelBank
    from cte_dask.models.spec import ModelSpec
    from cte_dask.volume import Volume

__all__ = ["default_tile", "experiment_of", "resolve"]


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
    TypeError
        If the target or the bank is something else, such as an array or a path.
    """
    from cte_dask.scoring.candidates import settle

    _check_opened(volume, bank)
    volume.check_no_labels()
    scales = check_scales(options.scales)
    bank = described_bank(bank)
    members = members_of(bank, scales)
    perturbations = _perturbations(options, len(members))
    check_measures(perturbations, options.metrics)
    tile = options.tile or default_tile(volume.shape, (m.dims for m in bank))
    inference = _inference(options, tile, perturbations)
    grid = TileGrid(volume.shape, tile)
    intensities = _intensities(volume, bank, options) if options.sample else {}
    low = inference.precision != "float32"
    most, seen_by_any = CALIBRATION_TILES if low else 1, _seeing(volume, intensities)
    proofs = real_tiles(seen_by_any, grid, intensities, most=most) if intensities else ()
    blocks = BlockGrid(grid, options.block or _cut(volume, grid, options))
    candidates, excluded = settle(
        members,
        inference,
        threads=options.threads,
        batch=options.batch,
        volume=volume,
        perturbations=perturbations,
        apart=options.apart,
        proof=next(iter(proofs), None),
        runtime=_runtime(options, blocks, len(members), inference.device),
        calibration=proofs if low else (),
        tell=options.tell,
    )
    if options.perturbations is None:
        perturbations = default_perturbations(candidates)
    seen = sorted({c for one in candidates for c in one.channels or (volume.channel or 0,)})
    mapped = any(one.channels for one in candidates)
    return Experiment(
        volume=replace(volume, channels=tuple(seen)) if mapped else volume,
        grid=grid,
        per_block=blocks.per_block,
        candidates=candidates,
        excluded=excluded,
        perturbations=perturbations,
        metrics=tuple(options.metrics),
        intensity=intensities.get(volume.channel or 0),
        seed=options.seed,
        repeats=options.repeats,
        device=inference.device,
        precision=inference.precision,
        threads=options.threads,
        border=options.border,
        scales=scales,
        excluded_ways={
            name: (spec.name, variant)
            for name, (spec, variant) in members.items()
            if name in excluded and not variant.plain
        },
        rule=_rule(options),
        time_limit=options.time_limit,
        intensities={c: intensities[c] for c in seen if c in intensities} if mapped else {},
    )


def _check_opened(volume: object, bank: object) -> None:
    from cte_dask.models.bank import ModelBank
    from cte_dask.volume import Volume

    if not isinstance(volume, Volume):
        raise TypeError(f"a target is opened by cte_dask.open_volume, not {type(volume).__name__}")
    if not isinstance(bank, ModelBank):
        raise TypeError(f"a bank is loaded by cte_dask.load_bank, not {type(bank).__name__}")


def _cut(volume: Volume, grid: TileGrid, options: ScoringOptions) -> Shape:
    """Return the tiles of a block: of few large ones if all are scored, else of many small ones."""
    workers = options.workers or 1
    cut = plan_blocks(grid, volume.read_unit, workers=workers)
    if options.draws_blocks(len(BlockGrid(grid, cut))):
        return plan_blocks(grid, volume.chunk_unit, workers=workers, drawn=True)
    return cut


def _runtime(options: ScoringOptions, blocks: BlockGrid, models: int, device: str) -> RuntimeChoice:
    """Return how runtimes are chosen: by the work of one model in one of the workers.

    A budget of time is shared by the models alike, as long as all of them are scored.
    """
    check_runtime(options.runtime, device)
    number = options.expected_blocks(blocks, voting=_rule(options) == "transfer")
    tiles = min(number * blocks.tiles_per_block, len(blocks.grid))
    budget = options.budget
    return RuntimeChoice(
        options.runtime,
        -(-tiles // (options.workers or 1)),
        options.runtimes,
        budget and budget / models,
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
    device = resolve_device(options.device)
    if options.precision == "tf32" and device != "cuda":
        raise ValueError(f"--precision tf32 is of NVIDIA GPUs, not of {device}: use float32")
    return Inference(
        tile,
        device=device,
        precision="float32" if options.precision == "auto" else options.precision,
        features=any(p.space == "feature" for p in perturbations),
        instances=needs_instances(options.metrics),
        time_limit=options.time_limit,
    )


def _intensities(
    volume: Volume, bank: ModelBank, options: ScoringOptions
) -> dict[int, IntensityStatistics]:
    """Measure the intensities that tiles and models are scaled by, of all channels that are seen.

    The default channel is the first, whether a model sees it or not: reports show it.
    """
    percentiles = sorted({q for m in bank for q in _percentiles(m)} | set(CANONICAL_PERCENTILES))
    intensities: dict[int, IntensityStatistics] = {}
    for channel in dict.fromkeys((volume.channel or 0, *_asked_for(volume, bank))):
        one = volume.of_channel(channel)
        which = f" of channel {channels_shown(volume, [channel])}" if intensities else ""
        options.tell(f"sampling the target's intensities{which}")
        statistics = intensity_statistics(one, percentiles=percentiles, seed=options.seed)
        _check_contrast(one, statistics)
        if statistics.doubt:
            options.tell(statistics.doubt)
        intensities[channel] = statistics
    return intensities


def _asked_for(volume: Volume, bank: ModelBank) -> Iterator[int]:
    """Yield the channels that models name, where the target has them."""
    for spec in bank:
        try:
            yield from channel_indices(volume, spec.channels)
        except VolumeError:  # the model is excluded with that reason
            continue


def _seeing(volume: Volume, channels: Iterable[int]) -> Volume:
    seen = tuple(channels)
    return replace(volume, channels=seen) if len(seen) > 1 else volume


def _perturbations(options: ScoringOptions, models: int) -> tuple[Perturbation, ...]:
    """Return what is asked for; all that may be run by default if nothing is."""
    requested: Sequence[Perturbation | str] = possible_defaults(models)
    if options.perturbations is not None:
        requested = options.perturbations
    return tuple(p if isinstance(p, Perturbation) else Perturbation.parse(p) for p in requested)


def _rule(options: ScoringOptions) -> str:
    """Return how models are ranked: by one score alone if one perturbation is asked for."""
    if options.rank_by not in ("auto", *RULES):
        accepted = ", ".join(("auto", *RULES))
        raise ValueError(f"--rank-by {options.rank_by!r} must be one of {accepted}")
    if options.rank_by != "auto":
        return options.rank_by
    alone = options.perturbations is not None and len(options.perturbations) == 1
    return "consistency" if alone else "transfer"


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
