"""Object stores, real ones: targets read from them, scores written to them, faults told."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import fsspec
import pytest
from services import objects
from services.objects import BUCKET, REGION, Place
from typer.testing import CliRunner, Result

from cte_dask.cli import app
from cte_dask.models import load_bank
from cte_dask.resolution import resolve
from cte_dask.run import blocks_array
from cte_dask.storage import StorageError, buckets, zarr_store
from cte_dask.storage.objects import _look
from cte_dask.volume import VolumeReadError, open_volume

pytestmark = pytest.mark.service

ARGUMENTS = ["--tile", "1,32,32", "--block", "1,2,2"]
NAMES = ("AWS_", "AZURE_", "GOOGLE_")


@pytest.fixture(scope="module", params=["s3", "gs", "az"])
def store(request, tmp_path_factory) -> Iterator[Place]:
    """A bucket with the small target in it."""
    if missing := objects.missing(request.param):
        pytest.skip(missing)
    with objects.running(request.param, tmp_path_factory.mktemp(request.param)) as place:
        with pytest.MonkeyPatch.context() as patch:
            entered(patch, place)
            upload(request.getfixturevalue("sharded"), f"{place.url}/target.zarr")
        yield place


def entered(patch: pytest.MonkeyPatch, place: Place, **changes: str | None) -> None:
    """Set the environment to that of a place, with some variables changed or taken away."""
    for name in [n for n in os.environ if n.startswith(NAMES)]:
        patch.delenv(name)
    for name, value in {**place.environment, **changes}.items():
        if value is not None:
            patch.setenv(name, value)
    forget()


def forget() -> None:
    """Open stores anew, as a new process would."""
    buckets._opened.cache_clear()
    _look.cache_clear()


def upload(folder: Path, url: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with fsspec.open(f"{url}/{path.relative_to(folder)}", "wb") as file:
                file.write(path.read_bytes())


def ranked(target, bank, out, *more: str) -> Result:
    command = ["rank", str(target), "--bank", str(bank), "--out", str(out), *ARGUMENTS, *more]
    return CliRunner().invoke(app, command)


@pytest.fixture(scope="module")
def in_process(sharded, bank, tmp_path_factory) -> list[dict]:
    """The ranking of the run on local files: what every store must give."""
    out = tmp_path_factory.mktemp("local") / "RUN"
    assert ranked(sharded, bank, out, "--cluster", "none").exit_code == 0
    return json.loads((out / "ranking.json").read_text())["models"]


def everything(url: str) -> bytes:
    """All that a run wrote, in one piece."""
    filesystem, path = fsspec.core.url_to_fs(url)
    return b"".join(filesystem.cat_file(name) for name in sorted(filesystem.find(path)))


def test_a_target_and_a_score_store_there_give_the_local_ranking_and_no_secret_is_left(
    store, bank, in_process, monkeypatch, caplog
):
    caplog.set_level("DEBUG")
    entered(monkeypatch, store)
    target, out = f"{store.url}/target.zarr", f"{store.url}/RUN"
    # the shortest of the three also runs in another process, which has the environment alone
    cluster = (
        ["--cluster", "local", "--workers", "1"] if store.scheme == "s3" else ["--cluster", "none"]
    )
    done = ranked(target, bank, out, *cluster)
    assert done.exit_code == 0, done.output
    with fsspec.open(f"{out}/ranking.json", "r") as file:
        result = json.load(file)
    assert result["models"] == in_process
    again = ranked(target, bank, out, "--cluster", "none", "--resume")
    assert again.exit_code == 0, again.output

    written = everything(out)
    assert b"tiles" in written
    assert len(written) > 10_000
    told = (done.output + again.output + caplog.text).encode()
    for secret in store.secrets:
        assert secret.encode() not in written + told


def test_no_secret_is_in_the_task_graph(store, bank, monkeypatch):
    entered(monkeypatch, store)
    volume = open_volume(f"{store.url}/target.zarr")
    experiment = resolve(volume, load_bank(str(bank)), tile=(1, 32, 32), block=(1, 2, 2))
    graph = blocks_array(experiment, range(5), url=f"{store.url}/none.zarr").__dask_graph__()
    pickled = cloudpickle.dumps(dict(graph))
    assert store.url.encode() in pickled
    for secret in store.secrets:
        assert secret.encode() not in pickled
        assert secret not in repr(experiment)


def refused(store, bank, tmp_path, url: str) -> str:
    done = ranked(url, bank, tmp_path / "RUN", "--cluster", "none", "--quiet")
    assert done.exit_code == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: {store.scheme}://")
    for secret in store.secrets:
        assert secret not in line
    return line


WRONG = {
    "s3": [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "the key is wrong: check AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, "the key is wrong: check AWS_ACCESS_KEY_ID"),
        ({"AWS_REGION": "us-east-1"}, f"in another region ({REGION}): set AWS_REGION"),
        ({"AWS_SESSION_TOKEN": "old"}, "the token has expired or is not valid"),
    ],
    "gs": [({"GOOGLE_BEARER_TOKEN": "old"}, "the token has expired or is not valid")],
    "az": [
        ({"AZURE_STORAGE_ACCOUNT_KEY": "d3Jvbmc="}, "the key is wrong: check AZURE_STORAGE"),
        ({"AZURE_STORAGE_ACCOUNT_KEY": None, "AZURE_STORAGE_SAS_TOKEN": "expired"},
         "the token has expired or is not valid"),
    ],
}  # fmt: skip


def test_wrong_keys_regions_and_tokens_are_told_in_one_line_each(
    store, bank, tmp_path, monkeypatch
):
    for number, (changes, told) in enumerate(WRONG[store.scheme]):
        if changes.get("AZURE_STORAGE_SAS_TOKEN"):
            changes["AZURE_STORAGE_SAS_TOKEN"] = objects.expired_sas(store)
        entered(monkeypatch, store, **changes)
        line = refused(store, bank, tmp_path / str(number), f"{store.url}/target.zarr")
        assert told in line
        for value in filter(None, changes.values()):
            assert value == "wrong" or value not in line


def test_a_missing_bucket_and_a_missing_target_are_told_apart(store, bank, tmp_path, monkeypatch):
    entered(monkeypatch, store)
    monkeypatch.setitem(buckets.PATIENCE, "first", (0, 5.0))
    line = refused(store, bank, tmp_path, f"{store.scheme}://cte-nowhere/target.zarr")
    assert "no such bucket" in line or "no bucket named cte-nowhere" in line
    line = refused(store, bank, tmp_path, f"{store.url}/absent.zarr")
    assert "absent.zarr is not a zarr" in line


def test_nobody_at_the_endpoint_is_told(store, bank, tmp_path, monkeypatch):
    [port] = objects.free_ports(1)
    [name] = [n for n in store.environment if n.endswith(("ENDPOINT_URL", "ENDPOINT", "BASE_URL"))]
    entered(monkeypatch, store, **{name: f"http://127.0.0.1:{port}"})
    monkeypatch.setitem(buckets.PATIENCE, "first", (1, 5.0))
    assert str(port) in refused(store, bank, tmp_path, f"{store.url}/target.zarr")


def test_a_busy_server_is_asked_again(store, monkeypatch):
    entered(monkeypatch, store)
    volume = open_volume(f"{store.url}/target.zarr")
    store.front.failing = 2
    assert volume.read((0, 0, 0), volume.shape).any()
    assert store.front.failing == 0


def test_a_server_that_stays_busy_is_an_error_never_an_omitted_chunk(store, monkeypatch):
    entered(monkeypatch, store)
    monkeypatch.setitem(buckets.PATIENCE, "later", (1, 5.0))
    volume = open_volume(f"{store.url}/target.zarr")
    store.front.failing = 1000
    try:
        with pytest.raises(VolumeReadError, match="503"):
            volume.read((0, 0, 0), volume.shape)
    finally:
        store.front.failing = 0


def test_omitted_chunks_are_counted(store, monkeypatch):
    entered(monkeypatch, store)
    volume = open_volume(f"{store.url}/target.zarr")
    assert volume.missing_chunks((0, 0, 0), volume.shape) == 0


def test_credentials_are_never_taken_as_options():
    with pytest.raises(ValueError, match="'key' is not one of anonymous, endpoint, region: cred"):
        zarr_store("s3://bucket/a.zarr", {"key": "x"})


def test_anonymous_requests_are_not_signed(tmp_path, monkeypatch):
    if missing := objects.missing("s3"):
        pytest.skip(missing)
    with objects.running("s3", tmp_path) as place:
        entered(monkeypatch, place)
        with fsspec.open(f"{place.url}/a", "wb") as file:
            file.write(b"x")
        signed = zarr_store(place.url)
        assert signed.url.endswith(BUCKET)
        # the test's bucket is private: who does not sign is told so
        with pytest.raises(StorageError, match=r"access denied.*--anonymous"):
            fsspec_free_read(place)


def fsspec_free_read(place: Place) -> None:
    import zarr

    zarr.open(zarr_store(f"{place.url}/t.zarr", {"anonymous": True}), mode="r")
