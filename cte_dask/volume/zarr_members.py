"""Which images a zarr group leads to: the fields of a plate or well, the series of a conversion.

Source: the NGFF specification, https://ngff.openmicroscopy.org/0.5/#hcs-layout and
https://ngff.openmicroscopy.org/0.5/#bf2raw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from cte_dask.errors import VolumeError, reason
from cte_dask.volume.ngff import ome_attributes
from cte_dask.volume.zarr_place import ZarrPlace

__all__ = ["MOST_LISTED", "Members", "members_of"]

MOST_LISTED = 12


@dataclass(frozen=True)
class Members:
    """The images that a group leads to.

    Parameters
    ----------
    kind
        What such a group is called.
    noun
        What one of its images is called.
    paths
        Below the group; at most one more than `MOST_LISTED`, since each may cost a request.
    """

    kind: str
    noun: str
    paths: tuple[str, ...]


def members_of(place: ZarrPlace, ome: Mapping[str, Any]) -> Members | None:
    """Return the images that a group leads to, None if it is no plate, well or conversion.

    Parameters
    ----------
    place
        The group.
    ome
        Its OME attributes.

    Raises
    ------
    VolumeError
        If the metadata is malformed, or a well that it lists cannot be opened.
    """
    # a conversion of a plate is both, and its fields are what people know
    key = next((key for key in KINDS if key in ome), None)
    if key is None:
        return None
    kind, noun, find = KINDS[key]
    try:
        return Members(kind, noun, tuple(islice(find(place, ome), MOST_LISTED + 1)))
    except VolumeError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise VolumeError(f"{place.name}: malformed {key} metadata: {reason(error)}") from error


def _fields(place: ZarrPlace, ome: Mapping[str, Any]) -> Iterator[str]:
    for well in ome["plate"].get("wells", ()):
        path = str(well["path"])
        attributes = place.below(path).node().attrs.asdict()
        yield from (f"{path}/{image}" for image in _images(place, ome_attributes(attributes)))


def _images(_: ZarrPlace, ome: Mapping[str, Any]) -> Iterator[str]:
    yield from (str(image["path"]) for image in ome["well"].get("images", ()))


def _series(place: ZarrPlace, _: Mapping[str, Any]) -> Iterator[str]:
    """Yield the folders that the group ``OME`` lists, else 0, 1, 2 … as far as they are there."""
    attributes = _attributes(place.below("OME")) or {}
    series = ome_attributes(attributes).get("series")
    if series:
        yield from map(str, series)
        return
    for number in count():
        if _attributes(place.below(str(number))) is None:
            return
        yield str(number)


def _attributes(place: ZarrPlace) -> Mapping[str, Any] | None:
    try:
        return place.node().attrs.asdict()
    except VolumeError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


KINDS = {
    "plate": ("plate", "field", _fields),
    "well": ("well", "field", _images),
    "bioformats2raw.layout": ("bioformats2raw layout", "series", _series),
}
"""Key of a group's metadata, what the group and one of its images are called, and their paths."""
