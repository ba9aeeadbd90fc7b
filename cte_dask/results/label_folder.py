"""The folder in which a person labels a few tiles: images, files to draw into, what they are of.

``tiles.json`` says where each tile lies in the target, in voxels of the level that was ranked, so
that labels serve any run on that target. A label file that nobody saved is still the one that was
written, byte by byte: it does not count as labels.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np

from cte_dask.storage.files import replacing
from cte_dask.storage.stores import absolute
from cte_dask.storage.tiff import read_tiff, tiff_bytes, write_bytes
from cte_dask.tiles import Shape, Tile, TileGrid
from cte_dask.volume.formats import find_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.scoring.experiment import Experiment
    from cte_dask.volume import Volume

__all__ = ["LabelledTile", "read_label_folder", "write_label_folder"]

SCHEMA = "cte-suggestion/1"
SAME_TARGET = "url", "path", "level", "time", "array_shape"
"""What two runs on one target have in common; they may look at two channels of it."""
LABEL_FILE = re.compile(r"tile-(\d+)-label\.(tif|tiff|zarr)")
README = """\
Tiles that would decide which model is the best
===============================================

1. Open tile-<number>-image.tif and tile-<number>-label.tif in napari (as image and as labels),
   ilastik, Fiji or what you like.
2. Draw every object of the kind that the models are to find: 0 is background, any number above it
   is foreground.{instances}
3. Save the labels under the same name, as TIFF of integers. A zarr array or OME-Zarr named
   tile-<number>-label.zarr is taken too. A tile without any object: save it all the same. Tiles
   whose label file you do not save are left out.
4. Go on:

{command}

