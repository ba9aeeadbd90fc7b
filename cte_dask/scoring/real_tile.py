"""A tile of the target on which models are proven before anything is scored.

What a network's passes share is proven on noise; a branch that its code takes at the target's own
intensities only would be missed there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.inference.inputs import TileGroup
from cte_dask.scoring.block_reader import Window, read_box, shifted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.perturb.views import View
    from cte_dask.tiles import Shape, Tile, TileGrid
    from cte_dask.volume import Volume
    from cte_dask.volume.statistics import IntensityStatistics

__all__ = ["RealTile", "real_tiles"]

MOST_LOOKED_AT = 8
"""Tiles that are read in search of one that holds something."""
MOST_BOXES = 4
"""That are held of a tile."""


@dataclass(frozen=True)
class RealTile:
    """One tile of the target, read with whatever context a model wants.

    Parameters
    ----------
    volume
        The target.
    tile
        The tile.
    intensity
        Intensity statistics of each channel in the whole target, raw units.
    """

    volume: Volume
    tile: Tile
    intensity: Mapping[int, IntensityStatistics]
    _read: dict[tuple[Shape, Shape], NDArray[Any]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def group(self, view: View, device: str, channels: Sequence[int] = ()) -> TileGroup:
        """Return the tile as a model reads it.

        Parameters
        ----------
        view
            The model's, of a whole tile.
        device
            Where its intensities shall lie.
        channels
            What the model sees; empty for the channel seen by default.

        Raises
        ------
        OSError
            If the storage fails.
        """
        frames, intensity = self._frames(view, device, channels)

        def around(other: View) -> NDArray[Any]:
            return self._frames(other, device, channels)[0]

        return TileGroup(frames, [self.tile], intensity, 0, around)

    def _frames(
        self, view: View, device: str, channels: Sequence[int]
    ) -> tuple[NDArray[Any], list[IntensityStatistics]]:
        before, shape = view.box
        start = shifted(self.tile.start, before, -1)
        stop = shifted(start, shape, 1)
        if (start, stop) not in self._read:  # models of a bank mostly read the same boxes
            if len(self._read) == MOST_BOXES:
                self._read.clear()
            self._read[start, stop] = read_box(self.volume, start, stop)
        window = Window.on(device, self._read[start, stop], start, self.volume)
        frames = window.frame(start, shape, channels)[None].astype("float32")
        return frames, [self.intensity[c] for c in channels or (window.channel,)]


def real_tiles(
    volume: Volume, grid: TileGrid, intensity: Mapping[int, IntensityStatistics], *, most: int = 1
) -> tuple[RealTile, ...]:
    """Return whole tiles of the target that are not one value everywhere.

    None if few looks find none: an empty target, or one that cannot be read; that is told when it
    is scored.

    Parameters
    ----------
    volume, grid
        The target and its tiles.
    intensity
        Intensity statistics of each channel in the whole target, raw units.
    most
        How many are wanted; the first one is the same for any number.
    """
    looks = MOST_LOOKED_AT * most
    others = np.random.default_rng(0).integers(len(grid), size=looks - 1) if len(grid) else ()
    found: list[RealTile] = []
    for index in dict.fromkeys((len(grid) // 2, *map(int, others))) if len(grid) else ():
        tile = grid.tile_at(index)
        if tile.shape != grid.tile:
            continue
        try:
            voxels = read_box(volume, tile.start, tile.stop)
        except OSError:
            continue
        if bool(np.isfinite(voxels).all()) and voxels.min() < voxels.max():
            found.append(RealTile(volume, tile, intensity))
        if len(found) == most:
            break
    return tuple(found)
