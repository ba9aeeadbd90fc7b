"""Decoder layers of a network, and their features at sampled voxels of a tile, for CCFV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cte_dask.evaluation.comparators.ccfv import TileFeatures, tile_features
from cte_dask.inference.graph.bottleneck import BlackBoxError, bottleneck_module

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.inference.predictor import Predictor
    from cte_dask.models.network import Network
    from cte_dask.tiles import Tile

__all__ = [
    "FEWEST_VOXELS",
    "Captured",
    "DecoderLayer",
    "captured",
    "decoder_layers",
    "drawn_voxels",
    "features_at",
    "sampled_features",
]

Maps = list[list[Tensor]]


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One call of a module behind the bottleneck.

    Parameters
    ----------
    name
        Name of the module.
    call, calls
        Which of its calls in a forward pass, and how many there are.
    extent, channels
        Extent and channels of its output for the batch with which the layers were searched.
    """

    name: str
    call: int
    calls: int
    extent: tuple[int, ...]
    channels: int


def decoder_layers(network: Network, x: Tensor) -> tuple[DecoderLayer, ...]:
    """Return the decoder's layers, deepest first: one for every extent after the bottleneck.

    Parameters
    ----------
    network
        The loaded model, an ordinary ``nn.Module``.
    x
        One batch, (N, C, [z,] y, x).

    Returns
    -------
    tuple of DecoderLayer
        One layer for each extent behind the bottleneck (`cte_dask.inference.graph.bottleneck`):
        the last module whose output has more channels than the network's. It gives the features
        before the head, not the logits.

    Raises
    ------
    BlackBoxError
        If the network is no ``nn.Module``, has no bottleneck, or nothing behind it.
    """
    if network.kind != "module":
        raise BlackBoxError(f"the network is no nn.Module but of kind {network.kind!r}")
    name, _, call = bottleneck_module(network.forward, x).partition("@")
    calls, channels = _calls(network.forward, x)
    position = next(i for i, c in enumerate(calls) if (c.name, c.call) == (name, int(call or 0)))
    deepest = np.prod(calls[position].extent)
    layers = {
        c.extent: c
        for c in calls[position + 1 :]
        if np.prod(c.extent) > deepest and c.channels > channels
    }
    if not layers:
        raise BlackBoxError(f"no layer with features behind the bottleneck {name!r}")
    return tuple(sorted(layers.values(), key=lambda c: int(np.prod(c.extent))))


def _calls(module: nn.Module, x: Tensor) -> tuple[list[DecoderLayer], int]:
    """Return every module's calls in the order in which they end, and the output's channels."""
    ended: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _args: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == x.ndim and len(output) == len(x):
                ended.append((name, tuple(output.shape[1:])))

        return hook

    handles = [m.register_forward_hook(note(n)) for n, m in module.named_modules() if n]
    try:
        with torch.inference_mode():
            channels = module(x).shape[1]
    finally:
        for handle in handles:
            handle.remove()
    totals, earlier, calls = Counter(name for name, _ in ended), Counter[str](), []
    for name, (width, *extent) in ended:
        calls.append(DecoderLayer(name, earlier[name], totals[name], tuple(extent), width))
        earlier[name] += 1
    return calls, channels


