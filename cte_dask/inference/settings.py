"""How the networks of a run see its tiles: one value in place of many arguments."""

from __future__ import annotations

from dataclasses import dataclass

from cte_dask.tiles import Shape

__all__ = ["Inference"]


@dataclass(frozen=True, slots=True)
class Inference:
    """What the inference of all models of a run has in common.

    Parameters
    ----------
    tile
        Extent of a whole tile (z, y, x), voxels.
    device
        ``"cpu"`` or ``"cuda"``.
    precision
        ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    features
        Whether feature perturbations will be asked for.
    instances
        Whether instance labels will be asked for.
    time_limit
        Seconds that a network may take for one batch; None for what follows from its trial
        (`cte_dask.inference.time_limit`).
    """

    tile: Shape
    device: str = "cpu"
    precision: str = "float32"
    features: bool = True
    instances: bool = False
    time_limit: float | None = None
