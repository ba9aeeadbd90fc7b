"""A new score store: its arrays, laid down so that several processes may make the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cte_dask.results.block_codec import CAUSE_BYTES, COLUMNS, vote_columns
from cte_dask.results.store import Scores, store_of
from cte_dask.scoring.block_scores import STATUS

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

    from cte_dask.results.layout import Layout

__all__ = ["create"]


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
        sync(store_of(url).delete_dir(""))
    try:
        group = zarr.open_group(store_of(url), mode="r+")
    except (FileNotFoundError, zarr.errors.GroupNotFoundError):
        group, resume = _make(url, layout), True
    if not resume:
        raise FileExistsError(f"{url} exists: give --resume to go on or --overwrite to start anew")
    experiment = str(group.attrs.get("experiment"))
    if experiment != layout.experiment:
        raise ValueError(
            f"{url} holds another experiment (hash {experiment[:12]}, this one "
            f"{layout.experiment[:12]}): the target, a model or an option differs; "
            "use another --out or --overwrite"
        )
    return Scores(group, layout)


def _make(url: str, layout: Layout) -> zarr.Group:
    """Make the store; several processes may, at once, for the same run.

    The documents are put together in memory and laid down one by one, each only where there is
    none yet, the group's own last: whoever sees that sees a whole store.
    """
    import zarr
    from zarr.core.sync import sync
    from zarr.storage import MemoryStore

    draft, store = MemoryStore(), store_of(url)
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
    votes = (layout.blocks.tiles_per_block, vote_columns(models))
    group.create_array(
        "votes",
        shape=(blocks, *votes),
        chunks=(1, *votes),
        dtype="uint64",
        fill_value=0,
        dimension_names=("block", "tile", "column"),
    )
    if layout.instances:
        pairs = (models * (models - 1) // 2, layout.blocks.tiles_per_block)
        group.create_array(
            "precision",
            shape=(blocks, *pairs),
            chunks=(1, max(1, pairs[0]), pairs[1]),
            dtype="float64",
            fill_value=np.nan,
            dimension_names=("block", "pair", "tile"),
        )
    group.attrs.update({**layout.to_dict(), "columns": COLUMNS, "status": STATUS})
