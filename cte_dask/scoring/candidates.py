"""Settling a bank: load each model once, find its halo, batch and bottleneck, or name its fault."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import current_process
from typing import TYPE_CHECKING

from cte_dask.arrays import dtype_of, set_threads
from cte_dask.errors import FOREIGN, reason
from cte_dask.inference.apart import Apart, EndedError
from cte_dask.inference.conduct import ALONE, Conduct, conduct_of
from cte_dask.inference.device import synchronize
from cte_dask.inference.graph.bottleneck import BlackBoxError
from cte_dask.inference.memory import batch_size, filling_batch, out_of_memory
from cte_dask.inference.model_size import bytes_of
from cte_dask.inference.needs import Needs, channels_told
from cte_dask.inference.predictor import Predictor
from cte_dask.inference.runtime_trial import withdrawn
from cte_dask.inference.seen import ignores_image, shares_rightly
from cte_dask.inference.settings import Inference
from cte_dask.inference.time_limit import time_limit, trial_limit, within
from cte_dask.models.loading import load_network
from cte_dask.scoring.certificate import certificate
from cte_dask.scoring.experiment import Candidate
from cte_dask.scoring.loaded import READY, load_candidate, make_room, shared_network
from cte_dask.scoring.runtimes import BY_TORCH, RuntimeChoice
from cte_dask.scoring.voxel_matching import alike_axes, mismatch, scale_of
from cte_dask.tiles import Shape
from cte_dask.volume.channels import channel_indices, seen_note

if TYPE_CHECKING:
    from pathlib import Path

    from cte_dask.models.network import Network
    from cte_dask.models.spec import ModelSpec, Variant
    from cte_dask.perturb import Perturbation
    from cte_dask.scoring.real_tile import RealTile
    from cte_dask.volume import Volume, VoxelSize

__all__ = ["settle"]

_TAKEN: set[tuple[str, int, tuple[int, ...]]] = set()
"""Code of networks, samples, and channels and extent that they take."""


def settle(
    members: Mapping[str, tuple[ModelSpec, Variant]],
    inference: Inference,
    *,
    threads: int,
    batch: int | None,
    volume: Volume,
    perturbations: Sequence[Perturbation],
    apart: bool = False,
    proof: RealTile | None = None,
    runtime: RuntimeChoice = BY_TORCH,
    calibration: Sequence[RealTile] = (),
    tell: Callable[[str], None],
) -> tuple[tuple[Candidate, ...], dict[str, str]]:
    """Load every model once; split the bank into usable candidates and excluded ones with reasons.

    Parameters
    ----------
    members
        See `cte_dask.models.variants.members_of`.
    inference
        How networks run on the tiles.
    threads, batch
        Torch's intra-op threads; samples in one forward pass, None for what suits the device.
    volume
        The target; its voxel size and channels count.
    perturbations
        Those of the run.
    apart
        Whether models that bring code of their own are tried in a process of their own.
    proof
        A tile of the target on which passes must equal those of the whole network; None if there
        is none.
    runtime
        How the runtime of each model is chosen.
    calibration
        Tiles of the target on which low precision must give the scores of float32.
    tell
        Receives one line of progress per candidate.

    Returns
    -------
    tuple
        The candidates, and a reason for the name of each excluded one.

    Raises
    ------
    ValueError
        If no model is usable.
    """
    set_threads(threads)
    candidates: list[Candidate] = []
    excluded: dict[str, str] = {}
    needs, limit = Needs(inference.tile), trial_limit(inference.time_limit)
    with Apart(threads=threads) as elsewhere:
        for number, (name, (spec, variant)) in enumerate(members.items(), start=1):
            tell(f"loading model {number} of {len(members)}: {name}")
            settled = partial(
                _settled,
                spec,
                variant,
                needs=needs,
                batch=batch,
                volume=volume,
                trial=_Trial(inference, perturbations, proof, runtime, calibration),
                shared=any(c.spec.name == spec.name for c in candidates),
            )
            try:
                # a daemonic process may start no other
                if apart and spec.trust and not current_process().daemon:
                    candidate, needs = _settled_apart(settled, elsewhere, inference, threads)
                else:
                    candidate, needs = within(limit, settled, what="its trial")
            except FOREIGN as error:  # foreign code: whatever it raises excludes it alone
                excluded[name] = reason(error)
            else:
                candidates.append(candidate)
                if candidate.runtime.to_dict():
                    tell(f"{name}: {candidate.runtime}")
    if not candidates:
        listed = "; ".join(f"{name}: {why}" for name, why in excluded.items())
        raise ValueError(f"no model of the bank is usable: {listed}")
    return tuple(candidates), excluded


@dataclass(frozen=True)
class _Trial:
    """What a model is tried with.

    Parameters
    ----------
    inference, perturbations
        How networks run, and under what.
    proof
        A tile of the target; None if there is none.
    runtime
        How the runtime is chosen.
    calibration
        Tiles on which scores in low precision must be those of float32; none in float32.
    """

    inference: Inference
    perturbations: Sequence[Perturbation]
    proof: RealTile | None
    runtime: RuntimeChoice
    calibration: Sequence[RealTile]


def _settled(
    spec: ModelSpec,
    variant: Variant,
    *,
    needs: Needs,
    batch: int | None,
    volume: Volume,
    trial: _Trial,
    shared: bool,
) -> tuple[Candidate, Needs]:
    """Load a model and try it, as one candidate of it; the first one measures what it needs."""
    channels = channel_indices(volume, spec.channels)
    with channels_told(spec):
        draft = _settle(needs.of(spec), variant, trial.inference, volume.voxel_size, batch=batch)
        seen = seen_note(volume, spec.channels, draft.spec.in_channels)
        draft = replace(draft, channels=channels, note=_joined(draft.note, seen))
        measuring = needs.network(trial.inference)
        network = shared_network(draft.spec, trial.inference) if shared else measuring
        if batch is None and trial.inference.device == "cuda":
            draft, network = _filled(draft, trial.inference, network, volume.shape)
        return _fitting(draft, trial, network), needs


def _filled(
    draft: Candidate, inference: Inference, network: Network | None, target: Shape
) -> tuple[Candidate, Network]:
    """Return a candidate with the batch that fills the card, or is all that it will see."""
    spec, tile = draft.spec, inference.tile
    if network is None:
        dtype = dtype_of(inference.precision)
        network = load_network(spec, device=inference.device, dtype=dtype)
    tiles = math.prod(-(-n // t) for n, t in zip(target, tile, strict=True))
    most = min(draft.batch, tiles * (1 if spec.dims == 3 else tile[0]))
    if network.fixed_batch or most == 1:
        return replace(draft, batch=most), network
    shape = (spec.in_channels, *draft.frame(tile).extent[-spec.dims :])
    return replace(draft, batch=filling_batch(network, shape, inference, most)), network


def _settled_apart(
    settled: Callable[[], tuple[Candidate, Needs]],
    apart: Apart,
    inference: Inference,
    threads: int,
) -> tuple[Candidate, Needs]:
    """Try a model where it may crash; it is not loaded in this process."""
    seconds = trial_limit(inference.time_limit)
    try:
        return apart.do(partial(_settled_there, settled, threads, seconds), seconds=seconds)
    except EndedError as error:
        raise ValueError(f"when it was tried, its process {error}") from error


def _settled_there(
    settled: Callable[[], tuple[Candidate, Needs]], threads: int, seconds: float, _folder: Path
) -> tuple[Candidate, Needs]:
    set_threads(threads)
    # this process is ended before that limit; what a model changes for the next one is put back
    return within(2 * seconds, settled, what="its trial")


def _settle(
    spec: ModelSpec,
    variant: Variant,
    inference: Inference,
    voxel_size: VoxelSize | None,
    *,
    batch: int | None,
) -> Candidate:
    tile = inference.tile
    scale = scale_of(spec, voxel_size, magnified=variant.scale)
    draft = Candidate(
        variant.applied(spec),
        1,
        features=True,
        scale=scale,
        note=mismatch(spec, voxel_size, magnified=variant.scale),
        alike=alike_axes(scale, voxel_size),
        variant=variant,
    )
    draft = replace(draft, spec=_with_multiple(draft, tile))
    frame = draft.frame(tile)
    for axis, halo, extent in zip("zyx", frame.before, tile, strict=True):
        if halo > extent:
            seen = "" if variant.scale == 1 else f" at ×{variant.scale:g}"
            raise ValueError(
                f"its halo of {halo} voxels along {axis}{seen} is larger than the tile "
                f"({extent}): use larger tiles (--tile) or a smaller halo in the bank"
            )
    size = batch or batch_size(frame.extent, dims=spec.dims, device=inference.device)
    return replace(draft, batch=size)


def _with_multiple(draft: Candidate, tile: Shape) -> ModelSpec:
    """Return the model with extents of any multiple where its windows are smaller than a tile's."""
    spec = draft.spec
    if spec.extent is None:
        return spec
    loose = spec.model_copy(update={"multiple": dict.fromkeys(spec.axes, 1)})
    extent = replace(draft, spec=loose).frame(tile).extent[-spec.dims :]
    only = ((axis, spec.extent[axis], n) for axis, n in zip(spec.axes, extent, strict=True))
    return spec.model_copy(update={"multiple": {a: e if n <= e else 1 for a, e, n in only}})


