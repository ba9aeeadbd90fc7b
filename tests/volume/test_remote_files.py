"""Files on a web server: read by box where they lie, in few requests, and what goes wrong."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
import tifffile
import zarr
from conftest import blobs, write_bank
from numpy.typing import NDArray
from troubled import cte
from volume.test_other_formats import OPTIONS, WRITERS, write_png_planes, write_zarr, zipped

import cte_dask
from cte_dask.cli.doctor import examine
from cte_dask.evaluation.labels import open_labels
from cte_dask.results.experiment_file import reopen
from cte_dask.storage.stored_file import BLOCK
from cte_dask.volume import (
    VolumeError,
    VolumeReadError,
    intensity_statistics,
    open_volume,
)

pytestmark = pytest.mark.service
FILES = {
    **{name: WRITERS[name] for name in ("hdf5", "ome-tiff", "imagej", "mrc", "ozx", "planes")},
    "png": write_png_planes,
}


def written(name: str, folder: Path, voxels: NDArray[Any], url: str) -> tuple[str, str]:
    """Write a volume in a format; return its path and its URL."""
    path = FILES[name](folder, voxels)
    return path, f"{url}{path.removeprefix(str(folder))}"


def why(target: str, **options: Any) -> str:
    """Return the one line that opening a target gives."""
    with pytest.raises(VolumeError) as refusal:
        open_volume(target, **options)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("name", FILES)
def test_a_file_on_a_web_server_reads_as_the_local_one_does(
    name: str, tmp_path: Path, voxels: NDArray[np.uint16], serve: Callable[..., str]
) -> None:
    path, url = written(name, tmp_path, voxels, serve())
    expected, volume = open_volume(path), open_volume(url)
    assert volume.describe() == {**expected.describe(), "url": url}
    rng = np.random.default_rng(0)
    for _ in range(8):
        corners = np.sort(rng.integers(-3, np.add(voxels.shape, 3), (2, 3)), axis=0)
        start, stop = corners[0], corners[1] + 1
        np.testing.assert_array_equal(volume.read(start, stop), expected.read(start, stop))
    assert volume.missing_chunks((0, 0, 0), volume.shape) == 0
    assert intensity_statistics(volume).digest == intensity_statistics(expected).digest


@pytest.mark.parametrize("name", FILES)
def test_workers_and_threads_open_it_for_themselves(
    name: str, tmp_path: Path, voxels: NDArray[np.uint16], serve: Callable[..., str]
) -> None:
    volume = open_volume(written(name, tmp_path, voxels, serve())[1])
    recipe = pickle.dumps(volume)
    assert len(recipe) < 1500
    again = pickle.loads(recipe)
    assert again == volume
    with ThreadPoolExecutor(4) as pool:
        planes = pool.map(lambda z: again.read((z, 0, 0), (z + 1, 20, 26)), range(6))
        np.testing.assert_array_equal(np.concatenate(list(planes)), voxels)
    assert open_volume(volume.url).describe() == volume.describe()
    finding = next(f for f in examine(volume.url) if f.group == "store")
    assert finding.state == "ok", finding


def test_tile_scores_are_those_of_the_local_zarr_to_the_bit(
    tmp_path: Path, serve: Callable[..., str]
) -> None:
    bank = cte_dask.load_bank(write_bank(tmp_path / "bank", 1))
    voxels = blobs((2, 32, 40)).astype(np.uint16)
    server = serve()
    targets = {name: written(name, tmp_path, voxels, server)[1] for name in FILES}
    targets["zarr"] = write_zarr(tmp_path, voxels)
    scores = {
        name: cte_dask.score(open_volume(target), bank, block=(1, 1, 2), **OPTIONS)
        .nhd.compute(scheduler="synchronous")
        .to_numpy()
        for name, target in targets.items()
    }
    assert np.isfinite(scores["zarr"]).any()
    for name, values in scores.items():
        assert values.tobytes() == scores["zarr"].tobytes(), name


LARGE = (8, 512, 640)
BOX = ((2, 130, 200), (4, 250, 380))


@pytest.fixture(scope="module")
def large() -> NDArray[np.uint16]:
    # noise, so that compression leaves it large
    return np.random.default_rng(1).integers(1, 60000, LARGE).astype(np.uint16)


def write_chunked(folder: Path, voxels: NDArray[Any], **options: Any) -> str:
    with h5py.File(folder / "large.h5", "w") as file:
        file.create_dataset("raw", data=voxels, **options)
    return "large.h5"


def write_tiff(folder: Path, voxels: NDArray[Any], **options: Any) -> str:
    tifffile.imwrite(folder / "large.tif", voxels, metadata={"axes": "ZYX"}, **options)
    return "large.tif"


def write_large_mrc(folder: Path, voxels: NDArray[Any]) -> str:
    return Path(WRITERS["mrc"](folder, voxels)).name


def write_large_zip(folder: Path, voxels: NDArray[Any], **options: Any) -> str:
    path = folder / "large.zarr"
    zarr.create_array(path, data=voxels, **options)
    return Path(zipped(path, folder / "large.ozx")).name


CHUNKS = {"chunks": (1, 128, 128)}
LAYOUTS: dict[str, tuple[Callable[..., str], dict[str, Any], int, int]] = {
    # most requests of a box of 2 planes and at most 2 by 2 chunks each, and bytes of a plane of it
    "hdf5": (write_chunked, {**CHUNKS, "compression": "gzip"}, 12, 4 * 128 * 128 * 2),
    "hdf5 as it is in memory": (write_chunked, {}, 4, 120 * 640 * 2),
    "tiff": (write_tiff, {"tile": (128, 128), "compression": "zlib"}, 14, 4 * 128 * 128 * 2),
    "tiff as it is in memory": (write_tiff, {}, 14, 120 * 640 * 2),
    "mrc": (write_large_mrc, {}, 3, 120 * 640 * 2),
    "zip": (write_large_zip, CHUNKS, 10, 4 * 128 * 128 * 2),
    "zip of shards": (write_large_zip, {**CHUNKS, "shards": (8, 512, 640)}, 4, 4 * 128 * 128 * 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_a_large_file_few_requests_fetch_what_a_box_needs(
    layout: str, large: NDArray[np.uint16], tmp_path: Path, serve: Callable[..., str]
) -> None:
    write, options, most, part = LAYOUTS[layout]
    asked: list[str] = []
    sent: list[int] = []
    url = f"{serve(asked=asked, sent=sent)}/{write(tmp_path, large, **options)}"
    volume = open_volume(url)
    opening = len(asked)
    assert opening <= 10
    assert sum(sent) <= opening * (BLOCK + 2**12)
    for _ in range(2):
        asked.clear()
        sent.clear()
        box = volume.read(*BOX)
        np.testing.assert_array_equal(box, large[tuple(map(slice, *BOX))])
        assert len(asked) <= most
        # what compression adds, and gaps and blocks of an index
        assert sum(sent) <= 2 * part * 1.1 + 4 * BLOCK
    asked.clear()
    pickle.loads(pickle.dumps(volume)).read((5, 0, 0), (6, 100, 100))
    assert len(asked) <= most, "a file that this process knows is not opened again"


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("inside", ["", "deep/a.zarr"])
def test_members_of_a_zip_file_may_be_compressed_or_below(
    compression: int,
    inside: str,
    voxels: NDArray[np.uint16],
    tmp_path: Path,
    write_array: Callable[..., str],
    serve: Callable[..., str],
) -> None:
    folder = Path(write_array(voxels, chunks=(1, 5, 13), shards=(3, 10, 26), fill_value=7))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
        for path in sorted(folder.rglob("*")):
            if path.name != "1" or path.parent.name != "1":
                archive.write(path, Path(inside, path.relative_to(folder)))
    url = f"{serve()}/a.zip" + (f"::{inside}" if inside else "")
    volume = open_volume(url)
    expected = open_volume(f"{tmp_path / 'a.zip'}" + (f"::{inside}" if inside else ""))
    np.testing.assert_array_equal(
        volume.read((0, 0, 0), volume.shape), expected.read((0, 0, 0), volume.shape)
    )
    np.testing.assert_array_equal(volume.read((1, 2, 3), (2, 4, 9)), voxels[1:2, 2:4, 3:9])
    assert volume.missing_chunks((0, 0, 0), volume.shape) == expected.missing_chunks(
        (0, 0, 0), volume.shape
    )


@pytest.mark.parametrize("name", ["hdf5", "ome-tiff", "mrc", "ozx"])
def test_a_server_without_byte_ranges_is_told_in_one_line(
    name: str, large: NDArray[np.uint16], tmp_path: Path, serve: Callable[..., str]
) -> None:
    _, url = written(name, tmp_path, large, serve(ranges=False))
    assert "the server ignores byte ranges, which reading by box needs: download" in why(url)


def test_planes_are_read_from_a_server_without_byte_ranges(
    large: NDArray[np.uint16], tmp_path: Path, serve: Callable[..., str]
) -> None:
    volume = open_volume(written("png", tmp_path, large, serve(ranges=False))[1])
    np.testing.assert_array_equal(volume.read((3, 0, 0), (4, 512, 640)), large[3:4])


@pytest.mark.parametrize("name", ["hdf5", "ome-tiff", "mrc", "ozx"])
def test_a_file_that_is_replaced_meanwhile_is_an_error_until_it_is_opened_again(
    name: str, large: NDArray[np.uint16], tmp_path: Path, serve: Callable[..., str]
) -> None:
    _, url = written(name, tmp_path, large, serve())
    volume = open_volume(url)
    volume.read((0, 0, 0), (1, 9, 9))
    written(name, tmp_path, large[::-1], "")
    with pytest.raises(VolumeReadError, match="has changed since it was opened: open it again"):
        volume.read((7, 300, 300), (8, 512, 640))
    again = open_volume(url)
    np.testing.assert_array_equal(again.read((7, 9, 9), (8, 30, 30)), large[:1, 9:30, 9:30])
    if name != "ozx":  # arrays in a zip file carry no version to other processes
        with pytest.raises(VolumeReadError, match="has changed since it was opened"):
            pickle.loads(pickle.dumps(volume)).read((7, 300, 300), (8, 512, 640))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("status", "told"),
    [
        (404, "it does not exist (404 Not Found)"),
        (403, "access denied: a signed URL may have expired, get a new one (403 Forbidden)"),
        (401, "the server wants a login"),
        (503, "the server answers 503 Service Unavailable"),
    ],
)
def test_what_a_server_refuses_is_told_in_one_line(
    name: str,
    status: int,
    told: str,
    voxels: NDArray[np.uint16],
    tmp_path: Path,
    serve: Callable[..., str],
) -> None:
    path = FILES[name](tmp_path, voxels).partition("::")[0]
    failing = Path(path).name if Path(path).is_file() else "/z3."
    _, url = written(name, tmp_path, voxels, serve(failing=(failing, status)))
    assert told in why(url)


def test_a_server_that_fails_later_is_an_error_with_its_answer(
    large: NDArray[np.uint16], tmp_path: Path, serve: Callable[..., str]
) -> None:
    failing: dict[str, int] = {}

    def do_get(handler: Any) -> None:
        handler.failing = next(iter(failing.items()), ("", 0))
        type(handler).__mro__[1].do_GET(handler)

    server = serve(do_GET=do_get)
    volumes = {name: open_volume(written(name, tmp_path, large, server)[1]) for name in FILES}
    failing["/"] = 500
    for volume in volumes.values():
        with pytest.raises(VolumeReadError, match="the server answers 500"):
            volume.read((4, 300, 300), (5, 512, 640))
    failing.clear()
    for volume in volumes.values():
        read = volume.read((4, 300, 300), (5, 512, 640))
        np.testing.assert_array_equal(read, large[4:5, 300:, 300:])


@pytest.mark.parametrize("name", FILES)
def test_an_answer_that_breaks_off_is_asked_for_again(
    name: str, large: NDArray[np.uint16], tmp_path: Path, serve: Callable[..., str]
) -> None:
    broken: list[int] = []

    def broken_off(handler: Any, path: Path) -> None:
        send = type(handler).__mro__[1]._send_range
        if not broken:
            send(handler, path)
            return
        broken.pop()
        write = handler.wfile.write
        # headers are short
        handler.wfile.write = lambda body: write(body[: max(1000, len(body) // 2)])
        send(handler, path)
        handler.close_connection = True

    volume = open_volume(written(name, tmp_path, large, serve(_send_range=broken_off))[1])
    broken.append(1)
    read = volume.read((4, 300, 300), (5, 512, 640))
    np.testing.assert_array_equal(read, large[4:5, 300:, 300:])
    assert not broken


def test_nobody_at_the_address_is_told() -> None:
    line = why("http://127.0.0.1:9/a.h5?X-Amz-Signature=secret")
    assert "http://127.0.0.1:9/a.h5: no answer: check address and network (" in line
    assert "secret" not in line


def test_the_query_of_a_signed_url_is_no_suffix(
    voxels: NDArray[np.uint16], tmp_path: Path, serve: Callable[..., str]
) -> None:
    server = serve()
    for name in ("hdf5", "ome-tiff", "mrc", "ozx"):
        path = FILES[name](tmp_path, voxels).removeprefix(str(tmp_path))
        file, separator, inside = path.partition("::")
        url = f"{server}{file}?X-Amz-Signature=a.zip&b=c{separator}{inside}"
        volume = open_volume(url)
        np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), voxels)
        assert open_volume(volume.url) == volume
        file = tmp_path / path.partition("::")[0].lstrip("/")
        file.write_bytes(file.read_bytes()[:300])
        with pytest.raises(VolumeReadError) as refusal:
            volume.read((0, 0, 0), volume.shape)
        assert "Signature" not in str(refusal.value)
        assert "Signature" not in why(url)


def test_a_folder_that_is_not_listed_is_told_with_what_a_target_may_be(
    tmp_path: Path, serve: Callable[..., str]
) -> None:
    (tmp_path / "empty").mkdir()
    line = why(f"{serve()}/empty")
    assert "is not a zarr: no zarr.json, .zarray or .zgroup there, nor planes that the" in line


def test_a_plane_that_is_none_is_told_by_its_name(
    voxels: NDArray[np.uint16], tmp_path: Path, serve: Callable[..., str]
) -> None:
    _, url = written("png", tmp_path, voxels, serve())
    (tmp_path / "png/notes.txt").write_text("no plane")
    assert "holds planes such as z0.png, and notes.txt, which is none of them" in why(url)
    (tmp_path / "png/notes.txt").unlink()
    volume = open_volume(url)
    (tmp_path / "png/z6.png").write_bytes((tmp_path / "png/z5.png").read_bytes())
    assert open_volume(url).shape == (7, 20, 26)
    with pytest.raises(VolumeReadError, match="it has other files than when it was opened"):
        volume.read((0, 0, 0), volume.shape)


def test_datasets_that_lie_in_other_files_are_refused(
    voxels: NDArray[np.uint16], tmp_path: Path, serve: Callable[..., str]
) -> None:
    write_chunked(tmp_path, voxels)
    layout = h5py.VirtualLayout(voxels.shape, voxels.dtype)
    layout[...] = h5py.VirtualSource("large.h5", "raw", voxels.shape)
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("raw", layout)
        file.create_dataset("external", (2, 2), "u1", external=[("raw.bin", 0, 4)])
    server = serve()
    line = why(f"{server}/virtual.h5::raw")
    assert "lies in other files, such as large.h5, which are read on this machine alone" in line
    assert "such as raw.bin" in why(f"{server}/virtual.h5::external")


def test_pages_in_other_files_are_refused(
    voxels: NDArray[np.uint16], tmp_path: Path, serve: Callable[..., str]
) -> None:
    WRITERS["ome-tiff"](tmp_path, voxels)
    content = (tmp_path / "volume.ome.tif").read_bytes()
    (tmp_path / "one.ome.tif").write_bytes(content.replace(b"volume.ome.tif", b"other2.ome.tif"))
    with tifffile.TiffWriter(tmp_path / "part.ome.tif", ome=False) as file:
        plane = '<TiffData IFD="0" FirstZ="{0}"><UUID FileName="{1}">urn:uuid:{0}</UUID></TiffData>'
        data = plane.format(0, "part.ome.tif") + plane.format(1, "volume.ome.tif")
        pixels = 'DimensionOrder="XYZCT" Type="uint16" SizeX="26" SizeY="20" SizeZ="2" SizeC="1"'
        about = f'<Pixels ID="Pixels:0" {pixels} SizeT="1">{data}</Pixels>'
        space = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0"'
        ome = f'<?xml version="1.0"?><OME {space}><Image ID="Image:0">{about}</Image></OME>'
        file.write(voxels[0], description=ome, metadata=None)
    volume = open_volume(f"{serve()}/part.ome.tif")
    assert volume.shape == (2, 20, 26)
    assert "failed to read" in " ".join(volume.notes)
    with pytest.raises(VolumeReadError, match="page 1 is described, but in no file"):
        volume.read((0, 0, 0), volume.shape)


def test_what_fsspec_knows_is_read_too(voxels: NDArray[np.uint16], tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    for name in ("hdf5", "ome-tiff", "mrc", "ozx", "png"):
        path = FILES[name](tmp_path, voxels)
        place, separator, inside = path.removeprefix(str(tmp_path)).partition("::")
        files.put(path.partition("::")[0], place, recursive=True)
        volume = open_volume(f"memory:/{place}{separator}{inside}")
        np.testing.assert_array_equal(volume.read((1, 2, 3), (4, 9, 9)), voxels[1:4, 2:9, 3:9])
    assert why("memory://none.h5") == "memory://none.h5 does not exist"


def test_a_copy_that_fsspec_keeps_is_read(
    large: NDArray[np.uint16], tmp_path: Path, serve: Callable[..., str]
) -> None:
    url = f"simplecache::{serve(ranges=False)}/{write_chunked(tmp_path, large)}"
    volume = open_volume(f"{url}::raw")
    np.testing.assert_array_equal(volume.read(*BOX), large[tuple(map(slice, *BOX))])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", FILES)
def test_a_forked_process_makes_its_own_connection(
    name: str, voxels: NDArray[np.uint16], tmp_path: Path, serve: Callable[..., str]
) -> None:
    volume = open_volume(written(name, tmp_path, voxels, serve())[1])
    volume.read((0, 0, 0), volume.shape)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        read = pool.apply_async(volume.read, ((0, 0, 0), volume.shape)).get(timeout=30)
    np.testing.assert_array_equal(read, voxels)


@pytest.mark.parametrize("name", FILES)
def test_a_process_ends_without_complaints(
    name: str, voxels: NDArray[np.uint16], tmp_path: Path, serve: Callable[..., str]
) -> None:
    _, url = written(name, tmp_path, voxels, serve(protocol_version="HTTP/1.1"))
    code = f"""
