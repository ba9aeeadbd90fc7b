"""StarDist-style models for a bank: star-convex polygons, chosen by non-maximum suppression.

A network predicts at every pixel how likely it is the middle of an object, and the distances to the
object's border along rays: a star-convex polygon. Of polygons that overlap, the likeliest is kept
(Schmidt, Weigert, Broaddus, Myers 2018, arXiv 1806.03535). Such a model emits labels: in a bank its
format is ``python`` and its output ``{activation: labels}``.

``stardist`` makes such a model of the package of that name; ``small`` makes one of a small network
and the post-processing below, which

    python examples/stardist_style.py --out DIR

trains for a few hundred steps. Both factories run code of yours: the bank says ``trust: true``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from cte_dask.models.unet import UNet

__all__ = ["StarLabels", "labels_from_stars", "small", "stardist", "stars"]

RAYS = 32
FEATURES = (16, 32, 64, 64)
SUBPIXEL = 0.5

ENTRY = {
    "format": "python",
    "source": "stardist_style:small",
    "trust": True,
    "axes": "yx",
    "halo": {"y": 32, "x": 32},
    "multiple": {"y": 8, "x": 8},
    "preprocessing": [
        {
            "name": "scale_range",
            "kwargs": {"min_percentile": 1, "max_percentile": 99.8},
            "scope": "volume",
        }
    ],
    "output": {"activation": "labels"},
}

Floats = NDArray[np.floating[Any]]


# The package stardist --------------------------------------------------------------------------


class _StarDist(nn.Module):
    """A ``stardist.models.StarDist2D`` that is given batches and gives batches of labels."""

    def __init__(self, model: Any, prediction: dict[str, Any]) -> None:
        super().__init__()
        self._model, self._prediction = model, prediction

    def forward(self, x: Tensor) -> Tensor:
        """Return labels, int32 (n, 1, y, x), of images (n, 1, y, x)."""
        planes = x.detach().float().cpu().numpy()[:, 0]
        labels = [self._model.predict_instances(p, **self._prediction)[0] for p in planes]
        return torch.from_numpy(np.stack(labels).astype(np.int32))[:, None].to(x.device)


def stardist(*, name: str, basedir: str | None = None, **prediction: Any) -> nn.Module:
    """Make a model of the package stardist.

    Parameters
    ----------
    name
        Of the model: a folder in `basedir`, or one of those that the package downloads.
    basedir
        Folder that holds the model's folder; None downloads.
    **prediction
        As ``StarDist2D.predict_instances`` takes them, such as prob_thresh, nms_thresh. Images come
        scaled by the bank's preprocessing, over the whole target.

    Raises
    ------
    ValueError
        If the package is not installed, or has no model of that name.
    """
    try:
        from stardist.models import StarDist2D
    except ImportError as error:
        raise ValueError(
            f"stardist cannot be imported ({error}): pip install stardist tensorflow"
        ) from error
    if basedir is not None:
        return _StarDist(StarDist2D(None, name=name, basedir=basedir), prediction)
    model = StarDist2D.from_pretrained(name)
    if model is None:
        raise ValueError(f"stardist has no model {name!r} to download: name a basedir")
    return _StarDist(model, prediction)


# A model of our own ----------------------------------------------------------------------------


class StarLabels(nn.Module):
    """A network with 1 + n outputs (logit of a middle, n distances) and what follows it.

    Parameters
    ----------
    network
        Maps images (n, 1, y, x) to (n, 1 + rays, y, x).
    **post
        As `labels_from_stars` takes them.
    """

    def __init__(self, network: nn.Module, **post: Any) -> None:
        super().__init__()
        self.network, self._post = network, post

    def forward(self, x: Tensor) -> Tensor:
        """Return labels, int32 (n, 1, y, x)."""
        maps = self.network(x).float()
        pairs = zip(torch.sigmoid(maps[:, 0]), maps[:, 1:], strict=True)
        labels = [
            labels_from_stars(p.cpu().numpy(), d.cpu().numpy(), **self._post) for p, d in pairs
        ]
        return torch.from_numpy(np.stack(labels))[:, None].to(x.device)


def small(*, weights: str | None = None, rays: int = RAYS, **post: Any) -> nn.Module:
    """Make a small model of the StarDist kind.

    Parameters
    ----------
    weights
        Path of the safetensors file that this script wrote; None leaves the network untrained.
    rays
        Number of distances.
    **post
        As `labels_from_stars` takes them.
    """
    network = UNet(dims=2, out_channels=1 + rays, features=FEATURES)
    if weights is not None:
        from safetensors.torch import load_file

        network.load_state_dict(load_file(Path(weights)))
    return StarLabels(network, **post)


def labels_from_stars(
    probability: Floats, distances: Floats, *, threshold: float = 0.4, overlap: float = 0.4
) -> NDArray[np.int32]:
    """Keep the likeliest of polygons that overlap, and draw them.

    Parameters
    ----------
    probability
        That a pixel is the middle of an object, (y, x).
    distances
        To the object's border along n rays, (n, y, x), pixels; ray k points by the angle 2πk/n from
        the x axis towards the y axis.
    threshold
        Pixels of a higher probability are tried as middles.
    overlap
        A polygon is dropped if a likelier one shares more than this fraction of the smaller area.

    Returns
    -------
    ndarray of int32, shape (y, x)
        0 background, 1 to the number of objects; where two overlap, the likelier.

    Notes
    -----
    A middle inside of a polygon kept before is passed over without being drawn: nearly always the
    two overlap by more than is allowed.
    """
    labels = np.zeros(probability.shape, np.int32)
    areas = [0]
    for y, x in _likeliest(probability, threshold):
        if labels[y, x]:
            continue
        box, mask = _polygon(distances[:, y, x], (y, x), labels.shape)
        below = np.bincount(labels[box][mask], minlength=len(areas))
        area = int(mask.sum())
        shared = below[1:] / np.maximum(np.minimum(areas[1:], area), 1)
        if area == 0 or (shared > overlap).any():
            continue
        labels[box][mask & (labels[box] == 0)] = len(areas)
        areas.append(area)
    return labels


def _likeliest(probability: Floats, threshold: float) -> Iterator[tuple[int, int]]:
    """Yield the pixels above a threshold, the likeliest first."""
    tried = np.argwhere(probability > threshold)
    order = np.argsort(-probability[tuple(tried.T)], kind="stable")
    yield from ((int(y), int(x)) for y, x in tried[order])


def _polygon(
    distances: Floats, middle: tuple[int, int], shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """Return the box of a polygon in the image, and its pixels in the box.

    A pixel lies between two neighbouring rays, and is inside if it is on the middle's side of the
    edge between the ends of the two.
    """
    distances = np.maximum(distances.astype(np.float64), 0)
    reach = int(distances.max()) + 1
    rows, columns = (
        slice(max(0, m - reach), min(n, m + reach + 1)) for m, n in zip(middle, shape, strict=True)
    )
    y, x = np.ogrid[rows, columns]
    y, x = y - middle[0], x - middle[1]
    count = len(distances)
    ray = (np.arctan2(y, x) / (2 * np.pi) * count).astype(np.float64) % count
    first = ray.astype(np.int64) % count
    ends = distances * _directions(count)
    a, b = ends[:, first], ends[:, (first + 1) % count]
    side = (b[0] - a[0]) * (x - a[1]) - (b[1] - a[1]) * (y - a[0])
    return (rows, columns), (side <= 1e-9) | ((y == 0) & (x == 0))


def _directions(count: int) -> NDArray[np.float64]:
    """Return the unit vectors (2, n), y and x, of n rays."""
    angles = 2 * np.pi * np.arange(count) / count
    return np.stack([np.sin(angles), np.cos(angles)])


# Training --------------------------------------------------------------------------------------


def stars(labels: NDArray[np.integer[Any]], *, rays: int = RAYS) -> NDArray[np.float32]:
    """Return the object probability and the distances of labels.

    Parameters
    ----------
    labels
        (y, x), 0 the background.
    rays
        Number of distances.

    Returns
    -------
    ndarray of float32, shape (1 + rays, y, x)
        Distance to the border as a fraction of the object's largest (sec. 2 of the paper), then
        the distances along the rays, in pixels, from an object's pixels to where the object ends.
    """
    maps = np.zeros((1 + rays, *labels.shape), np.float32)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        mask = np.pad(labels[box] == number, 1)
        depth = ndimage.distance_transform_edt(mask)[1:-1, 1:-1]
        maps[0, *box] = np.maximum(maps[0, *box], depth / depth.max())
    inside = np.argwhere(labels > 0)
    for ray, direction in enumerate(_directions(rays).T, start=1):
        maps[ray, *inside.T] = _lengths(labels, inside, direction)
    return maps


def _lengths(
    labels: NDArray[np.integer[Any]], places: NDArray[np.intp], direction: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Go along a ray in steps of half a pixel for as long as the label is the same."""
    lengths = np.zeros(len(places))
    own = labels[tuple(places.T)]
    last = np.array(labels.shape) - 1
    going = np.arange(len(places))
    reached = 0.0
    while len(going):
        reached += SUBPIXEL
        pixels = np.floor(places[going] + reached * direction + 0.5).astype(np.intp)
        within = ((pixels >= 0) & (pixels <= last)).all(axis=1)
        pixels = np.clip(pixels, 0, last)
        going = going[within & (labels[tuple(pixels.T)] == own[going])]
        lengths[going] = reached + SUBPIXEL / 2
    return lengths


def _loss(output: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of the probability and, weighed by that, the error of the distances."""
    probability = functional.binary_cross_entropy_with_logits(output[:, 0], wanted[:, 0])
    error = (output[:, 1:] - wanted[:, 1:]).abs() * wanted[:, :1]
    return probability + error.sum() / (RAYS * wanted[:, 0].sum().clamp(min=1))


def main() -> None:
    # only training needs what lies beside this file
    from instance_training import options, run

    model = small()
    arguments = options(__doc__.splitlines()[0])
    run(arguments, model, model.network, stars, _loss, name="stardist-style", entry=ENTRY)


if __name__ == "__main__":
    main()
