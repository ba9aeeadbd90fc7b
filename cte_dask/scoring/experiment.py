"""Experiment: one whole run as a value, resolved, hashed and written beside its results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cte_dask.consistency import metric, needs_instances
from cte_dask.consistency.score_names import ScoreName
from cte_dask.inference.settings import TORCH, Inference, Runtime
from cte_dask.models.spec import Variant
from cte_dask.models.variants import AS_IT_IS
from cte_dask.perturb import draws_of
from cte_dask.perturb.views import Alike, TileContext, View, view_of
from cte_dask.tiles import SAME, BlockGrid, Frame, Scale, Shape, TileGrid

if TYPE_CHECKING:
    from cte_dask.inference.graph.paths import Proof
    from cte_dask.models.spec import ModelSpec
    from cte_dask.perturb import Draw, Perturbation
    from cte_dask.volume import IntensityStatistics, Volume

__all__ = ["RULES", "Candidate", "Experiment", "versions"]

RULES = "transfer", "consistency"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A usable source model, used in one way, with everything its inference needs settled.

    Parameters
    ----------
    spec
        The model; halo, multiple and sha256 filled in, `layers` the ones perturbed.
    batch
        Samples in one forward pass.
    features
        Whether its features can be perturbed (a grey box).
    scale
        Voxels of the network per voxel of the target (z, y, x); 1 unless it resamples or is used at
        another scale.
    note
        Why not, or why the encoder is not shared; empty if nothing is to be said.
    alike
        Which axes have voxels of equal length (`cte_dask.perturb.views`).
    refused
        Names of geometric perturbations whose extents the network does not take.
    bytes
        Size of its weights in memory; it changes no score.
    blind
        Whether it marks the same places whatever the image shows; its scores say nothing either.
    steady
        Whether the same tile gives the same prediction again; else its scores say nothing.
    whole
        Whether every pass runs the whole network: what its passes share was found to differ.
    channels
        Channels of the target that it sees, by index in the order of its input; empty for the one
        that all models see by default.
    variant
        How the model is used; `scale` and the preprocessing of `spec` follow it.
    runtime, precision
        What runs its passes, and in which precision; empty for that of the run.
    tried_seconds, proof
        What a batch took when the model was tried, and what was proven of its passes.
    """

    spec: ModelSpec
    batch: int
    features: bool
    scale: Scale = SAME
    note: str = ""
    alike: Alike = (0, 1, 1)
    refused: tuple[str, ...] = ()
    bytes: int = 0
    channels: tuple[int, ...] = ()
    variant: Variant = AS_IT_IS
    steady: bool = True
    blind: bool = False
    whole: bool = False
    runtime: Runtime = TORCH
    precision: str = ""
    tried_seconds: float = field(default=0.0, compare=False)
    proof: Proof | None = field(default=None, compare=False, repr=False)

    def frame(self, tile: Shape) -> Frame:
        """Return what the model reads around a whole tile, unperturbed."""
        return self.view(tile).frame

    def view(self, tile: Shape, perturbation: Perturbation | None = None) -> View:
        """Return what the model reads and sees of a whole tile under a perturbation."""
        context = TileContext(
            tile=tile,
            dims=self.spec.dims,
            halo=self.spec.halo_zyx or (0, 0, 0),
            multiple=self.spec.multiple_zyx or (1, 1, 1),
            scale=self.scale,
            alike=self.alike,
        )
        return view_of(perturbation, context)

    @property
    def name(self) -> str:
        """Name in the ranking: of the model in the bank, and what is changed."""
        return self.variant.candidate_name(self.spec.name)

    def supports(self, perturbation: Perturbation) -> bool:
        """Whether this perturbation can be applied to the model."""
        if perturbation.name in self.refused:
            return False
        return perturbation.space != "feature" or self.features


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
    perturbations, metrics
        What is computed.
    intensity
        Intensity statistics of the whole target, raw units; None if only a plan is wanted.
    seed, repeats
        Seed of every random draw; N_pert, the perturbed runs of each perturbation.
    device, precision, threads
        Where and how inference runs; `threads` is torch's intra-op threads in a worker.
    border
        Width in voxels of the band along reference borders that V^Rand leaves out.
    scales
        Sizes at which every model is a candidate.
    excluded_ways
        Name → model and way, of those excluded candidates that use a model otherwise.
    rule
        How models are ranked, ``transfer`` or ``consistency``; changes no score.
    time_limit
        Seconds that a network may take for one batch; see `Inference`.
    intensities
        Intensity statistics of each channel that models name; empty if none does.

    Raises
    ------
    ValueError
        If a value is not accepted, or no perturbation fits every model.
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
    border: int = 0
    scales: tuple[float, ...] = (1.0,)
    excluded_ways: Mapping[str, tuple[str, Variant]] = field(default_factory=dict)
    rule: str = "consistency"
    time_limit: float | None = None
    intensities: Mapping[int, IntensityStatistics] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_measures(self.perturbations, self.metrics)
        if not len(self.grid):
            raise ValueError(f"no tile of {self.grid.tile} fits the target {self.grid.shape}")
        for name, least in (("repeats", 1), ("threads", 1), ("seed", 0), ("border", 0)):
            check_at_least(getattr(self, name), name, least=least)
        if self.rule not in RULES:
            raise ValueError(f"rule {self.rule!r} must be one of {', '.join(RULES)}")
        _ = self.primary

    def intensity_of(self, channels: Sequence[int]) -> tuple[IntensityStatistics, ...]:
        """Return intensity statistics of channels, of the default one if there are none.

        Parameters
        ----------
        channels
            Channels of the target, by index.

        Raises
        ------
        ValueError
            If they were not sampled.
        """
        if self.intensity is None:
            raise ValueError("the target's intensities were not sampled: resolve with sample=True")
        return tuple(self.intensities[c] for c in channels) or (self.intensity,)

    @property
    def inference(self) -> Inference:
        """How networks run on the tiles."""
        return Inference(
            self.grid.tile,
            device=self.device,
            precision=self.precision,
            features=any(p.space == "feature" for p in self.perturbations),
            instances=self.instances,
            time_limit=self.time_limit,
        )

    @property
    def blocks(self) -> BlockGrid:
        """The blocks of the run."""
        return BlockGrid(self.grid, self.per_block)

    @property
    def draws(self) -> tuple[Draw, ...]:
        """The perturbed runs of a tile."""
        return draws_of(self.perturbations, self.repeats)

    @property
    def instances(self) -> bool:
        """Whether a metric needs instances."""
        return needs_instances(self.metrics)

    @property
    def primary(self) -> ScoreName:
        """The first metric under the first perturbation that all models support.

        It ranks by the rule ``consistency``; of ``transfer`` it is a part, and what tiles show.

        Raises
        ------
        ValueError
            If no perturbation is supported by every usable model.
        """
        for perturbation in self.perturbations:
            if all(c.supports(perturbation) for c in self.candidates):
                return ScoreName(self.metrics[0], perturbation.name)
        names = [c.name for c in self.candidates if not all(map(c.supports, self.perturbations))]
        raise ValueError(
            f"no perturbation fits every model ({', '.join(names)} cannot be opened for feature "
            "perturbation, or take one extent alone): add an input perturbation such as "
            "--perturb gaussian:0.1"
        )

    def way_of(self, name: str) -> dict[str, Any]:
        """Return the model and the scale of a candidate, usable or excluded, as plain data.

        Parameters
        ----------
        name
            Name of the candidate; another one is taken for a model as it is.
        """
        ways = {c.name: (c.spec.name, c.variant) for c in self.candidates}
        model, variant = {**ways, **self.excluded_ways}.get(name, (name, AS_IT_IS))
        return variant.to_dict(model)

    def identity(self) -> dict[str, Any]:
        """Return what decides the tile scores, as plain data."""
        return {
            "schema": "cte-experiment/1",
            "target": self.volume.describe(),
            "tile": list(self.grid.tile),
            "keep_cut": self.grid.keep_cut,
            "models": {c.name: _identity(c) for c in self.candidates},
            "perturbations": [p.name for p in self.perturbations],
            "repeats": self.repeats,
            "seed": self.seed,
            "intensity": self.intensity and self.intensity.to_dict(),
            **self._of_channels(),
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads,
            "instances": self.instances,
            "border": self.border,
        }

    def _of_channels(self) -> dict[str, Any]:
        each = {str(channel): s.to_dict() for channel, s in self.intensities.items()}
        return {"intensities": each} if each else {}

    def digest(self) -> str:
        """Return the SHA-256 of `identity` and the blocks: what a score store must match."""
        more = {"target": self.volume.identity(), "per_block": list(self.per_block)}
        data = {**self.identity(), **more}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved experiment as plain data, for ``experiment.yaml``."""
        ways = {name: way.to_dict(model) for name, (model, way) in self.excluded_ways.items()}
        return {
            **self.identity(),
            "metrics": list(self.metrics),
            "primary": str(self.primary),
            **({"scales": list(self.scales)} if self.scales != (1.0,) else {}),
            "rule": self.rule,
            "blocks": {"tiles": list(self.per_block), "number": len(self.blocks)},
            "tiles": len(self.grid),
            "models": [_candidate_dict(c) for c in self.candidates],
            "excluded": dict(self.excluded),
            **({"excluded_ways": ways} if ways else {}),
            "hash": self.digest(),
            "versions": versions(),
        }


def check_at_least(value: int, name: str, *, least: int = 1) -> None:
    """Refuse a number below a least one, by its name.

    Raises
    ------
    ValueError
        If it is.
    """
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def check_measures(perturbations: Sequence[Perturbation], metrics: Sequence[str]) -> None:
    """Refuse perturbations and metrics that make no run.

    Raises
    ------
    ValueError
        If there is none, one is given twice, or a metric is unknown.
    """
    if not perturbations or not metrics:
        raise ValueError("at least one perturbation and one metric are needed")
    names = [p.name for p in perturbations]
    if len(set(names)) < len(names):
        raise ValueError(f"a perturbation is given twice: {names}")
    for name in metrics:
        metric(name)


def _identity(candidate: Candidate) -> dict[str, Any]:
    """Return what decides a candidate's scores."""
    return {
        "spec": candidate.spec.digest(),
        "batch": candidate.batch,
        "scale": list(candidate.scale),
        **_changed(candidate),
        **({"channels": list(candidate.channels)} if candidate.channels else {}),
        **({"whole": True} if candidate.whole else {}),
        **_run_by(candidate),
    }


