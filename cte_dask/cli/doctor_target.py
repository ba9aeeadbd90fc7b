"""What ``cte doctor`` tells of a target: all that can be read of it, a remedy a trouble."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from cte_dask.cli.findings import Finding
from cte_dask.errors import VolumeError, reason
from cte_dask.storage import is_cloud

if TYPE_CHECKING:
    from cte_dask.scoring.settings import OpeningOptions
    from cte_dask.volume import Volume
    from cte_dask.volume.image import Image
    from cte_dask.volume.voxel_size import VoxelSize

__all__ = ["examine_target"]

GROUP = "store"
NO_SIZE = "let models try several sizes: cte rank --scales 0.25,0.5,1,2"
WITHOUT_UNIT = ": its voxel size is taken as not known"
CHOICE = "choose one with --channel, or name those of each model in the bank (channels)"
GAPS = "finish the conversion, or leave them out with --roi or --mask"


def examine_target(
    target: str, options: OpeningOptions, place_remedy: Callable[[str], str]
) -> Iterator[Finding]:
    """Yield what a target is: whether it opens, its axes, levels, channels, voxel size, chunks.

    Parameters
    ----------
    target
        Path or URL.
    options
        What is taken of it.
    place_remedy
        Returns what may help where the system refuses a path or URL.

    Yields
    ------
    Finding
        Nothing is raised: what fails is a finding. What is known is told all the same.
    """
    from cte_dask.results.provenance import shown_url
    from cte_dask.volume.formats import find_image

    def failure(error: Exception) -> Finding:
        return _failure(target, shown_url(target), error, place_remedy)

    chosen = {f.name: getattr(options, f.name) for f in fields(options)}
    public = chosen.pop("anonymous") and is_cloud(target)
    chosen["storage_options"] = {"anonymous": True} if public else {}
    try:
        image = find_image(target, chosen["storage_options"])
    except Exception as error:  # any failure of a file system is a finding
        yield failure(error)
        return
    volume = None
    is_open = chosen["channel"] is None and _channels(image, chosen["axes"]) > 1
    if is_open:  # models may name theirs in the bank: all else is told of the first one
        chosen["channel"] = 0
    try:
        volume, finding = _opened(target, shown_url(target), chosen)
    except Exception as error:  # any failure of a file system is a finding
        finding = failure(error)
    yield finding
    for fact in _facts(image, chosen, volume):
        needs_choice = is_open and fact.name == "channels"
        yield replace(fact, state="absent", remedy=CHOICE) if needs_choice else fact
    if volume is not None:
        yield _chunks(volume)
        # what is not known of the voxel size has a line of its own
        others = (note for note in volume.notes if "voxel size" not in note)
        yield from (Finding(GROUP, "note", "ok", note) for note in others)


def _channels(image: Image, axes: str | None) -> int:
    try:
        shape = image.open_level(0).shape
    except Exception:  # opening the target says why
        return 1
    return dict(zip(axes or image.axes or "", shape, strict=False)).get("c", 1)


def _opened(target: str, name: str, chosen: Mapping[str, Any]) -> tuple[Volume, Finding]:
    from cte_dask.volume import open_volume

    began = time.perf_counter()
    volume = open_volume(target, **chosen)
    volume.check_no_labels()
    opened = time.perf_counter()
    volume.read((0, 0, 0), (1, 1, 1))
    size = volume.dtype.itemsize * math.prod(volume.chunks) / 1e6
    message = (
        f"{volume.dtype.name} {_extents(volume.shape)} (zyx), level {volume.level}, voxels "
        f"{volume.voxel_size or 'of unknown size'}; metadata in {opened - began:.2f} s, a chunk of "
        f"{size:.3g} MB in {time.perf_counter() - opened:.2f} s"
    )
    return volume, Finding(GROUP, name, "ok", message)


def _failure(
    target: str, name: str, error: Exception, place_remedy: Callable[[str], str]
) -> Finding:
    text, remedy = reason(error), ""
    if isinstance(error, VolumeError):
        text, remedy = "; ".join(filter(None, (error.problem, error.details))), error.remedy
    # what we refuse by ourselves says what to do, what the system refuses does not
    if not remedy and not (isinstance(error, ValueError) and error.__cause__ is None):
        remedy = place_remedy(target)
    return Finding(GROUP, name, "bad", text.replace(target, name), remedy.replace(target, name))


def _facts(image: Image, chosen: Mapping[str, Any], volume: Volume | None) -> Iterator[Finding]:
    try:
        sources = [image.open_level(level) for level in range(len(image.levels))]
    except Exception as error:  # any failure of a file system is a finding
        yield Finding(GROUP, "levels", "bad", reason(error))
        return
    shape = sources[0].shape
    axes = volume.axes if volume else chosen["axes"] or image.axes or ""
    extents = dict(zip(axes, shape, strict=True)) if len(axes) == len(shape) else {}
    stated = axes if extents else "not named"
    yield Finding(GROUP, "axes", "ok", f"{stated} {shape} {sources[0].dtype}")
    levels = [
        f"{number}: {_extents(_spatial(axes if extents else '', source.shape))}"
        f"{f' of {scale.voxel_size}' if scale.voxel_size else ''}"
        for number, (source, scale) in enumerate(zip(sources, image.levels, strict=True))
    ]
    yield Finding(GROUP, "levels", "ok", "; ".join(levels))
    for axis, name in (("c", "channels"), ("t", "time points")):
        if axis in extents:
            listed = image.channels if axis == "c" else ()
            yield Finding(GROUP, name, "ok", _counted(extents[axis], listed))
    yield _voxel_size(volume.voxel_size if volume else image.levels[0].voxel_size, image.notes)


def _spatial(axes: str, shape: Sequence[int]) -> list[int]:
    return [n for axis, n in zip(axes or "z" * len(shape), shape, strict=True) if axis in "zyx"]


def _extents(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _counted(count: int, names: Sequence[str]) -> str:
    if len(names) != count:
        return str(count)
    return f"{count}: " + ", ".join(f"{i} = {name}" for i, name in enumerate(names))


def _voxel_size(size: VoxelSize | None, notes: Sequence[str]) -> Finding:
    reasons = [n.removesuffix(WITHOUT_UNIT) for n in notes if n.endswith(WITHOUT_UNIT)]
    because = f" ({', '.join(reasons)})" if reasons else ""
    if size is None:
        return Finding(GROUP, "voxel size", "absent", f"not known{because}", NO_SIZE)
    return Finding(GROUP, "voxel size", "ok", f"{size}{because}")


def _chunks(volume: Volume) -> Finding:
    from cte_dask.volume.statistics import chunks_missing

    unit = f"{_extents(volume.chunks)} (zyx)"
    if volume.shards is not None:
        unit += f" in shards of {_extents(volume.shards)}"
    try:
        counted = chunks_missing(volume)
    except Exception as error:  # any failure of a file system is a finding
        return Finding(GROUP, "chunks", "bad", f"{unit}; {reason(error)}")
    if counted is None:
        return Finding(GROUP, "chunks", "ok", f"{unit}; too many to ask for each")
    missing, count = counted
    if not missing:
        return Finding(GROUP, "chunks", "ok", f"{unit}; all {count} are written")
    return Finding(GROUP, "chunks", "absent", f"{unit}; {missing} of {count} unwritten", GAPS)
