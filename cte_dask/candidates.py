"""Settling a bank: load each model once, find its halo, batch and bottleneck, or name its fault."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch

from cte_dask.experiment import Candidate
from cte_dask.frames import frame_of
from cte_dask.models.source import pinned
from cte_dask.models.trial import with_needs
from cte_dask.perturb.bottleneck import BlackBoxError
from cte_dask.predict import Predictor
from cte_dask.reason import reason
from cte_dask.tiles import Shape

if TYPE_CHECKING:
    from cte_dask.models.bank import ModelBank
    from cte_dask.models.spec import ModelSpec

__all__ = ["predictor", "settle"]


_READY: OrderedDict[tuple[object, ...], Predictor] = OrderedDict()
_MOST_READY = 64
BATCH_VOXELS = {"cpu": 2**17, "cuda": 2**22}


def predictor(
    candidate: Candidate,
    *,
    tile: Shape,
    device: str,
    precision: str,
    features: bool,
    instances: bool = False,
) -> Predictor:
    """Return the loaded model of a candidate; kept, so that a process loads each model once."""
    key = (candidate, tile, device, precision, features, instances)
    if key not in _READY:
        _READY[key] = Predictor(
            candidate.spec,
            tile=tile,
            batch=candidate.batch,
            device=device,
            precision=precision,
            features=features and candidate.features,
            instances=instances,
        )
        while len(_READY) > _MOST_READY:
            _READY.popitem(last=False)
    _READY.move_to_end(key)
    return _READY[key]


def settle(
    bank: ModelBank,
    *,
    tile: Shape,
    features: bool,
    instances: bool,
    device: str,
    precision: str,
    threads: int,
    batch: int | None,
    tell: Callable[[str], None],
) -> tuple[tuple[Candidate, ...], dict[str, str]]:
    """Load every model once; split the bank into usable candidates and excluded ones with reasons.

    Raises
    ------
    ValueError
        If no model is usable.
    """
    torch.set_num_threads(threads)
    candidates, excluded = [], {}
    for number, spec in enumerate(bank, start=1):
        tell(f"loading model {number} of {len(bank)}: {spec.name}")
        try:
            candidate = _ready(
                _settle(pinned(spec), tile=tile, device=device, batch=batch),
                tile=tile,
                device=device,
                precision=precision,
                features=features,
                instances=instances,
            )
        except Exception as error:  # a model is foreign code: whatever it raises excludes it alone
            excluded[spec.name] = reason(error)
        else:
            candidates.append(candidate)
    if not candidates:
        listed = "; ".join(f"{name}: {why}" for name, why in excluded.items())
        raise ValueError(f"no model of the bank is usable: {listed}")
    return tuple(candidates), excluded


def _settle(spec: ModelSpec, *, tile: Shape, device: str, batch: int | None) -> Candidate:
    spec = with_needs(spec, limit=min(tile[-spec.dims :]))
    halo, multiple = spec.halo_zyx or (0, 0, 0), spec.multiple_zyx or (1, 1, 1)
    for axis, h, t in zip("zyx", halo, tile, strict=True):
        if h > t:
            raise ValueError(
                f"its halo of {h} voxels along {axis} is larger than the tile ({t}): "
                "use larger tiles (--tile) or a smaller halo in the bank"
            )
    frame = frame_of(tile, halo=halo, multiple=multiple)
    size = batch or batch_size(frame.shape, dims=spec.dims, device=device)
    return Candidate(spec, size, features=True)


def _with_layers(spec: ModelSpec, loaded: Predictor) -> ModelSpec:
    """Pin the perturbed layers, so that no worker has to find them again."""
    if loaded.path is None:
        return spec
    return spec.model_copy(update={"bottleneck": None, "layers": loaded.path.layers})


def _ready(
    candidate: Candidate,
    *,
    tile: Shape,
    device: str,
    precision: str,
    features: bool,
    instances: bool,
) -> Candidate:
    """Load the model as it will run and run it once.

    A model whose features cannot be reached stays, as a black box. The loaded model is kept for
    the run: in one process it is not loaded, or traced, a second time.
    """
    spec = candidate.spec
    load = partial(
        Predictor,
        spec,
        tile=tile,
        batch=candidate.batch,
        device=device,
        precision=precision,
        instances=instances,
    )
    try:
        loaded = load(features=features)
        settled = Candidate(
            _with_layers(spec, loaded),
            loaded.batch,
            features=True,
            note=loaded.path.note if loaded.path else "",
        )
    except BlackBoxError as error:
        loaded = load(features=False)
        settled = Candidate(spec, loaded.batch, features=False, note=reason(error))
    loaded.check()
    _READY[(settled, tile, device, precision, features, instances)] = loaded
    return settled


def batch_size(frame: Shape, *, dims: int, device: str) -> int:
    """Return the samples of a forward pass that keep a device busy within bounded memory."""
    voxels = math.prod(frame) if dims == 3 else frame[1] * frame[2]
    return max(1, BATCH_VOXELS[device] // voxels)
