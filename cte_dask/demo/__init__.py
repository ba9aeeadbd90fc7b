"""The demonstration: a bank of small nuclei models, and a simulated target with its truth."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

__all__ = ["LABELS", "SHAPE", "VOXEL_SIZE_NM", "bank_path", "write_demo_target"]

SHAPE = (8, 512, 512)
"""Extent of the target in voxels (z, y, x)."""

VOXEL_SIZE_NM = (1000.0, 333.0, 333.0)
"""Extent of its voxels in nanometre (z, y, x); a typical nucleus is 8 µm wide."""

LABELS = "nuclei"
"""Name of the truth among the target's labels."""


def bank_path() -> Path:
    """Return the path of the ``bank.yaml`` of the demonstration's models, nine 2D U-Nets."""
    return Path(str(resources.files(__name__))) / "bank" / "bank.yaml"


def write_demo_target(path: str | Path, *, seed: int = 0) -> None:
    """Simulate fluorescent nuclei and write them as OME-Zarr 0.5.

    Parameters
    ----------
    path
        Path of the group: a uint16 image (z, y, x) of :data:`SHAPE`, and the truth, int32, as its
        labels ``nuclei``.
    seed
        Seed of everything random in the volume.
    """
    # Importing the demonstration must not load scipy and zarr: a caller may need the bank alone.
    from cte_dask.demo.simulate import simulate_nuclei
    from cte_dask.volume import write_ome_zarr

    image, labels = simulate_nuclei(SHAPE, seed=seed)
    write_ome_zarr(
        path,
        image,
        axes="zyx",
        voxel_size_nm=VOXEL_SIZE_NM,
        version="0.5",
        chunks=(4, 256, 256),
        labels={LABELS: labels},
        name="simulated nuclei",
    )
