"""All that a scheduler, a worker or a client imports before it does anything."""

import dask.array
import distributed
import distributed.http.scheduler.api
import distributed.http.worker.prometheus
import distributed.shuffle
import noting
import numba
import pyarrow.parquet
import rich.live
import torch
import xarray
import zarr
from faults import processes

import cte_dask.engine.clusters.address
import cte_dask.engine.clusters.connection
import cte_dask.ranking.rank_target
import cte_dask.scoring.score_block

__all__ = ["cte_dask", "dask", "distributed", "noting", "numba", "processes", "pyarrow", "rich",
           "torch", "xarray", "zarr"]  # fmt: skip
