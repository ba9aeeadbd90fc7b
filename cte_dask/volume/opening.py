"""Opens a target: chooses its level, axes, channel, time point, region and mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from cte_dask.errors import VolumeError
from cte_dask.tiles import Shape
from cte_dask.volume.axes import checked_axes, checked_index, default_axes
from cte_dask.volume.box import RoiLike, parse_roi
from cte_dask.volume.formats import find_image
from cte_dask.volume.image import Image, Source
from cte_dask.volume.mask import Mask, mask_factors
from cte_dask.volume.view import ZyxView
from cte_dask.volume.volume import Volume
from cte_dask.volume.voxel_size import VoxelSize, VoxelSizeLike, nearest_level

__all__ = ["open_volume"]

Level = int | Literal["auto"]


def open_volume(
    target: object,
    *,
    level: Level = "auto",
    axes: str | None = None,
    channel: int | None = None,
    time: int | None = None,
    roi: RoiLike | None = None,
    mask: object | None = None,
    voxel_size: VoxelSizeLike | None = None,
    training_voxel_size: VoxelSizeLike | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Volume:
    """Open a target; only metadata is read.

    Parameters
    ----------
    target
        Path or fsspec URL of a zarr array (v2, v3, sharded), of a group holding one array, or of
        an OME-Zarr image (0.1 to 0.6; a label image too), ``"a.zarr::name"`` where a group leads
        to several; or a zarr array or group, or a NumPy, dask or xarray array; or the path or
        URL of a file of HDF5, ``"file.h5::path/of/dataset"``, or TIFF, ``"file.tif::series"``, MRC,
        or a zarr in a zip file; of a folder of planes, PNG, JPEG or TIFF; or N5 and Neuroglancer
        precomputed volumes, ``"n5://PLACE"`` and ``"precomputed://PLACE"``.
        ``"your_package.module:find::PATH"`` is found by a format of yours
        (`cte_dask.volume.formats`).
    level
        Pyramid level; ``"auto"`` is the level whose voxels are nearest to ``training_voxel_size``
        (mean absolute log ratio in the plane, then z), level 0 without it.
    axes
        One letter of ``tczyx`` per axis, in stored order; needed where neither the metadata nor
        the number of axes (2: yx, 3: zyx) tells.
    channel, time
        Index along c and t; needed where the target has several.
    roi
        ``"z0:z1,y0:y1,x0:x1"`` or three slices in voxels of the selected level; None for all.
    mask
        Anything that can be a target, of boolean or integer elements: voxels that are not zero
        count. As large as the selected level, or smaller by whole factors; yx for every plane.
    voxel_size
        Voxel size of level 0, in place of the metadata's: a :class:`VoxelSize`,
        ``"9.2,9.2,9.2 nm"`` or nanometres (z, y, x). Further levels scale as the metadata says.
    training_voxel_size
        Voxel size the models were trained at, in the same forms.
    storage_options
        Options of fsspec for opening a URL, of target and mask.

    Returns
    -------
    Volume
        A small picklable recipe.

    Raises
    ------
    VolumeError
        If the target or mask is missing, not readable, or does not fit what was asked.
    ValueError
        If an argument is malformed or out of range (VolumeError is a ValueError too).
    """
    options = dict(storage_options or {})
    image = find_image(target, options)
    sizes = _voxel_sizes(image, voxel_size)
    training = None if training_voxel_size is None else VoxelSize.of(training_voxel_size)
    index, note = _chosen_level(image, level, sizes, training)
    view = _view(image, index, axes=axes, channel=channel, time=time)
    if view.source.dtype == "bool":
        raise VolumeError(f"{image.name} has elements of type bool: want integers or real numbers")
    opened_mask, mask_note = (None, ()) if mask is None else _open_mask(mask, view.shape, options)
    return Volume(
        view=view,
        level=index,
        labelled=image.labelled,
        roi=parse_roi(roi, view.shape),
        voxel_size=sizes[index],
        offset=image.levels[index].offset,
        mask=opened_mask,
        notes=(*_still_true(image.notes, sizes), *note, *mask_note),
        channel_names=image.channels if len(image.channels) == _channels(view) else (),
    )


def _channels(view: ZyxView) -> int:
    return dict(zip(view.axes, view.source.shape, strict=True)).get("c", 1)


def _voxel_sizes(image: Image, voxel_size: VoxelSizeLike | None) -> list[VoxelSize | None]:
    if voxel_size is None:
        return [level.voxel_size for level in image.levels]
    size = VoxelSize.of(voxel_size)
    first = image.levels[0].scale
    # the user gives the size of level 0 only; the metadata tells how much coarser the others are
    return [
        size.scaled([s / f if s and f else 1.0 for s, f in zip(level.scale, first, strict=True)])
        for level in image.levels
    ]


def _still_true(notes: tuple[str, ...], sizes: list[VoxelSize | None]) -> tuple[str, ...]:
    # a voxel size from the user answers what the metadata left open
    is_complete = sizes[0] is not None and None not in sizes[0].lengths
    return tuple(n for n in notes if not (is_complete and "voxel size" in n))


def _chosen_level(
    image: Image, level: Level, sizes: list[VoxelSize | None], training: VoxelSize | None
) -> tuple[int, tuple[str, ...]]:
    count = len(image.levels)
    if level != "auto":
        if not isinstance(level, int) or not 0 <= level < count:
            raise VolumeError(
                f"level {level!r} is out of range: {image.name} has level "
                f"{'0 only' if count == 1 else f'0..{count - 1}'} (or 'auto')"
            )
        return level, ()
    if training is None:
        return 0, ()
    nearest = nearest_level(sizes, training)
    if nearest is None:
        return 0, (f"level 0: no level's voxel size is known to compare with {training}",)
    note = f"level {nearest} of {count}: voxels of {sizes[nearest]} for models of {training}"
    return nearest, (note,)


def _view(
    image: Image, level: int, *, axes: str | None, channel: int | None, time: int | None
) -> ZyxView:
    source = image.open_level(level)
    letters = _axes(image, source, axes)
    extents = dict(zip(letters, source.shape, strict=True))
    if empty := [axis for axis, extent in extents.items() if extent < 1]:
        raise VolumeError(f"{image.name} holds no voxels: axis {empty[0]} has extent 0")
    return ZyxView(
        source=source,
        axes=letters,
        channel=checked_index("c", channel, extents.get("c"), names=image.channels),
        time=checked_index("t", time, extents.get("t")),
        format=image.format,
        member=image.member,
    )


def _axes(image: Image, source: Source, axes: str | None) -> str:
    ndim = len(source.shape)
    if axes is not None:
        checked_axes(axes, ndim)
        if image.axes is not None and image.axes != axes:
            problem = f"axes {axes!r}: the metadata of {image.name} says {image.axes!r}"
            raise VolumeError(problem, "leave out --axes")
        return axes
    return checked_axes(image.axes or default_axes(source.shape, image.name), ndim)


def _open_mask(
    target: object, shape: Shape, options: Mapping[str, Any]
) -> tuple[Mask, tuple[str, ...]]:
    image = find_image(target, options)
    shapes = []
    # the finest level that fits: of a pyramid a coarser one may be the right size
    for level in range(len(image.levels)):
        view = _view(image, level, axes=None, channel=None, time=None)
        if view.source.dtype.startswith("float"):
            raise VolumeError(f"mask {image.name} has {view.source.dtype} elements: want integers")
        factors = mask_factors(view.shape, shape)
        if factors is not None:
            return Mask(view, factors), _mask_note(factors)
        shapes.append(str(view.shape))
    raise VolumeError(
        f"mask {image.name} of shape {', '.join(shapes)} does not fit the target {shape} (z, y, x) "
        "at the selected level: want the same shape, or smaller by whole factors"
    )


def _mask_note(factors: Shape) -> tuple[str, ...]:
    if factors == (1, 1, 1):
        return ()
    return (f"each voxel of the mask stands for {factors} (z, y, x) of the target",)
