"""Tiles → network → foreground probabilities: the reference and every perturbed pass together.

One `Predictor` holds one model on one device for one tile shape. Batches have a fixed number of
samples (the last one is padded), so that a tile's numbers do not depend on its neighbours in the
batch; what the passes of a tile share (the encoder, under feature perturbation) runs once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cte_dask.arrays import dtype_of, from_torch, namespace, to_torch
from cte_dask.inference.device import arithmetic
from cte_dask.inference.graph.feature_path import FeaturePath, feature_path, moved_path
from cte_dask.inference.graph.paths import Proof, proof_of
from cte_dask.inference.graph.places import Core, seen_at
from cte_dask.inference.inputs import TileGroup, cut_small, feature_masks, perturbed, samples
from cte_dask.inference.instances import tile_labels
from cte_dask.inference.outputs import (
    Prediction,
    foreground,
    resized,
    segmenter_channels,
    segmenter_maps,
    segmenter_of,
)
from cte_dask.inference.passes import Passes, Seen, fitting, padded
from cte_dask.inference.probe import check_fraction
from cte_dask.inference.settings import Inference
from cte_dask.inference.time_limit import TimeLimitError, time_limit, within
from cte_dask.models.loading import load_network
from cte_dask.perturb import Draw, Perturbation
from cte_dask.perturb.views import Alike, TileContext, View, view_of
from cte_dask.perturb.warps import unmoved
from cte_dask.tiles import SAME, Scale, Tile

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from cte_dask.inference.inputs import Around
    from cte_dask.models.network import Network
    from cte_dask.models.spec import ModelSpec
    from cte_dask.perturb.kinds import Warp
    from cte_dask.tiles import Frame
    from cte_dask.volume.statistics import IntensityStatistics

__all__ = ["Predictor"]

MOST_HANGS = 2
"""How often a process tries a network that does not come back."""


class Predictor:
    """One model, loaded on one device, ready for the tiles of one grid.

    Parameters
    ----------
    spec
        The model, with its halo and multiple resolved.
    inference
        What it has in common with the run's other models.
    batch
        Samples (planes of a 2D model, boxes of a 3D model) in one forward pass.
    scale
        Voxels of the network per voxel of the target (z, y, x).
    alike
        Which axes have voxels of equal length; see `cte_dask.perturb.views`.
    invert
        Whether it sees the target with inverted contrast.
    network
        The model's network, if it is loaded already; it is shared, not copied.
    tried_seconds
        What a batch took when the model was tried.
    whole
        Whether every pass runs the whole network, as its shared ones were found to differ.
    runtime
        What runs the passes: ``"torch"``, ``"openvino"`` or ``"inductor"``.
    proof
        What was proven of its passes when it was tried; where it holds they are not tried again.
    shown
        Whether it will be compared on a real tile before it is used.

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
        inference: Inference,
        *,
        batch: int,
        scale: Scale = SAME,
        alike: Alike = (0, 1, 1),
        invert: bool = False,
        network: Network | None = None,
        tried_seconds: float = 0.0,
        whole: bool = False,
        runtime: str = "torch",
        proof: Proof | None = None,
        shown: bool = False,
    ) -> None:
        self.spec = spec
        self.device = inference.device
        self.precision, self.dtype = inference.precision, dtype_of(inference.precision)
        self._like = torch.empty(0, device=self.device, dtype=self.dtype)
        self.tile, halo, multiple = inference.tile, spec.halo_zyx, spec.multiple_zyx
        if halo is None or multiple is None:
            raise ValueError(f"model {spec.name!r}: halo and multiple must be resolved first")
        self._context = TileContext(self.tile, spec.dims, halo, multiple, scale, alike)
        self._view = cache(partial(view_of, context=self._context))
        self.frame = self.view(None).frame
        self.invert = invert
        self.network: Network = network or load_network(spec, device=self.device, dtype=self.dtype)
        if self.network.kind == "module":
            # Convolution, norm and activation then share one layout.
            layout = torch.channels_last if spec.dims == 2 else torch.channels_last_3d
            self.network.forward.to(memory_format=layout)  # type: ignore[call-overload]
        self.batch = self.network.fixed_batch or batch
        self.samples_per_tile = 1 if spec.dims == 3 else self.tile[0]
        self.instances, self._features = inference.instances, inference.features
        self.time_limit = time_limit(inference.time_limit, tried_seconds)
        self._hung, self._whole, self._proof, self._runtime = 0, whole, proof, runtime
        self._moved: dict[tuple[object, ...], Passes] = {}
        self._small = self.small_example() if shown else None
        self.open()
        self.segmenter = segmenter_of(spec) if self.instances else None
        self.channels = segmenter_channels(spec, self.segmenter) if self.segmenter else ()

    def arithmetic(self) -> AbstractContextManager[None]:
        """Return the context in which its passes have its precision."""
        return arithmetic(self.device, self.precision)

    def open(self) -> None:
        """Trace the network for its batch: for feature perturbation, and for quicker passes."""
        spec, frame = self.spec, self.frame
        self._moved.clear()
        inside = tuple(slice(b, b + t) for b, t in zip(frame.before, self.tile, strict=True))
        tile = seen_at(inside[-spec.dims :], frame.shape, frame.extent)
        self.core: Core | None = None if self.instances else tile  # a segmenter sees all of it
        opened = None
        try:
            with self.arithmetic():
                opened = self._opened()
        except ValueError:
            if self._features:
                raise
        self.path: FeaturePath | None = opened if self._features else None
        self.passes = Passes(self.network.forward, opened, self.frame.extent[-spec.dims :])
        self.use(self._runtime)

    def use(self, runtime: str) -> None:
        """Run passes by ``"torch"``, or as another runtime compiles them where they are split."""
        self._runtime, self.passes = runtime, self.passes.run_by(runtime)

    def _opened(self) -> FeaturePath | None:
        if self._whole and not self._features:
            return None
        x, proof = self.example(), self._proof
        if proof is not None and not proof.holds(tuple(x.shape), self.device):
            proof = None
        return feature_path(
            self.network,
            x,
            names=tuple(filter(None, (self.spec.bottleneck, *self.spec.layers))),
            core=self.core,
            whole=self._whole,
            proof=proof,
            small=self._small,
        )

    @property
    def proof(self) -> Proof | None:
        """What was proven of its passes; None if they are those of the whole network."""
        if self.passes.path is None or self._whole:
            return None
        return proof_of(self.passes.path, (self.batch, *self.example().shape[1:]), self.device)

    def view(self, perturbation: Perturbation | None) -> View:
        """Return what the model reads and sees of a tile under a perturbation, or none."""
        return self._view(perturbation)

    def example(self, view: View | None = None) -> Tensor:
        """Return a batch of uniform noise of the shape, dtype and device that the network sees."""
        extent = (view or self.view(None)).frame.extent[-self.spec.dims :]
        x = torch.empty(self.batch, self.spec.in_channels, *extent, device=self.device)
        return x.uniform_(generator=torch.Generator(self.device).manual_seed(0)).to(self.dtype)

    def small_example(self) -> Tensor:
        """Return two samples of noise, or fewer, of the least extent that the network takes.

        Where it takes one extent alone, they have that of its tiles.
        """
        x = self.example()[:2]
        if self.network.window is not None or self.network.fixed_shape is not None:
            return x
        return cut_small(x, self.spec)

    def check(self, perturbation: Perturbation | None = None) -> None:
        """Run one batch, of the shape that a geometric perturbation gives it.

        Raises
        ------
        ValueError
            If the network fails on it or its output does not fit its input.
        """
        self._check(self._seen(self.example(self.view(perturbation))), perturbation)

    def _seen(self, x: Tensor) -> Seen:
        with torch.inference_mode(), self.arithmetic():
            return Seen(x, fitting(self.network.forward(x), x))

    def _check(self, seen: Seen, perturbation: Perturbation | None = None) -> None:
        check_fraction(self.network, seen.x)
        view = self.view(perturbation)
        warp = None if perturbation is None else perturbation.warp(view, [(0, 0)] * len(seen.x))
        with torch.inference_mode():
            self._predicted(seen.output, warp or unmoved(view), view.frame, 0)

    def sees(self, group: TileGroup) -> Seen:
        """Run the whole network on one batch of real tiles; otherwise as `check`.

        Parameters
        ----------
        group
            Some tiles of the target.
        """
        rows = self._samples(group.frames, self.view(None), group)[: self.batch]
        seen = self._seen(padded(rows, self.batch))
        self._check(seen)
        return seen

    def run(
        self,
        frames: Any,
        tiles: Sequence[Tile],
        draws: Sequence[Draw],
        *,
        intensity: Sequence[IntensityStatistics],
        seed: int,
        around: Around | None = None,
    ) -> list[Prediction]:
        """Predict some tiles, unperturbed and under every draw.

        Parameters
        ----------
        frames, tiles, intensity, seed, around
            See `cte_dask.inference.inputs.TileGroup`.
        draws
            The perturbed runs.

        Returns
        -------
        list of Prediction
            The reference, then one a draw; arrays of the whole tile's extent, on the device of
            `frames`.

        Raises
        ------
        TimeLimitError
            If the network does not come back in time, or did not twice before.
        """
        if self._hung == MOST_HANGS:
            raise TimeLimitError(f"set aside: {MOST_HANGS} times before, it did not come back")
        work = partial(self._run, TileGroup(frames, tiles, intensity, seed, around), draws)
        try:
            return within(self.time_limit, work)
        except TimeLimitError:
            self._hung += 1
            raise

    def _run(self, group: TileGroup, draws: Sequence[Draw]) -> list[Prediction]:
        plain = self.view(None)
        masks = [self._masks(group, draw) for draw in draws if draw.perturbation.space == "feature"]
        images = self._samples(group.frames, plain, group)
        reference, *features = self._batched(images, masks, plain)
        featured, predictions = iter(features), [reference]
        for draw in draws:
            match draw.perturbation.space:
                case "input":
                    predictions.append(self._input_pass(group, draw, plain))
                case "feature":
                    predictions.append(next(featured))
                case _:
                    predictions.append(reference)
        return predictions

    def _input_pass(self, group: TileGroup, draw: Draw, plain: View) -> Prediction:
        view = self.view(draw.perturbation)
        images, warp = perturbed(group, draw, plain=plain, view=view)
        (prediction,) = self._batched(self._samples(images, view, group), [], view, warp)
        return prediction

    def _samples(self, images: Any, view: View, group: TileGroup) -> Tensor:
        options: Any = {"view": view, "intensity": group.intensity, "like": self._like}
        return samples(images, self.spec, invert=self.invert, **options)

    def _masks(self, group: TileGroup, draw: Draw) -> list[Tensor]:
        if self.path is None:
            raise ValueError(f"model {self.spec.name!r} was loaded without feature perturbation")
        return feature_masks(
            group,
            draw,
            channels=self.path.channels,
            planes=self.samples_per_tile,
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
        passes, warp = self.passes_of(view, warp, self.passes), warp or unmoved(view)
        core, frame = passes.core, view.frame
        cut_to = core if frame.shape == frame.extent else None
        predictions: list[list[Prediction]] = [[] for _ in range(1 + len(masks))]
        with torch.inference_mode(), self.arithmetic():
            for low in range(0, len(samples), self.batch):
                rows = slice(low, low + self.batch)
                n = len(samples[rows])
                cut = [[padded(m[rows], self.batch) for m in layers] for layers in masks]
                outputs = passes.run(padded(samples[rows], self.batch), cut, core=core)
                for batches, output in zip(predictions, outputs, strict=True):
                    maps = output if cut_to else passes.framed(output)
                    batches.append(self._predicted(maps[:n], warp, frame, low, core=cut_to))
        return [self._tiles(batches, warp, frame) for batches in predictions]

    def passes_of(self, view: View, warp: Warp | None, passes: Passes) -> Passes:
        """Return what runs passes whose voxels are moved.

        Parameters
        ----------
        view
            What they see.
        warp
            How they are moved; None if they are not.
        passes
            What runs those that are not moved.
        """
        if warp is None or passes.path is None:
            return passes
        reads = getattr(warp, "reads", None) if self.core else None
        reads = reads and seen_at(reads, view.frame.shape, view.frame.extent)
        key = (view.frame.extent, str(reads), type(passes.compiled))
        if key not in self._moved:
            x = self.example(view)
            with self.arithmetic():
                path = moved_path(self.network, x, passes.path, passes.extent, reads=reads)
            self._moved[key] = passes.along(path, x)
        return self._moved[key]

    def _predicted(
        self, output: Tensor, warp: Warp, frame: Frame, first: int, *, core: Core | None = None
    ) -> Prediction:
        """Cut the tile out of an output, (S, C, [z,] y, x); maps for a segmenter stay whole."""
        nearest = self.spec.output.activation == "labels"
        if core is None:
            output = resized(output, frame.shape, nearest=nearest)
        tiles = warp.back(output, first, nearest=nearest, **({"cut": True} if core else {}))
        segmenter_input = (
            segmenter_maps(output, self.spec, self.channels) if self.instances else None
        )
        maps = foreground(tiles, self.spec.output)
        return Prediction(
            tuple(from_torch(m.contiguous()) for m in maps.unbind(1)), segmenter_input
        )

    def _tiles(self, batches: Sequence[Prediction], warp: Warp, frame: Frame) -> Prediction:
        """Join batches and put planes of a 2D model together again: (S, …) → (T, z, y, x)."""
        xp = namespace(batches[0].foreground[0])
        joined = (
            xp.concatenate(maps) for maps in zip(*(p.foreground for p in batches), strict=True)
        )
        maps = tuple(m.reshape(-1, *self.tile) for m in joined)
        if not self.instances:
            return Prediction(maps)

        def cut(number: int, labels: Any) -> Any:
            sample = to_torch(labels, self.device)[None, None]
            return from_torch(warp.back(sample, number, nearest=True)[0, 0].contiguous())

        frames = xp.concatenate([p.labels for p in batches])
        labels = tile_labels(
            frames, self.segmenter, dims=self.spec.dims, frame=frame, tile=self.tile, cut=cut
        )
        return Prediction(maps, labels)
