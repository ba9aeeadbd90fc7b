"""Object stores, real ones: targets read from them, scores written to them, faults told."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, quote

import cloudpickle
import fsspec
import h5py
import numpy as np
import pytest
import tifffile
from conftest import blobs
from services import objects
from services.faltering import KINDS, Faltering
from services.objects import REGION, Place
from typer.testing import CliRunner, Result
from volume.test_other_formats import WRITERS, write_zarr

from cte_dask.cli.app import app
from cte_dask.demo import bank_path
from cte_dask.engine.checkpoint import Checkpoint
from cte_dask.engine.dask_runner import jobs_array
from cte_dask.engine.jobs import Job
from cte_dask.evaluation.labels import open_labels
from cte_dask.models import load_bank
from cte_dask.results.experiment_file import reopen
from cte_dask.scoring.resolve import resolve
from cte_dask.storage import buckets, retries
from cte_dask.storage.files import replacing
from cte_dask.storage.objects import zarr_store
from cte_dask.volume import VolumeReadError, open_volume

# a machine that does much else is slow, not wrong: only one that hangs meets the limit
pytestmark = [pytest.mark.service, pytest.mark.timeout(1800)]

ARGUMENTS = ["--tile", "1,32,32", "--block", "1,2,2"]
WIDE = ["--tile", "1,64,64", "--block", "1,1,1"]
"""Of the demonstration's networks, which see 48 voxels around a tile."""
NAMES = ("AWS_", "AZURE_", "GOOGLE_")


@pytest.fixture(scope="module", params=["s3", "gs", "az"])
def store(request, tmp_path_factory) -> Iterator[Place]:
    """A bucket with the small target in it."""
    if missing := objects.missing(request.param):
        pytest.skip(missing)
    with objects.running(request.param, tmp_path_factory.mktemp(request.param)) as place:
        with pytest.MonkeyPatch.context() as patch:
            entered(patch, place)
            for url in (place.url, place.public):
                upload(request.getfixturevalue("sharded"), f"{url}/target.zarr")
            upload(request.getfixturevalue("sharded"), f"{place.public}/labels.zarr")
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
    buckets.check_bucket.cache_clear()


