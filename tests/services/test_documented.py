"""The documented commands that need SLURM or an object store, run against real ones."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import h5py
import pytest
from documents.pages import blocks, commands
from documents.test_commands import kind
from documents.world import copied, run_script, smaller, write_template
from services import objects
from services.objects import PUBLIC
from services.slurm import until
from services.test_objects import entered, upload
from services.test_slurm import jobs, write_site

from cte_dask.volume import open_volume

pytestmark = pytest.mark.service

SERVED = sorted({c for b in blocks("sh") for c in commands(b) if kind(c) == "server"})
BUCKETS = [c for c in SERVED if "s3://" in c]
SLURM = [c for c in SERVED if c not in BUCKETS]


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return write_template(tmp_path_factory.mktemp("documented") / "template")


@pytest.fixture
def world(template, tmp_path) -> Path:
    folder = copied(template, tmp_path / "world")
    shutil.rmtree(folder / "RUN")
    return folder


def test_there_are_such_commands():
    assert {c.split()[0] for c in SLURM} == {"cte", "sbatch"}
    assert len(BUCKETS) > 1


def within_limits(recipe: Path) -> None:
    """Let a recipe ask for what the nodes of the tests have."""
    text = re.sub(r"--cpus-per-task=\d+", "--cpus-per-task=1", recipe.read_text())
    recipe.write_text(re.sub(r"--mem(-per-cpu)?=\d+G", r"--mem\1=2G", text))


@pytest.mark.parametrize("command", SLURM)
def test_a_documented_command_for_slurm_ends_with_a_whole_ranking(command, slurm, world):
    for recipe in world.glob("*.sbatch"):
        within_limits(recipe)
    write_site(world)  # site.yaml
    shutil.copy(world / "site.yaml", world / "cpu.yaml")
    environment = {"CTE_SHARED": str(world / "shared"), "CTE_INTERFACE": "lo"}
    code, told = run_script(smaller(command), world, **environment)
    assert code == 0, told
    until(lambda: not jobs(), lambda: logs(world))
    ranking = world / "RUN" / "ranking.json"
    assert ranking.exists(), told + logs(world)
    assert json.loads(ranking.read_text())["complete"] is True


def logs(world: Path) -> str:
    return "".join(path.read_text() for path in sorted(world.glob("slurm-*.out")))


def test_the_site_files_that_come_along_are_valid():
    from cte_dask.engine.clusters.site import Site

    folder = Path(__file__).resolve().parents[2] / "deploy" / "slurm"
    for path in sorted(folder.glob("*.yaml")):
        assert Site.read(path).slurm.workers > 1


@pytest.fixture(scope="module")
def place(template, tmp_path_factory):
    """A private bucket and a public one, with the target in both."""
    if missing := objects.missing("s3"):
        pytest.skip(missing)
    with objects.running("s3", tmp_path_factory.mktemp("s3")) as place:
        with pytest.MonkeyPatch.context() as patch:
            entered(patch, place)
            for bucket in (place.url, f"s3://{PUBLIC}"):
                upload(template / "TARGET", f"{bucket}/brain.zarr")
            files = tmp_path_factory.mktemp("files")
            volume = open_volume(template / "TARGET")
            with h5py.File(files / "brain.h5", "w") as file:
                file["volume/raw"] = volume.read((0, 0, 0), volume.shape)
                file["volume/raw"].attrs["resolution"] = volume.voxel_size.lengths
            upload(files, place.url)
        yield place


@pytest.mark.parametrize("command", BUCKETS)
def test_a_documented_command_for_buckets_ends_with_a_ranking_there(
    command, place, world, monkeypatch
):
    entered(monkeypatch, place)
    text = command.replace("s3://bucket/", f"{place.url}/")
    text = text.replace("s3://results/", f"{place.url}/results-{abs(hash(command))}/")
    text = text.replace("s3://janelia-public/em.zarr", f"s3://{PUBLIC}/brain.zarr")
    code, told = run_script(f"{text} --cluster none --quiet --json", world)
    assert code == 0, told
    assert json.loads(told)["complete"] is True
