"""The demonstration: a bank of small nuclei models, and a real target with its labels."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

__all__ = ["LABELS", "SHAPE", "VOXEL_SIZE_NM", "bank_path", "write_demo_target"]

SHAPE = (24, 256, 256)
"""Extent of the target: 24 images of 256 × 256 pixels, as planes (z, y, x)."""

VOXEL_SIZE_NM = (1000.0, 1000.0, 1000.0)
"""Extent of its voxels in nanometre (z, y, x): not known, and written as 1 µm."""

LABELS = "nuclei"
"""Name of the truth among the target's labels."""


def bank_path() -> Path:
    """Return the path of the ``bank.yaml`` of the demonstration's models, nine 2D U-Nets."""
    return Path(str(resources.files(__name__))) / "bank" / "bank.yaml"


def write_demo_target(path: str | Path) -> None:
    """Write real fluorescence images of nuclei as OME-Zarr 0.5: BBBC038, ``target/README.md``.

    Parameters
    ----------
    path
        Path of the group: a uint8 image (z, y, x) of :data:`SHAPE`, each plane an image of its own,
        and its labels ``nuclei``, int32, which nobody asks before the ranking is made.
    """
    # Importing the demonstration must not load numpy and zarr: a caller may need the bank alone.
    import numpy as np

    from cte_dask.volume import write_ome_zarr

    with np.load(Path(str(resources.files(__name__))) / "target" / "nuclei.npz") as pack:
        image, labels = pack["image"], pack["labels"].astype(np.int32)
    write_ome_zarr(
        path,
        image,
        axes="zyx",
        voxel_size_nm=VOXEL_SIZE_NM,
        version="0.5",
        chunks=(6, 256, 256),
        labels={LABELS: labels},
        name="nuclei, BBBC038",
    )
