"""The GPUs of one machine, as far as that can be tested where there is none: devices are numbers.

A stand-in for dask-cuda starts real worker processes and gives each the device that
LocalCUDACluster would give it. Not yet run on a GPU.
"""

from __future__ import annotations

import os
import sys
import types

import pytest
from distributed import LocalCluster, Nanny

from cte_dask.engine.clusters import open_cluster, planned_workers
from cte_dask.engine.clusters.cuda import cuda_arguments
from cte_dask.engine.clusters.site import CudaSite


@pytest.fixture
def two_gpus(monkeypatch, quick_workers):
    """A stand-in for dask_cuda on a machine with two GPUs; holds the last call's options."""
    told = {}

    def started(*, n_workers, CUDA_VISIBLE_DEVICES, rmm_pool_size, rmm_allocator_external_lib_list,
                resources, **options):  # fmt: skip
        told.update(pool=rmm_pool_size, shared_by=rmm_allocator_external_lib_list)
        cluster = LocalCluster(n_workers=0, **options)
        for number, device in enumerate(CUDA_VISIBLE_DEVICES):
            cluster.worker_spec[number] = {
                "cls": Nanny,
                "options": {
                    **cluster.new_spec["options"],
                    "resources": resources,
                    "env": {"CUDA_VISIBLE_DEVICES": str(device)},
                },
            }
        cluster.sync(cluster._correct_state)
        return cluster

    module = types.ModuleType("dask_cuda")
    module.LocalCUDACluster = started
    module.utils = types.ModuleType("dask_cuda.utils")
    module.utils.get_n_gpus = lambda: 2
    monkeypatch.setitem(sys.modules, "dask_cuda", module)
    monkeypatch.setitem(sys.modules, "dask_cuda.utils", module.utils)
    return told


def test_each_gpu_has_one_process_with_one_thread_and_the_pool_is_shared(two_gpus):
    assert planned_workers("cuda", workers=None, threads=1) == 2

    def seen(dask_worker):
        resources = dask_worker.state.total_resources
        return os.environ["CUDA_VISIBLE_DEVICES"], dask_worker.state.nthreads, resources

    with open_cluster("cuda", threads=3) as client:
        client.wait_for_workers(2)
        assert client.scheduler.address.startswith("tcp://127.0.0.1:")
        found = sorted(client.run(seen).values(), key=lambda row: row[0])
        pids = client.run(os.getpid)
    assert found == [("0", 1, {"GPU": 1}), ("1", 1, {"GPU": 1})]
    assert len(set(pids.values())) == 2
    assert two_gpus == {"pool": 0.5, "shared_by": ["torch", "cupy"]}


def test_more_workers_than_gpus_are_refused(two_gpus):
    with pytest.raises(ValueError, match="there are 2 GPUs"), open_cluster("cuda", workers=3):
        pass


def test_a_site_chooses_among_the_gpus(two_gpus, tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text("schema: cte-site/1\ncuda: {devices: [1], rmm_pool: 0}\n")
    assert planned_workers(f"cuda:{path}", workers=None, threads=1) == 1
    path.write_text("schema: cte-site/1\ncuda: {devices: [1, 4]}\n")
    with pytest.raises(ValueError, match=r"\[4\] are not among \[0, 1\]"):
        planned_workers(f"cuda:{path}", workers=None, threads=1)


def test_without_a_pool_torch_and_cupy_keep_their_own():
    arguments = cuda_arguments(CudaSite(rmm_pool=0), [0, 1])
    assert not [name for name in arguments if name.startswith("rmm")]
    assert (arguments["n_workers"], arguments["CUDA_VISIBLE_DEVICES"]) == (2, [0, 1])


def test_without_dask_cuda_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    monkeypatch.setitem(sys.modules, "dask_cuda.utils", None)
    with pytest.raises(ValueError, match=r"cte-dask\[cuda12\]"), open_cluster("cuda"):
        pass
