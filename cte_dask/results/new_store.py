"""A new score store: its arrays, laid down so that several processes may make the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cte_dask.results.block_codec import COLUMNS
from cte_dask.results.chunks import chunks_of
from cte_dask.results.damage import is_signed, sign
from cte_dask.results.layout import Layout
from cte_dask.results.store import Scores, open_group, remove_store, store_of
from cte_dask.scoring.block_scores import STATUS
from cte_dask.storage.stores import names_below

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store


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
    from zarr.core.sync import sync

    if overwrite:
        remove_store(url)
    try:
        group = open_group(url, writable=True)
    except FileNotFoundError:
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
    if (cut := Layout.from_dict(dict(group.attrs)).blocks) != layout.blocks:
        raise ValueError(
            f"{url} holds blocks of {cut.per_block} tiles, not {layout.blocks.per_block}: leave "
            "--block out, or use another --out"
        )
    if is_signed(group):
        sync(_lay_down(_draft(layout), store_of(url), mend=True))
    return Scores(group, layout)


def _make(url: str, layout: Layout) -> zarr.Group:
    """Make the store; several processes may, at once, for the same run.

    The documents are put together in memory and laid down one by one, each only where there is
    none yet, the group's own last: whoever sees that sees a whole store.
    """
    from zarr.core.sync import sync

    store = store_of(url)
    if sync(names_below(store, "done/c")):
        raise ValueError(
            f"{url}/zarr.json is missing, and what the blocks there are of is lost with it: give "
            "--overwrite, or another --out"
        )
    sync(_lay_down(_draft(layout), store))
    return open_group(url, writable=True)


def _draft(layout: Layout) -> Store:
    """Return the documents of a store, in memory."""
    import zarr
    from zarr.storage import MemoryStore

    draft = MemoryStore()
    _describe(zarr.create_group(draft), layout)
    return draft


async def _lay_down(draft: Store, store: Store, *, mend: bool = False) -> None:
    """Write documents where there are none; to mend, those of arrays that are not as they were."""
    from zarr.core.buffer import default_buffer_prototype

    keys = [key async for key in draft.list()]
    for key in sorted(keys, key=lambda key: (key == "zarr.json", key)):
        document = await draft.get(key, default_buffer_prototype())
        if document is None or (mend and key == "zarr.json"):
            continue
        stored = await store.get(key, default_buffer_prototype()) if mend else None
        if stored is None:
            await store.set_if_not_exists(key, document)
        elif stored.to_bytes() != document.to_bytes():
            await store.set(key, document)


def _describe(group: zarr.Group, layout: Layout) -> None:
    from zarr.codecs import Crc32cCodec, ZstdCodec

    compressors = (ZstdCodec(), Crc32cCodec())  # the outer one sees damage before it is decoded
    blocks = len(layout.blocks)
    for name, chunk in chunks_of(layout).items():
        if name == "precision" and not layout.instances:
            continue
        group.create_array(
            name,
            shape=(blocks, *chunk.shape),
            chunks=(1, *(max(1, extent) for extent in chunk.shape)),
            dtype=chunk.dtype,
            fill_value=np.nan if chunk.dtype == "float64" else 0,
            compressors=compressors,
            dimension_names=("block", *chunk.axes) if chunk.axes else None,
        )
    sign(group, {**layout.to_dict(), "columns": COLUMNS, "status": STATUS})
