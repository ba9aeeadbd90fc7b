"""Reopening a finished run: from ``experiment.yaml`` back to the `Experiment` that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cte_dask.inference.settings import Runtime
from cte_dask.models.spec import ModelSpec, Variant
from cte_dask.perturb import Perturbation
from cte_dask.results.provenance import recorded_target
from cte_dask.results.run_folder import RunFolder
from cte_dask.scoring.experiment import Candidate, Experiment
from cte_dask.tiles import Shape, TileGrid
from cte_dask.volume import open_volume
from cte_dask.volume.statistics import IntensityStatistics

if TYPE_CHECKING:
    from cte_dask.scoring.experiment import Experiment
    from cte_dask.volume import Volume

__all__ = ["read_options", "reopen"]

_SETTLED = ("batch", "scale", "greybox", "note", "alike", "bytes", "refused", "steady", "blind")
ADDED = frozenset(
    {*_SETTLED, "whole", "sees", "candidate", "precision", "runtime", "runtime_trial"}
)
"""Keys of a model in ``experiment.yaml`` that are no keys of a bank."""


def reopen(run: str) -> Experiment:
    """Return the experiment of a finished run, its target and models as they were.

    Parameters
    ----------
    run
        Folder or URL that `cte rank` wrote.

    Returns
    -------
    Experiment
        No network is loaded yet; weights that are no longer those of the run's ``sha256`` will
        not load.

    Raises
    ------
    FileNotFoundError
        If there is no ``experiment.yaml``.
    ValueError
        If it is of another schema, its target was an array in memory, or the target differs now.
    """
    data = RunFolder(run).read_experiment()
    return Experiment(
        volume=_volume(data["target"]),
        grid=TileGrid(_triple(data["target"]["shape"]), _triple(data["tile"]), data["keep_cut"]),
        per_block=_triple(data["blocks"]["tiles"]),
        candidates=tuple(_candidate(m) for m in data["models"]),
        excluded=dict(data["excluded"]),
        perturbations=tuple(Perturbation.parse(p) for p in data["perturbations"]),
        metrics=tuple(data["metrics"]),
        intensity=IntensityStatistics.from_dict(data["intensity"]),
        seed=data["seed"],
        repeats=data["repeats"],
        device=data["device"],
        precision=data["precision"],
        threads=data["threads"],
        border=data["border"],
        scales=tuple(data.get("scales", (1.0,))),
        excluded_ways={name: _way(w) for name, w in data.get("excluded_ways", {}).items()},
        rule=data["rule"],
        intensities={
            int(c): IntensityStatistics.from_dict(s) for c, s in data.get("intensities", {}).items()
        },
    )


def read_options(target: Mapping[str, Any]) -> dict[str, Any]:
    """Return the storage options that a run's target is read with: unsigned or as usual.

    Parameters
    ----------
    target
        The target as ``experiment.yaml`` describes it.
    """
    return {"anonymous": True} if target.get("anonymous") else {}


def _volume(target: Mapping[str, Any]) -> Volume:
    if "/" not in target["url"] and "\\" not in target["url"]:
        raise ValueError(
            f"the run's target was an array in memory ({target['url']}): only runs on stored "
            "targets can be evaluated"
        )
    volume = open_volume(
        recorded_target(target),
        storage_options=read_options(target),
        level=target["level"],
        axes=target["axes"],
        channel=target["channel"],
        time=target["time"],
        roi=target["roi"],
        mask=target["mask"],
    )
    # how a level was once chosen is told in the notes; it is given here
    seen = tuple(target.get("channels", ()))
    volume = replace(volume, notes=tuple(target["notes"]), channels=seen)
    now = volume.describe()
    if changed := {k: now.get(k) for k, value in target.items() if now.get(k) != value}:
        key, value = next(iter(changed.items()))
        raise ValueError(
            f"target {volume.name} is not as it was ranked: its {key} was {target[key]}, now "
            f"{value}: rank it again"
        )
    return volume


def _candidate(entry: Mapping[str, Any]) -> Candidate:
    model, variant = _way(entry.get("candidate", {"model": entry["name"]}))
    keys = {k: v for k, v in entry.items() if k not in ADDED}
    spec = ModelSpec.model_validate({**keys, "name": model})
    return Candidate(
        spec,
        entry["batch"],
        features=entry["greybox"],
        scale=_scale(entry["scale"]),
        note=entry.get("note", ""),
        alike=_triple(entry.get("alike", [0, 1, 1])),
        refused=tuple(entry.get("refused", ())),
        bytes=entry.get("bytes", 0),
        channels=tuple(entry.get("sees", ())),
        variant=variant,
        steady=entry.get("steady", True),
        blind=entry.get("blind", False),
        whole=entry.get("whole", False),
        runtime=Runtime(entry.get("runtime", "torch")),
        precision=entry.get("precision", ""),
    )


def _way(entry: Mapping[str, Any]) -> tuple[str, Variant]:
    return str(entry["model"]), Variant.from_dict(entry)


def _triple(values: list[int]) -> Shape:
    z, y, x = values
    return z, y, x


def _scale(values: list[float]) -> tuple[float, float, float]:
    z, y, x = values
    return z, y, x