@dataclass(frozen=True, slots=True)
class Captured:
    """Outputs of some layers from the predictions of a batch.

    Parameters
    ----------
    maps
        One list a layer of one output (N, C, [z,] y, x) a batch.
    """

    maps: Maps

    def sample(self, layer: int, number: int) -> Tensor:
        """Return a layer's features of the `number`-th sample, (C, [z,] y, x)."""
        size = len(self.maps[layer][0])
        return self.maps[layer][number // size][number % size]


@contextmanager
def captured(module: nn.Module, layers: Sequence[DecoderLayer]) -> Iterator[Captured]:
    """Yield the outputs of some layers, filled by every forward pass inside the context."""
    outputs = Captured([[] for _ in layers])
    named = dict(module.named_modules())
    handles = [
        named[layer.name].register_forward_hook(_keeper(layer, maps))
        for layer, maps in zip(layers, outputs.maps, strict=True)
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _keeper(layer: DecoderLayer, maps: list[Tensor]) -> Callable[[nn.Module, object, Any], None]:
    # Counts the module's calls over all forward passes: one network may call a module twice.
    count = iter(range(1 << 62))

    def hook(_module: nn.Module, _args: object, output: Any) -> None:
        if next(count) % layer.calls == layer.call:
            maps.append(output.clone())  # what follows may work in place

    return hook


def features_at(features: Tensor, places: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return features at places, as if the map were upsampled linearly to the output.

    Parameters
    ----------
    features
        One sample's map (C, [z,] y, x) of any extent.
    places
        Voxel centres relative to the frame, (n, 2 or 3) in [0, 1] along ([z,] y, x).

    Returns
    -------
    ndarray of float32, shape (n, C)
    """
    # grid_sample wants x before y (before z), in [-1, 1].
    grid = torch.from_numpy(np.ascontiguousarray(2 * places[:, ::-1] - 1)).to(features.device)
    shape = (1, len(places), *(1,) * (places.shape[1] - 1), places.shape[1])
    samples = functional.grid_sample(
        features[None].float(),
        grid.float().reshape(shape),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    values: NDArray[np.float32] = samples.reshape(len(features), len(places)).T.cpu().numpy()
    return values


FEWEST_VOXELS = 64
"""Labelled voxels that a tile needs for CCFV to compare its features."""

SAMPLED = 400
"""Voxels sampled in the finest decoder layer; each deeper layer has half as many."""


def drawn_voxels(
    tile: Tile, truth: NDArray[Any], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw voxels of a tile: the same ones for every model.

    Parameters
    ----------
    tile
        The tile.
    truth
        Its labels (z, y, x).
    seed
        Seed of the drawing, together with the tile's number.

    Returns
    -------
    tuple of ndarray of int64
        Voxels (n, 3) of the labelled foreground, without replacement, and of the whole tile.
    """
    rng = np.random.default_rng((seed, tile.index))
    inside = np.argwhere(truth > 0)
    inside = inside[rng.permutation(len(inside))[:SAMPLED]]
    return inside, np.stack([rng.integers(0, s, SAMPLED) for s in tile.shape], axis=1)


def sampled_features(
    ready: Predictor,
    outputs: Captured,
    number: int,
    drawn: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> tuple[TileFeatures, ...]:
    """Return a tile's features for CCFV, a `TileFeatures` a layer, deepest first.

    Parameters
    ----------
    ready
        The model.
    outputs
        Outputs of its decoder layers for some tiles.
    number
        Place of the tile among them.
    drawn
        From `drawn_voxels`. A deeper layer gets the first of them, half as many as the finer one:
        its features are coarser ("to avoid feature redundancy", sec. 2.2 of the paper).

    Returns
    -------
    tuple of TileFeatures
    """
    features = []
    for layer in range(len(outputs.maps)):
        most = max(FEWEST_VOXELS, SAMPLED >> (len(outputs.maps) - 1 - layer))
        inside, everywhere = (
            _features_of_voxels(ready, outputs, layer, number, voxels=voxels[:most])
            for voxels in drawn
        )
        features.append(tile_features(inside, everywhere))
    return tuple(features)


def _features_of_voxels(
    ready: Predictor, outputs: Captured, layer: int, number: int, *, voxels: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return a layer's features at voxels (n, 3) of the `number`-th tile, (n, C)."""
    frame, dims = ready.frame, ready.spec.dims
    # Voxel centres within the frame, as fractions: layers of any extent are read at one place.
    places = (voxels + frame.before + 0.5) / np.array(frame.shape)
    if dims == 3:
        return features_at(outputs.sample(layer, number), places)
    # For a 2D model each plane of a tile is a sample. Rows come out ordered by plane, which the
    # statistics of CCFV do not see.
    planes = np.unique(voxels[:, 0])
    first = number * ready.tile[0]
    features = [
        features_at(outputs.sample(layer, first + int(z)), places[voxels[:, 0] == z, 1:])
        for z in planes
    ]
    return np.concatenate(features)
