"""The folder in which tiles are labelled: what any program saves is read, what is wrong is said."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

import cte_dask
from cte_dask.results.label_folder import read_label_folder, write_label_folder
from cte_dask.scoring.resolve import resolve
from cte_dask.storage import tiff
from cte_dask.tiles import TileGrid
from cte_dask.volume import open_volume, write_ome_zarr

NUMBERS = count()
CHOSEN = 1, 7  # cut along x


@pytest.fixture(scope="module")
def experiment(target, bank_path):
    volume = open_volume(str(target), roi="1:5,0:88,32:104")
    bank = cte_dask.load_bank(str(bank_path))
    return resolve(volume, bank, tile=(2, 40, 40), perturbations=["mirror"])


def write(url: str, experiment) -> str:
    tiles = [experiment.grid.tile_at(n) for n in CHOSEN]
    pairs = [("model-0", "model-1")] * len(tiles)
    write_label_folder(url, experiment, tiles, pairs=pairs, command="cte rank …")
    return url


def read(folder, experiment, **options):
    return read_label_folder(str(folder), experiment.volume, experiment.grid, **options)


@pytest.fixture
def folder(experiment, tmp_path) -> Path:
    return Path(write(str(tmp_path / "T"), experiment))


def shape(experiment, number: int):
    return experiment.grid.tile_at(number).shape


def labels_of(experiment, number: int, dtype="uint16") -> np.ndarray:
    labels = np.zeros(shape(experiment, number), dtype)
    labels[:, 3:9, 4:20] = 1
    labels[0, 20:30, 2:9] = 7 if dtype != "bool" else 1
    return labels


def saved(folder: Path, number: int, labels: np.ndarray, how: str) -> None:
    """Save labels as people's programs do."""
    place = folder / f"tile-{number}-label"
    if how == "napari":
        tifffile.imwrite(f"{place}.tif", labels, compression="zlib")
    elif how == "fiji":
        tifffile.imwrite(f"{place}.tiff", labels, imagej=True, metadata={"axes": "ZYX"})
    elif how == "zarr":
        zarr.create_array(f"{place}.zarr", data=labels, chunks=labels.shape)
    else:
        sizes = {"voxel_size_nm": (1.0, 1.0, 1.0), "chunks": (1, 1, *labels.shape)}
        write_ome_zarr(f"{place}.zarr", labels[None, None], axes="tczyx", **sizes)


def test_a_folder_that_nobody_labelled_says_what_to_do(folder, experiment):
    names = {p.name for p in folder.iterdir()}
    files = {f"tile-{n}-{kind}.tif" for n in CHOSEN for kind in ("image", "label")}
    assert names == {*files, "tiles.json", "README.txt"}
    with pytest.raises(ValueError, match=r"no tile of .* is labelled: draw into"):
        read(folder, experiment)


@pytest.mark.parametrize("how", ["napari", "fiji", "zarr", "ome-zarr"])
def test_labels_come_back_as_they_were_drawn(folder, experiment, how):
    lines: list[str] = []
    labels = labels_of(experiment, 1)
    saved(folder, 1, labels, how)
    (labelled,) = read(folder, experiment, tell=lines.append)
    assert labelled.tile == experiment.grid.tile_at(1)
    np.testing.assert_array_equal(labelled.labels, labels)
    assert lines == [f"not labelled, left out: tiles 7 of {folder}"]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64"])
def test_any_integers_are_labels(folder, experiment, dtype):
    labels = labels_of(experiment, 7, dtype)
    saved(folder, 7, labels, "zarr" if dtype == "bool" else "napari")
    (labelled,) = read(folder, experiment)
    assert labelled.labels.dtype == np.int64
    np.testing.assert_array_equal(labelled.labels, labels)


def test_a_tile_of_one_plane_is_a_picture_of_two_axes(target, bank_path, tmp_path, image):
    volume = open_volume(str(target))
    flat = resolve(volume, cte_dask.load_bank(str(bank_path)), tile=(1, 40, 40))
    write(str(tmp_path / "T"), flat)
    np.testing.assert_array_equal(
        tifffile.imread(tmp_path / "T" / "tile-1-image.tif"), image[0, :40, 40:80]
    )
    tifffile.imwrite(tmp_path / "T" / "tile-1-label.tif", np.ones((40, 40), np.uint8))
    (labelled,) = read(tmp_path / "T", flat)
    assert labelled.labels.shape == (1, 40, 40)


