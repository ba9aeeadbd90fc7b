"""One volume in many formats: voxels, description and tile scores are those of its zarr."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import imagecodecs
import mrcfile
import numpy as np
import pytest
import tensorstore
import tifffile
from conftest import blobs, write_bank
from numpy.typing import NDArray
from troubled import cte

import cte_dask
from cte_dask.cli.doctor import examine
from cte_dask.results.experiment_file import reopen
from cte_dask.volume import intensity_statistics, open_volume, write_ome_zarr

SIZE = (40.0, 9.2, 9.2)
OPTIONS = {"tile": (1, 32, 32), "perturbations": ("gaussian:0.1",), "metrics": ("nhd",)}


def zipped(folder: Path, file: Path) -> str:
    """Write what is in a folder as a zip file."""
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return str(file)


def write_zarr(folder: Path, voxels: NDArray) -> str:
    path = folder / "volume.zarr"
    chunks = (1, *voxels.shape[1:])
    write_ome_zarr(path, voxels, axes="zyx", voxel_size_nm=SIZE, chunks=chunks, overwrite=True)
    return str(path)


def write_hdf5(folder: Path, voxels: NDArray) -> str:
    with h5py.File(folder / "volume.h5", "w") as file:
        data = file.create_dataset("volume/raw", data=voxels, chunks=(1, 8, 8), compression="gzip")
        data.attrs["resolution"] = SIZE
    return f"{folder / 'volume.h5'}::volume/raw"


def write_ome_tiff(folder: Path, voxels: NDArray) -> str:
    sizes = dict(zip(("PhysicalSizeZ", "PhysicalSizeY", "PhysicalSizeX"), SIZE, strict=True))
    units = {f"{name}Unit": "nm" for name in sizes}
    about = {"axes": "ZYX", **sizes, **units}
    path = folder / "volume.ome.tif"
    tifffile.imwrite(path, voxels, bigtiff=True, compression="lzw", tile=(16, 16), metadata=about)
    return str(path)


def write_imagej(folder: Path, voxels: NDArray) -> str:
    path = folder / "volume.tif"
    about = {"axes": "ZYX", "spacing": 0.04, "unit": "um"}
    tifffile.imwrite(path, voxels, imagej=True, resolution=(1 / 0.0092,) * 2, metadata=about)
    return str(path)


def write_mrc(folder: Path, voxels: NDArray) -> str:
    with mrcfile.new(folder / "volume.mrc", voxels, overwrite=True) as file:
        file.voxel_size = tuple(10 * length for length in SIZE[::-1])
    return str(folder / "volume.mrc")


def write_n5(folder: Path, voxels: NDArray) -> str:
    z, y, x = voxels.shape
    metadata = {"dimensions": [x, y, z], "blockSize": [8, 8, 1], "dataType": voxels.dtype.name}
    place = {"driver": "file", "path": f"{folder}/volume.n5/raw/"}
    spec = {"driver": "n5", "kvstore": place, "create": True, "delete_existing": True}
    attributes = {"compression": {"type": "gzip"}, "axes": ["x", "y", "z"]}
    attributes |= {"resolution": SIZE[::-1], "units": ["nm"] * 3}
    array = tensorstore.open({**spec, "metadata": {**metadata, **attributes}}).result()
    array.write(voxels.T).result()
    return f"{folder}/volume.n5/raw"


def write_precomputed(folder: Path, voxels: NDArray) -> str:
    place = {"driver": "file", "path": f"{folder}/precomputed/"}
    scale = {"size": voxels.shape[::-1], "chunk_size": [8, 8, 1], "encoding": "raw"}
    scale |= {"resolution": SIZE[::-1], "key": "raw"}
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": place,
        "multiscale_metadata": {"data_type": voxels.dtype.name, "num_channels": 1, "type": "image"},
        "scale_metadata": scale,
    }
    array = tensorstore.open({**spec, "create": True, "delete_existing": True}).result()
    array[..., 0].write(voxels.T).result()
    return f"{folder}/precomputed"


def write_ozx(folder: Path, voxels: NDArray) -> str:
    write_zarr(folder, voxels)
    return zipped(folder / "volume.zarr", folder / "volume.ozx")


def write_tiff_planes(folder: Path, voxels: NDArray) -> str:
    (folder / "planes").mkdir(exist_ok=True)
    about = {"spacing": 0.04, "unit": "um"}
    for z, plane in enumerate(voxels):
        path = folder / "planes" / f"z{z}.tif"
        tifffile.imwrite(path, plane, imagej=True, resolution=(1 / 0.0092,) * 2, metadata=about)
    return str(folder / "planes")


def write_png_planes(folder: Path, voxels: NDArray) -> str:
    (folder / "png").mkdir(exist_ok=True)
    for z, plane in enumerate(voxels):
        (folder / "png" / f"z{z}.png").write_bytes(imagecodecs.png_encode(plane))
    return str(folder / "png")


WRITERS: dict[str, Callable[[Path, NDArray], str]] = {
    "hdf5": write_hdf5,
    "ome-tiff": write_ome_tiff,
    "imagej": write_imagej,
    "mrc": write_mrc,
    "n5": write_n5,
    "precomputed": write_precomputed,
    "ozx": write_ozx,
    "planes": write_tiff_planes,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_volume_reads_as_the_zarr_of_it_does(
    name: str, tmp_path: Path, voxels: NDArray[np.uint16]
) -> None:
    expected = open_volume(write_zarr(tmp_path, voxels))
    volume = open_volume(WRITERS[name](tmp_path, voxels))
    for key in ("shape", "array_shape", "dtype", "voxel_size", "translation_nm", "notes"):
        assert volume.describe()[key] == expected.describe()[key], key
    rng = np.random.default_rng(0)
    for _ in range(8):
        corners = np.sort(rng.integers(-3, np.add(voxels.shape, 3), (2, 3)), axis=0)
        start, stop = corners[0], corners[1] + 1
        np.testing.assert_array_equal(volume.read(start, stop), expected.read(start, stop))


@pytest.mark.parametrize("name", WRITERS)
def test_workers_and_threads_open_it_for_themselves(
    name: str, tmp_path: Path, voxels: NDArray[np.uint16]
) -> None:
    volume = open_volume(WRITERS[name](tmp_path, voxels))
    recipe = pickle.dumps(volume)
    assert len(recipe) < 1500
    again = pickle.loads(recipe)
    assert again == volume
    with ThreadPoolExecutor(4) as pool:
        planes = pool.map(lambda z: again.read((z, 0, 0), (z + 1, 20, 26)), range(6))
        np.testing.assert_array_equal(np.concatenate(list(planes)), voxels)


@pytest.mark.parametrize("name", WRITERS)
def test_the_description_opens_it_again_and_the_doctor_knows_it(
    name: str, tmp_path: Path, voxels: NDArray[np.uint16]
) -> None:
    volume = open_volume(WRITERS[name](tmp_path, voxels))
    assert open_volume(volume.url).describe() == volume.describe()
    finding = next(f for f in examine(volume.url) if f.group == "store")
    assert finding.state == "ok", finding
    assert "uint16 6×20×26 (zyx), level 0, voxels 40,9.2,9.2 nm" in finding.told


@pytest.mark.parametrize("name", WRITERS)
def test_other_voxels_under_the_same_name_have_another_checksum(
    name: str, tmp_path: Path, voxels: NDArray[np.uint16]
) -> None:
    volumes = (open_volume(WRITERS[name](tmp_path, v)) for v in (voxels, voxels, voxels[::-1]))
    one, same, turned = (intensity_statistics(volume).digest for volume in volumes)
    assert one == same != turned


def test_tile_scores_are_those_of_the_zarr_to_the_bit(tmp_path: Path) -> None:
    bank = cte_dask.load_bank(write_bank(tmp_path / "bank", 1))
    voxels = blobs((2, 32, 40)).astype(np.uint16)
    scores = {
        name: cte_dask.score(open_volume(write(tmp_path, voxels)), bank, block=(1, 1, 2), **OPTIONS)
        .nhd.compute(scheduler="synchronous")
        .to_numpy()
        for name, write in {**WRITERS, "zarr": write_zarr, "png": write_png_planes}.items()
    }
    assert np.isfinite(scores["zarr"]).any()
    for name, values in scores.items():
        assert values.tobytes() == scores["zarr"].tobytes(), name


def test_a_run_knows_its_target_again(tmp_path: Path) -> None:
    voxels = blobs((1, 32, 32)).astype(np.uint16)
    target, bank = write_hdf5(tmp_path, voxels), write_bank(tmp_path / "bank", 1)
    words = ["rank", target, "--bank", bank, "--out", tmp_path / "RUN", "--tile", "1,32,32"]
    words += ["--perturb", "gaussian:0.1", "--cluster", "none", "--quiet"]
    assert cte(*words).exit_code == 0
    np.testing.assert_array_equal(
        reopen(str(tmp_path / "RUN")).volume.read((0, 0, 0), voxels.shape), voxels
    )
    write_hdf5(tmp_path, voxels[:, ::-1])
    again = cte(*words, "--resume")
    assert again.exit_code == 2
    assert "another experiment" in " ".join(again.output.split())
