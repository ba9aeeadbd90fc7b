"""The score store: a zarr group that is the results, the ledger and the checkpoint of a run.

One chunk holds the numbers of one block, written by the task that made it; a second, tiny one marks
the block done, and is written after it. Resuming a run is planning the blocks without a mark.

An anytime run scores some blocks for a part of the models only: the others are ``absent`` there.
What its ranking counts is a part of the store; see `cte_dask.counted`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.bank_overlaps import overlap_rows
from cte_dask.layout import Layout, layout_of
from cte_dask.scoring import COLUMNS, STATUS, BlockScores

if TYPE_CHECKING:
    import zarr
    from numpy.typing import NDArray
    from zarr.abc.store import Store

__all__ = ["DONE", "Layout", "Scores", "create", "layout_of", "open_scores", "write_block"]

DONE = {"missing": 0, "complete": 1, "failures": 2, "partial": 3}
"""Marks of a block; ``partial``: without failures, but not of every model."""
CAUSE_BYTES = 400


def create(url: str, layout: Layout, *, resume: bool = False, overwrite: bool = False) -> Scores:
    """Make the score store of a run, or open it to go on.

    Parameters
    ----------
    url
        Path or fsspec URL of the zarr group.
    layout
        What it will hold.
    resume
        Go on with what is there; a store of another experiment is refused.
    overwrite
        Drop what is there.

    Returns
    -------
    Scores

    Raises
    ------
    FileExistsError
        If a store is there and neither `resume` nor `overwrite` is given.
    ValueError
        If the store to resume belongs to another experiment.
    """
    import zarr
    from zarr.core.sync import sync

    if overwrite:
        sync(_store(url).delete_dir(""))
    try:
        group = zarr.open_group(_store(url), mode="r+")
    except (FileNotFoundError, zarr.errors.GroupNotFoundError):
        group, resume = _make(url, layout), True
    if not resume:
        raise FileExistsError(f"{url} exists: give --resume to go on or --overwrite to start anew")
    found = str(group.attrs.get("experiment"))
    if found != layout.experiment:
        raise ValueError(
            f"{url} holds another experiment (hash {found[:12]}, this one "
            f"{layout.experiment[:12]}): the target, a model or an option differs; "
            "use another --out or --overwrite"
        )
    return Scores(group, layout)


def _store(url: str, *, read_only: bool = False) -> Store:
    from cte_dask.volume.store import absolute, open_store

    return open_store(absolute(url), {}, read_only=read_only)


def _make(url: str, layout: Layout) -> zarr.Group:
    """Make the store; several processes may, at once, for the same run.

    The documents are put together in memory and laid down one by one, each only where there is
    none yet, the group's own last: whoever sees that sees a whole store.
    """
    import zarr
    from zarr.core.sync import sync
    from zarr.storage import MemoryStore

    draft, store = MemoryStore(), _store(url)
    _describe(zarr.create_group(draft), layout)
    sync(_lay_down(draft, store))
    return zarr.open_group(store, mode="r+")


async def _lay_down(draft: Store, store: Store) -> None:
    from zarr.core.buffer import default_buffer_prototype

    keys = [key async for key in draft.list()]
    for key in sorted(keys, key=lambda key: (key == "zarr.json", key)):
        document = await draft.get(key, default_buffer_prototype())
        if document is not None:
            await store.set_if_not_exists(key, document)


def _describe(group: zarr.Group, layout: Layout) -> None:
    blocks, models = len(layout.blocks), len(layout.models)
    inner = (
        models,
        len(layout.perturbations) * layout.repeats,
        len(COLUMNS),
        layout.blocks.tiles_per_block,
    )
    group.create_array(
        "values",
        shape=(blocks, *inner),
        chunks=(1, *inner),
        dtype="float64",
        fill_value=np.nan,
        dimension_names=("block", "model", "draw", "column", "tile"),
    )
    group.create_array("done", shape=(blocks,), chunks=(1,), dtype="uint8", fill_value=0)
    causes = (models, CAUSE_BYTES)
    group.create_array(
        "causes", shape=(blocks, *causes), chunks=(1, *causes), dtype="uint8", fill_value=0
    )
    if layout.bank_metrics:
        overlaps = (overlap_rows(models), layout.blocks.tiles_per_block)
        group.create_array(
            "overlaps",
            shape=(blocks, *overlaps),
            chunks=(1, *overlaps),
            dtype="float64",
            fill_value=np.nan,
            dimension_names=("block", "row", "tile"),
        )
    group.attrs.update(layout.to_dict())


def open_scores(url: str) -> Scores:
    """Return the score store of a run, opened to read it.

    Parameters
    ----------
    url
        Path or fsspec URL of the zarr group, ``RUN/scores.zarr``.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is something else.
    """
    import zarr

    try:
        group = zarr.open_group(_store(url, read_only=True), mode="r")
    except (FileNotFoundError, zarr.errors.GroupNotFoundError):
        raise FileNotFoundError(f"no score store at {url}: is that the --out of a run?") from None
    return Scores(group, Layout.from_dict(dict(group.attrs)))


def write_block(url: str, scores: BlockScores, models: tuple[str, ...]) -> None:
    """Write one block: first its numbers, then its mark.

    Models that are absent from it keep the numbers that the store may hold of them.

    Parameters
    ----------
    url
        The store.
    scores
        The numbers.
    models
        Names of the models, in the order of the numbers.
    """
    import zarr

    group = zarr.open_group(_store(url), mode="r+")
    index, values, causes = scores.index, scores.values, _causes(scores.failures, models)
    absent = _absent(values)
    if absent.any():
        stored = _array(group, "done")[index] != DONE["missing"]
        if stored:
            kept = np.asarray(_array(group, "values")[index])[..., : values.shape[-1]]
            values = np.where(absent[:, None, None, None], kept, values)
            causes = np.where(absent[:, None], np.asarray(_array(group, "causes")[index]), causes)
    _array(group, "values")[index, ..., : values.shape[-1]] = values
    if scores.overlaps is not None:
        _array(group, "overlaps")[index, :, : values.shape[-1]] = scores.overlaps
    failed = bool(causes.any())
    if failed or absent.any():
        _array(group, "causes")[index] = causes
    partial = bool(_absent(values).any())
    mark = "failures" if failed else "partial" if partial else "complete"
    _array(group, "done")[index] = DONE[mark]


def _causes(failures: Mapping[str, str], models: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return causes as the ledger holds them, (model, byte)."""
    causes = np.zeros((len(models), CAUSE_BYTES), np.uint8)
    for row, name in enumerate(models):
        text = failures.get(name, "").encode()[:CAUSE_BYTES]
        causes[row, : len(text)] = np.frombuffer(text, np.uint8)
    return causes


