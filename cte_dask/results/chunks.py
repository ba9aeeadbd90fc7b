"""The arrays of a score store: the chunk that each holds of a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cte_dask.results.block_codec import CAUSE_BYTES, COLUMNS, vote_columns
from cte_dask.results.checksums import SUM_COLUMNS, SUMS

if TYPE_CHECKING:
    from cte_dask.results.layout import Layout

__all__ = ["Chunk", "chunks_of"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What an array holds of one block.

    Parameters
    ----------
    dtype
        Name of its numbers' type; what nobody has written is NaN or 0.
    shape
        Its extents.
    axes
        Their names; empty where nobody would look.
    """

    dtype: str
    shape: tuple[int, ...] = ()
    axes: tuple[str, ...] = ()


def chunks_of(layout: Layout) -> dict[str, Chunk]:
    """Return the chunk of each array by its name, those included that not every store has.

    Parameters
    ----------
    layout
        Of the store.
    """
    models, tiles = len(layout.models), layout.blocks.tiles_per_block
    draws, pairs = len(layout.perturbations) * layout.repeats, models * (models - 1) // 2
    return {
        "values": Chunk(
            "float64", (models, draws, len(COLUMNS), tiles), ("model", "draw", "column", "tile")
        ),
        "done": Chunk("uint8"),
        SUMS: Chunk("uint64", (len(SUM_COLUMNS),)),
        "causes": Chunk("uint8", (models, CAUSE_BYTES)),
        "votes": Chunk("uint64", (tiles, vote_columns(models)), ("tile", "column")),
        "precision": Chunk("float64", (pairs, tiles), ("pair", "tile")),
    }
