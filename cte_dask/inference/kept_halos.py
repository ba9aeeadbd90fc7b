"""Halos that were measured before, kept between runs in the user's cache folder.

Measuring one takes some twenty passes of a network. A file names the weights and the versions by
its name, and holds the digests of what the network made of noise: a halo is taken from it where
the network gives that still, to the bit, and is measured otherwise. Files may be deleted at any
time; one that cannot be read or written is none.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cte_dask.inference import halo as measuring
from cte_dask.inference.halo import Halo, Witness
from cte_dask.models.source import cache_folder
from cte_dask.models.spec import canonical_json
from cte_dask.storage.files import replacing

if TYPE_CHECKING:
    from cte_dask.models.spec import ModelSpec

__all__ = ["keep", "recall"]


def recall(spec: ModelSpec, limit: int | None) -> Halo | None:
    """Return the halo that was measured of a model; None if none was kept.

    Parameters
    ----------
    spec
        The model, with the digest of its weights where they are a file.
    limit
        Largest halo that was searched for, in voxels.
    """
    with suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(_path(spec, limit).read_text())
        z, y, x = map(int, kept["zyx"])
        witnesses = (Witness(tuple(map(int, w["shape"])), w["digest"]) for w in kept["witnesses"])
        return Halo((z, y, x), str(kept["note"]), tuple(witnesses))
    return None


def keep(spec: ModelSpec, limit: int | None, halo: Halo) -> None:
    """Keep what was measured; arguments as `recall` takes and gives them."""
    kept = {
        "zyx": halo.zyx,
        "note": halo.note,
        "witnesses": [{"shape": w.shape, "digest": w.digest} for w in halo.witnesses],
    }
    path = _path(spec, limit)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(str(path)) as file:
            json.dump(kept, file)


def _path(spec: ModelSpec, limit: int | None) -> Path:
    """Return the file of a model: named by all that decides its halo, and by what measures it."""
    import torch

    any_of_these = {"name": "", "preprocessing": (), "bottleneck": None, "layers": ()}
    parts = {
        "network": spec.model_copy(update=any_of_these).digest(),
        "limit": limit,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "measured by": hashlib.sha256(Path(measuring.__file__).read_bytes()).hexdigest(),
    }
    digest = hashlib.sha256(canonical_json(parts).encode()).hexdigest()
    return cache_folder() / "halos" / f"{digest}.json"
