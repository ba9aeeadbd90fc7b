"""Write the EPFL electron microscopy test volume, with its mitochondria, as OME-Zarr.

    python examples/make_em_target.py epfl.zarr

The volume (10 nm isotropic; EPFL CVLab, Lucchi et al. 2012, doi:10.1109/TMI.2011.2171705) is read
from ``v_epfl_iso10nm.npz`` in ``--data``, or in the folder named by CTE_DATA. No licence is stated
for it: keep what is written for research, and out of the repository.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from cte_dask.volume import write_ome_zarr

REPOSITORY = Path(__file__).resolve().parents[1]
CHUNKS = (8, 256, 256)


def write_em_target(path: Path, *, data: Path) -> None:
    with np.load(data / "v_epfl_iso10nm.npz") as arrays:
        image, labels = arrays["raw_test"], arrays["label_test"]
        z, y, x = (float(extent) for extent in arrays["voxel_nm"])
    write_ome_zarr(
        path,
        image,
        axes="zyx",
        voxel_size_nm=(z, y, x),
        version="0.5",
        chunks=CHUNKS,
        labels={"mitochondria": (labels > 0).astype(np.int32)},
        name="EPFL hippocampus, test volume",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="of the OME-Zarr group to write")
    default = Path(os.environ.get("CTE_DATA", REPOSITORY.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default, help="folder of the volume")
    options = parser.parse_args()
    write_em_target(options.path, data=options.data)


if __name__ == "__main__":
    main()