def _run_by(candidate: Candidate) -> dict[str, Any]:
    """Return the runtime of a candidate's passes, if it is not PyTorch, and its own precision."""
    runtime = {} if candidate.runtime == TORCH else {"runtime": candidate.runtime.name}
    return {**runtime, **({"precision": candidate.precision} if candidate.precision else {})}


def _changed(candidate: Candidate) -> dict[str, Any]:
    """Return the way in which a model is used, if it is not as the bank has it."""
    if candidate.variant.plain:
        return {}
    return {"candidate": candidate.variant.to_dict(candidate.spec.name)}


def _candidate_dict(candidate: Candidate) -> dict[str, Any]:
    spec = candidate.spec.model_dump(mode="json", exclude_none=True, exclude={"variants"})
    return {
        **spec,
        "name": candidate.name,
        **_changed(candidate),
        "batch": candidate.batch,
        "scale": list(candidate.scale),
        "greybox": candidate.features,
        "alike": list(candidate.alike),
        **({"sees": list(candidate.channels)} if candidate.channels else {}),
        "bytes": candidate.bytes,
        **({"refused": list(candidate.refused)} if candidate.refused else {}),
        **({"note": candidate.note} if candidate.note else {}),
        **({} if candidate.steady else {"steady": False}),
        **({"blind": True} if candidate.blind else {}),
        **({"whole": True} if candidate.whole else {}),
        **_run_by(candidate),
        **({"runtime_trial": tried} if (tried := candidate.runtime.to_dict()) else {}),
    }


def versions() -> dict[str, str]:
    """Return the versions of what computed a result."""
    import platform
    from importlib.metadata import version

    names = ("cte-dask", "torch", "numpy", "numba", "zarr", "dask")
    return {"python": platform.python_version(), **{n: version(n) for n in names}}
