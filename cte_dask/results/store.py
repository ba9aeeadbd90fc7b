"""The score store: a zarr group that is the results, the ledger and the checkpoint of a run.

One chunk holds the numbers of one block, written by the task that made it; a second, tiny one marks
the block done, and is written after it. Resuming a run is planning the blocks without a mark.

An anytime run scores some blocks for a part of the models only: the others are ``absent`` there.
What its ranking counts is a part of the store: an anytime run reads some blocks ahead of its
decision, and scores models on them that had been beaten before. None of that may depend on the
number of workers: it is kept, but not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency.model_pairs import pairs_of
from cte_dask.results.block_codec import (
    decoded,
    decoded_causes,
    decoded_votes,
    encoded,
    encoded_causes,
    encoded_votes,
    vote_columns,
)
from cte_dask.results.layout import Layout, layout_of
from cte_dask.scoring.block_scores import BlockScores, TileScores

if TYPE_CHECKING:
    import zarr
    from numpy.typing import NDArray
    from zarr.abc.store import Store

    from cte_dask.consistency.vote_patterns import VoteTables

__all__ = [
    "DONE",
    "Layout",
    "Scores",
    "count",
    "count_all",
    "counted",
    "layout_of",
    "open_scores",
    "store_of",
]

DONE = {"missing": 0, "complete": 1, "failures": 2, "partial": 3}
"""Marks of a block; ``partial``: without failures, but not of every model."""
AT_ONCE = 64
"""Blocks that are read together."""


def store_of(url: str, *, read_only: bool = False) -> Store:
    """Return the zarr store of a path or URL."""
    from cte_dask.storage.stores import absolute, open_store

    return open_store(absolute(url), {}, read_only=read_only)


def open_scores(url: str, *, writable: bool = False) -> Scores:
    """Return the score store of a run, opened to read it.

    Parameters
    ----------
    url
        Path or fsspec URL of the zarr group, ``RUN/scores.zarr``.
    writable
        Whether blocks will be written, too.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is something else.
    """
    import zarr

    try:
        store = store_of(url, read_only=not writable)
        group = zarr.open_group(store, mode="r+" if writable else "r")
    except (FileNotFoundError, zarr.errors.GroupNotFoundError):
        raise FileNotFoundError(f"no score store at {url}: is that the --out of a run?") from None
    return Scores(group, Layout.from_dict(dict(group.attrs)))


class _Arrays(dict[str, Any]):
    """The arrays of a group, each opened when it is first asked for."""

    def __init__(self, group: zarr.Group) -> None:
        self._group = group

    def __missing__(self, name: str) -> Any:
        array = self[name] = self._group[name]
        return array


@dataclass(frozen=True)
class Scores:
    """A score store, opened.

    Parameters
    ----------
    group
        The zarr group.
    layout
        What it holds.
    only
        Number of each block that is shown, and which models of it, bool (model,); None for all.
    first
        Models that are proven to be the best, best first.
    """

    group: zarr.Group
    layout: Layout
    only: Mapping[int, NDArray[np.bool_]] | None = None
    first: tuple[str, ...] = ()

    @cached_property
    def arrays(self) -> Mapping[str, Any]:
        """The zarr arrays by name; their documents are read once."""
        return _Arrays(self.group)

    def done(self) -> NDArray[np.uint8]:
        """Return each block's mark (`DONE`), uint8 (block,); of what is shown alone."""
        blocks = len(self.layout.blocks)
        marks = np.zeros(blocks, np.uint8)
        if self.only is not None:
            marks[list(self.only)] = [self.mark(index) for index in self.only]
        elif marked := self._marked():
            marks[marked] = self.arrays["done"].oindex[np.array(marked)]
        return marks

    def _marked(self) -> list[int]:
        """Return the numbers of blocks that have a mark; of all, where a store cannot be listed."""
        from zarr.core.sync import sync

        from cte_dask.storage.stores import names_below

        names = sync(names_below(self.group.store, f"{self.group.path}/done/c".lstrip("/")))
        if names is None:
            return list(range(len(self.layout.blocks)))
        return sorted(int(name) for name in names if name.isdigit())  # not what is being written

    def mark(self, index: int) -> int:
        """Return the mark (`DONE`) of one block; of what is shown alone."""
        mark = int(np.asarray(self.arrays["done"][index]))
        if self.only is None or mark == DONE["missing"]:
            return mark
        failed = mark == DONE["failures"] and self.failures(index)
        return DONE["failures" if failed else "complete"]

    def missing(self) -> NDArray[np.int64]:
        """Return the numbers of the blocks still to be done; failed ones are among them."""
        return np.flatnonzero(self.done() != DONE["complete"])

    def lacking(self, index: int) -> tuple[int, ...]:
        """Return the numbers of the models that a done block was not, or in vain, scored for."""
        lacking = self.block(index).has_status("absent", "failed").any(axis=(1, 2))
        return tuple(np.flatnonzero(lacking).tolist())

    def block(self, index: int) -> TileScores:
        """Return the numbers of one block, (model, draw, tile)."""
        return next(self.each([index]))

    def each(self, indices: Sequence[int]) -> Iterator[TileScores]:
        """Yield the numbers of blocks, (model, draw, tile), some read at a time."""
        for start in range(0, len(indices), AT_ONCE):
            numbers = np.asarray(indices[start : start + AT_ONCE])
            chunks = self.arrays["values"].oindex[numbers]
            for index, chunk in zip(numbers, chunks, strict=True):
                scores = decoded(chunk[..., : self.layout.blocks.tile_count(int(index))])
                if self.only is not None:
                    scores.mark(~self.only[int(index)], "absent")
                yield scores

    def write(self, scores: BlockScores) -> None:
        """Write one block: first its numbers, then its mark.

        Models that are absent from it keep the numbers that the store may hold of them.

        Parameters
        ----------
        scores
            The block's.
        """
        arrays, index, tiles, votes = self.arrays, scores.index, scores.tiles, scores.votes
        causes = encoded_causes(scores.failures, self.layout.models)
        absent = _absent(tiles)
        if absent.any() and arrays["done"][index] != DONE["missing"]:
            tiles = self._completed(index, tiles, absent)
            # Patterns of some models and of others, scored later, cannot be joined any more: which
            # of their voxels were the same is gone. The table of more voters stays.
            if votes is not None and self.votes(index).voted.sum() >= votes.voted.sum():
                votes = None
            causes[absent] = np.asarray(arrays["causes"][index])[absent]
        length = self.layout.blocks.tiles_per_block
        arrays["values"][index] = encoded(tiles, length=length)
        if votes is not None:
            self._write_bank(index, votes, scores.precision)
        failed = bool(causes.any())
        if failed or absent.any():
            arrays["causes"][index] = causes
        partial = bool(_absent(tiles).any())
        arrays["done"][index] = DONE["failures" if failed else "partial" if partial else "complete"]

    def _write_bank(
        self, index: int, votes: VoteTables, precision: NDArray[np.float64] | None
    ) -> None:
        """Write what the models say of each other on a block."""
        length = self.layout.blocks.tiles_per_block
        rows = encoded_votes(votes, columns=vote_columns(votes.models))
        if len(rows) < length:  # a cut block; zarr would read a chunk before it writes a part of it
            rows = np.pad(rows, ((0, length - len(rows)), (0, 0)))
        self.arrays["votes"][index] = rows
        if precision is not None:
            pairs = np.full((len(precision), length), np.nan)
            pairs[:, : precision.shape[-1]] = precision
            self.arrays["precision"][index] = pairs

    def _completed(self, index: int, tiles: TileScores, absent: NDArray[np.bool_]) -> TileScores:
        """Return a block's numbers, those of absent models from the store."""
        chunk = np.asarray(self.arrays["values"][index])
        completed = decoded(chunk[..., : tiles.status.shape[-1]])
        completed[~absent] = tiles[~absent]
        return completed

    def votes(self, index: int) -> VoteTables:
        """Return the vote patterns of one block's tiles, those of what is shown alone.

        Parameters
        ----------
        index
            Number of the block.
        """
        count = self.layout.blocks.tile_count(index)
        rows = np.asarray(self.arrays["votes"][index])[:count]
        tables = decoded_votes(rows, len(self.layout.models))
        hidden = () if self.only is None else np.flatnonzero(~self.only[index]).tolist()
        return tables.without(hidden) if hidden else tables

    def precision(self, index: int) -> NDArray[np.float64]:
        """Return how precisely each pair's objects match on one block, (pair, tile).

        Parameters
        ----------
        index
            Number of the block; instances must have been compared.
        """
        count = self.layout.blocks.tile_count(index)
        rows: NDArray[np.float64] = np.asarray(self.arrays["precision"][index])[:, :count]
        if self.only is not None:
            counted = self.only[index]
            hidden = [not (counted[i] and counted[j]) for i, j in pairs_of(len(counted))]
            rows[np.array(hidden, bool)] = np.nan
        return rows

    def failures(self, index: int) -> dict[str, str]:
        """Return the cause of failure of each model that failed on a block."""
        causes = decoded_causes(np.asarray(self.arrays["causes"][index]), self.layout.models)
        if self.only is None:
            return causes
        counted = dict(zip(self.layout.models, self.only[index], strict=True))
        return {name: cause for name, cause in causes.items() if counted[name]}


