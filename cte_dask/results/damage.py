"""Damage of a score store: named with its file and what to do, and its attributes signed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cte_dask.errors import reason
from cte_dask.results.checksums import attributes_sum

if TYPE_CHECKING:
    import zarr

    from cte_dask.results.chunks import Chunk

__all__ = [
    "RESUME",
    "Arrays",
    "check_signature",
    "is_signed",
    "readable",
    "replace_attributes",
    "sign",
]

CHECKSUM = "checksum"
"""Attribute of the group, of all others; stores of before have none."""
RESUME = "cte rank --resume scores what is lost again"


def sign(group: zarr.Group, attributes: Mapping[str, Any]) -> None:
    """Replace a group's attributes, and add their checksum."""
    plain = {name: value for name, value in attributes.items() if name != CHECKSUM}
    group.attrs.put({**plain, CHECKSUM: attributes_sum(plain)})


def check_signature(attributes: Mapping[str, Any], url: str) -> None:
    """Refuse attributes that are not as they were signed; those of before are not signed.

    Raises
    ------
    ValueError
        If they are damaged: what the numbers of the store mean is lost.
    """
    plain = {name: value for name, value in attributes.items() if name != CHECKSUM}
    if attributes.get(CHECKSUM) not in (None, attributes_sum(plain)):
        raise ValueError(f"{url}/zarr.json is damaged: give --overwrite, or another --out")


@contextmanager
def readable(place: str, remedy: str) -> Iterator[None]:
    """Turn whatever a damaged file raises inside into one error that names it.

    What the storage refuses, or cannot give now, is no damage.

    Parameters
    ----------
    place
        The file.
    remedy
        What to do.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    import zarr

    from cte_dask.storage.faults import StorageError

    try:
        yield
    except (FileNotFoundError, PermissionError, StorageError, zarr.errors.GroupNotFoundError):
        raise
    except Exception as error:  # decoders raise what they like
        raise ValueError(f"{place} is damaged ({reason(error)}): {remedy}") from error


class Arrays(dict[str, Any]):
    """The arrays of a group, each opened when it is first asked for.

    Parameters
    ----------
    group
        The group.
    blocks
        How many blocks each array holds, one a chunk.
    chunks
        What each holds of a block, by its name.
    """

    def __init__(self, group: zarr.Group, blocks: int, chunks: Mapping[str, Chunk]) -> None:
        self._group, self._blocks, self._chunks = group, blocks, chunks

    def __missing__(self, name: str) -> Any:
        chunk = self._chunks[name]
        with readable(f"{self._group.store}/{name}/zarr.json", RESUME):
            array: Any = self._group[name]
            if (array.shape, array.dtype) != ((self._blocks, *chunk.shape), chunk.dtype):
                raise ValueError(f"{array.dtype} {array.shape}, not {chunk.dtype} {chunk.shape}")
        self[name] = array
        return array


def is_signed(group: zarr.Group) -> bool:
    """Whether a group has checksums; those of before do not."""
    return CHECKSUM in group.attrs


def replace_attributes(group: zarr.Group, attributes: Mapping[str, Any]) -> None:
    """Replace a group's attributes; those of a signed one are signed again."""
    if is_signed(group):
        sign(group, attributes)
    else:
        group.attrs.put(dict(attributes))
