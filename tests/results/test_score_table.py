"""Tile scores as plain arrays, as a Dataset and as a table of Parquet: one content."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from cte_dask.engine.checkpoint import Checkpoint
from cte_dask.engine.dask_runner import run_jobs
from cte_dask.engine.jobs import Job, Listed
from cte_dask.models import load_bank
from cte_dask.results.block_codec import votes_in
from cte_dask.results.dataset import read_scores, read_table
from cte_dask.results.layout import layout_of
from cte_dask.results.new_store import create
from cte_dask.results.score_table import ScoreTable
from cte_dask.results.tables import tile_tables
from cte_dask.scoring.block_scores import STATUS
from cte_dask.scoring.resolve import resolve
from cte_dask.volume import open_volume


@pytest.fixture(scope="module")
def store(target, bank_path, tmp_path_factory):
    options = {"tile": (1, 32, 32), "block": (1, 3, 2), "perturbations": ("mirror", "gaussian:0.1")}
    experiment = resolve(open_volume(str(target)), load_bank(str(bank_path)), **options)
    url = str(tmp_path_factory.mktemp("store") / "scores.zarr")
    scores = create(url, layout_of(experiment))
    run_jobs(Checkpoint(experiment, url), Listed(map(Job, range(3))))
    return scores


def test_a_table_and_a_dataset_hold_the_same(store):
    table, data = read_table(store), read_scores(store)
    xr.testing.assert_identical(table.dataset(), data)
    again = ScoreTable.of(data)
    assert ScoreTable.of(again) is again
    xr.testing.assert_identical(again.dataset(), data)
    assert dict(again.sizes) == {n: size for n, size in data.sizes.items() if n in again.sizes}
    assert set(data.sizes) == set(again.sizes)
    for name in (*data.data_vars, "tile", "z", "block"):
        np.testing.assert_array_equal(again[name], data[name])
    assert "status" in again
    assert "nothing" not in again
    one, other = votes_in(table), votes_in(data)
    np.testing.assert_array_equal(one.patterns, other.patterns)
    np.testing.assert_array_equal(one.counts, other.counts)


def test_tables_of_parquet_hold_the_same_rows(store):
    data, names = read_scores(store), {code: name for name, code in STATUS.items()}
    rows = [row for table in tile_tables(store) for row in table.to_pylist()]
    assert len(rows) == data.status.size
    for row in rows:
        tile = data.sel(model=row["model"], perturbation=row["perturbation"])
        tile = tile.isel(tile=int(np.flatnonzero(data.tile == row["tile"])[0]))
        assert names[int(tile.status)] == row["status"]
        assert (row["x0"], row["x1"]) == (int(tile.x), int(tile.x + tile.x_extent))
        for name in ("nhd", "n_union"):
            np.testing.assert_array_equal(row[name], float(tile[name]))


def test_names_of_any_letters_come_back_from_parquet(store):
    from dataclasses import replace

    from cte_dask.results.tables import _table

    table = read_table(store)
    names = ("nuclei-µ", "細胞", "")
    got = _table(replace(table, models=names)).column("model").to_pylist()
    assert list(dict.fromkeys(got)) == list(names)
