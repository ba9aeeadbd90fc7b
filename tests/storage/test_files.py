"""Files that are written take their place at once, or not at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from cte_dask.storage.files import check_apart, replacing


def test_a_file_is_what_was_written(tmp_path):
    with replacing(str(tmp_path / "text")) as file:
        file.write("µm")
    with replacing(str(tmp_path / "bytes"), "wb") as file:
        file.write(b"\xff\0")
    assert (tmp_path / "text").read_bytes() == "µm".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\xff\0"
    assert len(list(tmp_path.iterdir())) == 2


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(str(path)) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def full(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="No space left"), replacing(str(tmp_path / "file")) as file:
        full(file.write("ne"))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_what_cannot_take_its_place_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(LocalFileSystem, "mv", full)
    with pytest.raises(OSError, match="No space left"), replacing(str(tmp_path / "file")) as file:
        file.write("new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_many_may_write_one_file_at_once(tmp_path, monkeypatch):
    together, real = Barrier(8), LocalFileSystem.mv

    def late(self, *args, **kwargs):  # all have written before the first one takes its place
        together.wait(timeout=60)
        return real(self, *args, **kwargs)

    def write(number):
        with replacing(str(tmp_path / "file")) as file:
            file.write(str(number) * 10_000)

    monkeypatch.setattr(LocalFileSystem, "mv", late)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    (path,) = tmp_path.iterdir()
    assert path.read_text() in [str(number) * 10_000 for number in range(8)]


def test_a_file_may_lie_anywhere_that_fsspec_reaches():
    with replacing("memory://replaced/file") as file:
        file.write("far")
    with fsspec.open("memory://replaced/file", "r") as file:
        assert file.read() == "far"
    assert len(fsspec.filesystem("memory").ls("/replaced")) == 1


@pytest.mark.parametrize("scheme", ["", "file://", "n5://", "precomputed://"])
@pytest.mark.parametrize("member", ["", "::raw", "::A/1/0"])
def test_results_in_a_target_are_refused_whatever_image_of_it_is_meant(tmp_path, scheme, member):
    (tmp_path / "a.zarr").mkdir()
    target = f"{scheme}{tmp_path / 'a.zarr'}{member}"
    for out in ("a.zarr", "a.zarr/RUN"):
        with pytest.raises(ValueError, match="never written to"):
            check_apart(str(tmp_path / out), target)
    check_apart(str(tmp_path / "RUN"), target)


def test_results_beside_the_parts_of_a_url_are_apart():
    with pytest.raises(ValueError, match="never written to"):
        check_apart("s3://bucket/a.zarr/RUN", "s3://bucket/a.zarr::raw")
    check_apart("s3://bucket/RUN", "s3://bucket/a.zarr::raw")
    check_apart("simplecache/RUN", "simplecache::s3://bucket/a.zarr")
