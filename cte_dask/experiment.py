"""Experiment: one whole run as a value, resolved, hashed and written beside its results."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cte_dask.consistency import metric
from cte_dask.perturb import Perturbation
from cte_dask.tiles import BlockGrid, Shape, TileGrid
from cte_dask.volume.statistics import IntensityStatistics, intensity_statistics

if TYPE_CHECKING:
    from cte_dask.models.bank import ModelBank
    from cte_dask.models.spec import ModelSpec
    from cte_dask.volume import Volume

__all__ = ["Candidate", "Experiment", "default_tile", "resolve"]

DEFAULT_PERTURBATIONS = ("dropout:0.2", "gaussian:0.1")
CANONICAL_PERCENTILES = (1.0, 99.8)
BATCH_VOXELS = {"cpu": 2**17, "cuda": 2**22}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A usable source model with everything its inference needs settled.

    Parameters
    ----------
    spec
        The model; halo, multiple and sha256 filled in, `layers` the ones perturbed.
    batch
        Samples in one forward pass.
    features
        Whether its features can be perturbed (a grey box).
    note
        Why not, or why the encoder is not shared; empty if nothing is to be said.
    """

    spec: ModelSpec
    batch: int
    features: bool
    note: str = ""

    @property
    def name(self) -> str:
        """Name in the bank."""
        return self.spec.name

    def supports(self, perturbation: Perturbation) -> bool:
        """Whether this perturbation can be applied to the model."""
        return perturbation.space == "input" or self.features


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that decides the numbers of a run, and how its work is cut.

    Parameters
    ----------
    volume
        The target.
    grid
        Its tiles.
    per_block
        Tiles of a block (z, y, x); changes no score.
    candidates
        The usable models, in bank order.
    excluded
        Name and reason of every model left out.
    perturbations, metrics, repeats, seed
        What is computed; `repeats` is N_pert.
    intensity
        Intensity statistics of the whole target, raw units; None if only a plan is wanted.
    device, precision, threads
        Where and how inference runs; `threads` is torch's intra-op threads in a worker.
    """

    volume: Volume
    grid: TileGrid
    per_block: Shape
    candidates: tuple[Candidate, ...]
    excluded: Mapping[str, str]
    perturbations: tuple[Perturbation, ...]
    metrics: tuple[str, ...]
    intensity: IntensityStatistics | None
    seed: int = 0
    repeats: int = 1
    device: str = "cpu"
    precision: str = "float32"
    threads: int = 1

    @property
    def blocks(self) -> BlockGrid:
        """The blocks of the run."""
        return BlockGrid(self.grid, self.per_block)

    @property
    def primary(self) -> str:
        """The score that ranks: the first metric under the first perturbation all models support.

        Raises
        ------
        ValueError
            If no perturbation is supported by every usable model.
        """
        for perturbation in self.perturbations:
            if all(c.supports(perturbation) for c in self.candidates):
                return f"{self.metrics[0]}@{perturbation.name}"
        black = [c.name for c in self.candidates if not c.features]
        raise ValueError(
            f"no perturbation fits every model ({', '.join(black)} cannot be opened for feature "
            "perturbation): add an input perturbation such as --perturb gaussian:0.1"
        )

    def identity(self) -> dict[str, Any]:
        """Return what decides the tile scores, as plain data."""
        return {
            "schema": "cte-experiment/1",
            "target": self.volume.describe(),
            "tile": list(self.grid.tile),
            "keep_cut": self.grid.keep_cut,
            "models": {
                c.name: {"spec": c.spec.digest(), "batch": c.batch} for c in self.candidates
            },
            "perturbations": [p.name for p in self.perturbations],
            "repeats": self.repeats,
            "seed": self.seed,
            "intensity": self.intensity and self.intensity.to_dict(),
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads,
        }

    def digest(self) -> str:
        """Return the SHA-256 of `identity` and the blocks: what a score store must match."""
        data = {**self.identity(), "per_block": list(self.per_block)}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved experiment as plain data, for ``experiment.yaml``."""
        return {
            **self.identity(),
            "metrics": list(self.metrics),
            "primary": self.primary,
            "blocks": {"tiles": list(self.per_block), "number": len(self.blocks)},
            "tiles": len(self.grid),
            "models": [_candidate_dict(c) for c in self.candidates],
            "excluded": dict(self.excluded),
            "hash": self.digest(),
            "versions": versions(),
        }


def _candidate_dict(candidate: Candidate) -> dict[str, Any]:
    spec = candidate.spec.model_dump(mode="json", exclude_none=True)
    return {
        **spec,
        "batch": candidate.batch,
        "greybox": candidate.features,
        **({"note": candidate.note} if candidate.note else {}),
    }


def versions() -> dict[str, str]:
    """Return the versions of what computed a result."""
    import platform
    from importlib.metadata import version

    names = ("cte-dask", "torch", "numpy", "numba", "zarr", "dask")
    return {"python": platform.python_version(), **{n: version(n) for n in names}}


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
    perturbations: Sequence[Perturbation | str] = DEFAULT_PERTURBATIONS,
    metrics: Sequence[str] = ("nhd",),
    seed: int = 0,
    repeats: int = 1,
    device: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    batch: int | None = None,
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
        Names such as ``"dropout:0.2"`` or values.
    metrics
        Names of metrics, the first one ranks.
    seed, repeats
        Seed of every random draw; N_pert.
    device, precision, threads, batch
        How inference runs; see `Experiment`.
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

    Raises
    ------
    ValueError
        For any bad value, naming it; also when no model of the bank is usable.
    """
    from cte_dask.candidates import settle
    from cte_dask.planning import plan_blocks
    from cte_dask.predict import resolve_device

    asked = tuple(
        p if isinstance(p, Perturbation) else Perturbation.parse(p) for p in perturbations
    )
    _check(asked, metrics, repeats=repeats, threads=threads, batch=batch, seed=seed)
    grid = TileGrid(volume.shape, tile or default_tile(volume.shape, (m.dims for m in bank)))
    if not len(grid):
        raise ValueError(f"no tile of {grid.tile} fits the target {grid.shape}")
    where = resolve_device(device)
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
        device=where,
        precision=precision,
        threads=threads,
        batch=batch,
        tell=tell,
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
        precision="float32" if precision == "auto" else precision,
        threads=threads,
    )
    _ = draft.primary
    return draft if block else replace(draft, per_block=plan_blocks(draft, workers=workers))


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


def batch_size(frame: Shape, *, dims: int, device: str) -> int:
    """Return the samples of a forward pass that keep a device busy within bounded memory."""
    voxels = math.prod(frame) if dims == 3 else frame[1] * frame[2]
    return max(1, BATCH_VOXELS[device] // voxels)