def _absent(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which models were not asked for on a block, (model,)."""
    status = values[:, :, -1]
    absent: NDArray[np.bool_] = (np.isnan(status) | (status == STATUS["absent"])).all(axis=(1, 2))
    return absent


def _array(group: zarr.Group, name: str) -> Any:
    return group[name]


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

    def done(self) -> NDArray[np.uint8]:
        """Return each block's mark (`DONE`), uint8 (block,); of what is shown alone."""
        if self.only is None:
            return np.asarray(_array(self.group, "done")[:])
        shown = np.zeros(len(self.layout.blocks), np.uint8)
        shown[list(self.only)] = [self.mark(index) for index in self.only]
        return shown

    def mark(self, index: int) -> int:
        """Return the mark (`DONE`) of one block; of what is shown alone."""
        mark = int(np.asarray(_array(self.group, "done")[index]))
        if self.only is None or mark == DONE["missing"]:
            return mark
        failed = mark == DONE["failures"] and self.failures(index)
        return DONE["failures" if failed else "complete"]

    def missing(self) -> NDArray[np.int64]:
        """Return the numbers of the blocks still to be done; failed ones are among them."""
        return np.flatnonzero(self.done() != DONE["complete"])

    def lacking(self, index: int) -> tuple[int, ...]:
        """Return the numbers of the models that a done block was not, or in vain, scored for."""
        status = self.block(index)[:, :, -1]
        lacking = np.isnan(status) | np.isin(status, [STATUS["absent"], STATUS["failed"]])
        return tuple(np.flatnonzero(lacking.any(axis=(1, 2))).tolist())

    def block(self, index: int) -> NDArray[np.float64]:
        """Return the numbers of one block, (model, draw, column, tile)."""
        count = self.layout.blocks.tile_count(index)
        values: NDArray[np.float64] = np.asarray(_array(self.group, "values")[index])[..., :count]
        if self.only is not None:
            hidden = ~self.only[index]
            values[hidden], values[hidden, :, -1] = np.nan, STATUS["absent"]
        return values

    def overlaps(self, index: int) -> NDArray[np.float64] | None:
        """Return how the models overlap on one block, (row, tile); None if that was not asked.

        Rows are those of `cte_dask.bank_overlaps.overlap_rows`.
        """
        if not self.layout.bank_metrics:
            return None
        count = self.layout.blocks.tile_count(index)
        rows: NDArray[np.float64] = np.asarray(_array(self.group, "overlaps")[index])[:, :count]
        return rows

    def failures(self, index: int) -> dict[str, str]:
        """Return the cause of failure of each model that failed on a block."""
        rows = np.asarray(_array(self.group, "causes")[index])
        texts = [bytes(row).rstrip(b"\0").decode(errors="replace") for row in rows]
        shown = [True] * len(texts) if self.only is None else self.only[index]
        named = zip(self.layout.models, texts, shown, strict=True)
        return {name: text for name, text, wanted in named if text and wanted}
