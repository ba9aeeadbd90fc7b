"""Foreground masks of every network, unperturbed and perturbed, kept so that none is made twice.

Perturbations are those of METHOD, drawn as the package draws them: keyed by the seed, the
perturbation and the image's number, the same for every network. An image is one tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from bank import Floats, Network, load
from images import Images
from torch import Tensor, nn
from torch.nn import functional

from cte_dask.inference.graph.bottleneck import bottleneck_module, hooked
from cte_dask.perturb import Perturbation, philox
from cte_dask.perturb.canonical import add_increment
from cte_dask.perturb.values import Gaussian

__all__ = ["PERTURBATIONS", "REFERENCE", "Mask", "Masks", "Predictor"]

REFERENCE = "none"
PERTURBATIONS = ("dropout:0.2", "mirror", "gaussian:0.1", "zoom:0.8")
"""Fixed before any network was run, as their strengths are in the method."""

SEED = 0
THRESHOLD = 0.5
MULTIPLE = 32
"""Extents that every one of the networks takes are its multiples."""

Mask = npt.NDArray[np.bool_]


class Predictor:
    """One network on one target.

    Parameters
    ----------
    network
        How it is used.
    module
        It itself; gives the probability of vessel.
    images
        The target.
    """

    def __init__(self, network: Network, module: nn.Module, images: Images) -> None:
        self.network, self.module, self.images = network, module, images
        # of the target's images, not of a magnified one: else a magnification would be undone
        self.scale = network.width / images.raw.shape[2] if network.width else 1.0
        channels = self._input(images.colours(0)).shape[1]
        example = torch.zeros(1, channels, 128, 128)
        self.bottleneck = network.bottleneck or bottleneck_module(module, example)

    def mask(self, number: int, perturbation: str) -> Mask:
        """Return where the probability is above one half, bool (y, x).

        ``REFERENCE`` in place of a perturbation asks for the unperturbed prediction.
        """
        image = self.images.colours(number)
        with torch.inference_mode():
            if perturbation == REFERENCE:
                probability = self.probability(image)
            else:
                parsed = Perturbation.parse(perturbation)
                key = philox.key(SEED, parsed.name, 0, number, 0)
                probability = self._perturbed(parsed, image, key)
        foreground: Mask = (probability[0, 0] > THRESHOLD).numpy()
        return foreground

    def _perturbed(self, perturbation: Perturbation, image: Floats, key: philox.Key) -> Tensor:
        if perturbation.kind == "dropout":
            with self._dropped(perturbation, key):
                return self.probability(image)
        if perturbation.kind == "mirror":
            axis = (-1, -2)[int(2 * philox.uniform(key, 1)[0])]
            mirrored = np.ascontiguousarray(np.flip(image, axis))
            return self.probability(mirrored).flip(axis)
        if perturbation.kind == "gaussian":
            return self.probability(self._noisy(image, perturbation.strength, key))
        if perturbation.kind == "zoom":
            factor = perturbation.strength
            extent = [round(factor * n) for n in image.shape[1:]]
            magnified = _resized(torch.from_numpy(image)[None], extent)[0].numpy()
            return _resized(self.probability(magnified), image.shape[1:])
        raise ValueError(f"unknown perturbation {perturbation.kind!r} (accepted: {PERTURBATIONS})")

    def probability(self, image: Floats) -> Tensor:
        """Return the probability of vessel on the image's own grid, (1, 1, y, x)."""
        extent = image.shape[1:]
        network_input = self._input(image)
        height, width = network_input.shape[2:]
        margins = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        padded = functional.pad(network_input, margins, mode="reflect")
        output: Tensor = self.module(padded.contiguous(memory_format=torch.channels_last))
        return _resized(output[..., :height, :width], extent)

    def _input(self, image: Floats) -> Tensor:
        prepared = torch.from_numpy(self.network.prepare(image))[None]
        if self.scale == 1:
            return prepared
        return _resized(prepared, [round(self.scale * n) for n in image.shape[1:]])

    def _noisy(self, image: Floats, strength: float, key: philox.Key) -> Floats:
        """Add noise on the canonical scale, of each colour its own."""
        core = (slice(None),) * 3
        noisy: Floats = add_increment(
            image,
            lambda x: Gaussian().increment(x, strength, key=key, start=(0, 0, 0), core=core),
            low=self.images.low,
            high=self.images.high,
        )
        return noisy

    @contextmanager
    def _dropped(self, perturbation: Perturbation, key: philox.Key) -> Iterator[None]:
        """Drop feature maps of the bottleneck, which is found as the package finds it."""

        def dropped(_layer: int, features: Tensor) -> Tensor:
            factors = torch.from_numpy(perturbation.multipliers(features.shape[1], key))
            return features * factors[None, :, None, None]

        with hooked(self.module, [self.bottleneck], dropped):
            yield


def _resized(x: Tensor, extent: tuple[int, ...] | list[int]) -> Tensor:
    """Interpolate linearly at the centres of another grid, over all that a coarser pixel covers."""
    if list(x.shape[2:]) == list(extent):
        return x
    return functional.interpolate(
        x, size=list(extent), mode="bilinear", align_corners=False, antialias=True
    )


class Masks:
    """The foreground masks of one network on one target, made once and kept in a folder.

    Parameters
    ----------
    folder
        Where they are kept; one file an image and perturbation, one bit a pixel.
    network
        The network.
    images
        The target.
    """

    def __init__(self, folder: Path, network: Network, images: Images) -> None:
        self.folder, self.network, self.images = folder / network.name, network, images
        self._predictor: Predictor | None = None

    def get(self, number: int, perturbation: str) -> Mask:
        """Return the foreground of one image, bool (y, x); run the network if need be."""
        path = self.folder / perturbation.replace(":", "-") / f"{number:02}.npy"
        shape = self.images.raw.shape[1:3]
        if path.exists():
            bits = np.unpackbits(np.load(path), count=shape[0] * shape[1])
            return bits.astype(bool).reshape(shape)
        if self._predictor is None:
            self._predictor = Predictor(self.network, load(self.network), self.images)
        mask = self._predictor.mask(number, perturbation)
        _write(np.packbits(mask), path)
        return mask

    def is_empty(self) -> bool:
        """Tell whether the network, unperturbed, sees no vessel in any field of view."""
        numbers = range(len(self.images))
        return not any((self.get(n, REFERENCE) & self.images.view[n]).any() for n in numbers)


def _write(bits: npt.NDArray[np.uint8], path: Path) -> None:
    """Write under another name first, so that a file that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part.npy")
    np.save(draft, bits)
    draft.rename(path)
