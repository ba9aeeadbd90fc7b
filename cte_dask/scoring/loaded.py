"""The models that a process has loaded: each once, as many as its memory holds."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from cte_dask.arrays import dtype_of
from cte_dask.inference.memory import bytes_for_models
from cte_dask.inference.predictor import Predictor
from cte_dask.inference.time_limit import trial_limit, within

if TYPE_CHECKING:
    from cte_dask.inference.settings import Inference
    from cte_dask.models.network import Network
    from cte_dask.models.spec import ModelSpec
    from cte_dask.scoring.experiment import Candidate

__all__ = ["READY", "load_candidate", "make_room", "predictor", "shared_network"]

READY: OrderedDict[tuple[Candidate, Inference], Predictor] = OrderedDict()


def predictor(candidate: Candidate, inference: Inference) -> Predictor:
    """Return the loaded model of a candidate; kept, so that a process loads each model once."""
    if not candidate.features:
        inference = replace(inference, features=False)
    inference = replace(inference, precision=candidate.precision or inference.precision)
    key = (candidate, inference)
    if key not in READY:
        network = shared_network(candidate.spec, inference)
        if network is None:
            make_room(candidate.bytes, inference.device)
        load = partial(load_candidate, candidate, inference, network)
        READY[key] = within(trial_limit(inference.time_limit), load, what="its loading")
    READY.move_to_end(key)
    return READY[key]


def load_candidate(
    candidate: Candidate,
    inference: Inference,
    network: Network | None = None,
    *,
    shown: bool = False,
) -> Predictor:
    """Return a candidate's model, loaded unless its network is given; see `Predictor`."""
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
        proof=candidate.proof,
        shown=shown,
    )


def shared_network(spec: ModelSpec, inference: Inference) -> Network | None:
    """Return the network of a model that another candidate of it has loaded; None if none has."""
    dtype, weights = dtype_of(inference.precision), _weights(spec)
    for ready in READY.values():
        same = ready.device == inference.device and ready.dtype == dtype
        if same and _weights(ready.spec) == weights:
            return ready.network
    return None


def _weights(spec: ModelSpec) -> str:
    """Return what candidates of one model have in common, whatever goes into its network."""
    unlike: dict[str, object] = {"preprocessing": (), "bottleneck": None, "layers": ()}
    return spec.model_copy(update=unlike).digest()


def make_room(size: int, device: str) -> None:
    """Drop the models that were used longest ago until one of so many bytes fits."""
    while READY and _held() + size > bytes_for_models(device):
        READY.popitem(last=False)


def _held() -> int:
    """Return the bytes of all weights that are loaded, those that candidates share counted once."""
    networks = {id(p.network.forward): candidate.bytes for (candidate, _), p in READY.items()}
    return sum(networks.values())
