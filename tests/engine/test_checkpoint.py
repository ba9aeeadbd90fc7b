"""The score store as checkpoint: what a block costs it, and what is known without reading."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

from cte_dask.engine.checkpoint import Checkpoint
from cte_dask.engine.dask_runner import _gathered, jobs_array
from cte_dask.engine.jobs import Job
from cte_dask.engine.lost_workers import SchedulerLostError
from cte_dask.models import load_bank
from cte_dask.results import store as scores_module
from cte_dask.results.block_codec import encoded
from cte_dask.results.layout import layout_of
from cte_dask.results.new_store import create
from cte_dask.results.store import DONE, open_scores
from cte_dask.scoring.resolve import resolve
from cte_dask.storage.stores import names_below
from cte_dask.volume import open_volume


@pytest.fixture(scope="module")
def experiment(target, bank_path):
    options = {"tile": (1, 32, 32), "block": (1, 3, 2)}
    return resolve(open_volume(str(target)), load_bank(str(bank_path)), **options)


@pytest.fixture
def asked(monkeypatch):
    """Keys that local stores are asked for."""
    keys = []
    original = LocalStore.get

    async def noted(self, key, *args, **kwargs):
        keys.append(f"{self.root.name}/{key}")
        return await original(self, key, *args, **kwargs)

    monkeypatch.setattr(LocalStore, "get", noted)
    return keys


@pytest.fixture
def url(experiment, tmp_path):
    url = str(tmp_path / "scores.zarr")
    create(url, layout_of(experiment))
    return url


def test_a_block_costs_its_marks_alone(experiment, url, asked):
    checkpoint = Checkpoint(experiment, url)
    checkpoint(Job(0))
    first = [key for key in asked if key.startswith("scores.zarr/") and key.endswith("zarr.json")]
    assert len(first) == len(set(first)), "each document is read once"
    asked.clear()
    checkpoint(Job(1))
    told = [key for key in asked if key.startswith("scores.zarr/")]
    assert told == ["scores.zarr/done/c/1"] * 2, "before and after the work"


def test_a_store_is_asked_for_the_marks_it_has_and_no_others(experiment, url, asked):
    checkpoint = Checkpoint(experiment, url)
    for block in (0, 2):
        checkpoint(Job(block))
    marks = sync(names_below(LocalStore(url), "done/c"))
    assert sorted(marks) == ["0", "2"]
    # a mark that a process is just writing, or was when it died
    (checkpoint.store.group.store.root / "done" / "c" / "3.0f1e.partial").write_bytes(b"")
    scores = open_scores(url)
    asked.clear()
    done = scores.done()
    assert np.flatnonzero(done == DONE["complete"]).tolist() == [0, 2]
    assert [k for k in asked if "/c/" in k] == ["scores.zarr/done/c/0", "scores.zarr/done/c/2"]
    assert list(scores.missing()) == [i for i in range(len(done)) if i not in (0, 2)]


def test_a_store_that_cannot_be_listed_is_read_instead(experiment, url, monkeypatch):
    Checkpoint(experiment, url)(Job(1))
    listed = open_scores(url).done()

    async def forbidden(self, prefix):
        raise PermissionError(prefix)
        yield

    monkeypatch.setattr(LocalStore, "list_dir", forbidden)
    assert sync(names_below(LocalStore(url), "done/c")) is None
    np.testing.assert_array_equal(open_scores(url).done(), listed)


def test_names_are_told_where_they_can_be(tmp_path):
    assert sync(names_below(LocalStore(tmp_path / "none"), "done/c")) == []
    assert sync(names_below(MemoryStore(), "done/c")) is None


def test_blocks_read_together_are_those_read_alone(experiment, url, monkeypatch):
    checkpoint = Checkpoint(experiment, url)
    blocks = [3, 0, 2]
    for block in blocks:
        checkpoint(Job(block))
    scores = open_scores(url)
    alone = [np.asarray(zarr.open_array(f"{url}/values", mode="r")[i]) for i in blocks]
    for at_once in (1, 2, 64):
        monkeypatch.setattr(scores_module, "AT_ONCE", at_once)
        for block, stored, read in zip(blocks, alone, scores.each(blocks), strict=True):
            tiles = experiment.blocks.tile_count(block)
            np.testing.assert_array_equal(encoded(read), stored[..., :tiles])


def test_windows_share_what_their_tasks_need(experiment, url):
    task = Checkpoint(experiment, url)
    first, second = (jobs_array(task, [Job(a), Job(b)]) for a, b in ([0, 1], [2, 3]))
    shared = set(first.dask.keys()) & set(second.dask.keys())
    assert [str(key).partition("-")[0] for key in shared] == ["score"]


class Asked:
    """A client that has, or has not, what it is asked for."""

    def __init__(self, status="running", error=None):
        self.status, self.error, self.rounds = status, error, 0

    def gather(self, futures):
        self.rounds += 1
        if self.error is not None:
            raise self.error
        return [f"numbers of {future.key}" for future in futures]


class Ended:
    def __init__(self, key, status="finished"):
        self.key, self.status = key, status


def test_blocks_that_end_together_are_fetched_in_one_round():
    client = Asked()
    batch = [Ended("a"), Ended("b", "error"), Ended("c")]
    assert _gathered(batch, client) == ({"a": "numbers of a", "c": "numbers of c"}, [])
    assert client.rounds == 1
    assert _gathered([Ended("b", "error")], client) == ({}, [])
    assert client.rounds == 1, "nothing to ask for"


def test_a_round_that_fails_leaves_each_block_to_be_asked_for_by_itself():
    assert _gathered([Ended("a")], Asked(error=RuntimeError("its worker died"))) == ({}, [])


@pytest.mark.parametrize("status", ["lost", "pending"])
def test_a_result_that_went_with_its_worker_is_waited_for_again(status):
    gone = Ended("b", status)
    assert _gathered([Ended("a"), gone], Asked()) == ({"a": "numbers of a"}, [gone])


def test_a_scheduler_that_is_gone_is_not_waited_for():
    client = Asked()
    with pytest.raises(SchedulerLostError, match="go on with --resume"):
        _gathered([Ended("a"), Ended("b", "cancelled")], client)
    assert client.rounds == 0
    with pytest.raises(SchedulerLostError, match="go on with --resume"):
        _gathered([Ended("a")], Asked("connecting", OSError("timed out")))
