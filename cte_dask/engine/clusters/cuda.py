"""The GPUs of this machine: one worker process and one thread a GPU, through dask-cuda.

Not yet run on a GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cte_dask.engine.clusters import ClusterKind
from cte_dask.engine.clusters.connection import SETTINGS
from cte_dask.engine.clusters.site import CudaSite, read_site
from cte_dask.errors import reason
from cte_dask.inference.forked import process_environment

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["CUDA", "cuda_arguments", "cuda_workers", "open_cuda"]


def cuda_workers(name: str, _threads: int) -> int:
    """Return the number of GPUs that would be used.

    Raises
    ------
    ValueError
        If dask-cuda is not installed or finds no GPU.
    """
    return len(_devices(read_site(name).cuda))


@contextmanager
def open_cuda(name: str, *, workers: int, threads: int) -> Iterator[Client]:
    """Start one worker a GPU, on the loopback interface only.

    Parameters
    ----------
    name
        ``cuda`` or ``cuda:FILE``, see `cte_dask.engine.clusters.site.read_site`.
    workers
        Number of GPUs to use, from the first.
    threads
        Threads of torch on the host in each worker.

    Raises
    ------
    ValueError
        If dask-cuda is not installed, or there are fewer GPUs than asked for.
    """
    import dask
    from distributed import Client

    site = read_site(name).cuda
    devices = _devices(site)
    if workers > len(devices):
        raise ValueError(f"--workers {workers} with --cluster cuda: there are {len(devices)} GPUs")
    from dask_cuda import LocalCUDACluster

    arguments = cuda_arguments(site, devices[:workers])
    settings = {**SETTINGS, "distributed.nanny.pre-spawn-environ": process_environment(threads)}
    with (
        dask.config.set(settings),
        LocalCUDACluster(**arguments) as cluster,
        Client(cluster) as client,
    ):
        yield client


CUDA = ClusterKind(open_cuda, workers=cuda_workers, gpus=lambda _name: True, form="cuda[:SITE]")
"""The GPUs of this machine."""


def cuda_arguments(site: CudaSite, devices: list[int]) -> dict[str, Any]:
    """Return what dask-cuda's LocalCUDACluster is called with.

    RMM's pool is handed to torch and CuPy both, so that the two do not keep memory from each
    other; it grows up to the whole device.
    """
    pool: dict[str, Any] = {}
    if site.rmm_pool:
        pool = {
            "rmm_pool_size": site.rmm_pool,
            "rmm_allocator_external_lib_list": ["torch", "cupy"],
        }
    return {
        "CUDA_VISIBLE_DEVICES": devices,
        "n_workers": len(devices),
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": logging.ERROR,
        "resources": {"GPU": 1},
        **pool,
    }


def _devices(site: CudaSite) -> list[int]:
    try:
        from dask_cuda.utils import get_n_gpus

        devices = list(range(get_n_gpus()))
    except ImportError as error:
        raise ValueError(
            f"--cluster cuda needs pip install 'cte-dask[cuda12]' (or cuda13): {error}"
        ) from error
    except Exception as error:  # NVML has its own exceptions
        raise ValueError(f"--cluster cuda finds no NVIDIA GPU here: {reason(error)}") from error
    if site.devices is not None:
        absent = sorted(set(site.devices) - set(devices))
        if absent:
            raise ValueError(f"the site's cuda: devices {absent} are not among {devices}")
        return list(site.devices)
    if not devices:
        raise ValueError("--cluster cuda finds no NVIDIA GPU here")
    return devices
