"""The votes of `vote_patterns` on the GPU: ``device/vote_words.cuh`` through CuPy.

Not yet run on a GPU: the tests compile the source with nvcc and run its arithmetic on the host.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import cupy as cp

from cte_dask.arrays import Array

_THREADS = 256
_MOST_BLOCKS = 1024
_WORD_BITS = 64

__all__ = ["words_of"]


def words_of(masks: Array, core: Array, step: int) -> Array:
    """Return the votes on each voxel of one tile's core that is looked at.

    Parameters
    ----------
    masks
        Bits of each model's foreground, cupy.ndarray of uint64 (model, word).
    core
        Bits of the voxels that count, cupy.ndarray of uint64 (word,).
    step
        Every how manieth word of 64 voxels is looked at.

    Returns
    -------
    cupy.ndarray of uint64
        (voxel, ceil(models / 64)); bit m of word w is the vote of model 64 w + m.
    """
    inside = _votes(core[None], step).astype(bool)
    groups = [masks[i : i + _WORD_BITS] for i in range(0, len(masks), _WORD_BITS)]
    words: Array = cp.stack([_votes(group, step)[inside] for group in groups], axis=1)
    return words


def _votes(masks: Array, step: int) -> Any:
    """Return the votes on each voxel looked at as one word, uint64 (voxel,)."""
    models, words = masks.shape
    voxels = -(-words // step) * _WORD_BITS
    out = cp.empty(voxels, dtype=cp.uint64)
    blocks = min(-(-voxels // _THREADS), _MOST_BLOCKS)
    sizes = cp.int32(models), cp.int64(words), cp.int64(step), cp.int64(voxels)
    _kernel()((blocks,), (_THREADS,), (cp.ascontiguousarray(masks), *sizes, out))
    return out


@cache
def _kernel() -> Any:
    header = Path(__file__).parent / "device" / "vote_words.cuh"
    options = ("--std=c++17",)
    return cp.RawModule(code=header.read_text(), options=options).get_function("cte_vote_words")
