"""Settling a bank: load each model once, find its halo, batch and bottleneck, or name its fault."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import current_process
from typing import TYPE_CHECKING

from cte_dask.arrays import dtype_of, set_threads
from cte_dask.errors import FOREIGN, reason
from cte_dask.inference.apart import EndedError, done_apart
from cte_dask.inference.conduct import ALONE, conduct_of
from cte_dask.inference.graph.bottleneck import BlackBoxError
from cte_dask.inference.memory import batch_size, bytes_for_models, bytes_of, out_of_memory
from cte_dask.inference.needs import channels_told, with_needs
from cte_dask.inference.predictor import Predictor
from cte_dask.inference.runtime_trial import confirmed
from cte_dask.inference.settings import Inference
from cte_dask.inference.time_limit import time_limit, trial_limit, within
from cte_dask.models.source import pinned
from cte_dask.scoring.experiment import Candidate
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

__all__ = ["predictor", "settle"]

_READY: OrderedDict[tuple[object, ...], Predictor] = OrderedDict()


def predictor(candidate: Candidate, inference: Inference) -> Predictor:
    """Return the loaded model of a candidate; kept, so that a process loads each model once."""
    if not candidate.features:
        inference = replace(inference, features=False)
    key = (candidate, inference)
    if key not in _READY:
        network = _shared_network(candidate.spec, inference)
        if network is None:
            _make_room(candidate.bytes, inference.device)
        load = partial(_loaded, candidate, inference, network)
        _READY[key] = within(trial_limit(inference.time_limit), load, what="its loading")
    _READY.move_to_end(key)
    return _READY[key]


def _loaded(candidate: Candidate, inference: Inference, network: Network | None) -> Predictor:
    return Predictor(
        candidate.spec,
        inference,
        batch=candidate.batch,
        scale=candidate.scale,
        alike=candidate.alike,
        invert=candidate.variant.invert,
        network=network,
        tried_seconds=candidate.tried_seconds,
        whole=candidate.whole,
        runtime=candidate.runtime.name,
    )


def _shared_network(spec: ModelSpec, inference: Inference) -> Network | None:
    """Return the network of a model that another candidate of it has loaded; None if none has."""
    dtype, weights = dtype_of(inference.precision), _weights(spec)
    for ready in _READY.values():
        same = ready.device == inference.device and ready.dtype == dtype
        if same and _weights(ready.spec) == weights:
            return ready.network
    return None


def _weights(spec: ModelSpec) -> str:
    """Return what candidates of one model have in common, whatever goes into its network."""
    unlike: dict[str, object] = {"preprocessing": (), "bottleneck": None, "layers": ()}
    return spec.model_copy(update=unlike).digest()


def _make_room(size: int, device: str) -> None:
    """Drop the models that were used longest ago until one of so many bytes fits."""
    while _READY and _held() + size > bytes_for_models(device):
        _READY.popitem(last=False)


def _held() -> int:
    """Return the bytes of all weights that are loaded, those that candidates share counted once."""
    networks = {id(ready.network.forward): ready for ready in _READY.values()}
    return sum(map(bytes_of, networks.values()))


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
    needs, limit = _Needs(inference.tile), trial_limit(inference.time_limit)
    for number, (name, (spec, variant)) in enumerate(members.items(), start=1):
        tell(f"loading model {number} of {len(members)}: {name}")
        settled = partial(
            _settled,
            spec,
            variant,
            needs=needs,
            batch=batch,
            volume=volume,
            trial=_Trial(inference, perturbations, proof, runtime),
            shared=any(c.spec.name == spec.name for c in candidates),
        )
        try:
            # a daemonic process may start no other
            if apart and spec.trust and not current_process().daemon:
                candidate, needs = _settled_apart(settled, inference, threads)
            else:
                candidate, needs = within(limit, settled, what="its trial")
        except FOREIGN as error:  # a model is foreign code: whatever it raises excludes it alone
            excluded[name] = reason(error)
        else:
            candidates.append(candidate)
            if candidate.runtime.to_dict():
                tell(f"{name}: {candidate.runtime}")
    if not candidates:
        listed = "; ".join(f"{name}: {why}" for name, why in excluded.items())
        raise ValueError(f"no model of the bank is usable: {listed}")
    return tuple(candidates), excluded


class _Needs:
    """Measures what a model needs once for all of its candidates."""

    def __init__(self, tile: Shape) -> None:
        self._tile = tile
        self._name = ""
        self._result: ModelSpec | BaseException = ValueError("no model yet")

    def of(self, spec: ModelSpec) -> ModelSpec:
        """Return a model with its needs; raise again what measuring them raised."""
        if spec.name != self._name:
            self._name = spec.name
            try:
                self._result = with_needs(pinned(spec), limit=min(self._tile[-spec.dims :]))
            except FOREIGN as error:
                self._result = error
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result


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
    """

    inference: Inference
    perturbations: Sequence[Perturbation]
    proof: RealTile | None
    runtime: RuntimeChoice


