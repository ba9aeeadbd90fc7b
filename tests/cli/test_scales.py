"""``--scales`` and variants from the command line: every command takes a run that had them."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
import zarr
from conftest import write_bank
from typer.testing import CliRunner

from cte_dask.cli.app import app
from cte_dask.results.experiment_file import reopen
from cte_dask.results.provenance import repeat_command

FAST = ["--cluster", "none", "--tile", "1,32,32", "--quiet", "--perturb", "dropout:0.2"]
SCALES = ["--scales", "0.5,1"]
VARIANTS = "    variants: [{invert: true}, {scale: 0.1, preprocessing: []}]\n"
USABLE = ["model-0", "model-0 ×0.5", "model-1", "model-1 inverted", "model-1 ×0.5"]
EXCLUDED = "model-1 ×0.1 raw"


def cte(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def rank(target, bank, out, *more):
    return cte("rank", target, "--bank", bank, "--out", out, *FAST, *more)


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Path:
    """Two models; the second has two variants, of which one needs too much context."""
    path = write_bank(tmp_path_factory.mktemp("bank"), 2, halo=4)
    path.write_text(path.read_text() + VARIANTS)
    return path


@pytest.fixture(scope="module")
def run(target, bank, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "RUN"
    result = rank(target, bank, out, *SCALES)
    assert result.exit_code == 3, result.output
    assert "model-1 inverted" in result.stdout
    return out


def test_rank_has_a_row_for_each_model_at_each_scale(target, bank_path, tmp_path):
    result = rank(target, bank_path, tmp_path / "RUN", *SCALES, "--json")
    assert result.exit_code == 0, result.output
    models = json.loads(result.stdout)["models"]
    assert len(models) == 2 * 3
    assert {(m["candidate"]["model"], m["candidate"]["scale"]) for m in models} == {
        (f"model-{i}", scale) for i in range(3) for scale in (0.5, 1.0)
    }
    assert sorted(m["name"] for m in models) == sorted(
        f"model-{i}{way}" for i in range(3) for way in ("", " ×0.5")
    )


def test_every_file_names_the_candidates(run):
    ranking = json.loads((run / "ranking.json").read_text())
    ways = {m["name"]: m["candidate"] for m in ranking["models"]}
    assert sorted(ways) == sorted([*USABLE, EXCLUDED])
    assert ways["model-0"] == {"model": "model-0", "scale": 1.0}
    assert ways["model-1 inverted"] == {"model": "model-1", "scale": 1.0, "invert": True}
    assert ways[EXCLUDED] == {"model": "model-1", "scale": 0.1, "preprocessing": []}
    (excluded,) = (m for m in ranking["models"] if m["excluded"])
    assert excluded["name"] == EXCLUDED
    assert "use larger tiles" in excluded["excluded"]
    rows = list(csv.DictReader((run / "ranking.csv").read_text(encoding="utf-8").splitlines()))
    assert [r["model"] for r in rows] == [m["name"] for m in ranking["models"]]
    tiles = pq.read_table(run / "tiles.parquet").to_pandas()
    assert sorted(set(tiles.model)) == sorted(USABLE)
    experiment = yaml.safe_load((run / "experiment.yaml").read_text(encoding="utf-8"))
    assert [m["name"] for m in experiment["models"]] == [
        "model-0 ×0.5", "model-0", "model-1 ×0.5", "model-1", "model-1 inverted",
    ]  # fmt: skip
    assert experiment["scales"] == [0.5, 1.0]


def test_a_run_reopens_with_its_candidates(run):
    experiment = reopen(str(run))
    said = yaml.safe_load((run / "experiment.yaml").read_text(encoding="utf-8"))
    assert experiment.digest() == said["hash"]
    assert sorted(c.name for c in experiment.candidates) == sorted(USABLE)
    assert json.loads(json.dumps(experiment.to_dict())) == json.loads(json.dumps(said))


def test_resume_knows_scales_and_variants(target, bank, bank_path, run, tmp_path):
    before = (run / "scores.zarr" / "values" / "c").stat().st_mtime_ns
    again = rank(target, bank, run, *SCALES, "--resume")
    assert again.exit_code == 3, again.output
    assert (run / "scores.zarr" / "values" / "c").stat().st_mtime_ns == before
    for other in ([], ["--scales", "0.5,2"], ["--scales", "0.5000001,1"]):
        result = rank(target, bank, run, *other, "--resume")
        assert result.exit_code == 2, result.output
    plain = bank.with_name("plain.yaml")
    plain.write_text(bank.read_text().replace(VARIANTS, ""))
    assert rank(target, plain, run, *SCALES, "--resume").exit_code == 2


def test_plan_shows_every_candidate(target, bank):
    result = cte("plan", target, "--bank", bank, *FAST, *SCALES)
    assert result.exit_code == 0, result.output
    for name in [*USABLE, EXCLUDED]:
        assert f"model {name}" in result.stdout
    result = cte("plan", target, "--bank", bank, *FAST, *SCALES, "--json")
    plan = json.loads(result.stdout)
    assert sorted(m["name"] for m in plan["models"]) == sorted(USABLE)
    flops = {m["name"]: m["flops"] for m in plan["models"]}
    assert flops["model-0 ×0.5"] < flops["model-0"]


def test_evaluate_maps_and_report_take_the_run(run, image, tmp_path):
    labels = tmp_path / "labels.zarr"
    zarr.create_array(labels, data=(image > 130).astype("int32"), chunks=(1, 64, 64))
    result = cte("evaluate", run, "--labels", labels, "--cluster", "none", "--quiet", "--json")
    assert result.exit_code in (0, 3), result.output
    evaluated = json.loads((run / "evaluation.json").read_text())
    assert {m["name"] for m in evaluated["models"] if m.get("f1") is not None} >= set(USABLE)
    assert cte("maps", run).exit_code == 0
    folders = {p.name for p in (run / "maps.zarr").iterdir() if p.is_dir()}
    assert {"model-1", "model-1_0.5", "model-1_inverted"} <= folders
    assert cte("report", run).exit_code == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "model-0 ×0.5" in page.replace("\\u00d7", "×")


def test_the_command_of_a_report_repeats_the_scales(target, bank, run, tmp_path):
    said = yaml.safe_load((run / "experiment.yaml").read_text(encoding="utf-8"))
    _, *arguments = shlex.split(repeat_command(said, str(bank)))
    assert "0.5,1.0" in arguments
    arguments[arguments.index("RUN")] = str(tmp_path / "again")
    assert cte(*arguments, "--cluster", "none", "--quiet").exit_code == 3
    again = yaml.safe_load((tmp_path / "again" / "experiment.yaml").read_text(encoding="utf-8"))
    assert again["hash"] == said["hash"]


def test_calibrate_takes_a_bank_with_variants(target, bank, tmp_path):
    result = cte(
        "calibrate", target, "--bank", bank, "--out", tmp_path / "C", "--tile", "1,32,32",
        "--strengths", "0.1,0.3", "--pilot-tiles", "6", "--cluster", "none", "--quiet", "--json",
    )  # fmt: skip
    assert result.exit_code in (0, 3), result.output
    said = json.loads((tmp_path / "C" / "calibration.json").read_text())
    assert "model-1 inverted" in said["strengths"][0]["models"]


@pytest.mark.parametrize("scales", ["0", "-1", "nan", "1,1", "big"])
def test_bad_scales_are_refused_by_their_value(target, bank_path, tmp_path, scales):
    result = rank(target, bank_path, tmp_path / "RUN", "--scales", scales)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert scales.partition(",")[0] in line
    assert not (tmp_path / "RUN" / "experiment.yaml").exists()


@pytest.mark.slow  # a process with torch a model
def test_checking_a_bank_tries_each_model_once(bank):
    result = cte("models", "check", bank, "--json")
    assert result.exit_code == 0, result.output
    assert [m["name"] for m in json.loads(result.stdout)] == ["model-0", "model-1"]
