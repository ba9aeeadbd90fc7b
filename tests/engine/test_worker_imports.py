"""A worker loads what its tasks need and no more: it scores its first block that much sooner."""

from __future__ import annotations

import sys

import dask

from cte_dask.engine.checkpoint import Checkpoint
from cte_dask.engine.clusters import open_cluster
from cte_dask.engine.dask_runner import run_jobs
from cte_dask.engine.jobs import Job, Listed
from cte_dask.models import load_bank
from cte_dask.results.layout import layout_of
from cte_dask.results.new_store import create
from cte_dask.scoring.resolve import resolve
from cte_dask.volume import open_volume

NEEDLESS = {"xarray", "pandas", "pyarrow", "scipy", "numba", "dask.array", "dask.dataframe"}


def modules() -> set[str]:
    return set(sys.modules)


def test_the_first_task_loads_no_library_of_tables_or_formulas(target, bank_path, tmp_path):
    options = {"tile": (1, 32, 32), "block": (1, 3, 2), "perturbations": ("dropout:0.2",)}
    experiment = resolve(open_volume(str(target)), load_bank(str(bank_path)), **options)
    url, done = str(tmp_path / "scores.zarr"), []
    create(url, layout_of(experiment))
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}),
        open_cluster("local", workers=1, threads=1) as client,
    ):
        jobs, task = Listed([Job(0)]), Checkpoint(experiment, url)
        run_jobs(task, jobs, client=client, progress=done.append)
        (loaded,) = client.run(modules).values()
    assert len(done) == 1
    assert not done[0].failures
    assert "torch" in loaded
    assert not loaded & NEEDLESS
