"""All that a command, a scheduler or a worker imports before it does anything."""

import dask.array
import distributed
import distributed.http.scheduler.api
import distributed.http.worker.prometheus
import distributed.shuffle
import noting
import numba
import processes
import pyarrow.parquet
import rich.live
import torch
import xarray
import zarr

import cte_dask.cli.app
import cte_dask.engine.clusters.address
import cte_dask.engine.clusters.connection
import cte_dask.ranking.rank_target
import cte_dask.scoring.score_block

__all__ = ["cte_dask", "dask", "distributed", "noting", "numba", "processes", "pyarrow", "rich",
           "torch", "xarray", "zarr"]  # fmt: skip

torch.set_num_threads(1)
