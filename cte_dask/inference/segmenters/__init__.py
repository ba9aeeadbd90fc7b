"""From a network's probability maps to instance labels: one segmenter a file.

A segmenter is a frozen value that holds its parameters and is called with the maps of one tile's
frame (the tile and its halo); `to_core` then cuts the labels to what is scored. Importing this
needs NumPy alone; a segmenter's library is imported when it is first called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from cte_dask.arrays import Array, namespace
from cte_dask.registry import Registry, checked

__all__ = ["SEGMENTERS", "Segmenter", "segmenter", "to_core"]

SEGMENTERS = Registry(
    "segmenter",
    {
        "components": "cte_dask.inference.segmenters.components:Components",
        "distance_watershed": "cte_dask.inference.segmenters.distance_watershed:DistanceWatershed",
        "boundary_watershed": "cte_dask.inference.segmenters.boundary_watershed:BoundaryWatershed",
        "mutex": "cte_dask.inference.segmenters.mutex:Mutex",
        "multicut": "cte_dask.inference.segmenters.multicut:Multicut",
        "gasp": "cte_dask.inference.segmenters.gasp:Gasp",
    },
)
"""Name of each segmenter and where it is defined, as ``"module:attribute"``."""


@runtime_checkable
class Segmenter(Protocol):
    """Parameters of a segmentation, called with the maps of one frame."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the maps' channels, in order; those of `optional` may be left out."""

    @property
    def optional(self) -> tuple[str, ...]:
        """The trailing channels that may be left out."""

    def __call__(self, maps: Array) -> Array:
        """Segment one frame.

        Parameters
        ----------
        maps
            Probabilities, shape (C, y, x) or (C, z, y, x), channels as in `channels`.

        Returns
        -------
        ndarray of int32
            Labels of the frame's shape: 0 background, 1 to the number of objects.
        """


def segmenter(name: str, **parameters: Any) -> Segmenter:
    """Make a segmenter by its name, or from outside by ``"your_package.module:Thing"``.

    Parameters
    ----------
    name
        A key of `SEGMENTERS`, or the place of something that makes a `Segmenter`.
    **parameters
        Parameters of its class.

    Returns
    -------
    Segmenter
        Ready to be called and pickled.

    Raises
    ------
    ValueError
        If there is no such segmenter, or a parameter is out of range.
    TypeError
        If a parameter is unknown, or the object from outside is no `Segmenter`.

    Examples
    --------
    >>> segmenter("components", threshold=0.7, min_size=20).channels
    ('foreground',)
    """
    candidate: object = SEGMENTERS.load(name)(**parameters)
    return checked(candidate, Segmenter, name)  # type: ignore[type-abstract]


def to_core(labels: Array, core: Sequence[slice]) -> Array:
    """Cut a frame's labels to the tile's core.

    An object that falls into several pieces by the cut keeps its one id, since the halo joins them.

    Parameters
    ----------
    labels
        Labels of the frame, NumPy or CuPy.
    core
        The core's slice along each axis of the frame.

    Returns
    -------
    ndarray
        A copy in the dtype of `labels`; a view would hold the whole frame in memory.

    Raises
    ------
    ValueError
        If the core does not lie in the frame.
    """
    inside = len(core) == labels.ndim and all(
        extent.indices(n)[2] == 1 and (extent.stop is None or extent.stop <= n)
        for extent, n in zip(core, labels.shape, strict=True)
    )
    if not inside:
        raise ValueError(
            f"core {tuple(core)} must have one slice of step 1 inside each axis of {labels.shape}"
        )
    xp = namespace(labels)
    core_labels: Array = xp.array(labels[tuple(core)], order="C", copy=True)
    return core_labels