The folder may be labelled a part at a time: the same command takes what is there.
"""
INSTANCES = " Objects are compared:\n   give each of them a number of its own."


@dataclass(frozen=True, slots=True, eq=False)
class LabelledTile:
    """A tile that somebody labelled.

    Parameters
    ----------
    tile
        The tile, of the grid of the run that reads it.
    name
        Path or URL of its labels.
    sha256
        Of the label file; of a zarr of its voxels.
    labels
        Integers (z, y, x) of the tile's extent, 0 the background.
    """

    tile: Tile
    name: str
    sha256: str
    labels: NDArray[np.int64]


def write_label_folder(
    url: str,
    experiment: Experiment,
    tiles: Sequence[Tile],
    *,
    pairs: Sequence[tuple[str, str]],
    command: str,
) -> None:
    """Write the images of some tiles and an empty label file for each.

    Parameters
    ----------
    url
        Folder or URL, where there is no such folder yet.
    experiment
        The run.
    tiles
        The tiles.
    pairs
        For each tile the names of the two models that it would tell apart most.
    command
        What ranks with the labels.

    Raises
    ------
    FileExistsError
        If the folder holds tiles already: somebody may have labelled them.
    OSError
        If the target cannot be read.
    """
    filesystem, path = fsspec.core.url_to_fs(url)
    if filesystem.exists(path) and filesystem.ls(path):
        raise FileExistsError(
            f"{url} exists, and may hold labels: choose another --out, or remove it"
        )
    filesystem.makedirs(path, exist_ok=True)
    entries = [
        {**_written(url, experiment.volume, tile), "tells_apart": list(pair)}
        for tile, pair in zip(tiles, pairs, strict=True)
    ]
    instances = INSTANCES if experiment.instances else ""
    with replacing(f"{url}/README.txt") as file:
        file.write(README.format(instances=instances, command=command))
    about = {"experiment": experiment.digest(), "target": experiment.volume.describe()}
    with replacing(f"{url}/tiles.json") as file:
        json.dump({"schema": SCHEMA, **about, "tiles": entries}, file, indent=1)
        file.write("\n")


def _written(url: str, volume: Volume, tile: Tile) -> dict[str, Any]:
    """Write the two files of a tile and return what ``tiles.json`` says of it."""
    image = volume.read(tile.start, tile.stop)
    image = image[0] if len(image) == 1 else image  # of one plane: people open a plane
    files = {kind: f"tile-{tile.index}-{kind}.tif" for kind in ("image", "label")}
    empty = tiff_bytes(np.zeros(image.shape, np.uint16))
    write_bytes(f"{url}/{files['image']}", tiff_bytes(image))
    write_bytes(f"{url}/{files['label']}", empty)
    start, stop = (_moved(corner, volume.origin) for corner in (tile.start, tile.stop))
    sha256 = hashlib.sha256(empty).hexdigest()
    return {
        "tile": tile.index,
        "start": list(start),
        "stop": list(stop),
        **files,
        "sha256": sha256,
    }


def read_label_folder(
    url: str, volume: Volume, grid: TileGrid, *, tell: Callable[[str], None] = lambda _: None
) -> list[LabelledTile]:
    """Return the labelled tiles of a folder, as tiles of a run on the same target.

    Parameters
    ----------
    url
        Folder or URL that `write_label_folder` wrote.
    volume, grid
        The target of the run, and its tiles.
    tell
        Receives a line on what does not count, and on what is empty.

    Returns
    -------
    list of LabelledTile
        At least one.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it is of another target, none of its tiles is labelled, or a label file is not what it
        should be: each naming the file, and the remedy.
    """
    data = _described(url)
    _check_target(url, data["target"], volume)
    files = _label_files(url, {int(entry["tile"]) for entry in data["tiles"]})
    labelled, untouched = [], []
    for entry in data["tiles"]:
        voxels = _saved(entry, files.get(int(entry["tile"]), ()))
        if voxels is None:
            untouched.append(str(entry["tile"]))
        else:
            labelled.append(_checked(voxels, _tile_of(url, entry, grid, volume.origin)))
    if not labelled:
        raise ValueError(
            f"no tile of {url} is labelled: draw into tile-<number>-label.tif, see README.txt "
            "there, and save it under the same name"
        )
    if untouched:
        tell(f"not labelled, left out: tiles {', '.join(untouched)} of {url}")
    if empty := [t.name for t in labelled if not t.labels.any()]:
        tell(f"nothing is drawn in {', '.join(empty)}: taken as tiles without any object")
    return labelled


def _described(url: str) -> Mapping[str, Any]:
    try:
        with fsspec.open(f"{url}/tiles.json", "r", encoding="utf-8") as file:
            data = json.load(file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"no tiles to label at {url}: there is no tiles.json; make them with cte suggest RUN"
        ) from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{url}/tiles.json is not of schema {SCHEMA}: {schema!r}")
    return dict(data)


def _check_target(url: str, target: Mapping[str, Any], volume: Volume) -> None:
    now = volume.describe()
    for key in SAME_TARGET:
        if now[key] != target[key]:
            raise ValueError(
                f"the labels in {url} are of another target: its {key} is {target[key]}, here it "
                f"is {now[key]}; make others with cte suggest, or correct {key} in tiles.json if "
                "the voxels are the same"
            )


def _label_files(url: str, numbers: set[int]) -> dict[int, list[str]]:
    """Return the label files of each tile."""
    filesystem, path = fsspec.core.url_to_fs(url)
    files: dict[int, list[str]] = {}
    for place in sorted(filesystem.ls(path, detail=False)):
        name = place.rstrip("/").rpartition("/")[2]
        match = LABEL_FILE.fullmatch(name)
        if match is None:
            continue
        if int(match[1]) not in numbers:
            raise ValueError(
                f"{url}/{name} is of no tile in tiles.json, which has "
                f"{', '.join(map(str, sorted(numbers)))}: rename or remove it"
            )
        files.setdefault(int(match[1]), []).append(f"{url}/{name}")
    return files


@dataclass(frozen=True, slots=True, eq=False)
class _Saved:
    """What somebody saved as labels of a tile."""

    name: str
    sha256: str
    voxels: NDArray[Any]


def _saved(entry: Mapping[str, Any], files: Sequence[str]) -> _Saved | None:
    """Return the labels of a tile; None if its file is the one that was written."""
    saved = [s for s in _read(files) if s.sha256 != entry["sha256"]]
    if len(saved) > 1:
        raise ValueError(
            f"tile {entry['tile']} has labels twice, {saved[0].name} and {saved[1].name}: remove "
            "one of them"
        )
    return saved[0] if saved else None


def _read(files: Sequence[str]) -> Iterator[_Saved]:
    for name in files:
        if name.endswith(".zarr"):
            source = find_image(absolute(name), {}).open_level(0)
            voxels = source.read((slice(None),) * len(source.shape))
            about = f"{voxels.dtype}{voxels.shape}".encode()
            yield _Saved(name, hashlib.sha256(about + voxels.tobytes()).hexdigest(), voxels)
        else:
            voxels, content = read_tiff(name)
            yield _Saved(name, hashlib.sha256(content).hexdigest(), voxels)


def _checked(saved: _Saved, tile: Tile) -> LabelledTile:
    voxels, name = saved.voxels, saved.name
    if voxels.dtype.kind not in "biu":
        raise ValueError(
            f"{name} has elements of type {voxels.dtype}: labels are integers, 0 the background; "
            "save it as such"
        )
    if [n for n in voxels.shape if n > 1] != [n for n in tile.shape if n > 1]:
        raise ValueError(
            f"{name} has shape {voxels.shape}, its tile {tile.shape} (z, y, x): save the labels in "
            "the extent of the image beside it"
        )
    labels = voxels.reshape(tile.shape).astype(np.int64)
    if int(labels.min()) < 0:
        raise ValueError(
            f"{name} holds {int(labels.min())}: labels are 0 (background) and above; save it "
            "without negative numbers"
        )
    return LabelledTile(tile, name, saved.sha256, labels)


def _tile_of(url: str, entry: Mapping[str, Any], grid: TileGrid, origin: Shape) -> Tile:
    """Return the tile of a run that lies where a labelled tile does."""
    start, stop = (_moved(entry[key], origin, -1) for key in ("start", "stop"))
    z, y, x = (s // t for s, t in zip(start, grid.tile, strict=True))
    inside = all(0 <= p < n for p, n in zip((z, y, x), grid.counts, strict=True))
    if inside:
        tile = grid.tile_at((z * grid.counts[1] + y) * grid.counts[2] + x)
        if (tile.start, tile.stop) == (start, stop):
            return tile
    raise ValueError(
        f"tile {entry['tile']} of {url}, {entry['start']} to {entry['stop']} (z, y, x), is no tile "
        f"of this run: give it the --tile, --level and --roi of the run that it was suggested for, "
        "or remove its labels"
    )


def _moved(corner: Sequence[int], origin: Shape, sign: int = 1) -> Shape:
    z, y, x = (int(c) + sign * o for c, o in zip(corner, origin, strict=True))
    return z, y, x
