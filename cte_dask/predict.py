"""Tiles → network → foreground probabilities: the reference and every perturbed pass together.

One `Predictor` holds one model on one device for one tile shape. Batches have a fixed number of
samples (the last one is padded), so that a tile's numbers do not depend on its neighbours in the
batch; what the passes of a tile share (the encoder, under feature perturbation) runs once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cte_dask.arrays import from_torch, namespace, to_torch
from cte_dask.device import dtype_of
from cte_dask.frames import SAME, Scale
from cte_dask.images import Around, Given, perturbed, samples
from cte_dask.instances import tile_labels
from cte_dask.models.loading import load_network
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
from cte_dask.perturb.geometric import Warp, unmoved
from cte_dask.perturb.masks import tile_masks
from cte_dask.tiles import Shape, Tile
from cte_dask.views import Alike, View, view_of

if TYPE_CHECKING:
    from cte_dask.frames import Frame
    from cte_dask.models.formats import Network
    from cte_dask.models.spec import ModelSpec
    from cte_dask.perturb import Perturbation
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
    alike
        Which axes have voxels of equal length; see `cte_dask.views`.
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
        alike: Alike = (0, 1, 1),
        features: bool = True,
        instances: bool = False,
    ) -> None:
        self.spec = spec
        self.device = device
        self.dtype = dtype_of(precision)
        self._like = torch.empty(0, device=device, dtype=self.dtype)
        self.tile = tile
        halo, multiple = spec.halo_zyx, spec.multiple_zyx
        if halo is None or multiple is None:
            raise ValueError(f"model {spec.name!r}: halo and multiple must be resolved first")
        self._geometry = partial(
            view_of,
            tile=tile,
            dims=spec.dims,
            halo=halo,
            multiple=multiple,
            scale=scale,
            alike=alike,
        )
        self.frame = self.view(None).frame
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

    def view(self, perturbation: Perturbation | None) -> View:
        """Return what the model reads and sees of a tile under a perturbation, or none."""
        return self._geometry(perturbation)

    def example(self, perturbation: Perturbation | None = None) -> Tensor:
        """Return a batch of uniform noise of the shape, dtype and device that the network sees."""
        extent = self.view(perturbation).frame.extent[-self.spec.dims :]
        x = torch.empty(self.batch, self.spec.in_channels, *extent, device=self.device)
        return x.uniform_(generator=torch.Generator(self.device).manual_seed(0)).to(self.dtype)

    def check(self, perturbation: Perturbation | None = None) -> None:
        """Run one batch, of the shape that a geometric perturbation gives it.

        Raises
        ------
        ValueError
            If the network fails on it or its output does not fit its input.
        """
        x = self.example(perturbation)
        with torch.inference_mode():
            output = self.network.forward(x)
        if not isinstance(output, Tensor) or output.shape[2:] != x.shape[2:]:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"model {self.spec.name!r}: an input of shape {tuple(x.shape)} gives {got}; "
                "a map of the same extent is needed"
            )
        view, warp = self.view(perturbation), None
        if perturbation is not None:
            warp = perturbation.load()(view, perturbation.strength, [(0, 0)] * len(x))
        self._predicted(output, warp or unmoved(view), view.frame, 0)

    def flops_per_tile(self, draws: Sequence[Draw]) -> int:
        """Count the floating-point operations of one tile, unperturbed and under every draw.

        Counted by torch on one batch (2 a multiply-add; convolutions and matrix products).
        """
        samples = 1 if self.spec.dims == 3 else self.tile[0]
        inputs = [d.perturbation for d in draws if d.perturbation.space == "input"]
        x = self.example()
        channels = self.path.channels if self.path else ()
        ones = [x.new_ones(len(x), c, *(1,) * self.spec.dims) for c in channels]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            for _ in self._forward(x, [ones for d in draws if d.perturbation.space == "feature"]):
                pass
            for perturbation in inputs:
                for _ in self._forward(self.example(perturbation), []):
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
        around: Around | None = None,
    ) -> list[Prediction]:
        """Predict some tiles, unperturbed and under every draw.

        Parameters
        ----------
        frames, tiles, intensity, seed, around
            See `cte_dask.images.Given`.
        draws
            The perturbed runs.

        Returns
        -------
        list of Prediction
            The reference, then one a draw; arrays of the whole tile's extent, on the device of
            `frames`.
        """
        given = Given(frames, tiles, intensity, seed, around)
        masks = [self._masks(given, draw) for draw in draws if draw.perturbation.space == "feature"]
        plain = self.view(None)
        reference, *features = self._batched(
            self._samples(given.frames, plain, given), masks, plain
        )
        featured, predictions = iter(features), [reference]
        for draw in draws:
            if draw.perturbation.space != "input":
                unperturbed = draw.perturbation.space == "none"
                predictions.append(reference if unperturbed else next(featured))
                continue
            view = self.view(draw.perturbation)
            images, warp = perturbed(given, draw, plain=plain, view=view)
            predictions += self._batched(self._samples(images, view, given), [], view, warp)
        return predictions

    def _samples(self, images: Any, view: View, given: Given) -> Tensor:
        intensity = given.intensity
        return samples(images, self.spec, view=view, intensity=intensity, like=self._like)

    def _masks(self, given: Given, draw: Draw) -> list[Tensor]:
        if self.path is None:
            raise ValueError(f"model {self.spec.name!r} was loaded without feature perturbation")
        return tile_masks(
            draw,
            given.tiles,
            seed=given.seed,
            channels=self.path.channels,
            planes=1 if self.spec.dims == 3 else self.tile[0],
            dims=self.spec.dims,
            like=self._like,
        )

    def _batched(
        self,
        samples: Tensor,
        masks: Sequence[Sequence[Tensor]],
        view: View,
        warp: Warp | None = None,
    ) -> list[Prediction]:
        """Run the reference (or one input-perturbed) pass and one decoder pass a set of masks."""
        warp, frame = warp or unmoved(view), view.frame
        parts: list[list[Prediction]] = [[] for _ in range(1 + len(masks))]
        with torch.inference_mode():
            for low in range(0, len(samples), self.batch):
                rows = slice(low, low + self.batch)
                n = len(samples[rows])
                cut = [[_padded(m[rows], self.batch) for m in layers] for layers in masks]
                passes = self._forward(_padded(samples[rows], self.batch), cut)
                for part, output in zip(parts, passes, strict=True):
                    part.append(self._predicted(output[:n], warp, frame, low))
        return [self._tiles(part, warp, frame) for part in parts]

    def _forward(self, x: Tensor, masks: Sequence[Sequence[Tensor]]) -> Iterable[Tensor]:
        # a trace may hold the extent that it was made with: other ones go the plain way
        if self.path is None or tuple(x.shape[2:]) != self.frame.extent[-self.spec.dims :]:
            yield self.network.forward(x)
            return
        state = self.path.encode(x)
        whole = [x.new_ones(len(x), c, *(1,) * self.spec.dims) for c in self.path.channels]
        for layers in (whole, *masks):
            yield self.path.decode(state, layers)

    def _predicted(self, output: Tensor, warp: Warp, frame: Frame, first: int) -> Prediction:
        """Cut the tile out of an output, (S, C, [z,] y, x); maps for a segmenter stay whole."""
        nearest = self.spec.output.activation == "labels"
        output = resized(output, frame.shape, nearest=nearest)
        maps = foreground(warp.back(output, first, nearest=nearest), self.spec.output)
        whole = segmenter_maps(output, self.spec, self.channels) if self.instances else None
        return Prediction(tuple(from_torch(m.contiguous()) for m in maps.unbind(1)), whole)

    def _tiles(self, parts: Sequence[Prediction], warp: Warp, frame: Frame) -> Prediction:
        """Join batches and put planes of a 2D model together again: (S, …) → (T, z, y, x)."""
        xp = namespace(parts[0].foreground[0])
        joined = (xp.concatenate(maps) for maps in zip(*(p.foreground for p in parts), strict=True))
        maps = tuple(m.reshape(-1, *self.tile) for m in joined)
        if not self.instances:
            return Prediction(maps)

        def cut(number: int, labels: Any) -> Any:
            sample = to_torch(labels, self.device)[None, None]
            return from_torch(warp.back(sample, number, nearest=True)[0, 0].contiguous())

        whole = xp.concatenate([p.labels for p in parts])
        labels = tile_labels(
            whole, self.segmenter, dims=self.spec.dims, frame=frame, tile=self.tile, cut=cut
        )
        return Prediction(maps, labels)

    def _inside(self, tile: Shape) -> tuple[slice, ...]:
        """Slices of a tile's core within its frame (z, y, x)."""
        return tuple(slice(b, b + t) for b, t in zip(self.frame.before, tile, strict=True))


def _padded(x: Tensor, size: int) -> Tensor:
    """Repeat the last sample until the batch is full: a batch's shape never changes."""
    missing = size - len(x)
    return x if missing == 0 else torch.cat([x, x[-1:].expand(missing, *x.shape[1:])])