def _absent(tiles: TileScores) -> NDArray[np.bool_]:
    """Return which models were not asked for on a block, (model,)."""
    return np.asarray(tiles.has_status("absent").all(axis=(1, 2)))


NOTE = "counted"


def count(
    scores: Scores, blocks: Sequence[int], models: Sequence[int], *, first: Sequence[str] = ()
) -> Scores:
    """Note in a store what its ranking counts, and return that part of it.

    Parameters
    ----------
    scores
        The store.
    blocks
        Numbers of the blocks, in the order in which they were drawn.
    models
        On how many of them, from the first, each model is counted.
    first
        Models that are proven to be the best, best first.
    """
    note: Any = {"blocks": list(blocks), "models": list(models), "first": list(first)}
    scores.group.attrs.update({NOTE: note})
    return counted(scores)


def count_all(scores: Scores) -> Scores:
    """Note that the ranking counts the whole store, and return that."""
    if NOTE in scores.group.attrs:
        del scores.group.attrs[NOTE]
    return replace(scores, only=None, first=())


def counted(scores: Scores) -> Scores:
    """Return the part of a store that its ranking counts."""
    note = dict(scores.group.attrs).get(NOTE)
    if not isinstance(note, dict):
        return replace(scores, only=None, first=())
    models, blocks = np.asarray(note["models"]), note["blocks"]
    only = {int(block): models > number for number, block in enumerate(blocks)}
    return replace(scores, only=only, first=tuple(note["first"]))
