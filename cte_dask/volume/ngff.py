"""OME-Zarr metadata (NGFF 0.1 to 0.6): levels, axes, voxel sizes. No I/O.

Source: the NGFF specifications 0.4 to 0.6, https://ngff.openmicroscopy.org.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from cte_dask.errors import VolumeError, reason
from cte_dask.volume.axes import AXES, letters
from cte_dask.volume.voxel_size import VoxelSize, nanometres

__all__ = ["LevelScale", "Multiscale", "ome_attributes", "parse_multiscales"]

Attributes = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LevelScale:
    """Voxel size and position of one pyramid level in space.

    Parameters
    ----------
    path
        Path of the array within the group.
    scale
        Extent of a voxel (z, y, x) in the units of the file, None where the file has none.
    offset
        Centre of the first voxel (z, y, x) in voxels of this level.
    voxel_size
        Extent of a voxel in nanometre, None if no axis has a known scale and unit.
    """

    path: str
    scale: tuple[float | None, ...] = (None, None, None)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    voxel_size: VoxelSize | None = None


@dataclass(frozen=True, slots=True)
class Multiscale:
    """One multiscale image as its metadata describes it.

    Parameters
    ----------
    axes
        Letters of ``tczyx``, None if the axes have other names.
    levels
        The resolutions, in the order of the file.
    channels
        Names of the channels, empty if not stated.
    notes
        Remarks on metadata that were not understood.
    assumed
        Whether the file does not name its axes: they are tczyx by definition, for arrays of five.
    name
        What the file calls it; empty if it does not.
    units
        Unit of z, y and x as the file names it; None where it names none.
    """

    axes: str | None
    levels: tuple[LevelScale, ...]
    channels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    assumed: bool = False
    name: str = ""
    units: tuple[str | None, ...] = (None, None, None)


def ome_attributes(attributes: Attributes) -> Attributes:
    """Return a group's OME attributes: under ``ome`` since 0.5, at the top level before."""
    ome = attributes.get("ome")
    return ome if isinstance(ome, Mapping) else attributes


def parse_multiscales(attributes: Attributes) -> tuple[Multiscale, ...]:
    """Read the multiscale images of a group; NGFF allows several, and ranks none.

    Parameters
    ----------
    attributes
        The attributes of the zarr group.

    Returns
    -------
    tuple of Multiscale
        Empty if the group holds no multiscale image.

    Raises
    ------
    VolumeError
        If the metadata is there but malformed.
    """
    ome = ome_attributes(attributes)
    if "multiscales" not in ome:
        return ()
    try:
        images = tuple(_multiscale(image, _channels(ome)) for image in ome["multiscales"])
    except VolumeError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise VolumeError(f"malformed multiscales metadata: {reason(error)}") from error
    if not images:
        raise VolumeError("the multiscales metadata lists no image")
    return images


def _multiscale(image: Attributes, channels: tuple[str, ...]) -> Multiscale:
    stated = _stated_axes(image)
    # versions up to 0.2 have no axes: five dimensions by definition; 0.3 has plain names
    axes = [a if isinstance(a, Mapping) else {"name": a} for a in stated or AXES]
    names = [str(axis["name"]).lower() for axis in axes]
    units = [nanometres(axis.get("unit")) for axis in axes]
    levels = tuple(_level(dataset, image, names, units) for dataset in image["datasets"])
    if not levels:
        raise VolumeError("the multiscales metadata lists no dataset")
    notes = [_unit_note(axis) for axis in axes if _has_bad_unit(axis)]
    if all(level.voxel_size is None for level in levels):
        notes.append("the voxel size is not known")
    by_name = {name: axis.get("unit") for name, axis in zip(names, axes, strict=True)}
    return Multiscale(
        axes=letters(names),
        levels=levels,
        channels=channels,
        notes=tuple(notes),
        assumed=not stated,
        name=str(image.get("name") or ""),
        units=tuple(by_name.get(axis) for axis in "zyx"),
    )