def upload(folder: Path, url: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with fsspec.open(f"{url}/{path.relative_to(folder)}", "wb") as file:
                file.write(path.read_bytes())


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_write_that_is_broken_off_leaves_the_object_that_was_there(store, mode, monkeypatch):
    entered(monkeypatch, store)
    url, words = f"{store.url}/broken-off", "short" if mode == "w" else b"short"
    with replacing(url, mode) as file:
        file.write(words)
    with suppress(KeyboardInterrupt), replacing(url, mode) as file:
        file.write(1000 * words)
        raise KeyboardInterrupt
    with fsspec.open(url, "rb") as file:
        assert file.read() == b"short"


def ranked(target, bank, out, *more: str) -> Result:
    command = ["rank", str(target), "--bank", str(bank), "--out", str(out), *ARGUMENTS, *more]
    return CliRunner().invoke(app, command)


@pytest.fixture(scope="module")
def in_process(sharded, tmp_path_factory) -> list[dict]:
    """The demo bank's ranking of local files: what every store must give."""
    out = tmp_path_factory.mktemp("local") / "RUN"
    done = ranked(sharded, bank_path(), out, "--cluster", "none", *WIDE)
    assert done.exit_code == 0, done.output
    return result_of(str(out))["models"]


def result_of(out: str) -> dict:
    with fsspec.open(f"{out}/ranking.json", "r") as file:
        return json.load(file)


@pytest.fixture(scope="module")
def two_in_process(sharded, bank, tmp_path_factory) -> list[dict]:
    """The same of two small models."""
    out = tmp_path_factory.mktemp("local") / "RUN"
    assert ranked(sharded, bank, out, "--cluster", "none").exit_code == 0
    return result_of(str(out))["models"]


def everything(url: str) -> bytes:
    """All that a run wrote, in one piece."""
    filesystem, path = fsspec.core.url_to_fs(url)
    return b"".join(filesystem.cat_file(name) for name in sorted(filesystem.find(path)))


def test_the_demo_bank_there_gives_the_local_ranking_and_no_secret_is_left(
    store, in_process, monkeypatch, caplog, capfd
):
    caplog.set_level("DEBUG")
    entered(monkeypatch, store)
    target, out = f"{store.url}/target.zarr", f"{store.url}/RUN"
    # the shortest of the three also runs in another process, which has the environment alone
    cluster = (
        ["--cluster", "local", "--workers", "1"] if store.scheme == "s3" else ["--cluster", "none"]
    )
    done = ranked(target, bank_path(), out, *cluster, *WIDE)
    assert done.exit_code == 0, done.output
    result = result_of(out)
    assert len(result["models"]) == 9
    assert result["models"] == in_process
    reported = CliRunner().invoke(app, ["report", out, "--gallery", "1"])
    assert reported.exit_code == 0, reported.output

    written = everything(out)
    assert b"<html" in written
    assert b"cte-log/1" in written
    # what worker processes say goes past this process's own streams
    streams = "".join(capfd.readouterr())
    told = (done.output + reported.output + caplog.text + streams).encode()
    for secret in store.secrets:
        assert secret.encode() not in written + told


def test_a_run_there_goes_on_where_it_ended(store, bank, two_in_process, monkeypatch):
    entered(monkeypatch, store)
    target, out = f"{store.url}/target.zarr", f"{store.url}/parts"
    for number in (1, 2):
        done = ranked(target, bank, out, "--cluster", "none", "--shard", f"{number}/2")
        assert done.exit_code == 0, done.output
    assert result_of(out)["models"] == two_in_process


def test_what_a_store_refuses_amid_a_run_is_kept_without_a_secret(
    store, bank, tmp_path, monkeypatch, caplog
):
    caplog.set_level("DEBUG")
    entered(monkeypatch, store)
    monkeypatch.setattr(store.front, "refused", "/c/2/0/0")
    out = tmp_path / "RUN"
    narrow = ["--perturb", "gaussian:0.1"]  # a magnification would read the next block's chunk, too
    done = ranked(f"{store.url}/target.zarr", bank, out, "--cluster", "none", *narrow)
    assert done.exit_code == 3, done.output
    assert result_of(str(out))["blocks"] == {"total": 5, "done": 4, "failed": 1}
    status = CliRunner().invoke(app, ["status", str(out)])
    assert "OddFault: It was refused." in status.output
    told = everything(str(out)) + (done.output + status.output + caplog.text).encode()
    for secret in [*store.secrets, "Authorization"]:
        assert secret.encode() not in told


def test_an_azure_signature_is_enough_and_appears_nowhere(
    store, bank, tmp_path, monkeypatch, caplog
):
    if store.scheme != "az":
        return  # the others' tokens are those of every test here
    caplog.set_level("DEBUG")
    signature = objects.account_sas(store, days=1)
    changes = {"AZURE_STORAGE_ACCOUNT_KEY": None, "AZURE_STORAGE_SAS_TOKEN": signature}
    entered(monkeypatch, store, **changes)
    monkeypatch.setattr(store.front, "refused", "/c/2/0/0")
    out = f"{store.url}/signed"
    done = ranked(f"{store.url}/target.zarr", bank, out, "--cluster", "none")
    assert done.exit_code == 3, done.output
    private = parse_qs(signature)["sig"][0]
    told = everything(out) + (done.output + caplog.text).encode()
    for form in (private, quote(private, safe="")):
        assert form.encode() not in told


def test_no_secret_is_in_the_task_graph(store, bank, monkeypatch):
    entered(monkeypatch, store)
    volume = open_volume(f"{store.url}/target.zarr")
    experiment = resolve(volume, load_bank(str(bank)), tile=(1, 32, 32), block=(1, 2, 2))
    task = Checkpoint(experiment, f"{store.url}/none.zarr")
    graph = jobs_array(task, [Job(block) for block in range(5)]).__dask_graph__()
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
    "gs": [
        ({"GOOGLE_BEARER_TOKEN": "old"}, "the token has expired or is not valid"),
        ({"GOOGLE_BEARER_TOKEN": None, "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/key.json"},
         "the key is wrong: check GOOGLE_APPLICATION_CREDENTIALS"),
        ({"GOOGLE_BEARER_TOKEN": None, "GOOGLE_APPLICATION_CREDENTIALS": "MALFORMED"},
         "the key is wrong: check GOOGLE_APPLICATION_CREDENTIALS"),
    ],
    "az": [
        ({"AZURE_STORAGE_ACCOUNT_KEY": "d3Jvbmc="}, "the key is wrong: check AZURE_STORAGE"),
        ({"AZURE_STORAGE_ACCOUNT_KEY": None, "AZURE_STORAGE_SAS_TOKEN": "expired"},
         "the token has expired or is not valid"),
    ],
}  # fmt: skip


