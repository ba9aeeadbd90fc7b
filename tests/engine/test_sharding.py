"""Shards: processes that know nothing of each other fill one store, and it is ranked once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from conftest import blobs, write_bank
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st

from cte_dask.engine.jobs import Shard
from cte_dask.models import load_bank
from cte_dask.ranking import outcome
from cte_dask.ranking.rank_target import rank_target
from cte_dask.results.dataset import read_scores
from cte_dask.results.layout import layout_of
from cte_dask.results.new_store import create
from cte_dask.results.run_folder import RunFolder
from cte_dask.results.store import open_scores
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.settings import TargetOptions
from cte_dask.volume import open_volume, write_ome_zarr

OPTIONS = {"tile": (1, 32, 32), "metrics": ("nhd",)}


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return write_bank(tmp_path_factory.mktemp("bank"), 2)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "target.zarr"
    write_ome_zarr(
        path, blobs((7, 64, 64)), axes="zyx", voxel_size_nm=(40.0, 10.0, 10.0), chunks=(1, 32, 32)
    )
    return path


def ranked(small, bank, out, **options):
    options = {"cluster": "none", **OPTIONS, **options}
    return rank_target(TargetOptions(str(small)), str(bank), str(out), **options)


@given(blocks=st.integers(0, 200), of=st.integers(1, 20))
def test_shards_share_out_every_block_once_and_evenly(blocks, of):
    parts = [Shard(i + 1, of).part(range(blocks)) for i in range(of)]
    assert sorted(block for part in parts for block in part) == list(range(blocks))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "a/b", "1/2/3"])
def test_a_malformed_shard_is_refused_by_name(text):
    with pytest.raises(ValueError, match=f"--shard '{text}' must be i/n"):
        Shard.parse(text)


@pytest.mark.slow
def test_the_last_of_the_shards_ranks_as_one_run_would(small, bank, tmp_path):
    out = tmp_path / "RUN"
    for number in (2, 1, 3):
        assert not (out / "ranking.json").exists()
        part = ranked(small, bank, out, shard=f"{number}/3", block=(1, 2, 2))
        assert part.exit_code == 0
    result = json.loads((out / "ranking.json").read_text())
    assert result["complete"]
    whole = ranked(small, bank, tmp_path / "whole", block=(1, 2, 2))
    assert result["models"] == json.loads(json.dumps(whole.result["models"]))
    again = ranked(small, bank, out, shard="1/3", block=(1, 2, 2))
    assert again.exit_code == 0


@pytest.mark.slow
def test_a_shard_during_whose_ranking_another_ends_writes_none(small, bank, tmp_path, monkeypatch):
    out, real = tmp_path / "RUN", outcome.rank

    def slow(dataset, **options):
        monkeypatch.setattr(outcome, "rank", real)
        assert ranked(small, bank, out, shard="2/2", block=(1, 2, 2)).result["complete"]
        (out / "ranking.json").unlink()
        return real(dataset, **options)

    monkeypatch.setattr(outcome, "rank", slow)
    first = ranked(small, bank, out, shard="1/2", block=(1, 2, 2))
    assert first.exit_code == 0
    assert not (out / "ranking.json").exists()


@pytest.mark.slow
def test_a_run_is_resumed_in_its_own_cut_by_any_number_of_workers(small, bank, tmp_path):
    out = tmp_path / "RUN"
    assert ranked(small, bank, out, shard="1/4", workers=2).exit_code == 0
    cut = open_scores(f"{out}/scores.zarr").layout.blocks.per_block
    whole = ranked(small, bank, out, resume=True, workers=1)
    assert whole.result["complete"]
    assert open_scores(f"{out}/scores.zarr").layout.blocks.per_block == cut


def test_a_shard_never_drops_what_the_others_wrote(small, bank, tmp_path):
    with pytest.raises(ValueError, match="--shard and --overwrite exclude each other"):
        ranked(small, bank, tmp_path / "RUN", shard="1/2", overwrite=True)


def test_many_may_make_one_store_at_once(small, bank, tmp_path):
    experiment = resolve(open_volume(str(small)), load_bank(str(bank)), block=(1, 2, 2), **OPTIONS)
    layout, url = layout_of(experiment), str(tmp_path / "scores.zarr")
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: create(url, layout, resume=True), range(16)))
    assert {s.layout.experiment for s in stores} == {layout.experiment}
    found = open_scores(url)
    assert found.layout == layout
    assert len(found.missing()) == len(layout.blocks)
    assert read_scores(found).sizes["tile"] == 0


def test_many_may_write_the_experiment_at_once(small, bank, tmp_path, monkeypatch):
    experiment = resolve(open_volume(str(small)), load_bank(str(bank)), block=(1, 2, 2), **OPTIONS)
    folder = RunFolder(str(tmp_path))
    folder.write_experiment(experiment)
    want = (tmp_path / "experiment.yaml").read_text()
    together, real = Barrier(8), LocalFileSystem.mv

    def late(self, *args, **kwargs):  # all have written before the first one takes its place
        together.wait(timeout=60)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(LocalFileSystem, "mv", late)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: folder.write_experiment(experiment), range(8)))
    assert [path.name for path in tmp_path.iterdir()] == ["experiment.yaml"]
    assert (tmp_path / "experiment.yaml").read_text() == want


@pytest.mark.slow
def test_overwriting_starts_from_nothing(small, bank, tmp_path):
    out = tmp_path / "RUN"
    ranked(small, bank, out, block=(1, 2, 2))
    first = open_scores(f"{out}/scores.zarr")
    assert not len(first.missing())
    outcome = ranked(small, bank, out, block=(2, 2, 2), overwrite=True)
    assert outcome.result["complete"]
    assert open_scores(f"{out}/scores.zarr").layout.blocks.per_block == (2, 2, 2)
    assert np.isfinite(read_scores(open_scores(f"{out}/scores.zarr")).nhd).any()
