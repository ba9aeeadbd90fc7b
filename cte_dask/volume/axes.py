"""The named axes of a stored array, and the index to take along channel and time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cte_dask.errors import VolumeError

__all__ = ["AXES", "SAMPLES", "checked_axes", "checked_index", "default_axes", "letters"]

AXES = "tczyx"
SAMPLES = (3, 4)
"""Samples a voxel of pictures in colour, RGB with or without alpha."""
LEAST_PICTURE = 32
"""Rows and columns of a picture, at least; a smaller array may be a volume as well."""
_OPTION = {"c": "channel", "t": "time"}


def checked_axes(axes: str, ndim: int) -> str:
    """Return the axes of an array after checking them.

    Parameters
    ----------
    axes
        One letter per axis of the array, of ``tczyx``, in the array's order.
    ndim
        Number of axes of the array.

    Raises
    ------
    VolumeError
        If a letter is unknown or appears twice, their number is wrong, or y or x is missing.
    """
    if unknown := sorted(set(axes) - set(AXES)):
        raise VolumeError(f"axes {axes!r}: unknown {', '.join(unknown)}; want letters of {AXES!r}")
    if len(set(axes)) != len(axes):
        raise VolumeError(f"axes {axes!r}: every axis can be named only once")
    if not {"y", "x"} <= set(axes):
        raise VolumeError(f"axes {axes!r}: y and x are needed")
    if len(axes) != ndim:
        raise VolumeError(f"axes {axes!r} names {len(axes)} axes, the array has {ndim}")
    return axes


def default_axes(shape: Sequence[int], name: str) -> str:
    """Return the axes of an array whose metadata names none: ``yx`` or ``zyx``.

    Raises
    ------
    VolumeError
        If the array has another number of axes, or looks like a picture in colour, so that the
        user must name them.
    """
    ndim = len(shape)
    if ndim == 3 and shape[2] in SAMPLES and min(shape[:2]) >= LEAST_PICTURE:
        raise VolumeError(
            f"{name} of shape {tuple(shape)} does not name its axes, and looks like a picture in "
            "colour",
            "give --axes yxc, or --axes zyx if it is a volume",
        )
    if ndim in (2, 3):
        return "zyx"[-ndim:]
    remedy = "name them with --axes, for example --axes " + (AXES[-ndim:] if ndim > 3 else "zyx")
    raise VolumeError(f"{name} has {ndim} axes and does not name them", remedy)


def letters(names: object) -> str | None:
    """Return axis names as letters of ``tczyx``, None if they are not all such names.

    Examples
    --------
    >>> letters(["time", "channel", "z", "Y", "x"]), letters(["row", "column"]), letters(None)
    ('tczyx', None, None)
    """
    if not isinstance(names, Iterable):
        return None
    words = [str(name).lower() for name in names]
    # words that are no axis name pass through whole, and then the length gives them away
    short = "".join({"time": "t", "channel": "c"}.get(word, word) for word in words)
    if len(short) != len(words) or set(short) - set(AXES) or len(set(short)) != len(short):
        return None
    return short


def checked_index(
    axis: str, index: int | None, extent: int | None, *, names: Sequence[str] = ()
) -> int | None:
    """Return the index to take along the channel or time axis.

    Parameters
    ----------
    axis
        ``"c"`` or ``"t"``.
    index
        The index asked for, None if the user named none.
    extent
        Extent of that axis, None if the array has no such axis.
    names
        Names of the channels, for the message.

    Returns
    -------
    int or None
        The index; None if the array has no such axis.

    Raises
    ------
    VolumeError
        If the axis has several indices and none was named, or the index is out of range.
    """
    option = _OPTION[axis]
    if extent is None:
        # index 0 of an axis that is not there is harmless: a script may name it for every target
        if index:
            raise VolumeError(f"{option} {index}: the target has no {option} axis")
        return None
    options = f"choose --{option} 0..{extent - 1}"
    if names and len(names) == extent:
        options += " (" + ", ".join(f"{i} = {name}" for i, name in enumerate(names)) + ")"
    if index is None and extent > 1:
        raise VolumeError(f"the target has {extent} along its {option} axis", options)
    if index is not None and not 0 <= index < extent:
        raise VolumeError(f"{option} {index} is out of range", options)
    return int(index or 0)
