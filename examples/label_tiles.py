"""Fill the label files of ``cte suggest`` from labels that exist already.

python examples/label_tiles.py FOLDER LABELS

FOLDER is what ``cte suggest`` wrote; LABELS a zarr array or OME-Zarr label image of the target's
extent, at the level that was ranked. It stands for a person with napari, to try things out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import tifffile

from cte_dask import open_volume


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("labels")
    options = parser.parse_args()
    described = json.loads((options.folder / "tiles.json").read_text())
    labels = open_volume(options.labels, level=described["target"]["level"])
    for tile in described["tiles"]:
        drawn = labels.read(tuple(tile["start"]), tuple(tile["stop"]))
        tifffile.imwrite(options.folder / tile["label"], drawn.squeeze(), compression="zlib")
        print(f"tile {tile['tile']}: {int((drawn > 0).sum())} voxels of foreground")


if __name__ == "__main__":
    main()