def _fitting(candidate: Candidate, trial: _Trial, network: Network | None) -> Candidate:
    """Settle a model with the largest batch, halved from the candidate's, that memory takes."""
    while True:
        try:
            return _ready(candidate, trial, network)
        except FOREIGN as error:
            if candidate.batch == 1 or not out_of_memory(error):
                raise
        candidate = replace(candidate, batch=candidate.batch // 2)


def _ready(candidate: Candidate, trial: _Trial, network: Network | None) -> Candidate:
    """Load the model as it will run and run it once.

    A model whose features cannot be reached stays, as a black box. The loaded model is kept for
    the run: in one process it is not loaded, or traced, a second time.
    """
    loaded, settled, inference, path_note = _opened(candidate, trial, network)
    began, seen = time.perf_counter(), None
    if trial.proof is None:
        loaded.check()
    else:
        group = trial.proof.group(loaded.view(None), inference.device, candidate.channels)
        seen = loaded.sees(group)
    synchronize(inference.device)
    seconds = time.perf_counter() - began
    conduct = _conduct(loaded)
    if not conduct.alone and settled.batch > 1:
        if loaded.network.fixed_batch:
            raise ValueError(
                f"a prediction depends on the others of its batch, and the network takes "
                f"{loaded.network.fixed_batch} at once: export it for one"
            )
        alone = _ready(replace(candidate, batch=1), trial, network)
        return replace(alone, note=_joined(alone.note, ALONE))
    refused = _refused(loaded, trial.perturbations)
    fit = replace(settled, refused=tuple(refused))
    supported = tuple(filter(fit.supports, trial.perturbations))
    runtime = trial.runtime.choose(candidate.name, loaded, supported, seconds=seconds)
    blind = False
    if conduct.steady and seen is not None:
        right = shares_rightly(loaded, seen)
        if not right and runtime.name != "torch":
            runtime = withdrawn(runtime, loaded)
            right = shares_rightly(loaded, seen)
        if not candidate.whole and not right:
            return _ready(replace(candidate, whole=True), trial, loaded.network)
        blind = ignores_image(loaded, seen)
    told = ""
    if conduct.steady and inference.precision != "float32":
        fit = replace(fit, runtime=runtime)
        full = load_candidate(fit, replace(inference, precision="float32"))
        held = certificate(loaded, full, fit, trial.calibration, trial.perturbations)
        told = str(held)
        if not held.holds:
            fit = replace(candidate, precision="float32", note=_joined(candidate.note, told))
            return _ready(fit, trial, None)
    no = (f"no {name}: {why}" for name, why in refused.items())
    notes = (candidate.note, *loaded.network.adaptations, path_note, told, *no)
    note, size = _joined(*notes), bytes_of(loaded)
    settled = replace(
        fit,
        note=note,
        bytes=size,
        steady=conduct.steady,
        blind=blind,
        tried_seconds=seconds,
        runtime=runtime,
        proof=loaded.proof,
    )
    loaded.time_limit = time_limit(inference.time_limit, seconds)
    shared = any(ready.network is loaded.network for ready in READY.values())
    make_room(0 if shared else size, inference.device)
    READY[settled, inference] = loaded
    return settled


def _opened(
    candidate: Candidate, trial: _Trial, network: Network | None
) -> tuple[Predictor, Candidate, Inference, str]:
    """Load a model, as a black box where it cannot be opened; how it runs, and what is to say."""
    inference, shown = trial.inference, trial.proof is not None
    inference = replace(inference, precision=candidate.precision or inference.precision)
    try:
        loaded = load_candidate(candidate, inference, network, shown=shown)
    except BlackBoxError as error:
        inference = replace(inference, features=False)
        loaded = load_candidate(candidate, inference, network, shown=shown)
        settled = replace(candidate, batch=loaded.batch, features=False)
        return loaded, settled, inference, reason(error)
    spec, note = candidate.spec, ""
    if loaded.path is not None:  # no worker has to find the perturbed layers again
        pinned_layers = {"bottleneck": None, "layers": loaded.path.layers}
        spec, note = spec.model_copy(update=pinned_layers), loaded.path.note
    return loaded, replace(candidate, spec=spec, batch=loaded.batch), inference, note


def _conduct(loaded: Predictor) -> Conduct:
    """Return how a network behaves on small images, or on a tile's if it takes no small ones."""
    raw = not loaded.spec.preprocessing
    with loaded.arithmetic():
        try:
            return conduct_of(loaded.network, loaded.small_example(), raw=raw)
        except FOREIGN:  # it may want a least extent
            return conduct_of(loaded.network, loaded.example(), raw=raw)


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _refused(loaded: Predictor, perturbations: Sequence[Perturbation]) -> dict[str, str]:
    """Try the extents of geometric perturbations; names of those refused, and why.

    What extents a network takes does not depend on its weights: one of each code is tried.
    """
    refused = {}
    for perturbation in perturbations:
        extent = loaded.view(perturbation).frame.extent
        shape = (loaded.spec.in_channels, *extent[-loaded.spec.dims :])
        taken = (loaded.network.code, loaded.batch, shape)
        if extent == loaded.frame.extent or (loaded.network.code and taken in _TAKEN):
            continue
        try:
            loaded.check(perturbation)
            _TAKEN.add(taken)
        except FOREIGN as error:  # foreign code: a network may take one extent alone
            refused[perturbation.name] = reason(error)
    return refused
