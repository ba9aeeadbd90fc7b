"""CCFV, the supervised comparator: class consistency and feature variety of decoder features.

Yang, Wei, He, Yang, Ye, Gu (2023), "Pick the Best Pre-trained Model: Towards Transferability
Estimation for Medical Image Segmentation", arXiv 2307.11958, from its equations 1 to 5. The images
of the paper are tiles here. NumPy alone; `cte_dask.evaluation.comparators.decoder_features` takes
the features from a network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

__all__ = ["TileFeatures", "ccfv", "class_consistency", "feature_variety", "tile_features"]

Floats = NDArray[np.float64]
CLOSEST = 1e-3
"""Least squared distance of two features, in units of their mean squared norm: voxels of equal
features (a rectifier's zeros) would otherwise have infinite energy, whatever the others are."""


@dataclass(frozen=True, slots=True, eq=False)
class TileFeatures:
    """Summary of one tile's features in one decoder layer, from which CCFV follows.

    Parameters
    ----------
    mean, covariance
        Of the foreground voxels' features: (C,), (C, C). The Gaussian of eq. 1.
    variety
        Inverse hyperspherical potential energy of the whole tile's features, E_1(v)^-1 of eq. 4.
    """

    mean: Floats
    covariance: Floats
    variety: float


def tile_features(
    foreground: NDArray[np.floating], everywhere: NDArray[np.floating]
) -> TileFeatures:
    """Summarise the sampled features of one tile and layer.

    Parameters
    ----------
    foreground
        Features of voxels that are foreground in the labels, (n, C).
    everywhere
        Features of voxels of the whole tile, (L, C).

    Returns
    -------
    TileFeatures

    Raises
    ------
    ValueError
        If there are fewer than two voxels of either.
    """
    if min(len(foreground), len(everywhere)) < 2:
        raise ValueError(
            f"two voxels are needed at least: {len(foreground)} in the foreground, "
            f"{len(everywhere)} in all"
        )
    f = foreground.astype(np.float64)
    centred = f - f.mean(axis=0)
    covariance = centred.T @ centred / (len(f) - 1)
    return TileFeatures(f.mean(axis=0), covariance, 1 / _energy(everywhere.astype(np.float64)))


def _energy(v: Floats) -> float:
    """Return the hyperspherical potential energy (eq. 3, s = 1) as a mean over the pairs.

    The mean instead of the sum makes tiles with fewer voxels comparable; between models it is one
    factor. Features are not scaled to unit length: the equation does not, and C_cons (eq. 2) grows
    with the features' scale as F_v does, so that their ratio does not depend on it.
    """
    squares = (v * v).sum(axis=1)
    floor = CLOSEST * max(float(squares.mean()), np.finfo(np.float64).tiny)
    # |a - b|^2 = |a|^2 + |b|^2 - 2 ab, one matrix product; rounding may leave it below 0.
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * (v @ v.T), 0.0) + floor
    upper = np.triu_indices(len(v), k=1)
    return float((distances[upper] ** -0.5).mean())


def class_consistency(tiles: Sequence[TileFeatures]) -> float:
    """Return C_cons (eq. 2) for one foreground class: the lower, the more consistent.

    Parameters
    ----------
    tiles
        At least two tiles of one layer.

    Returns
    -------
    float
        Mean over the pairs of tiles of the 2-Wasserstein distance between the Gaussians of their
        foreground features (eq. 1).

    Raises
    ------
    ValueError
        If there are fewer than two tiles.
    """
    if len(tiles) < 2:
        raise ValueError(f"class consistency compares pairs of tiles: {len(tiles)} given")
    roots = [_root(t.covariance) for t in tiles]
    return float(np.mean([_wasserstein(a, b, r) for (a, r), (b, _) in _pairs(tiles, roots)]))


def _pairs(
    tiles: Sequence[TileFeatures], roots: Sequence[Floats]
) -> list[tuple[tuple[TileFeatures, Floats], tuple[TileFeatures, Floats]]]:
    return list(combinations(zip(tiles, roots, strict=True), 2))


def _wasserstein(a: TileFeatures, b: TileFeatures, root: Floats) -> float:
    """Return W_2 of two Gaussians (eq. 1), `root` the square root of the covariance of `a`.

    Tr (A B)^1/2 is the sum of the roots of the eigenvalues of A^1/2 B A^1/2. That matrix is
    symmetric, so `eigvalsh` is exact and real where A B would need complex numbers.
    """
    shared = np.linalg.eigvalsh(root @ b.covariance @ root)
    cross = 2 * np.sqrt(np.clip(shared, 0, None)).sum()
    spread = np.trace(a.covariance) + np.trace(b.covariance) - cross
    return math.sqrt(max(float(((a.mean - b.mean) ** 2).sum() + spread), 0.0))


def _root(covariance: Floats) -> Floats:
    # Fewer voxels than channels give eigenvalues of 0, which rounding may turn negative.
    values, vectors = np.linalg.eigh(covariance)
    root: Floats = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root


def feature_variety(tiles: Sequence[TileFeatures]) -> float:
    """Return F_v (eq. 4): the mean of the tiles' inverse energies; higher is more various."""
    return float(np.mean([t.variety for t in tiles]))


def ccfv(layers: Sequence[Sequence[TileFeatures]]) -> float:
    """Return the transferability T of eq. 5, higher is better.

    Parameters
    ----------
    layers
        Features of the same tiles for each decoder layer.

    Returns
    -------
    float
        Mean over the layers of log(F_v / C_cons). A layer that gives the same for every tile
        (C_cons = 0) says nothing and is left out; NaN if every layer is.
    """
    ratios = []
    for tiles in layers:
        consistency = class_consistency(tiles)
        if consistency > 0:
            ratios.append(math.log(feature_variety(tiles) / consistency))
    return float(np.mean(ratios)) if ratios else math.nan
