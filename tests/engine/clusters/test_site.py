"""Site files: what a site wants reaches SLURM, and what it misspells is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from cte_dask.engine.clusters.site import SlurmSite, read_site, seconds
from cte_dask.engine.clusters.slurm import job_arguments

REPOSITORY = Path(__file__).resolve().parents[3]


def site_file(folder: Path, text: str) -> str:
    path = folder / "site.yaml"
    path.write_text(text)
    return f"slurm:{path}"


def script(site: SlurmSite, folder: Path, *, threads: int = 1) -> str:
    from dask_jobqueue.slurm import SLURMJob
    from distributed import Security

    security = Security(tls_ca_file="/ca.pem", require_encryption=True)
    arguments = job_arguments(site, folder, security, threads=threads)
    for name in ("scheduler_options", "shared_temp_directory"):
        del arguments[name]
    return str(
        SLURMJob("tls://10.0.0.1:8786", name="w", protocol="tls://", **arguments).job_script()
    )


def test_a_gpu_job_has_one_worker_and_one_thread_a_gpu(tmp_path):
    site = SlurmSite(gpus=2, cpus=4, memory="16GiB", gres="gpu:a100:2", walltime="04:00:00")
    text = script(site, tmp_path)
    assert "#SBATCH --gres=gpu:a100:2\n" in text
    assert "#SBATCH --cpus-per-task=8\n" in text
    assert "#SBATCH --mem=32G\n" in text
    assert "-m dask_cuda.cli worker tls://10.0.0.1:8786" in text
    assert "--nthreads 1 " in text
    assert "--memory-limit 16.00GiB" in text
    assert "--resources GPU=1 --rmm-pool-size 0.5" in text
    assert "--rmm-allocator-external-lib-list torch,cupy" in text


def test_a_cpu_job_has_the_cores_of_its_threads(tmp_path):
    text = script(SlurmSite(partition="short", account="em", qos="low"), tmp_path, threads=3)
    for directive in ("-p short", "-A em", "--qos=low", "--cpus-per-task=3", "--no-requeue"):
        assert f"#SBATCH {directive}\n" in text
    assert "export OMP_NUM_THREADS=3\n" in text
    assert "export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False\n" in text
    assert "GPU" not in text
    assert "-m distributed.cli.dask_worker " in text


@pytest.mark.parametrize("walltime", ["05:00", "01:00:00", "2-00:00:00"])
def test_workers_stop_before_slurm_would_kill_them(tmp_path, walltime):
    words = script(SlurmSite(walltime=walltime), tmp_path).split()
    lifetime, stagger = (
        int(words[words.index(option) + 1].rstrip("s"))
        for option in ("--lifetime", "--lifetime-stagger")
    )
    assert lifetime - stagger > 0
    assert lifetime + stagger <= seconds(walltime) - min(60, seconds(walltime) // 10)


def test_nothing_of_a_worker_is_served_beyond_its_host(tmp_path):
    text = script(SlurmSite(), tmp_path)
    assert "--no-dashboard --dashboard-address 127.0.0.1:0" in text


def test_a_site_file_is_read_and_the_environment_may_name_it(tmp_path, monkeypatch):
    name = site_file(tmp_path, "schema: cte-site/1\nslurm: {walltime: 4:00:00, gpus: 1}\n")
    assert read_site(name).slurm == SlurmSite(walltime="04:00:00", gpus=1)
    assert read_site("slurm").slurm == SlurmSite()
    monkeypatch.setenv("CTE_SITE", name.removeprefix("slurm:"))
    assert read_site("slurm").slurm.gpus == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("schema: cte-site/1\nslurm: {partitoin: gpu}\n", "did you mean 'partition'"),
        ("schema: cte-site/1\nslrum: {}\n", "did you mean 'slurm'"),
        ("schema: cte-site/1\nslurm: {gpus: -1}\n", "slurm.gpus: .*greater than or equal to 0"),
        ("schema: cte-site/1\nslurm: {walltime: tomorrow}\n", "walltime 'tomorrow' is not of"),
        ("slurm: {}\n", "must say schema: cte-site/1"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_site_file_is_told_in_one_line(tmp_path, text, told):
    name = site_file(tmp_path, text)
    with pytest.raises(ValueError, match=told) as error:
        read_site(name)
    assert "site.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_site_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"site file .*absent\.yaml cannot be read: No such file"):
        read_site(f"slurm:{tmp_path / 'absent.yaml'}")


@pytest.mark.parametrize("path", sorted((REPOSITORY / "deploy").glob("*/*.yaml")), ids=str)
def test_the_example_sites_are_valid(path):
    assert read_site(f"slurm:{path}")
