"""Labels of a target: for evaluation, and for nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.storage import is_cloud
from cte_dask.tiles import Shape
from cte_dask.volume import open_volume
from cte_dask.volume.formats import find_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.volume import Volume

__all__ = ["open_labels", "read_labels"]


def open_labels(labels: object, target: Volume) -> Volume:
    """Open the labels of a target; only metadata is read.

    Parameters
    ----------
    labels
        Anything that can be a target, of integer elements, 0 the background. Of the shape of the
        target's array at the level that was ranked (the region of interest is cut out of it), or
        of the shape of the region. Of an OME-Zarr pyramid the level that fits is taken. Beside a
        target that is read unsigned, a URL of an object store is too.
    target
        The target.

    Returns
    -------
    Volume
        Of the shape of the target's region.

    Raises
    ------
    ValueError
        If the shapes differ, naming both, or the elements are no integers.
    """
    public = target.anonymous and isinstance(labels, str) and is_cloud(labels)
    options = {"anonymous": True} if public else {}
    number = len(find_image(labels, options).levels)
    levels = sorted(range(number), key=lambda level: level != target.level)
    opened = [open_volume(labels, level=level, storage_options=options) for level in levels]
    for found in opened:
        if found.dtype.kind not in "iu":
            raise ValueError(f"labels {found.name} have {found.dtype} elements: want integers")
    for found, level in zip(opened, levels, strict=True):
        if found.shape == target.array_shape:
            roi = str(target.roi)
            return open_volume(labels, level=level, roi=roi, storage_options=options)
    for found in opened:
        if found.shape == target.shape:
            return found
    shapes = ", ".join(str(found.shape) for found in opened)
    region = "" if target.shape == target.array_shape else f" or its region {target.shape}"
    raise ValueError(
        f"labels {opened[0].name} of shape {shapes} do not fit the target's level {target.level} "
        f"of shape {target.array_shape}{region} (z, y, x): give labels of the same voxels"
    )


def read_labels(labels: Volume, start: Shape, stop: Shape) -> NDArray[Any]:
    """Return the labels of a box (z, y, x) of the region, 0 the background.

    Raises
    ------
    ValueError
        If a label is negative.
    """
    found = labels.read(start, stop)
    if found.dtype.kind == "i" and int(np.min(found)) < 0:
        raise ValueError(
            f"labels {labels.name} hold {int(np.min(found))} in {start} to {stop}: labels are 0 "
            "(background) and above"
        )
    return found
