"""What a network needs around a tile: where its channels stand, how many, its extents, its halo.

What the bank does not say is found by trying, in an order that costs little: channels first, at
extents of any multiple; then at one extent alone; then the same with the channels last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cte_dask.arrays import dtype_of
from cte_dask.errors import FOREIGN, reason
from cte_dask.inference import kept_halos
from cte_dask.inference.halo import Halo, measure_halo, still_gives
from cte_dask.inference.memory import out_of_memory
from cte_dask.inference.probe import probe_extent, probe_multiple
from cte_dask.models.described import described
from cte_dask.models.loading import load_network
from cte_dask.models.network import ModelError, Network
from cte_dask.models.one_image import OutputError
from cte_dask.models.source import pinned

if TYPE_CHECKING:
    from cte_dask.inference.settings import Inference
    from cte_dask.models.spec import ModelSpec
    from cte_dask.tiles import Shape

__all__ = [
    "Needs",
    "channels_told",
    "described_spec",
    "halo_of",
    "measured",
    "one_at_a_time",
    "only_extent",
    "with_extents",
    "with_needs",
]

Forward = Callable[[Tensor], Tensor]

_MULTIPLES: dict[tuple[str, int, int], int] = {}
"""What extents must be a multiple of, by code, dimensions and channels of networks."""
_MOST_CHANNELS = 8
_EXTENT = {2: 64, 3: 32}


def with_needs(spec: ModelSpec, *, limit: int) -> ModelSpec:
    """Return the model with all that its package says, and its halo and multiple measured.

    Parameters
    ----------
    spec
        The model.
    limit
        Largest halo searched for, in voxels.

    Raises
    ------
    ModelError
        If it cannot be loaded.
    ValueError
        If its needs cannot be measured.
    """
    return measured(spec, limit=limit)[0]


def measured(spec: ModelSpec, *, limit: int) -> tuple[ModelSpec, Network | None]:
    """Return the model as `with_needs` does, and the network that was loaded to measure them.

    None where nothing was measured, or what is measured changes how the network is loaded.
    """
    spec = described_spec(spec)
    if spec.halo is not None and spec.multiple is not None:
        return spec, None
    spec, network = with_extents(spec)
    if spec.halo is None:
        halo = halo_of(spec, network, limit=limit).zyx
        filled = dict(zip(spec.axes, halo[-spec.dims :], strict=True))
        spec = spec.model_copy(update={"halo": filled})
    alike = only_extent(spec, network) is None
    return spec, network if alike else None


def described_spec(spec: ModelSpec) -> ModelSpec:
    """Return the model completed by its package.

    Raises
    ------
    ModelError
        If the package cannot be read.
    """
    try:
        return described(spec)
    except ValueError as error:
        raise ModelError(f"model {spec.name!r}: {reason(error)}") from error


def with_extents(spec: ModelSpec) -> tuple[ModelSpec, Network]:
    """Load a model and find what the bank does not say of layout, extent and multiple.

    Parameters
    ----------
    spec
        The model, completed by its package.

    Returns
    -------
    tuple
        The model with its multiple, and its network.

    Raises
    ------
    ModelError
        If it cannot be loaded.
    ValueError
        If no extent gives an output of the same extent, with the reason of the first layout.
    """
    try:
        return _with_extents(spec)
    except (ModelError, OutputError):
        raise
    except FOREIGN as error:
        if spec.layout is not None or out_of_memory(error):
            raise
        try:
            return _with_extents(spec.model_copy(update={"layout": "channels_last"}))
        except FOREIGN:
            raise error from None


def _with_extents(spec: ModelSpec) -> tuple[ModelSpec, Network]:
    network = load_network(spec)
    extent = only_extent(spec, network)
    if spec.multiple is not None:
        return spec, replace(network, window=extent)
    if extent is None:
        forward = one_at_a_time(network)
        options = {"dims": spec.dims, "in_channels": spec.in_channels}
        key = (network.code, spec.dims, spec.in_channels)
        try:
            multiple = _MULTIPLES.get(key) or probe_multiple(forward, **options)
        except OutputError:
            raise
        except ValueError as error:
            alone = probe_extent(forward, **options)
            if alone is None:
                raise error from None
            extent = (alone,) * spec.dims
        else:
            if network.code:
                _MULTIPLES[key] = multiple
            return spec.model_copy(update={"multiple": dict.fromkeys(spec.axes, multiple)}), network
    filled = {"multiple": {a: n or 1 for a, n in zip(spec.axes, extent, strict=True)}}
    if all(extent):
        filled["extent"] = filled["multiple"]
    return spec.model_copy(update=filled), replace(network, window=extent)


@contextmanager
def channels_told(spec: ModelSpec) -> Iterator[None]:
    """Tell in our words, with the remedy, that a model failed as it takes other channels.

    Parameters
    ----------
    spec
        The model, completed by its package.

    Raises
    ------
    ValueError
        If that is why it failed; whatever else it raised is raised as it is.
    """
    try:
        yield
    except (ModelError, OutputError):
        raise
    except FOREIGN as error:
        count = None if out_of_memory(error) else _channels_found(spec)
        if count is None or count == spec.in_channels:
            raise
        raise ValueError(_other_channels(spec, count)) from error


def _other_channels(spec: ModelSpec, count: int) -> str:
    channels = f"{count} channel{'' if count == 1 else 's'}"
    if len(spec.channels) > 1:
        named = f"name {channels} of the target in channels"
    elif count == 1:
        named = "say in_channels: 1 in the bank"
    else:
        others = "rgb" if count == 3 else str(list(range(count)))
        named = (
            f"say in_channels: {count} in the bank, which repeats one channel of the target, or "
            f"channels: {others}"
        )
    return f"its network takes {channels}, not {spec.in_channels}: {named}"


def _channels_found(spec: ModelSpec) -> int | None:
    """Return how many channels a network takes, wherever they stand."""
    layouts = [spec.layout] if spec.layout else [None, "channels_last"]
    counts = (_channels_taken(spec.model_copy(update={"layout": one})) for one in layouts)
    return next((count for count in counts if count is not None), None)


def _channels_taken(spec: ModelSpec) -> int | None:
    """Return how many channels a network takes, those of the bank first; None if that is not it."""
    try:
        network = load_network(spec)
    except FOREIGN:
        return None
    forward = one_at_a_time(network)
    only = only_extent(spec, network) or (None,) * spec.dims
    multiple = (spec.multiple_zyx or (1, 1, 1))[3 - spec.dims :]
    least = _EXTENT[spec.dims]
    extent = [n or -(-least // m) * m for n, m in zip(only, multiple, strict=True)]
    counts: list[int] = [spec.in_channels, *range(1, _MOST_CHANNELS + 1)]
    for count in counts:
        try:
            with torch.no_grad():
                forward(torch.zeros(1, count, *extent))
        except FOREIGN:
            continue
        return count
    return None


def only_extent(spec: ModelSpec, network: Network) -> tuple[int | None, ...] | None:
    """Return the only extents ([z,] y, x) that a network takes; None if it takes any."""
    if spec.extent is not None:
        return tuple(spec.extent[axis] for axis in spec.axes)
    return network.fixed_spatial


def one_at_a_time(network: Network) -> Forward:
    """Return the network for one tile at a time, whatever batch it insists on."""
    batch = network.fixed_batch or 1

    def forward(x: Tensor) -> Tensor:
        output: Tensor = network.forward(x.expand(batch, *x.shape[1:]).contiguous())
        return output[:1]

    return forward


def halo_of(spec: ModelSpec, network: Network, *, limit: int | None = None) -> Halo:
    """Measure the halo of a model whose multiple is known, or find it measured before.

    Parameters
    ----------
    spec, network
        The model.
    limit
        Largest halo searched for, in voxels.

    Raises
    ------
    ValueError
        If the network does not accept the frames.
    """
    forward, activation = one_at_a_time(network), _activation(spec)
    kept = kept_halos.recall(spec, limit)
    if kept is not None and still_gives(kept.witnesses, forward, activation=activation):
        return kept
    halo = measure_halo(
        forward,
        dims=spec.dims,
        multiple=(spec.multiple_zyx or (1, 1, 1))[3 - spec.dims :],
        in_channels=spec.in_channels,
        activation=activation,
        limit=limit,
        extent=only_extent(spec, network),
    )
    kept_halos.keep(spec, limit, halo)
    return halo


def _activation(spec: ModelSpec) -> Forward | None:
    if spec.output.activation == "labels":
        return lambda y: (y > 0).float()  # numbers of objects change with the extent
    if spec.output.activation == "softmax":
        return lambda y: torch.softmax(y, dim=1)
    return torch.sigmoid if spec.output.activation == "sigmoid" else None


class Needs:
    """Measures what a model needs once for all of its candidates.

    Parameters
    ----------
    tile
        Extent of a whole tile (z, y, x): the largest halo is that of its axes.
    """

    def __init__(self, tile: Shape) -> None:
        self._tile = tile
        self._name = ""
        self._result: ModelSpec | BaseException = ValueError("no model yet")
        self._network: Network | None = None

    def of(self, spec: ModelSpec) -> ModelSpec:
        """Return a model with its needs; raise again what measuring them raised."""
        if spec.name != self._name:
            self._name, self._network = spec.name, None
            limit = min(self._tile[-spec.dims :])
            try:
                self._result, self._network = measured(pinned(spec), limit=limit)
            except FOREIGN as error:
                self._result = error
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result

    def network(self, inference: Inference) -> Network | None:
        """Hand out, once, the network that was loaded to measure, if it is what the run needs."""
        network, self._network = self._network, None
        here = inference.device == "cpu" and dtype_of(inference.precision) == dtype_of("float32")
        return network if here else None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_network": None}
