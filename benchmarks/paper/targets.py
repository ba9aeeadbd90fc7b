"""Write the targets of the paper's experiment as OME-Zarr, with their labels beside them.

    python benchmarks/paper/targets.py --cache DIR

Test splits only. The images of a pack are the z planes of one array: those of nuclei are
acquisitions of their own, so each is scaled by its own percentiles; electron micrographs stay as
they are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from recipes import MITOCHONDRIA, NUCLEI, REPOSITORY
from training.packs import scale_range, sha256

from cte_dask.volume import write_ome_zarr

DATA = Path(os.environ.get("CTE_DATA", REPOSITORY.parent / "shared" / "data"))
CACHE = Path("~/.cache/cte_dask/paper")
CHUNKS = (1, 256, 256)
# The size of a pixel of the nuclei is not known; the format wants one, and no model declares any.
UNKNOWN_NM = (1000.0, 1000.0, 1000.0)


@dataclass(frozen=True)
class Target:
    """One target.

    Parameters
    ----------
    name
        Of the pack or volume that it is made of, without ``.npz``.
    labels
        Name of its labels: instances of ``nuclei``, or ``mitochondria`` (1) and the rest (0).
    voxel_nm
        Distance of planes and size of a pixel, (z, y, x).
    domain
        The pack whose models are at home there.
    """

    name: str
    labels: str
    voxel_nm: tuple[float, float, float]
    domain: str


TARGETS = (
    *(Target(pack, "nuclei", UNKNOWN_NM, pack) for pack in NUCLEI.values()),
    Target(MITOCHONDRIA["epfl"], "mitochondria", (40.0, 10.0, 10.0), MITOCHONDRIA["epfl"]),
    Target(MITOCHONDRIA["vnc"], "mitochondria", (50.0, 9.2, 9.2), MITOCHONDRIA["vnc"]),
    # The planes between those of the EPFL pack's test split: no second domain.
    Target("v_epfl_iso10nm", "mitochondria", (10.0, 10.0, 10.0), MITOCHONDRIA["epfl"]),
)


def make_targets(
    cache: Path, *, data: Path = DATA, targets: tuple[Target, ...] = TARGETS
) -> dict[str, Path]:
    """Write the targets that the cache lacks; return the image of each.

    The labels of an image lie in ``labels/nuclei`` or ``labels/mitochondria`` under it, uint32.
    """
    folder = cache / "targets"
    folder.mkdir(parents=True, exist_ok=True)
    return {target.name: _made(target, folder, data) for target in targets}


def _made(target: Target, folder: Path, data: Path) -> Path:
    image, record = folder / f"{target.name}.zarr", folder / f"{target.name}.json"
    source = data / f"{target.name}.npz"
    if not source.exists():
        raise SystemExit(f"{source} is missing: name the folder of the packs with --data")
    content = {**asdict(target), "voxel_nm": list(target.voxel_nm), "data_sha256": sha256(source)}
    if image.exists() and record.exists():
        known = json.loads(record.read_text())
        if all(known.get(name) == value for name, value in content.items()):
            return image
    planes, labels, origin = read_planes(source)
    _write(image, target, planes, labels)
    record.write_text(json.dumps({**content, **origin}, indent=1) + "\n")
    return image


def read_planes(source: Path) -> tuple[NDArray[Any], NDArray[np.uint32], dict[str, Any]]:
    """Return planes and labels (z, y, x) of the test split, and where the planes come from.

    Returns
    -------
    planes
        Nuclei: float32, the 1st percentile of each plane at 0 and its 99.8th at 1. Mitochondria:
        as they are.
    labels
        uint32. Nuclei: instances, numbered within each plane. Mitochondria: 1, the rest 0.
    origin
        ``images``, the indices of the planes in the pack, and their ``groups``: planes of one group
        (a mosaic, a block of slices) are not independent of each other.
    """
    with np.load(source) as arrays:
        if "split" not in arrays:
            planes, labels = arrays["raw_test"], arrays["label_test"]
            return planes, (labels > 0).astype(np.uint32), {"images": None, "groups": None}
        chosen = np.flatnonzero(arrays["split"] == "test")
        planes, labels = arrays["raw"][chosen], arrays["label"][chosen].astype(np.uint32)
        groups = [str(group) for group in arrays["group"][chosen]]
    origin = {"images": chosen.tolist(), "groups": groups}
    if source.stem.startswith("m_"):
        return planes, (labels > 0).astype(np.uint32), origin
    return np.stack([scale_range(plane) for plane in planes]), labels, origin


def _write(image: Path, target: Target, planes: NDArray[Any], labels: NDArray[np.uint32]) -> None:
    """Write under another name first, so that an image that is there is whole."""
    written = image.with_name(f"{image.name}.part")
    write_ome_zarr(
        written,
        planes,
        axes="zyx",
        voxel_size_nm=target.voxel_nm,
        version="0.5",
        chunks=CHUNKS,
        n_levels=1,
        labels={target.labels: labels},
        name=target.name,
        overwrite=True,
    )
    if image.exists():
        shutil.rmtree(image)
    written.rename(image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder to write to")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the packs")
    options = parser.parse_args()
    for name, path in make_targets(options.cache.expanduser(), data=options.data).items():
        print(f"{name}: {path}")


if __name__ == "__main__":
    main()
