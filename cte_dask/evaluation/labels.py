"""Labels of a target, which only the evaluation reads."""

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
        Anything that can be a target, with integer elements, 0 the background. They have the shape
        of the target's array at the level that was ranked (the region of interest is cut out of
        them), or the shape of the region. Of an OME-Zarr pyramid the level that fits is taken. A
        URL of an object store is read without credentials if the target is.
    target
        The target.

    Returns
    -------
    Volume
        The labels of the target's region, in its shape.

    Raises
    ------
    ValueError
        If the shapes differ, naming both, or the elements are no integers.
    """
    public = target.anonymous and isinstance(labels, str) and is_cloud(labels)
    options = {"anonymous": True} if public else {}
    number = len(find_image(labels, options).levels)
    # The level that was ranked comes first; of pyramids of another scale any level may fit.
    levels = sorted(range(number), key=lambda level: level != target.level)
    opened = [open_volume(labels, level=level, storage_options=options) for level in levels]
    for volume in opened:
        if volume.dtype.kind not in "iu":
            raise ValueError(f"labels {volume.name} have {volume.dtype} elements: want integers")
    for volume, level in zip(opened, levels, strict=True):
        if volume.shape == target.array_shape:
            roi = str(target.roi)
            return open_volume(labels, level=level, roi=roi, storage_options=options)
    for volume in opened:
        if volume.shape == target.shape:
            return volume
    shapes = ", ".join(str(volume.shape) for volume in opened)
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
    values = labels.read(start, stop)
    if values.dtype.kind == "i" and int(np.min(values)) < 0:
        raise ValueError(
            f"labels {labels.name} hold {int(np.min(values))} in {start} to {stop}: labels are 0 "
            "(background) and above"
        )
    return values