def test_a_tile_saved_without_anything_drawn_is_a_tile_without_objects(folder, experiment):
    lines: list[str] = []
    saved(folder, 1, np.zeros(shape(experiment, 1), np.uint8), "napari")
    (labelled,) = read(folder, experiment, tell=lines.append)
    assert not labelled.labels.any()
    assert any("without any object" in line and "tile-1-label.tif" in line for line in lines)


def test_labels_serve_another_run_on_the_same_target(folder, experiment, target, bank_path):
    saved(folder, 7, labels_of(experiment, 7), "napari")
    volume = open_volume(str(target), roi="3:5,40:88,32:104")
    other = resolve(volume, cte_dask.load_bank(str(bank_path)), tile=(2, 40, 40))
    (labelled,) = read(folder, other)
    assert labelled.tile == other.grid.tile_at(1), "at the same place, with another number"
    grid = TileGrid(experiment.grid.shape, (2, 30, 40))
    with pytest.raises(ValueError, match=r"tile 7 of .* is no tile of this run: .*--tile"):
        read(folder, replace(experiment, grid=grid))


def test_labels_of_another_target_are_refused(folder, experiment):
    saved(folder, 7, labels_of(experiment, 7), "napari")
    described = json.loads((folder / "tiles.json").read_text())
    described["target"]["url"] = "/elsewhere/other.zarr"
    (folder / "tiles.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"another target: its url is /elsewhere/other\.zarr"):
        read(folder, experiment)


BAD = {
    "of floating point": (lambda a: a.astype(np.float32), "float32.*labels are integers"),
    "cut": (lambda a: a[:, :-1], r"shape \(2, 39, 32\), its tile \(2, 40, 32\)"),
    "negative": (lambda a: a.astype(np.int16) - 1, "holds -1: labels are 0"),
}


@pytest.mark.parametrize("fault", BAD)
def test_labels_that_are_none_are_refused_by_their_file(folder, experiment, fault):
    change, message = BAD[fault]
    saved(folder, 1, change(labels_of(experiment, 1)), "napari")
    with pytest.raises(ValueError, match=f"tile-1-label.tif .*{message}"):
        read(folder, experiment)


@pytest.mark.parametrize("content", [b"II*\0 no image", b"", b"labels"])
def test_a_damaged_file_is_refused_by_its_name(folder, experiment, content):
    (folder / "tile-1-label.tif").write_bytes(content)
    with pytest.raises(ValueError, match=r"tile-1-label\.tif.*save it again"):
        read(folder, experiment)


def test_files_that_contradict_each_other_are_refused(folder, experiment):
    saved(folder, 1, labels_of(experiment, 1), "napari")
    saved(folder, 1, labels_of(experiment, 1), "zarr")
    with pytest.raises(ValueError, match="tile 1 has labels twice"):
        read(folder, experiment)
    saved(folder, 5, labels_of(experiment, 5), "napari")
    with pytest.raises(ValueError, match=r"tile-5-label.tif is of no tile in tiles.json"):
        read(folder, experiment)


def test_what_is_no_such_folder_is_refused(experiment, tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="make them with cte suggest RUN"):
        read(tmp_path / "nowhere", experiment)
    with pytest.raises(FileExistsError, match="may hold labels: choose another --out"):
        write(str(folder), experiment)
    (folder / "tiles.json").write_text("{}")
    with pytest.raises(ValueError, match="not of schema cte-suggestion/1"):
        read(folder, experiment)


def test_a_folder_may_lie_far_away(experiment):
    url = write(f"memory://labels-{next(NUMBERS)}", experiment)
    labels = labels_of(experiment, 1)
    tiff.write_bytes(f"{url}/tile-1-label.tif", tiff.tiff_bytes(labels))
    (labelled,) = read(url, experiment)
    np.testing.assert_array_equal(labelled.labels, labels)


def test_without_tifffile_the_extra_is_named(experiment, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ValueError, match=r"pip install 'cte-dask\[labels\]'"):
        write(str(tmp_path / "T"), experiment)
