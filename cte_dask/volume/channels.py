"""Which channels of a target a model sees, by the names or numbers that its bank gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cte_dask.errors import VolumeError
from cte_dask.volume.axes import SAMPLES

if TYPE_CHECKING:
    from cte_dask.volume.volume import Volume

__all__ = ["COLOURS", "channel_indices", "channels_shown", "seen_note"]

COLOURS = ("red", "green", "blue")
"""What ``rgb`` stands for."""


def channel_indices(volume: Volume, asked: Sequence[int | str]) -> tuple[int, ...]:
    """Return the channels of a target that are asked for, by index.

    Parameters
    ----------
    volume
        The target.
    asked
        Numbers from 0 and names, upper and lower case alike, in the order of a network's input.
        ``"rgb"`` alone stands for red, green and blue, which of a target with three or four unnamed
        channels are the first three.

    Raises
    ------
    VolumeError
        If the target has no such channel.

    Examples
    --------
    >>> import numpy as np
    >>> from cte_dask.volume import open_volume
    >>> image = open_volume(np.zeros((2, 8, 8)), axes="cyx", channel=0)
    >>> channel_indices(image, [1, 0])
    (1, 0)
    """
    names = [name.casefold() for name in volume.channel_names]
    if not names and volume.channel_count in SAMPLES:
        names = list(COLOURS)
    wanted = COLOURS if tuple(asked) == ("rgb",) else asked
    return tuple(_index(volume, names, one) for one in wanted)


def _index(volume: Volume, names: list[str], asked: int | str) -> int:
    if isinstance(asked, str):
        if names.count(asked.casefold()) == 1:
            return names.index(asked.casefold())
        raise VolumeError(f"it needs a channel {asked!r}: the target has {_listed(volume)}")
    if asked >= volume.channel_count:
        raise VolumeError(f"it needs channel {asked}: the target has {_listed(volume)}")
    return asked


def _listed(volume: Volume) -> str:
    count = volume.channel_count
    if volume.channel_names:
        return ", ".join(f"{i} = {name}" for i, name in enumerate(volume.channel_names))
    return "one channel" if count == 1 else f"channels 0..{count - 1}, without names"


def channels_shown(volume: Volume, channels: Sequence[int]) -> str:
    """Return channels as reports show them: their names, or numbers where they have none.

    Parameters
    ----------
    volume
        The target.
    channels
        Indices along its channel axis.
    """
    names = volume.channel_names
    return ", ".join(names[c] if names else str(c) for c in channels)


def seen_note(volume: Volume, asked: Sequence[int | str], inputs: int) -> str:
    """Return what a model sees of a target's channels, for reports; empty if that is plain.

    Parameters
    ----------
    volume
        The target.
    asked
        What its bank says, as `channel_indices` takes it; empty if it says nothing.
    inputs
        Channels of its network's input.
    """
    seen = channel_indices(volume, asked) or (volume.channel or 0,)
    shown = channels_shown(volume, seen)
    repeated = f", repeated over its {inputs} inputs" if len(seen) < inputs else ""
    if asked:
        return f"sees channel{'s' if len(seen) > 1 else ''} {shown}{repeated}"
    if not repeated:
        return ""
    return f"sees one channel{repeated}: name others with channels in the bank"
