"""What every volume format finds: an image of one or more resolutions, not yet cut to zyx."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cte_dask.volume.ngff import LevelScale
from cte_dask.volume.source import Source

__all__ = ["Image"]


@dataclass(frozen=True)
class Image:
    """An image as a format describes it.

    Parameters
    ----------
    name
        For messages.
    axes
        Letters of ``tczyx`` in stored order, None if the format does not say.
    levels
        The resolutions, finest first.
    open_level
        Opens the array of a level.
    channels
        Names of the channels, empty if not known.
    notes
        What a report should say about the image.
    format
        Where the format that found it is defined, ``"module:function"``; empty if it is listed.
    """

    name: str
    axes: str | None
    levels: tuple[LevelScale, ...]
    open_level: Callable[[int], Source]
    channels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    format: str = ""
