"""The option --cluster: what it takes, and what it says to the rest."""

from __future__ import annotations

import pytest
import torch

from cte_dask.engine.clusters import default_workers, has_gpus, open_cluster, planned_workers
from cte_dask.ranking.rank_target import rank_target
from cte_dask.scoring.settings import TargetOptions


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lokal", "did you mean 'local'"),
        ("slrum", "did you mean 'slurm'"),
        ("slrum:site", "did you mean 'slurm'"),
        ("local:site.yaml", "must read local"),
        ("none:", "must read none"),
        ("tcp", "must read tcp://HOST:PORT"),
        ("file", r"must read FILE\.json"),
        ("http://127.0.0.1:1", r"written none, local, cuda\[:SITE\].* tcp://HOST:PORT"),
    ],
)
def test_an_unknown_cluster_is_refused_with_what_there_is(name, told):
    with pytest.raises(ValueError, match=told), open_cluster(name):
        pass


def test_a_site_says_for_how_many_workers_the_work_is_cut(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text("schema: cte-site/1\nslurm: {workers: 40}\n")
    assert planned_workers(f"slurm:{path}", workers=None, threads=1) == 40
    assert planned_workers(f"slurm:{path}", workers=7, threads=1) == 7
    assert planned_workers("local", workers=None, threads=1) == default_workers(1)
    assert planned_workers("none", workers=None, threads=1) == 1
    with pytest.raises(ValueError, match="workers must be at least 1, not 0"):
        planned_workers("local", workers=0, threads=1)


def test_slurm_without_its_commands_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(ValueError, match=r"needs SLURM's commands \(sbatch\)"),
        open_cluster("slurm"),
    ):
        pass


def test_gpus_are_not_wasted_by_a_host_without_one(target, bank_path, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "site.yaml"
    path.write_text("schema: cte-site/1\nslurm: {gpus: 1}\n")
    options = TargetOptions(str(target))
    with pytest.raises(ValueError, match=r"have GPUs and this host has none.*--device cpu"):
        rank_target(options, str(bank_path), str(tmp_path / "RUN"), cluster=f"slurm:{path}")
    assert has_gpus("cuda")
    assert not has_gpus("local")
    assert not has_gpus("tcp://127.0.0.1:1")