def completed(changes: dict, store: Place, folder: Path) -> dict:
    """The changes of `WRONG`, with what is made when the test runs."""
    made = dict(changes)
    if made.get("AZURE_STORAGE_SAS_TOKEN"):
        made["AZURE_STORAGE_SAS_TOKEN"] = objects.account_sas(store, days=-1)
    if made.get("GOOGLE_APPLICATION_CREDENTIALS") == "MALFORMED":
        path = folder / "key.json"
        key = {"private_key": "PRIVATE", "private_key_id": "1", "client_email": "a@b"}
        path.write_text(json.dumps({"type": "service_account", **key}))
        made["GOOGLE_APPLICATION_CREDENTIALS"] = str(path)
    return made


def test_wrong_keys_regions_and_tokens_are_told_in_one_line_each(
    store, bank, tmp_path, monkeypatch
):
    for number, (changes, told) in enumerate(WRONG[store.scheme]):
        set_to = completed(changes, store, tmp_path)
        entered(monkeypatch, store, **set_to)
        line = refused(store, bank, tmp_path / str(number), f"{store.url}/target.zarr")
        assert told in line
        assert "PRIVATE" not in line
        for value in filter(None, set_to.values()):
            assert value == "wrong" or value not in line


def test_a_missing_bucket_and_a_missing_target_are_told_apart(store, bank, tmp_path, monkeypatch):
    entered(monkeypatch, store)
    monkeypatch.setitem(retries.PATIENCE, "first", (0, 5.0))
    line = refused(store, bank, tmp_path, f"{store.scheme}://cte-nowhere/target.zarr")
    assert "no such bucket" in line or "no bucket named cte-nowhere" in line
    line = refused(store, bank, tmp_path, f"{store.url}/absent.zarr")
    assert "absent.zarr is not a zarr" in line


def test_nobody_at_the_endpoint_is_told(store, bank, tmp_path, monkeypatch):
    [port] = objects.free_ports(1)
    [name] = [n for n in store.environment if n.endswith(("ENDPOINT_URL", "ENDPOINT", "BASE_URL"))]
    entered(monkeypatch, store, **{name: f"http://127.0.0.1:{port}"})
    monkeypatch.setitem(retries.PATIENCE, "first", (1, 5.0))
    assert str(port) in refused(store, bank, tmp_path, f"{store.url}/target.zarr")


def test_a_busy_server_is_asked_again(store, monkeypatch):
    entered(monkeypatch, store)
    volume = open_volume(f"{store.url}/target.zarr")
    store.front.failing = 2
    assert volume.read((0, 0, 0), volume.shape).any()
    assert store.front.failing == 0


def test_a_server_that_stays_busy_is_an_error_never_an_omitted_chunk(store, monkeypatch):
    entered(monkeypatch, store)
    monkeypatch.setitem(retries.PATIENCE, "later", (1, 5.0))
    volume = open_volume(f"{store.url}/target.zarr")
    store.front.failing = 1000
    try:
        with pytest.raises(VolumeReadError, match="503"):
            volume.read((0, 0, 0), volume.shape)
    finally:
        store.front.failing = 0


def test_a_store_that_falters_costs_time_and_no_bit(store, bank, two_in_process, monkeypatch):
    """503, resets, slow and cut answers, while the target is read and the scores are written."""
    entered(monkeypatch, store)
    out = f"{store.url}/FALTERING"
    rates = {"busy": 0.06, "reset": 0.06, "slow": 0.03, "cut": 0.06}
    monkeypatch.setattr(store.front, "faltering", Faltering(rates, seed=1))
    done = ranked(f"{store.url}/target.zarr", bank, out, "--cluster", "none")
    faults = store.front.faltering.counts
    monkeypatch.undo()
    entered(monkeypatch, store)
    assert done.exit_code == 0, done.output
    assert set(faults) == set(KINDS)
    assert result_of(out)["models"] == two_in_process


