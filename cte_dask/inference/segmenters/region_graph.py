"""Regions, how strong the boundary between neighbours is, and regions joined into objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cte_dask.arrays import Array, to_numpy
from cte_dask.inference.segmenters.array_functions import back, largest
from cte_dask.inference.segmenters.bioimage_cpp import library

__all__ = ["Borders", "joined"]


class Borders(NamedTuple):
    """The borders between neighbouring regions.

    Attributes
    ----------
    graph
        bioimage-cpp's region adjacency graph; node 0 is the background.
    strength
        Mean boundary probability along each border, float64.
    size
        Voxels of each border, float64.
    outer
        Whether it is a border with the background; such regions are never joined to it.
    """

    graph: Any
    strength: Array
    size: Array
    outer: Array


def joined(regions: Array, boundary: Array, partition: Callable[[Borders], Array]) -> Array:
    """Join regions into objects, on the host.

    Parameters
    ----------
    regions
        int32 labels, 0 for background.
    boundary
        Probability of a boundary.
    partition
        Gives each node of a region graph the number of its cluster.

    Returns
    -------
    ndarray of int32
        Labels, consecutive from 1, with the background of `regions`.
    """
    if largest(regions) < 2:
        return regions
    ids = to_numpy(regions)
    nodes = partition(_borders(ids.astype(np.uint32), to_numpy(boundary)))
    # clusters numbered from 1; node 0 is the background, whatever cluster it fell into
    nodes = np.unique(nodes, return_inverse=True)[1] + 1
    nodes[0] = 0
    return back(regions, nodes.astype(np.int32)[ids])


def _borders(regions: Array, boundary: Array) -> Borders:
    graphs = library().graph
    graph = graphs.region_adjacency_graph(regions, number_of_threads=1)
    probability = np.ascontiguousarray(boundary, dtype=np.float32)
    features = graphs.features.edge_map_features(graph, regions, probability, number_of_threads=1)
    strength, size = np.asarray(features, dtype=np.float64).T
    # the lower of a border's two nodes is 0 if one side is the background
    outer = np.asarray(graph.uv_ids()).reshape(-1, 2).min(axis=1) == 0
    return Borders(graph, strength, size, outer)
