"""Tiles → network → foreground probabilities: the reference and every perturbed pass together.

One `Predictor` holds one model on one device for one tile shape. Batches have a fixed number of
samples (the last one is padded), so that a tile's numbers do not depend on its neighbours in the
batch; what the passes of a tile share (the encoder, under feature perturbation) runs once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cte_dask.arrays import from_torch, namespace, to_torch
from cte_dask.device import dtype_of
from cte_dask.frames import SAME, Scale, frame_of
from cte_dask.instances import tile_labels
from cte_dask.models.loading import load_network
from cte_dask.models.preprocessing import preprocess
from cte_dask.outputs import (
    Prediction,
    foreground,
    resized,
    segmenter_channels,
    segmenter_maps,
    segmenter_of,
)
from cte_dask.perturb.draw import Draw
from cte_dask.perturb.feature import FeaturePath, feature_path
from cte_dask.perturb.input import CANONICAL_PERCENTILES, perturb_raw
from cte_dask.tiles import Shape, Tile

if TYPE_CHECKING:
    from cte_dask.models.formats import Network
    from cte_dask.models.spec import ModelSpec
    from cte_dask.volume.statistics import IntensityStatistics

__all__ = ["Predictor"]


class Predictor:
    """One model, loaded on one device, ready for the tiles of one grid.

    Parameters
    ----------
    spec
        The model, with its halo and multiple resolved.
    tile
        Extent of a whole tile (z, y, x), voxels.
    batch
        Samples (planes of a 2D model, boxes of a 3D model) in one forward pass.
    device
        ``"cpu"`` or ``"cuda"``.
    precision
        ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    scale
        Voxels of the network per voxel of the target (z, y, x).
    features
        Whether feature perturbations will be asked for.
    instances
        Whether instance labels will be asked for.

    Raises
    ------
    ModelError
        If the model cannot be loaded.
    ValueError
        If feature perturbation is asked for and the network cannot be opened.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        tile: Shape,
        batch: int,
        device: str = "cpu",
        precision: str = "auto",
        scale: Scale = SAME,
        features: bool = True,
        instances: bool = False,
    ) -> None:
        self.spec = spec
        self.device = device
        self.dtype = dtype_of(precision)
        self.tile = tile
        halo, multiple = spec.halo_zyx, spec.multiple_zyx
        if halo is None or multiple is None:
            raise ValueError(f"model {spec.name!r}: halo and multiple must be resolved first")
        self.frame = frame_of(tile, halo=halo, multiple=multiple, scale=scale)
        self.network: Network = load_network(spec, device=device, dtype=self.dtype)
        if self.network.kind == "module" and spec.dims == 2:
            # Convolution, norm and activation then share one layout; 3D convolutions gain nothing.
            self.network.forward.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.batch = self.network.fixed_batch or batch
        self.path: FeaturePath | None = self._open() if features else None
        self.instances = instances
        self.segmenter = segmenter_of(spec) if instances else None
        self.channels = segmenter_channels(spec, self.segmenter) if self.segmenter else ()

    def _open(self) -> FeaturePath:
        named = (self.spec.bottleneck,) if self.spec.bottleneck else ()
        names = (*named, *self.spec.layers)
        return feature_path(self.network, self.example(), names=names)

    def example(self) -> Tensor:
        """Return a batch of uniform noise of the shape, dtype and device that the network sees."""
        extent = self.frame.extent[-self.spec.dims :]
        x = torch.empty(self.batch, self.spec.in_channels, *extent, device=self.device)
        return x.uniform_(generator=torch.Generator(self.device).manual_seed(0)).to(self.dtype)

    def check(self) -> None:
        """Run one batch.

        Raises
        ------
        ValueError
            If the network fails on it or its output does not fit its input.
        """
        x = self.example()
        with torch.inference_mode():
            output = self.network.forward(x)
        if not isinstance(output, Tensor) or output.shape[2:] != x.shape[2:]:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"model {self.spec.name!r}: an input of shape {tuple(x.shape)} gives {got}; "
                "a map of the same extent is needed"
            )
        self._predicted(output)

    def flops_per_tile(self, draws: Sequence[Draw]) -> int:
        """Count the floating-point operations of one tile, unperturbed and under every draw.

        Counted by torch on one batch (2 a multiply-add; convolutions and matrix products).
        """
        samples = 1 if self.spec.dims == 3 else self.tile[0]
        features = sum(d.perturbation.space == "feature" for d in draws)
        x = self.example()
        channels = self.path.channels if self.path else ()
        ones = [x.new_ones(len(x), c, *(1,) * self.spec.dims) for c in channels]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            for masks in ([ones] * features, *([[]] * (len(draws) - features))):
                for _ in self._forward(x, masks):
                    pass
        return int(counter.get_total_flops()) * samples // len(x)

    def run(
        self,
        frames: Any,
        tiles: Sequence[Tile],
        draws: Sequence[Draw],
        *,
        intensity: IntensityStatistics,
        seed: int,
    ) -> list[Prediction]:
        """Predict some tiles, unperturbed and under every draw.

        Parameters
        ----------
        frames
            Raw intensities of the tiles' frames, float32 (T, z, y, x), NumPy or CuPy.
        tiles
            The T tiles.
        draws
            The perturbed runs.
        intensity
            Intensity statistics of the whole target, raw units.
        seed
            Seed of the experiment.

        Returns
        -------
        list of Prediction
            The reference, then one a draw; arrays of the whole tile's extent, on the device of
            `frames`.
        """
        planes = [self._samples(frames, intensity)]
        for draw in draws:
            if draw.perturbation.space == "input":
                noisy = self._perturbed(frames, tiles, draw, intensity, seed)
                planes.append(self._samples(noisy, intensity))
        masks = [
            self._masks(tiles, draw, seed) for draw in draws if draw.perturbation.space == "feature"
        ]
        outputs = [self._batched(planes[0], masks), *(self._batched(p, []) for p in planes[1:])]
        inputs, features = iter(o[0] for o in outputs[1:]), iter(outputs[0][1:])
        ordered = [next(inputs if d.perturbation.space == "input" else features) for d in draws]
        return [outputs[0][0], *ordered]

    def _samples(self, frames: Any, intensity: IntensityStatistics) -> Tensor:
        """Preprocess frames and lay them out as network samples (S, 1, [z,] y, x)."""
        steps = self.spec.preprocessing
        # a 2D model's image is one plane, also for statistics of scope tile
        units = frames.reshape(-1, *frames.shape[-self.spec.dims :])
        ready = namespace(frames).stack([preprocess(u, steps, intensity) for u in units])
        x = resized(to_torch(ready, self.device).to(self.dtype)[:, None], self.frame.extent)
        return x.expand(-1, self.spec.in_channels, *x.shape[2:]).contiguous()

    def _perturbed(
        self,
        frames: Any,
        tiles: Sequence[Tile],
        draw: Draw,
        intensity: IntensityStatistics,
        seed: int,
    ) -> Any:
        low, high = (intensity.percentile(q) for q in CANONICAL_PERCENTILES)
        z, y, x = self.frame.before
        return namespace(frames).stack(
            [
                perturb_raw(
                    draw.perturbation,
                    frame,
                    low=low,
                    high=high,
                    key=draw.key(seed, tile),
                    start=(-z, -y, -x),
                    core=self._inside(tile.shape),
                )
                for frame, tile in zip(frames, tiles, strict=True)
            ]
        )

    def _masks(self, tiles: Sequence[Tile], draw: Draw, seed: int) -> list[Tensor]:
        """Return one mask a layer, (S, C, 1, 1[, 1]): one draw a tile, the same for its planes."""
        if self.path is None:
            raise ValueError(f"model {self.spec.name!r} was loaded without feature perturbation")
        repeat = 1 if self.spec.dims == 3 else self.tile[0]
        kind, draw_mask = draw.perturbation, draw.perturbation.load()
        masks = []
        for ordinal, channels in enumerate(self.path.channels):
            drawn = np.stack(
                [
                    draw_mask(
                        channels, kind.strength, mode=kind.mode, key=draw.key(seed, tile, ordinal)
                    )
                    for tile in tiles
                ]
            )
            mask = torch.from_numpy(np.repeat(drawn, repeat, axis=0)).to(self.device, self.dtype)
            masks.append(mask.reshape(*mask.shape, *(1,) * self.spec.dims))
        return masks

    def _batched(self, samples: Tensor, masks: Sequence[Sequence[Tensor]]) -> list[Prediction]:
        """Run the reference (or one input-perturbed) pass and one decoder pass a set of masks."""
        parts: list[list[Prediction]] = [[] for _ in range(1 + len(masks))]
        with torch.inference_mode():
            for low in range(0, len(samples), self.batch):
                rows = slice(low, low + self.batch)
                n = len(samples[rows])
                cut = [[_padded(m[rows], self.batch) for m in layers] for layers in masks]
                passes = self._forward(_padded(samples[rows], self.batch), cut)
                for part, output in zip(parts, passes, strict=True):
                    part.append(self._predicted(output[:n]))
        return [self._tiles(part) for part in parts]

    def _forward(self, x: Tensor, masks: Sequence[Sequence[Tensor]]) -> Iterable[Tensor]:
        if self.path is None:
            yield self.network.forward(x)
            return
        state = self.path.encode(x)
        whole = [x.new_ones(len(x), c, *(1,) * self.spec.dims) for c in self.path.channels]
        for layers in (whole, *masks):
            yield self.path.decode(state, layers)

    def _predicted(self, output: Tensor) -> Prediction:
        """Cut the tile out of an output, (S, C, [z,] y, x); maps for a segmenter stay whole."""
        nearest = self.spec.output.activation == "labels"
        output = resized(output, self.frame.shape, nearest=nearest)
        box = self._inside(self.tile)[-self.spec.dims :]
        maps = foreground(output[(slice(None), slice(None), *box)], self.spec.output)
        whole = segmenter_maps(output, self.spec, self.channels) if self.instances else None
        return Prediction(tuple(from_torch(m.contiguous()) for m in maps.unbind(1)), whole)

    def _tiles(self, parts: Sequence[Prediction]) -> Prediction:
        """Join batches and put planes of a 2D model together again: (S, …) → (T, z, y, x)."""
        xp = namespace(parts[0].foreground[0])
        joined = (xp.concatenate(maps) for maps in zip(*(p.foreground for p in parts), strict=True))
        maps = tuple(m.reshape(-1, *self.tile) for m in joined)
        if not self.instances:
            return Prediction(maps)
        whole = xp.concatenate([p.labels for p in parts])
        labels = tile_labels(
            whole, self.segmenter, dims=self.spec.dims, frame=self.frame, tile=self.tile
        )
        return Prediction(maps, labels)

    def _inside(self, tile: Shape) -> tuple[slice, ...]:
        """Slices of a tile's core within its frame (z, y, x)."""
        return tuple(slice(b, b + t) for b, t in zip(self.frame.before, tile, strict=True))


def _padded(x: Tensor, size: int) -> Tensor:
    """Repeat the last sample until the batch is full: a batch's shape never changes."""
    missing = size - len(x)
    return x if missing == 0 else torch.cat([x, x[-1:].expand(missing, *x.shape[1:])])