@pytest.mark.parametrize("store", ["s3"], indirect=True)
@pytest.mark.parametrize("name", ["n5", "precomputed"])
def test_n5_and_precomputed_volumes_are_read_from_a_bucket(store, name, tmp_path, monkeypatch):
    entered(monkeypatch, store)
    voxels = np.arange(6 * 20 * 26, dtype=np.uint16).reshape(6, 20, 26)
    folder = WRITERS[name](tmp_path, voxels)
    upload(tmp_path, f"{store.url}/{name}")
    volume = open_volume(f"{name}://{store.url}/{name}/{Path(folder).relative_to(tmp_path)}")
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), voxels)
    assert volume.missing_chunks((0, 0, 0), volume.shape) == 0


FILES = ("hdf5", "ome-tiff", "mrc", "ozx", "planes")


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_from_a_bucket_with_the_scores_of_the_local_zarr_to_the_bit(
    store, name, bank, tmp_path, monkeypatch
):
    entered(monkeypatch, store)
    image = blobs((2, 64, 64)).astype(np.uint16)
    path = WRITERS[name](tmp_path, image)
    upload(tmp_path, f"{store.url}/{name}")
    target = f"{store.url}/{name}{path.removeprefix(str(tmp_path))}"
    volume = open_volume(target)
    assert volume.describe() == {**open_volume(path).describe(), "url": target}
    np.testing.assert_array_equal(volume.read((0, 3, 5), (2, 60, 50)), image[:, 3:60, 5:50])
    models = []
    for number, each in enumerate((write_zarr(tmp_path, image), target)):
        out = tmp_path / str(number)
        assert ranked(each, bank, out, "--cluster", "none").exit_code == 0
        models.append(result_of(str(out))["models"])
    assert models[0] == models[1]
    np.testing.assert_array_equal(reopen(str(out)).volume.read((0, 0, 0), image.shape), image)