def _settled(
    spec: ModelSpec,
    variant: Variant,
    *,
    needs: _Needs,
    batch: int | None,
    volume: Volume,
    trial: _Trial,
    shared: bool,
) -> tuple[Candidate, _Needs]:
    """Load a model and try it, as one candidate of it; the first one measures what it needs."""
    channels = channel_indices(volume, spec.channels)
    with channels_told(spec):
        draft = _settle(needs.of(spec), variant, trial.inference, volume.voxel_size, batch=batch)
        seen = seen_note(volume, spec.channels, draft.spec.in_channels)
        draft = replace(draft, channels=channels, note=_joined(draft.note, seen))
        network = _shared_network(draft.spec, trial.inference) if shared else None
        return _fitting(draft, trial, network), needs


def _settled_apart(
    settled: Callable[[], tuple[Candidate, _Needs]], inference: Inference, threads: int
) -> tuple[Candidate, _Needs]:
    """Try a model where it may crash; it is not loaded in this process."""
    seconds = trial_limit(inference.time_limit)
    try:
        return done_apart(partial(_settled_there, settled, threads), seconds=seconds)
    except EndedError as error:
        raise ValueError(f"when it was tried, its process {error}") from error


def _settled_there(
    settled: Callable[[], tuple[Candidate, _Needs]], threads: int, _folder: Path
) -> tuple[Candidate, _Needs]:
    set_threads(threads)
    return settled()


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


def _with_layers(spec: ModelSpec, loaded: Predictor) -> ModelSpec:
    """Pin the perturbed layers, so that no worker has to find them again."""
    if loaded.path is None:
        return spec
    return spec.model_copy(update={"bottleneck": None, "layers": loaded.path.layers})


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
    inference = trial.inference
    try:
        loaded = _loaded(candidate, inference, network)
        path_note = loaded.path.note if loaded.path else ""
        spec = _with_layers(candidate.spec, loaded)
        settled = replace(candidate, spec=spec, batch=loaded.batch)
    except BlackBoxError as error:
        inference = replace(inference, features=False)
        loaded, path_note = _loaded(candidate, inference, network), reason(error)
        settled = replace(candidate, batch=loaded.batch, features=False)
    loaded.check()
    began = time.perf_counter()
    raw = not candidate.spec.preprocessing
    conduct = conduct_of(loaded.network, loaded.example(), raw=raw)
    seconds = time.perf_counter() - began
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
    if conduct.steady and trial.proof is not None:
        group = trial.proof.group(loaded.view(None), inference.device, candidate.channels)
        runtime = confirmed(runtime, loaded, group)
        if not candidate.whole and not loaded.shares_rightly(group):
            return _ready(replace(candidate, whole=True), trial, loaded.network)
        blind = loaded.ignores_image(group)
    no = (f"no {name}: {why}" for name, why in refused.items())
    notes = (candidate.note, *loaded.network.adaptations, path_note, *no)
    note, size = _joined(*notes), bytes_of(loaded)
    settled = replace(
        fit,
        note=note,
        bytes=size,
        steady=conduct.steady,
        blind=blind,
        tried_seconds=seconds,
        runtime=runtime,
    )
    loaded.time_limit = time_limit(inference.time_limit, seconds)
    _make_room(size if network is None else 0, inference.device)
    _READY[settled, inference] = loaded
    return settled


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _refused(loaded: Predictor, perturbations: Sequence[Perturbation]) -> dict[str, str]:
    """Try the extents of geometric perturbations; names of those refused, and why."""
    refused = {}
    for perturbation in perturbations:
        if loaded.view(perturbation).frame.extent == loaded.frame.extent:
            continue
        try:
            loaded.check(perturbation)
        except FOREIGN as error:  # foreign code: a network may take one extent alone
            refused[perturbation.name] = reason(error)
    return refused
