"""A bank larger than memory: models leave it for others, and a block is read once for all."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zarr
from conftest import FEATURES, write_bank
from distributed import Client, LocalCluster

from cte_dask.engine.checkpoint import Checkpoint, score_job
from cte_dask.engine.dask_runner import run_jobs
from cte_dask.engine.jobs import Job, Listed
from cte_dask.inference.memory import MODELS_SHARE, bytes_for_models
from cte_dask.inference.model_size import bytes_of
from cte_dask.models import load_bank
from cte_dask.models.unet import UNet
from cte_dask.results.block_codec import encoded
from cte_dask.results.layout import layout_of
from cte_dask.results.new_store import create
from cte_dask.scoring import loaded
from cte_dask.scoring.block_scores import STATUS
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import score_block
from cte_dask.volume import open_volume

OPTIONS = {"tile": (1, 32, 32), "block": (1, 3, 2)}
WEIGHTS = sum(
    t.numel() * t.element_size() for t in UNet(dims=2, features=FEATURES).state_dict().values()
)


@pytest.fixture
def experiment(target, tmp_path):
    loaded.READY.clear()
    bank = load_bank(str(write_bank(tmp_path / "bank", 5)))
    yield resolve(open_volume(str(target)), bank, **OPTIONS)
    loaded.READY.clear()


def test_a_model_weighs_what_its_tensors_do(experiment, tmp_path):
    assert [c.bytes for c in experiment.candidates] == [WEIGHTS] * 5
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("weights", bytes(1000))
    opaque = SimpleNamespace(
        network=SimpleNamespace(forward=torch.nn.Identity()),
        spec=SimpleNamespace(source=path),
        device="cpu",
    )
    assert bytes_of(opaque) == path.stat().st_size
    opaque.spec.source = "https://example.org/model.zip"
    assert bytes_of(opaque) == 0


class Memory:
    """A task that tells how much memory models may take where it runs."""

    name = "memory"

    def __call__(self, _job):
        return SimpleNamespace(bytes=bytes_for_models("cpu"), failures={})

    def trials(self, _job):
        return []

    def give_up(self, _job, error):
        raise error


def test_a_worker_may_use_its_own_limit():
    limit, sizes = 2**31, []  # this process must fit into it, else its worker pauses
    with (
        LocalCluster(
            n_workers=1,
            processes=False,
            memory_limit=limit,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        run_jobs(Memory(), Listed([Job(0)]), client=client, progress=sizes.append)
    assert [size.bytes for size in sizes] == [MODELS_SHARE * limit]
    pages = Path("/proc/meminfo").read_text().splitlines()[0].split()
    assert MODELS_SHARE * limit < bytes_for_models("cpu") <= MODELS_SHARE * 1024 * int(pages[1])


@pytest.fixture
def little(monkeypatch):
    """Memory for two models and a half."""
    monkeypatch.setattr(loaded, "bytes_for_models", lambda _: WEIGHTS * 5 // 2)


@pytest.fixture
def reads(monkeypatch, target):
    """How often each chunk of the target is read."""
    counts, original = Counter(), zarr.storage.LocalStore.get

    async def counted(self, key, *args, **kwargs):
        if str(self.root).startswith(str(target)) and "/c/" in f"/{key}":
            counts[key] += 1
        return await original(self, key, *args, **kwargs)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", counted)
    return counts


@pytest.mark.slow
def test_a_bank_larger_than_memory_gives_the_same_bits(experiment, monkeypatch, reads):
    want = score_block(experiment, 1)
    once = dict(reads)
    assert set(once.values()) == {1}
    loaded.READY.clear()
    reads.clear()
    monkeypatch.setattr(loaded, "bytes_for_models", lambda _: WEIGHTS * 5 // 2)
    held, loads, original = [], [], loaded.Predictor

    def noted(spec, inference, **options):
        loads.append(spec.name)
        made = original(spec, inference, **options)
        held.append(len(loaded.READY) + 1)
        return made

    monkeypatch.setattr(loaded, "Predictor", noted)
    got = score_job(experiment, Job(1))
    np.testing.assert_array_equal(encoded(got.tiles), encoded(want.tiles))
    np.testing.assert_array_equal(got.votes.counts, want.votes.counts)
    assert got.tiles.scored.any()
    assert got.failures == {}
    assert reads == once, "the block is read once for all"
    assert loads == [f"model-{i}" for i in range(5)], "each once"
    assert max(held) == 2, "as many as fit"


def test_a_part_of_the_bank_reads_the_block_once_too(experiment, little, reads):
    job = Job(1, (0, 3, 4))
    got = score_job(experiment, job)
    assert set(reads.values()) == {1}
    want = score_block(experiment, 1)
    np.testing.assert_array_equal(*(encoded(s.tiles[[0, 3, 4]]) for s in (got, want)))
    assert (got.status[[1, 2]] == STATUS["absent"]).all()


def test_a_block_that_cannot_be_read_tells_of_every_model(
    experiment, little, monkeypatch, tmp_path
):
    async def broken(self, key, *args, **kwargs):
        raise OSError(f"{key} is broken")

    url = str(tmp_path / "scores.zarr")
    create(url, layout_of(experiment))
    checkpoint = Checkpoint(experiment, url)
    checkpoint.store.done()
    real = zarr.storage.LocalStore.get

    async def get(self, key, *args, **kwargs):
        wrong = "target" in str(self.root) and "/c/" in f"/{key}"
        return await (broken if wrong else real)(self, key, *args, **kwargs)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", get)
    got = checkpoint(Job(1))
    assert list(got.failures) == [f"model-{i}" for i in range(5)]
    assert (got.status == STATUS["failed"]).all()
