"""Matching voxel sizes: how a target's voxels compare with those a model was trained at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cte_dask.perturb.views import Alike
from cte_dask.tiles import SAME, Scale

if TYPE_CHECKING:
    from cte_dask.models.spec import ModelSpec
    from cte_dask.volume import VoxelSize

__all__ = ["alike_axes", "mismatch", "scale_of"]

TOLERATED = 1.25
"""Ratio of voxel sizes up to which a model is taken to fit."""

EQUAL = 1e-3
"""Relative difference up to which two edges of a voxel are equally long."""


def ratios(spec: ModelSpec, target: VoxelSize | None) -> dict[str, float]:
    """Return, for each axis of a model that is known on both sides, target voxel / its voxel."""
    if spec.voxel_size_nm is None or target is None:
        return {}
    pairs = zip("zyx", target.lengths, spec.voxel_size_nm, strict=True)
    return {a: t / m for a, t, m in pairs if a in spec.axes and t is not None and m is not None}


def scale_of(spec: ModelSpec, target: VoxelSize | None, *, magnified: float = 1.0) -> Scale:
    """Return the voxels of the network per voxel of the target (z, y, x).

    `magnified` along every axis of the model, on top of what ``resample: true`` does; planes of a
    2D model are never resampled along z.

    Parameters
    ----------
    spec
        The model.
    target
        The target's voxel size; None if it is not known.
    magnified
        How much larger than so the network sees the target.

    Raises
    ------
    ValueError
        If the model is to be resampled and the target's voxel size is not known.
    """
    matched = _matched(spec, target)
    pairs = zip("zyx", matched, strict=True)
    z, y, x = (m * magnified if axis in spec.axes else m for axis, m in pairs)
    return z, y, x


def _matched(spec: ModelSpec, target: VoxelSize | None) -> Scale:
    """Return the scale at which the network sees voxels of the size that it was trained at."""
    if not spec.resample:
        return SAME
    scales = ratios(spec, target)
    missing = [axis for axis in spec.axes if axis not in scales]
    if missing:
        raise ValueError(
            f"resample: true needs the target's voxel size along {', '.join(missing)}: "
            "give it where the target is opened"
        )
    z, y, x = (scales.get(axis, 1.0) for axis in "zyx")
    return z, y, x


def alike_axes(scale: Scale, target: VoxelSize | None) -> Alike:
    """Return which axes have voxels of equal length, in the target and in the network.

    Planes are taken to have square voxels, and z to differ, unless the target's voxel size says
    otherwise.

    Parameters
    ----------
    scale
        Voxels of the network per voxel of the target (z, y, x).
    target
        The target's voxel size; None if it is not known.

    Examples
    --------
    >>> alike_axes((1.0, 1.0, 1.0), None)
    (0, 1, 1)
    """
    z, y, x = target.lengths if target else (None, None, None)
    plane = _close(scale[1], scale[2]) and (None in (y, x) or _close(y, x))
    if _close(scale[0], scale[2]) and _close(z, x):
        return 2, 2 if plane else 1, 2
    if _close(scale[0], scale[1]) and _close(z, y):
        return 1, 1, 1 if plane else 2
    return 0, 1, 1 if plane else 2


def _close(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and math.isclose(a, b, rel_tol=EQUAL)


def mismatch(spec: ModelSpec, target: VoxelSize | None, *, magnified: float = 1.0) -> str:
    """Return how the target's voxels, magnified, differ from the model's; empty if they fit."""
    worst = {axis: ratio / magnified for axis, ratio in ratios(spec, target).items()}
    if spec.resample or all(abs(math.log(r)) <= math.log(TOLERATED) for r in worst.values()):
        return ""
    factors = ", ".join(f"{r:.2g}× along {axis}" for axis, r in worst.items())
    seen = "the target's voxels" if magnified == 1 else f"the target's voxels at ×{magnified:g}"
    return f"{seen} are {factors} the size the model was trained at"