from cte_dask.volume import open_volume
print(open_volume({url!r}).read((0, 0, 0), (1, 1, 1)).item())
"""
    process = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=False
    )
    assert process.stderr == ""
    assert process.stdout.split() == [str(voxels[0, 0, 0])]


def test_garbage_of_hdf5_never_waits_for_a_request_that_waits_for_it(
    large: NDArray[np.uint16], tmp_path: Path, serve: Callable[..., str]
) -> None:
    url = f"{serve()}/{write_chunked(tmp_path, large, chunks=(1, 64, 64), compression='gzip')}"
    code = f"""
import h5py
from cte_dask.storage import stored_file
from cte_dask.volume import open_volume
garbage = [h5py.File({str(tmp_path / "large.h5")!r}, "r")["raw"] for _ in range(100)]
fetch = stored_file.fetch
def fetch_amid_a_collection(*words, **options):
    garbage.pop()  # HDF5 closes it, with its lock held
    return fetch(*words, **options)
stored_file.fetch = fetch_amid_a_collection
open_volume({url!r}).read((2, 0, 0), (4, 512, 640))
assert len(garbage) < 98
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == 0


def test_a_run_takes_its_target_mask_and_labels_from_a_web_server_and_knows_them_again(
    tmp_path: Path, serve: Callable[..., str]
) -> None:
    voxels = blobs((1, 32, 64)).astype(np.uint16)
    server = serve()
    path = written("hdf5", tmp_path, voxels, "")[1].partition("::")[0]
    target = f"{server}{path}?signature=1::volume/raw"
    (tmp_path / "mask").mkdir()
    _, mask = written("mrc", tmp_path / "mask", (voxels > 0).astype(np.uint16), f"{server}/mask")
    labels = f"{server}/labels.tif"
    tifffile.imwrite(tmp_path / "labels.tif", (voxels > 100).astype(np.uint8), compression="zlib")
    bank = write_bank(tmp_path / "bank", 2)
    words = [target, "--bank", bank, "--tile", "1,32,32", "--mask", mask]
    words += ["--perturb", "gaussian:0.1", "--cluster", "none"]
    assert cte("plan", *words).exit_code == 0
    run = ["rank", *words, "--out", tmp_path / "RUN", "--quiet"]
    done = cte(*run)
    assert done.exit_code == 0, done.output
    volume = reopen(str(tmp_path / "RUN")).volume
    assert (volume.url, volume.mask.name) == (target, mask)
    np.testing.assert_array_equal(volume.read((0, 0, 0), voxels.shape), voxels)
    assert open_labels(labels, volume).shape == voxels.shape
    done = cte("evaluate", tmp_path / "RUN", "--labels", labels, "--cluster", "none")
    assert done.exit_code == 0, done.output
    run[1] = target.replace("=1", "=2")  # the first one has expired
    assert cte(*run, "--resume").exit_code == 0
    written("hdf5", tmp_path, voxels[:, ::-1], "")
    again = cte(*run, "--resume")
    assert again.exit_code == 2
    assert "another experiment" in " ".join(again.output.split())
