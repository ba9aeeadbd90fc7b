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
    encoded_bank,
    encoded_causes,
)
from cte_dask.results.checksums import HASHED, SUMS, row_of, vouched
from cte_dask.results.chunks import chunks_of
from cte_dask.results.damage import (
    RESUME,
    Arrays,
    check_signature,
    is_signed,
    readable,
    replace_attributes,
)
from cte_dask.results.layout import AT_ONCE, DONE, Layout, layout_of
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
    "open_group",
    "open_scores",
    "remove_store",
    "store_of",
]


def store_of(url: str, *, read_only: bool = False) -> Store:
    """Return the zarr store of a path or URL."""
    from cte_dask.storage.stores import absolute, open_store

    return open_store(absolute(url), {}, read_only=read_only)


def remove_store(url: str) -> None:
    """Remove a zarr store with all that is in it."""
    from zarr.core.sync import sync

    sync(store_of(url).delete_dir(""))


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
    try:
        group = open_group(url, writable=writable)
    except FileNotFoundError:
        raise FileNotFoundError(f"no score store at {url}: is that the --out of a run?") from None
    return Scores(group, Layout.from_dict(dict(group.attrs)))


def open_group(url: str, *, writable: bool) -> zarr.Group:
    """Return the group of a score store, its attributes as they were written.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If its document is damaged: what its numbers mean is lost.
    """
    import zarr

    store = store_of(url, read_only=not writable)
    try:
        with readable(f"{url}/zarr.json", "give --overwrite, or another --out"):
            group = zarr.open_group(store, mode="r+" if writable else "r")
    except zarr.errors.GroupNotFoundError as error:
        raise FileNotFoundError(f"{url}/zarr.json does not exist") from error
    check_signature(dict(group.attrs), url)
    return group


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
        return Arrays(self.group, len(self.layout.blocks), chunks_of(self.layout))

    def done(self) -> NDArray[np.uint8]:
        """Return each block's mark (`DONE`), uint8 (block,); of what is shown alone."""
        blocks = len(self.layout.blocks)
        marks = np.zeros(blocks, np.uint8)
        if self.only is not None:
            marks[list(self.only)] = [self.mark(index) for index in self.only]
        elif marked := self.marked():
            try:
                marks[marked] = self.arrays["done"].oindex[np.array(marked)]
            except ValueError:  # a mark that cannot be read is none
                marks[marked] = [self._legible(index) for index in marked]
        return marks

    def _legible(self, index: int) -> int:
        try:
            return self.mark(index)
        except ValueError:
            return DONE["missing"]

    def marked(self) -> list[int]:
        """Return the numbers of blocks that have a mark; of all, where a store cannot be listed."""
        from zarr.core.sync import sync

        from cte_dask.storage.stores import names_below

        names = sync(names_below(self.group.store, f"{self.group.path}/done/c".lstrip("/")))
        if names is None:
            return list(range(len(self.layout.blocks)))
        return sorted(int(name) for name in names if name.isdigit())  # not what is being written

    def _chunk(self, name: str, index: int) -> NDArray[Any]:
        """Return a block's chunk of an array."""
        with readable(f"{self.group.store}/{name}/c/{index}", RESUME):
            return np.asarray(self.arrays[name][index])

    def are_sound(self, indices: Sequence[int]) -> bool:
        """Whether all that a store holds of some marked blocks is what was written for them.

        Parameters
        ----------
        indices
            Numbers of the blocks, `AT_ONCE` at most: their chunks are read together.

        Returns
        -------
        bool
            Of a store of before, which holds no `SUMS`, whether they can be read.
        """
        numbers, chunks = np.asarray(indices), {}
        try:
            for name in (*HASHED, "done", *([SUMS] if self.is_signed else [])):
                if name != "precision" or self.layout.instances:
                    with readable(f"{self.group.store}/{name}", RESUME):
                        chunks[name] = np.asarray(self.arrays[name].oindex[numbers])
        except ValueError:
            return False
        return all(
            self._is_sound(index, {name: chunk[place] for name, chunk in chunks.items()})
            for place, index in enumerate(indices)
        )

    def _is_sound(self, index: int, chunks: Mapping[str, NDArray[Any]]) -> bool:
        mark = int(chunks["done"])
        if SUMS not in chunks:
            status = chunks["values"][..., -1, : self.layout.blocks.tile_count(index)]
            return mark != DONE["complete"] or not bool(np.isnan(status).any())
        row = chunks[SUMS]
        names = vouched(row, index, mark) or ()
        return bool((row == row_of(index, mark, {name: chunks[name] for name in names})).all())

    @property
    def is_signed(self) -> bool:
        """Whether the store holds checksums; those of before do not."""
        return is_signed(self.group)

    def forget(self, index: int) -> None:
        """Take a block's mark away: it is missing from then on."""
        self.arrays["done"][index] = DONE["missing"]

    def mark(self, index: int) -> int:
        """Return the mark (`DONE`) of one block; of what is shown alone."""
        mark = int(self._chunk("done", index))
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
            place = f"{self.group.store}/values/c, one of blocks {numbers[0]} to {numbers[-1]},"
            with readable(place, RESUME):
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
        index, tiles, votes = scores.index, scores.tiles, scores.votes
        causes = encoded_causes(scores.failures, self.layout.models)
        absent = _absent(tiles)
        if absent.any() and self.mark(index) != DONE["missing"]:
            tiles = self._completed(index, tiles, absent)
            # Patterns of some models and of others, scored later, cannot be joined any more: which
            # of their voxels were the same is gone. The table of more voters stays.
            if votes is not None and self.votes(index).voted.sum() >= votes.voted.sum():
                votes = None
            causes[absent] = self._chunk("causes", index)[absent]
        length = self.layout.blocks.tiles_per_block
        chunks: dict[str, NDArray[Any]] = {"values": encoded(tiles, length=length)}
        if votes is not None:
            chunks |= encoded_bank(votes, scores.precision, length=length)
        failed = bool(causes.any())
        if failed or absent.any():
            chunks["causes"] = causes
        partial = bool(_absent(tiles).any())
        mark = DONE["failures" if failed else "partial" if partial else "complete"]
        for name, chunk in chunks.items():
            # empty ones too: else zarr deletes what is not there, a request that some stores refuse
            self.arrays[name].with_config({"write_empty_chunks": True})[index] = chunk
        self._vouch(index, mark, chunks)
        self.arrays["done"][index] = mark

    def _vouch(self, index: int, mark: int, chunks: Mapping[str, NDArray[Any]]) -> None:
        """Write what tells later that a block's chunks are these."""
        if not self.is_signed:
            return
        bank = ("votes", "precision") if self.layout.instances else ("votes",)
        stays = {name: self._chunk(name, index) for name in bank if name not in chunks}
        self.arrays[SUMS][index] = row_of(index, mark, {**chunks, **stays})

    def _completed(self, index: int, tiles: TileScores, absent: NDArray[np.bool_]) -> TileScores:
        """Return a block's numbers, those of absent models from the store."""
        chunk = self._chunk("values", index)
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
        rows = self._chunk("votes", index)[:count]
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
        rows: NDArray[np.float64] = self._chunk("precision", index)[:, :count]
        if self.only is not None:
            counted = self.only[index]
            hidden = [not (counted[i] and counted[j]) for i, j in pairs_of(len(counted))]
            rows[np.array(hidden, bool)] = np.nan
        return rows

    def failures(self, index: int) -> dict[str, str]:
        """Return the cause of failure of each model that failed on a block."""
        causes = decoded_causes(self._chunk("causes", index), self.layout.models)
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
    replace_attributes(scores.group, {**dict(scores.group.attrs), NOTE: note})
    return counted(scores)


def count_all(scores: Scores) -> Scores:
    """Note that the ranking counts the whole store, and return that."""
    attributes = dict(scores.group.attrs)
    if attributes.pop(NOTE, None) is not None:
        replace_attributes(scores.group, attributes)
    return replace(scores, only=None, first=())


def counted(scores: Scores) -> Scores:
    """Return the part of a store that its ranking counts."""
    note = dict(scores.group.attrs).get(NOTE)
    if not isinstance(note, dict):
        return replace(scores, only=None, first=())
    models, blocks = np.asarray(note["models"]), note["blocks"]
    only = {int(block): models > number for number, block in enumerate(blocks)}
    return replace(scores, only=only, first=tuple(note["first"]))
