"""What goes into a network's passes: images of tiles, and multipliers of feature maps.

Images are perturbed as asked, preprocessed and laid out as samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cte_dask.arrays import namespace, to_torch
from cte_dask.inference.outputs import resized
from cte_dask.inference.preprocess import preprocess
from cte_dask.models.preprocessing import Step, tells_channels_apart
from cte_dask.perturb.canonical import CANONICAL_PERCENTILES
from cte_dask.perturb.kinds import DrawnTiles

if TYPE_CHECKING:
    from cte_dask.models.spec import ModelSpec
    from cte_dask.perturb import Draw
    from cte_dask.perturb.kinds import Warp
    from cte_dask.perturb.views import View
    from cte_dask.tiles import Tile
    from cte_dask.volume.statistics import IntensityStatistics

__all__ = ["Around", "TileGroup", "cut_small", "feature_masks", "inverted", "perturbed", "samples"]

Around = Callable[["View"], Any]

SMALL = {2: (64, 64), 3: (16, 32, 32)}
"""Extents at which a network shows how it behaves from call to call, if they are multiples."""


@dataclass(frozen=True, slots=True)
class TileGroup:
    """Some tiles of the target, as the passes of one model read them.

    Parameters
    ----------
    frames
        Raw intensities of the tiles' frames, float32 (T, C, z, y, x), NumPy or CuPy.
    tiles
        The T tiles.
    intensity
        Intensity statistics of each of the C channels in the whole target, raw units.
    seed
        Seed of the experiment.
    around
        Gives the boxes of another view of the tiles, as `frames`; None if there is no other.
    """

    frames: Any
    tiles: Sequence[Tile]
    intensity: Sequence[IntensityStatistics]
    seed: int
    around: Around | None = None


def perturbed(group: TileGroup, draw: Draw, *, plain: View, view: View) -> tuple[Any, Warp | None]:
    """Return the images of an input perturbation, and how its predictions come back.

    All channels are moved and changed alike; a kind that draws by channel, as noise does, draws
    anew for each place in the network's input.

    Parameters
    ----------
    group
        The tiles.
    draw
        A run perturbed in input space.
    plain, view
        What is read without the perturbation, and with it.

    Raises
    ------
    ValueError
        If `view` lies elsewhere than the frames and `group` cannot tell what is there.
    """
    frames = group.frames
    if view.box != plain.box:
        if group.around is None:
            name = draw.perturbation.name
            raise ValueError(f"{name!r} reads other boxes than the frames: give them")
        frames = group.around(view)
    by_channel, images, warp = draw.perturbation.load().by_channel, [], None
    for channel, intensity in enumerate(group.intensity):
        low, high = (intensity.percentile(q) for q in CANONICAL_PERCENTILES)
        layer = channel if by_channel else 0
        keys = [draw.key(group.seed, tile, layer) for tile in group.tiles]
        drawn = DrawnTiles(view, group.tiles, keys, low, high)
        image, warp = draw.perturbation.images(frames[:, channel], drawn)
        images.append(image)
    return _beside(images), warp


def feature_masks(
    group: TileGroup,
    draw: Draw,
    *,
    channels: Sequence[int],
    planes: int,
    dims: int,
    like: Tensor,
) -> list[Tensor]:
    """Draw the multipliers of feature maps, laid out as a network's samples.

    Parameters
    ----------
    group
        T tiles; each has one draw, the same for all its planes.
    draw
        A run perturbed in feature space.
    channels
        Feature maps C of each perturbed layer.
    planes
        Samples a tile.
    dims
        Spatial axes of a sample, 2 or 3.
    like
        Gives device and dtype.

    Returns
    -------
    list of Tensor
        One a layer, (T * planes, C, 1, 1[, 1]).
    """
    masks = []
    for layer, count in enumerate(channels):
        keys = [draw.key(group.seed, tile, layer) for tile in group.tiles]
        drawn = np.stack([draw.perturbation.multipliers(count, key) for key in keys])
        mask = torch.from_numpy(np.repeat(drawn, planes, axis=0)).to(like.device, like.dtype)
        masks.append(mask.reshape(*mask.shape, *(1,) * dims))
    return masks


def samples(
    frames: Any,
    spec: ModelSpec,
    *,
    view: View,
    intensity: Sequence[IntensityStatistics],
    like: Tensor,
    invert: bool = False,
) -> Tensor:
    """Preprocess frames and lay them out as network samples.

    Parameters
    ----------
    frames
        On the grid of the view's frame, float32 (T, C, z, y, x).
    spec
        The model.
    view
        What the network sees.
    intensity
        Intensity statistics of each of the C channels in the whole target, raw units.
    like
        Gives device and dtype.
    invert
        Whether the contrast is inverted first.

    Returns
    -------
    Tensor
        (S, C, [z,] y, x): planes of a 2D model are samples; a single channel is repeated over all
        that the network takes.
    """
    steps, xp = spec.preprocessing, namespace(frames)
    if tells_channels_apart(steps) and len(intensity) < spec.in_channels:
        # one channel that is repeated: what goes into each input is another image of it
        frames = xp.broadcast_to(frames, (len(frames), spec.in_channels, *frames.shape[2:]))
        intensity = list(intensity) * spec.in_channels
    if invert:
        ends = [[i.percentile(q) for q in CANONICAL_PERCENTILES] for i in intensity]
        steps = inverted(steps, *zip(*ends, strict=True))
    # a 2D model's image is one plane, also for statistics of scope tile
    extent = frames.shape[-spec.dims :]
    channels = [frames[:, number].reshape(-1, *extent) for number in range(len(intensity))]
    images = xp.empty((len(channels[0]), len(channels), *extent), np.float32)
    for image, *units in zip(images, *channels, strict=True):
        for number, channel in enumerate(preprocess(units, steps, intensity)):
            image[number] = channel
    x = resized(to_torch(images, like.device).to(like.dtype), view.frame.extent)
    return x.expand(-1, spec.in_channels, *x.shape[2:]).contiguous()


def cut_small(x: Tensor, spec: ModelSpec) -> Tensor:
    """Cut a batch (N, C, [z,] y, x) to the least extent at which a model shows how it behaves."""
    strides = (spec.multiple_zyx or (1, 1, 1))[3 - spec.dims :]
    least = (max(2, -(-n // m)) * m for n, m in zip(SMALL[spec.dims], strides, strict=True))
    for axis, extent in enumerate(least, start=2):
        x = x.narrow(axis, 0, min(extent, x.shape[axis]))
    return x.contiguous()


def _beside(channels: Sequence[Any]) -> Any:
    """Return channels (S, …) as one array (S, C, …); one alone is not copied."""
    if len(channels) == 1:
        return channels[0][:, None]
    return namespace(channels[0]).stack(channels, axis=1)


def inverted(
    steps: Sequence[Step], low: Sequence[float], high: Sequence[float]
) -> tuple[Step, ...]:
    """Return preprocessing that inverts the contrast first: `low` and `high` change places.

    Parameters
    ----------
    steps
        The steps that follow; their statistics are those of the inverted target.
    low, high
        Intensities of each channel, raw units.
    """
    kwargs = {"gain": -1.0, "offset": [a + b for a, b in zip(low, high, strict=True)]}
    return (Step.model_validate({"name": "scale_linear", "kwargs": kwargs}), *steps)
