"""Trying a loaded model on one tile: its shapes, its needs, and where it can be perturbed.

ModelReport: what trying one model of a bank told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cte_dask.consistency.degenerate import UNSTEADY
from cte_dask.errors import FOREIGN, reason
from cte_dask.inference.conduct import ALONE, conduct_of
from cte_dask.inference.device import synchronize
from cte_dask.inference.needs import (
    channels_told,
    described_spec,
    halo_of,
    one_at_a_time,
    only_extent,
    with_extents,
)
from cte_dask.inference.probe import check_fraction
from cte_dask.inference.try_out import try_out
from cte_dask.models.network import ModelError, Network

if TYPE_CHECKING:
    from cte_dask.models.spec import ModelSpec

if TYPE_CHECKING:
    from cte_dask.inference.predictor import Predictor
    from cte_dask.perturb import Draw

__all__ = ["ModelReport", "check_model", "seconds_per_tile"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """What one model turned out to be, or why it cannot be used.

    Parameters
    ----------
    name
        The model.
    ok
        Whether it can be ranked.
    reason
        Why not, in one line; empty when it can.
    input_shape, output_shape
        Shapes of the tile that was run and of what came out, (N, C, [z,] y, x).
    parameters
        Number of weights.
    bottleneck
        Layers that feature perturbation would touch; empty for a black box.
    halo
        Context per side (z, y, x), declared or measured.
    multiple
        What input extents must be a multiple of (z, y, x), declared or measured.
    greybox
        ``"grey box"``, or ``"black box: why"`` when only the input can be perturbed.
    notes
        What else a user should know.
    """

    name: str
    ok: bool
    reason: str = ""
    input_shape: Shape | None = None
    output_shape: Shape | None = None
    parameters: int | None = None
    bottleneck: tuple[str, ...] = ()
    halo: Shape | None = None
    multiple: Shape | None = None
    greybox: str = ""
    notes: tuple[str, ...] = ()


Forward = Callable[[Tensor], Tensor]

_TILE = {2: (64, 64), 3: (16, 32, 32)}


def check_model(spec: ModelSpec) -> ModelReport:
    """Check one model in this process.

    Raises
    ------
    ModelError
        If it cannot be loaded or does not run a tile.
    """
    spec = described_spec(spec)
    try:
        with channels_told(spec):
            return _inspect(*with_extents(spec))
    except ModelError:
        raise
    # The network's own code runs here and may raise anything.
    except FOREIGN as error:
        raise ModelError(f"model {spec.name!r}: {reason(error)}") from error


def _inspect(spec: ModelSpec, network: Network) -> ModelReport:
    forward = one_at_a_time(network)
    x = _tile(spec, network)
    y = _predict(spec, forward, x)
    check_fraction(network, x)
    bottleneck, greybox = _bottleneck(spec, network, x)
    conduct = [*_conduct(spec, network, x), *_channels(spec)]
    notes = [*network.notes, *network.adaptations, *conduct]
    return ModelReport(
        name=spec.name,
        ok=True,
        input_shape=tuple(x.shape),
        output_shape=tuple(y.shape),
        parameters=sum(p.numel() for p in network.forward.parameters()),
        bottleneck=bottleneck,
        halo=_halo(spec, network, notes),
        multiple=spec.multiple_zyx,
        greybox=greybox,
        notes=tuple(notes),
    )


def _tile(spec: ModelSpec, network: Network) -> Tensor:
    strides = (spec.multiple_zyx or (1, 1, 1))[3 - spec.dims :]
    fixed = only_extent(spec, network) or (None,) * spec.dims
    # two multiples: instance norms refuse the single voxel that deep networks make of one
    sizes = zip(fixed, _TILE[spec.dims], strides, strict=True)
    extent = [f or max(2, -(-t // m)) * m for f, t, m in sizes]
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, spec.in_channels, *extent, generator=generator)


def _predict(spec: ModelSpec, forward: Forward, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = forward(x)
    if not isinstance(y, Tensor) or y.ndim != x.ndim or y.shape[2:] != x.shape[2:]:
        what = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"a tile {tuple(x.shape)} gave {what}, not an image of the same extent")
    if spec.output.channel >= y.shape[1]:
        raise ValueError(
            f"output.channel {spec.output.channel} does not exist: the network has {y.shape[1]}"
        )
    if not bool(torch.isfinite(y).all()):
        raise ValueError("the prediction of random noise holds NaN or infinity")
    return y


def _conduct(spec: ModelSpec, network: Network, x: Tensor) -> list[str]:
    """Return what a ranking would say, and do, about how the network behaves."""
    two = torch.cat([x, x.flip(-1)])
    try:
        conduct = conduct_of(network, two, raw=not spec.preprocessing)
    except FOREIGN as error:  # it may take one tile alone
        return [f"fails on two tiles at once: {reason(error)}"]
    steady = [] if conduct.steady else [f"{UNSTEADY}: it would be ranked last"]
    return steady + ([] if conduct.alone else [ALONE])


def _channels(spec: ModelSpec) -> list[str]:
    """Return which channels of a target the model sees, where the bank or its network says."""
    if spec.channels:
        return [f"sees channels {', '.join(map(str, spec.channels))} of a target"]
    if spec.in_channels > 1:
        return [f"sees one channel of a target in all of its {spec.in_channels} inputs"]
    return []


def _bottleneck(spec: ModelSpec, network: Network, x: Tensor) -> tuple[tuple[str, ...], str]:
    from cte_dask.inference.graph.feature_path import bottleneck_of

    names = ((spec.bottleneck,) if spec.bottleneck else ()) + spec.layers
    batch = x.expand(network.fixed_batch or 1, *x.shape[1:]).contiguous()
    try:
        return tuple(bottleneck_of(network, batch, names=names)), "grey box"
    except ValueError as error:
        if names:
            raise
        return (), f"black box: {reason(error)}"


def _halo(spec: ModelSpec, network: Network, notes: list[str]) -> Shape:
    measured = halo_of(spec, network)
    if measured.note:
        notes.append(measured.note)
    if spec.halo_zyx is None:
        return measured.zyx
    if any(d < m for d, m in zip(spec.halo_zyx, measured.zyx, strict=True)):
        notes.append(f"the declared halo {spec.halo_zyx} is below the measured {measured.zyx}")
    return spec.halo_zyx


def seconds_per_tile(ready: Predictor, draws: Sequence[Draw]) -> float:
    """Time all passes of one batch of a model that has run before.

    Parameters
    ----------
    ready
        The loaded model.
    draws
        The perturbed runs that it supports, the unperturbed one left out.

    Returns
    -------
    float
        Seconds of wall time a tile, under every draw.
    """
    began = time.perf_counter()
    _tried(ready, draws)
    return (time.perf_counter() - began) * ready.samples_per_tile / ready.batch


def _tried(ready: Predictor, draws: Sequence[Draw]) -> None:
    with torch.inference_mode():
        try_out(ready, draws)
    synchronize(ready.device)
