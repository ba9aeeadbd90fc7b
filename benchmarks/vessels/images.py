"""The two targets: colour fundus images, vessels drawn by hand, and the field of view."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cte_dask.perturb.canonical import CANONICAL_PERCENTILES

__all__ = ["DATA", "TARGETS", "Images", "Target", "read_images"]

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("CTE_DATA", REPOSITORY.parent / "shared" / "data"))


@dataclass(frozen=True, slots=True)
class Target:
    """One target.

    Parameters
    ----------
    name
        Of its pack, without ``.npz``.
    title, data
        Of the public data set; ``data`` is what networks that learnt from it call it.
    """

    name: str
    title: str
    data: str


TARGETS = (
    Target("r_drive", "DRIVE", "drive"),
    Target("r_chase", "CHASE_DB1", "chasedb1"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """The images of one target.

    Parameters
    ----------
    raw
        uint8 (image, y, x, channel).
    label, view
        Vessels, and where the field of view is, bool (image, y, x).
    low, high
        Percentiles of all values of all images: 0 and 1 of the canonical scale.
    """

    raw: npt.NDArray[np.uint8]
    label: npt.NDArray[np.bool_]
    view: npt.NDArray[np.bool_]
    low: float
    high: float

    def __len__(self) -> int:
        return len(self.raw)

    def colours(self, number: int) -> npt.NDArray[np.float32]:
        """Return one image, float32 (channel, y, x) in raw units."""
        image: npt.NDArray[Any] = self.raw[number].transpose(2, 0, 1)
        return np.ascontiguousarray(image, dtype=np.float32)


def read_images(target: Target, data: Path = DATA) -> Images:
    """Read the test split of a target: what no network has learnt from, on DRIVE at least.

    Raises
    ------
    SystemExit
        If its pack is not there.
    """
    source = data / f"{target.name}.npz"
    if not source.exists():
        raise SystemExit(f"{source} is missing: CTE_DATA names the folder of the packs")
    with np.load(source) as arrays:
        chosen = np.flatnonzero(arrays["split"] == "test")
        raw, label, view = (arrays[name][chosen] for name in ("raw", "label", "fov"))
    low, high = np.percentile(raw, CANONICAL_PERCENTILES).tolist()
    return Images(raw, label, view, low, high)
