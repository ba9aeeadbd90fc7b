"""Settling a bank: load each model once, find its halo, batch and bottleneck, or name its fault."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from cte_dask.arrays import set_threads
from cte_dask.errors import reason
from cte_dask.inference.graph.bottleneck import BlackBoxError
from cte_dask.inference.memory import bytes_for_models, bytes_of, out_of_memory
from cte_dask.inference.predictor import Predictor
from cte_dask.inference.settings import Inference
from cte_dask.inference.trial import with_needs
from cte_dask.models.source import pinned
from cte_dask.scoring.experiment import Candidate
from cte_dask.scoring.voxel_matching import alike_axes, mismatch, scale_of
from cte_dask.tiles import Shape

if TYPE_CHECKING:
    from cte_dask.models.bank import ModelBank
    from cte_dask.models.spec import ModelSpec
    from cte_dask.perturb import Perturbation
    from cte_dask.volume import VoxelSize

__all__ = ["predictor", "settle"]


_READY: OrderedDict[tuple[object, ...], Predictor] = OrderedDict()
BATCH_VOXELS = {"cpu": 2**17, "cuda": 2**22}


def predictor(candidate: Candidate, inference: Inference) -> Predictor:
    """Return the loaded model of a candidate; kept, so that a process loads each model once."""
    if not candidate.features:
        inference = replace(inference, features=False)
    key = (candidate, inference)
    if key not in _READY:
        _make_room(candidate.bytes, inference.device)
        _READY[key] = Predictor(
            candidate.spec,
            inference,
            batch=candidate.batch,
            scale=candidate.scale,
            alike=candidate.alike,
        )
    _READY.move_to_end(key)
    return _READY[key]


def _make_room(size: int, device: str) -> None:
    """Drop the models that were used longest ago until one of so many bytes fits."""
    sizes = [bytes_of(loaded) for loaded in _READY.values()]
    beyond = sum(sizes) + size - bytes_for_models(device)
    for oldest in sizes:
        if beyond <= 0:
            return
        _READY.popitem(last=False)
        beyond -= oldest


def settle(
    bank: ModelBank,
    inference: Inference,
    *,
    threads: int,
    batch: int | None,
    voxel_size: VoxelSize | None,
    perturbations: Sequence[Perturbation],
    tell: Callable[[str], None],
) -> tuple[tuple[Candidate, ...], dict[str, str]]:
    """Load every model once; split the bank into usable candidates and excluded ones with reasons.

    Raises
    ------
    ValueError
        If no model is usable.
    """
    set_threads(threads)
    candidates, excluded = [], {}
    for number, spec in enumerate(bank, start=1):
        tell(f"loading model {number} of {len(bank)}: {spec.name}")
        try:
            draft = _settle(pinned(spec), inference, voxel_size, batch=batch)
            candidate = _fitting(draft, inference, perturbations)
        except Exception as error:  # a model is foreign code: whatever it raises excludes it alone
            excluded[spec.name] = reason(error)
        else:
            candidates.append(candidate)
    if not candidates:
        listed = "; ".join(f"{name}: {why}" for name, why in excluded.items())
        raise ValueError(f"no model of the bank is usable: {listed}")
    return tuple(candidates), excluded


def _settle(
    spec: ModelSpec, inference: Inference, voxel_size: VoxelSize | None, *, batch: int | None
) -> Candidate:
    tile = inference.tile
    spec = with_needs(spec, limit=min(tile[-spec.dims :]))
    scale = scale_of(spec, voxel_size)
    draft = Candidate(
        spec,
        1,
        features=True,
        scale=scale,
        note=mismatch(spec, voxel_size),
        alike=alike_axes(scale, voxel_size),
    )
    frame = draft.frame(tile)
    for axis, halo, extent in zip("zyx", frame.before, tile, strict=True):
        if halo > extent:
            raise ValueError(
                f"its halo of {halo} voxels along {axis} is larger than the tile ({extent}): "
                "use larger tiles (--tile) or a smaller halo in the bank"
            )
    size = batch or batch_size(frame.extent, dims=spec.dims, device=inference.device)
    return replace(draft, batch=size)


def _with_layers(spec: ModelSpec, loaded: Predictor) -> ModelSpec:
    """Pin the perturbed layers, so that no worker has to find them again."""
    if loaded.path is None:
        return spec
    return spec.model_copy(update={"bottleneck": None, "layers": loaded.path.layers})


def _fitting(
    candidate: Candidate, inference: Inference, perturbations: Sequence[Perturbation]
) -> Candidate:
    """Settle a model with the largest batch, halved from the candidate's, that memory takes."""
    while True:
        try:
            return _ready(candidate, inference, perturbations)
        except Exception as error:
            if candidate.batch == 1 or not out_of_memory(error):
                raise
        candidate = replace(candidate, batch=candidate.batch // 2)


def _ready(
    candidate: Candidate, inference: Inference, perturbations: Sequence[Perturbation]
) -> Candidate:
    """Load the model as it will run and run it once.

    A model whose features cannot be reached stays, as a black box. The loaded model is kept for
    the run: in one process it is not loaded, or traced, a second time.
    """
    spec = candidate.spec
    load = partial(
        Predictor,
        spec,
        batch=candidate.batch,
        scale=candidate.scale,
        alike=candidate.alike,
    )
    try:
        loaded = load(inference)
        path_note = loaded.path.note if loaded.path else ""
        settled = replace(candidate, spec=_with_layers(spec, loaded), batch=loaded.batch)
    except BlackBoxError as error:
        inference = replace(inference, features=False)
        loaded, path_note = load(inference), reason(error)
        settled = replace(candidate, batch=loaded.batch, features=False)
    loaded.check()
    refused = _refused(loaded, perturbations)
    notes = (candidate.note, path_note, *(f"no {name}: {why}" for name, why in refused.items()))
    note, size = "; ".join(filter(None, notes)), bytes_of(loaded)
    settled = replace(settled, note=note, refused=tuple(refused), bytes=size)
    _make_room(size, inference.device)
    _READY[settled, inference] = loaded
    return settled


def _refused(loaded: Predictor, perturbations: Sequence[Perturbation]) -> dict[str, str]:
    """Try the extents of geometric perturbations; names of those refused, and why."""
    refused = {}
    for perturbation in perturbations:
        if loaded.view(perturbation).frame.extent == loaded.frame.extent:
            continue
        try:
            loaded.check(perturbation)
        except Exception as error:  # foreign code: a network may take one extent alone
            refused[perturbation.name] = reason(error)
    return refused


def batch_size(frame: Shape, *, dims: int, device: str) -> int:
    """Return the samples of a forward pass that keep a device busy within bounded memory."""
    voxels = math.prod(frame) if dims == 3 else frame[1] * frame[2]
    return max(1, BATCH_VOXELS[device] // voxels)