def _stated_axes(image: Attributes) -> Sequence[Any]:
    """Return the axes of an image; since 0.6 those of the coordinate system of its datasets."""
    systems = image.get("coordinateSystems")
    if "axes" in image or not systems:
        axes: Sequence[Any] = image.get("axes", ())
        return axes
    by_name = {system.get("name"): system["axes"] for system in systems}
    for dataset in image["datasets"]:
        for step in dataset.get("coordinateTransformations") or ():
            output = step.get("output")
            name = output.get("name") if isinstance(output, Mapping) else output
            if name in by_name:
                return cast("Sequence[Any]", by_name[name])
    return cast("Sequence[Any]", systems[0]["axes"])


def _has_bad_unit(axis: Attributes) -> bool:
    return str(axis["name"]).lower() in ("z", "y", "x") and nanometres(axis.get("unit")) is None


def _unit_note(axis: Attributes) -> str:
    unit = axis.get("unit")
    problem = f"unknown unit {unit!r}" if unit else "no unit"
    return f"axis {axis['name']} has {problem}: its voxel size is taken as not known"


def _channels(ome: Attributes) -> tuple[str, ...]:
    omero = ome.get("omero")
    listed = omero.get("channels") if isinstance(omero, Mapping) else None
    if not isinstance(listed, Sequence):
        return ()
    return tuple(str(c.get("label", "?")) for c in listed if isinstance(c, Mapping))


def _level(
    dataset: Attributes, image: Attributes, names: list[str], units: list[float | None]
) -> LevelScale:
    scale, shift = [1.0] * len(names), [0.0] * len(names)
    stated = False
    # NGFF applies the dataset's transformations first, then those of the whole image; since 0.6
    # the latter lead on to other coordinate systems
    further = () if image.get("coordinateSystems") else _transformations(image)
    for step in (*_transformations(dataset), *further):
        if step.get("type") == "scale":
            stated = True
            factors = _numbers(step["scale"], len(names))
            # x -> f (s x + t): a later scale stretches the earlier shift too
            scale = [s * f for s, f in zip(scale, factors, strict=True)]
            shift = [t * f for t, f in zip(shift, factors, strict=True)]
        elif step.get("type") == "translation":
            moved = _numbers(step["translation"], len(names))
            shift = [t + m for t, m in zip(shift, moved, strict=True)]
        elif step.get("type") != "identity":
            raise VolumeError(f"coordinate transformation {dict(step)} is not supported")
    by_name = {n: (s, t, u) for n, s, t, u in zip(names, scale, shift, units, strict=True)}
    # without any scale in the file, extents of 1.0 would be invented
    zyx = [by_name.get(axis) if stated else None for axis in "zyx"]
    return LevelScale(
        path=str(dataset["path"]),
        scale=tuple(entry and entry[0] for entry in zyx),
        offset=_triple([entry[1] / entry[0] if entry else 0.0 for entry in zyx]),
        voxel_size=_voxel_size([entry and entry[2] and entry[0] * entry[2] for entry in zyx]),
    )


def _transformations(owner: Attributes) -> Sequence[Attributes]:
    return tuple(_flat(owner.get("coordinateTransformations") or ()))


def _flat(steps: Sequence[Attributes]) -> Iterator[Attributes]:
    """Yield the steps of sequences, in their order."""
    for step in steps:
        if step.get("type") == "sequence":
            yield from _flat(step["transformations"])
        else:
            yield step


def _numbers(values: Sequence[float], count: int) -> list[float]:
    numbers = [float(value) for value in values]
    if len(numbers) != count or not all(math.isfinite(n) for n in numbers):
        raise VolumeError(f"coordinate transformation {numbers} does not fit {count} axes")
    return numbers


def _voxel_size(lengths: list[float | None]) -> VoxelSize | None:
    # rounding removes what unit conversion adds in the last digits: 0.28 µm is 280 nm
    tidy = [None if length is None else float(f"{length:.12g}") for length in lengths]
    return VoxelSize(*tidy) if any(length is not None for length in tidy) else None


def _triple(values: list[float]) -> tuple[float, float, float]:
    z, y, x = values
    return z, y, x
