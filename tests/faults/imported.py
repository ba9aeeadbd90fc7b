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

import cte_dask.cluster.address
import cte_dask.cluster.calm
import cte_dask.pipeline
import cte_dask.scoring

__all__ = ["cte_dask", "dask", "distributed", "noting", "numba", "processes", "pyarrow", "rich",
           "torch", "xarray", "zarr"]  # fmt: skip