def test_of_a_large_file_in_a_bucket_few_requests_fetch_a_box(store, tmp_path, monkeypatch):
    entered(monkeypatch, store)
    image = np.random.default_rng(0).integers(0, 60000, (4, 512, 640)).astype(np.uint16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", data=image, chunks=(1, 128, 128), compression="gzip")
    options = {"tile": (128, 128), "compression": "zlib", "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", image, **options)
    upload(tmp_path, f"{store.url}/large")
    for name in ("a.h5", "a.tif"):
        store.front.asked.clear()
        volume = open_volume(f"{store.url}/large/{name}")
        assert len(store.front.asked) <= 8
        store.front.asked.clear()
        box = volume.read((1, 130, 140), (3, 250, 250))
        np.testing.assert_array_equal(box, image[1:3, 130:250, 140:250])
        assert len(store.front.asked) <= 8


def test_what_is_wrong_with_a_file_in_a_bucket_is_told_in_one_line(
    store, bank, tmp_path, monkeypatch
):
    entered(monkeypatch, store)
    monkeypatch.setitem(retries.PATIENCE, "first", (2, 5.0))  # a connection may be stale
    for name in ("a.h5", "a.tif", "a.mrc", "a.ozx", "a.png"):
        line = refused(store, bank, tmp_path, f"{store.url}/absent/{name}")
        assert f"{name} does not exist" in line
        line = refused(store, bank, tmp_path, f"{store.scheme}://cte-nowhere/{name}")
        assert "no such bucket" in line or "no bucket named cte-nowhere" in line
    for number, (changes, told) in enumerate(WRONG[store.scheme]):
        entered(monkeypatch, store, **completed(changes, store, tmp_path))
        line = refused(store, bank, tmp_path / str(number), f"{store.url}/a.h5")
        assert told in line


def test_a_file_in_a_bucket_that_is_replaced_meanwhile_is_an_error(store, tmp_path, monkeypatch):
    entered(monkeypatch, store)
    image = np.random.default_rng(0).integers(0, 60000, (4, 512, 640)).astype(np.uint16)
    path = WRITERS["mrc"](tmp_path, image)
    upload(tmp_path, f"{store.url}/replaced")
    volume = open_volume(f"{store.url}/replaced/{Path(path).name}")
    WRITERS["mrc"](tmp_path, image[::-1])
    upload(tmp_path, f"{store.url}/replaced")
    with pytest.raises(VolumeReadError, match="has changed since it was opened: open it again"):
        volume.read((1, 0, 0), (2, 512, 640))


def test_a_store_that_falters_costs_a_file_no_bit(store, tmp_path, monkeypatch):
    entered(monkeypatch, store)
    image = np.random.default_rng(0).integers(0, 60000, (6, 128, 160)).astype(np.uint16)
    path = WRITERS["hdf5"](tmp_path, image)
    upload(tmp_path, f"{store.url}/faltering")
    volume = open_volume(f"{store.url}/faltering{path.removeprefix(str(tmp_path))}")
    rates = {"busy": 0.1, "reset": 0.1, "slow": 0.02, "cut": 0.1}
    monkeypatch.setattr(store.front, "faltering", Faltering(rates, seed=1))
    for z in [0, 1, 2, 3, 4, 5] * 4:
        read = volume.read((z, 0, 0), (z + 1, 128, 160))
        np.testing.assert_array_equal(read, image[z : z + 1])
    assert {"busy", "reset", "cut"} <= set(store.front.faltering.counts)


def test_a_file_in_a_public_bucket_is_ranked_without_credentials(
    store, bank, tmp_path, monkeypatch
):
    entered(monkeypatch, store)
    image = blobs((1, 64, 64)).astype(np.uint16)
    (tmp_path / "files").mkdir()
    for name in ("hdf5", "planes"):
        WRITERS[name](tmp_path / "files", image)
    upload(tmp_path / "files", f"{store.public}/files")
    where = {n: v for n, v in store.environment.items() if n.endswith(("URL", "ENDPOINT"))}
    account = {n: v for n, v in store.environment.items() if n.endswith("ACCOUNT_NAME")}
    entered(monkeypatch, store, **{**dict.fromkeys(store.environment), **where, **account})
    for number, name in enumerate(("volume.h5", "planes")):
        out = tmp_path / str(number)
        target = f"{store.public}/files/{name}"
        done = ranked(target, bank, out, "--cluster", "none", "--anonymous")
        assert done.exit_code == 0, done.output
        assert reopen(str(out)).volume.read((0, 0, 0), image.shape).any()


def test_omitted_chunks_are_counted(store, monkeypatch):
    entered(monkeypatch, store)
    volume = open_volume(f"{store.url}/target.zarr")
    assert volume.missing_chunks((0, 0, 0), volume.shape) == 0


def test_credentials_are_never_taken_as_options():
    with pytest.raises(ValueError, match="'key' is not one of anonymous, endpoint, region: cred"):
        zarr_store("s3://bucket/a.zarr", {"key": "x"})


def test_a_public_bucket_is_ranked_and_reported_without_credentials(
    store, bank, two_in_process, tmp_path, monkeypatch
):
    where = {n: v for n, v in store.environment.items() if n.endswith(("URL", "ENDPOINT"))}
    account = {n: v for n, v in store.environment.items() if n.endswith("ACCOUNT_NAME")}
    without = {**dict.fromkeys(store.environment), **where, **account}
    entered(monkeypatch, store, **without)
    out = tmp_path / "RUN"
    options = ["--cluster", "none", "--anonymous"]
    done = ranked(f"{store.public}/target.zarr", bank, out, *options)
    assert done.exit_code == 0, done.output
    assert result_of(str(out))["models"] == two_in_process
    # what reads the target again does so as the run did
    for command in (["report", str(out), "--gallery", "1"], ["maps", str(out)]):
        again = CliRunner().invoke(app, command)
        assert again.exit_code == 0, again.output
        assert "cannot" not in again.output
    page = (out / "report.html").read_text()
    assert 'id="gallery-title"' in page
    assert "There are no pictures" not in page
    labels = open_labels(f"{store.public}/labels.zarr", reopen(str(out)).volume)
    assert labels.read((0, 0, 0), labels.shape).any()


def test_a_private_bucket_does_not_open_to_who_does_not_sign(store, bank, tmp_path, monkeypatch):
    entered(monkeypatch, store)
    done = ranked(f"{store.url}/target.zarr", bank, tmp_path / "RUN", "--anonymous", "--quiet")
    assert done.exit_code == 2
    [line] = done.stderr.splitlines()
    assert "it is not public: leave out --anonymous" in line
