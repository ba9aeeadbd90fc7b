"""Reading parts of shards in few requests.

Zarr's sharding codec asks for the index of a shard and then, one after the other, for each of the
chunks that a selection touches: at 30 ms a request a block's halo costs seconds. Here the chunks
are looked up first and fetched together, those that lie close in one request; the codec then finds
them in memory. It decodes and checks everything itself, and asks for what is not there.
https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
from zarr.core.buffer import default_buffer_prototype, numpy_buffer_prototype
from zarr.core.sync import sync

if TYPE_CHECKING:
    import zarr

    from cte_dask.storage.stores import StrictStore
    from cte_dask.volume.image import Selection

__all__ = ["fetched_together"]

GAP = 2**18
"""Bytes between two chunks that are cheaper to read along than to ask for separately."""
MISSING = 2**64 - 1
"""Offset in the index of a chunk that was never written."""
LARGEST = 2**30
"""Bytes of a chunk in a shard; larger ones are left to the codec."""
Shape = tuple[int, ...]


@contextmanager
def fetched_together(
    array: zarr.Array[Any], store: StrictStore, selection: Selection
) -> Iterator[None]:
    """Keep the chunks of a selection that lie in shards read in part, for the read inside.

    Parameters
    ----------
    array
        A sharded array; of an index that is coded unusually nothing is fetched.
    store
        Its store.
    selection
        What will be read: one index or slice an axis.
    """
    codec = _sharding(array)
    keys = sync(_fetch(array, store, codec, selection)) if codec else []
    try:
        yield
    finally:
        store.forget(keys)


def _sharding(array: zarr.Array[Any]) -> ShardingCodec | None:
    """Return the sharding codec of an array whose index can be read here."""
    codecs: tuple[Any, ...] = getattr(array.metadata, "codecs", ())
    if len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec):
        return None
    plain = [type(c) for c in codecs[0].index_codecs] in ([BytesCodec], [BytesCodec, Crc32cCodec])
    return codecs[0] if plain else None


Kept = tuple[str, ByteRequest]


async def _fetch(
    array: zarr.Array[Any], store: StrictStore, codec: ShardingCodec, selection: Selection
) -> list[Kept]:
    shard, chunk = array.shards or array.chunks, codec.chunk_shape
    counts = tuple(s // c for s, c in zip(shard, chunk, strict=True))
    tasks = []
    for position in product(*(_range(s, n) for s, n in zip(selection, shard, strict=True))):
        chunks = _touched(selection, position, shard, chunk)
        if len(chunks) > 1 and len(chunks) < math.prod(counts):  # a whole one is one request
            key = array.metadata.encode_chunk_key(position)
            path = f"{array.store_path.path}/{key}" if array.store_path.path else key
            tasks.append(_fetch_shard(store, path, codec, counts, chunks))
    fetched = await asyncio.gather(*tasks)
    return [kept for several in fetched for kept in several]


async def _fetch_shard(
    store: StrictStore, key: str, codec: ShardingCodec, counts: Shape, chunks: list[Shape]
) -> list[Kept]:
    """Keep the index of a shard and some of its chunks; returns what is kept."""
    size = 16 * math.prod(counts) + 4 * (len(codec.index_codecs) - 1)
    at_start = codec.index_location.value == "start"
    where = RangeByteRequest(0, size) if at_start else SuffixByteRequest(size)
    index = await store.get(key, numpy_buffer_prototype(), where)
    if index is None:
        return []
    store.keep(key, where, index)
    table = np.frombuffer(index.to_bytes(), "<u8", count=2 * math.prod(counts))
    spans = table.reshape(*counts, 2)
    parts = sorted((int(offset), int(length)) for offset, length in (spans[c] for c in chunks))
    # of a damaged index nothing is believed: the codec tells what is wrong with it
    if any(offset != MISSING and not 0 < length <= LARGEST for offset, length in parts):
        return [(key, where)]
    wanted = [RangeByteRequest(o, o + length) for o, length in parts if o != MISSING]
    await _keep_parts(store, key, wanted)
    return [(key, where), *((key, part) for part in wanted)]


async def _keep_parts(store: StrictStore, key: str, parts: list[RangeByteRequest]) -> None:
    together = _merged(parts)
    requests: list[tuple[str, ByteRequest | None]] = [(key, r) for r in together]
    answers = await store.get_partial_values(default_buffer_prototype(), requests)
    for whole, answer in zip(together, answers, strict=True):
        for part in parts:
            if answer is not None and whole.start <= part.start and part.end <= whole.end:
                store.keep(key, part, answer[part.start - whole.start : part.end - whole.start])


def _merged(parts: list[RangeByteRequest]) -> list[RangeByteRequest]:
    """Join ranges, in order of their starts, that overlap or lie closer than `GAP`."""
    merged: list[RangeByteRequest] = []
    for part in parts:
        last = merged[-1] if merged else None
        if last and part.start <= last.end + GAP:
            merged[-1] = RangeByteRequest(last.start, max(last.end, part.end))
        else:
            merged.append(part)
    return merged


def _touched(selection: Selection, position: Shape, shard: Shape, chunk: Shape) -> list[Shape]:
    """Return the chunks of a shard that a selection touches, counted within the shard."""
    ranges = []
    for selected, index, extent, size in zip(selection, position, shard, chunk, strict=True):
        low, high = _bounds(selected)
        first, last = max(low - index * extent, 0), min(high - index * extent, extent)
        ranges.append(range(first // size, -(-last // size)))
    return list(product(*ranges))


def _range(selected: slice | int, unit: int) -> range:
    low, high = _bounds(selected)
    return range(low // unit, -(-high // unit))


def _bounds(selected: slice | int) -> tuple[int, int]:
    if isinstance(selected, int):
        return selected, selected + 1
    return selected.start, selected.stop
