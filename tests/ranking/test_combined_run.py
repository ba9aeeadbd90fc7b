"""A run with --combine: one more ranking, every family visible, nothing else changed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import cte_dask
from cte_dask.cli.app import app
from cte_dask.models import load_bank
from cte_dask.ranking.rank_target import rank_target
from cte_dask.results.dataset import read_scores
from cte_dask.results.store import open_scores
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.settings import TargetOptions
from cte_dask.volume import open_volume

PERTURBATIONS = ("dropout:0.5", "gaussian:0.1", "rotate", "mirror", "zoom:1.125")
OPTIONS = {
    "tile": (1, 32, 32),
    "block": (3, 3, 4),
    "cluster": "none",
    "perturbations": PERTURBATIONS,
    "metrics": ("nhd", "agreement"),
}


@pytest.fixture(scope="module")
def run(target, bank_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("combined") / "RUN"
    outcome = rank_target(
        TargetOptions(str(target)), str(bank_path), str(out), combine=True, **OPTIONS
    )
    return out, outcome


def test_the_combined_ranking_is_written_beside_the_others(run):
    out, outcome = run
    found = json.loads((out / "ranking.json").read_text())
    assert found["primary"] == "nhd@dropout:0.5"
    assert [m["rank"] for m in found["models"]] == [1, 2, 3]
    combined = found["combined"]
    families = {"dropout", "gaussian", "rotate", "mirror", "zoom", "agreement"}
    assert set(combined["families"]) == families
    for model in combined["models"].values():
        assert set(model["families"]) == families
        assert model["score"] == pytest.approx(np.mean(list(model["families"].values())))
        assert model["low"] <= model["score"] <= model["high"]
        assert 1 <= model["rank_low"] <= model["rank"] <= model["rank_high"] <= 3
    medians = {m["name"]: m["scores"] for m in found["models"]}
    for name, model in combined["models"].items():
        beaten = sum(
            medians[name]["nhd@rotate"]["cte"] > other["nhd@rotate"]["cte"]
            for other in medians.values()
        )
        assert model["families"]["rotate"] == beaten / 2
    assert outcome.ranking.combined.to_dict() == combined


def test_combining_changes_no_other_number(run, target, bank_path, tmp_path):
    out, _ = run
    rank_target(TargetOptions(str(target)), str(bank_path), str(tmp_path / "RUN"), **OPTIONS)
    plain = json.loads((tmp_path / "RUN" / "ranking.json").read_text())
    beside = json.loads((out / "ranking.json").read_text())
    assert "combined" not in plain
    assert {k: v for k, v in beside.items() if k != "combined"} == plain
    # and so a run goes on with it, without scoring a block anew
    before = (
        tmp_path / "RUN" / "scores.zarr" / "values" / "c" / "0" / "0" / "0" / "0" / "0"
    ).stat()
    rank_target(
        TargetOptions(str(target)),
        str(bank_path),
        str(tmp_path / "RUN"),
        combine=True,
        resume=True,
        **OPTIONS,
    )
    assert json.loads((tmp_path / "RUN" / "ranking.json").read_text()) == beside
    after = (tmp_path / "RUN" / "scores.zarr" / "values" / "c" / "0" / "0" / "0" / "0" / "0").stat()
    assert before.st_mtime_ns == after.st_mtime_ns


def test_the_experiment_records_it_and_a_run_is_reopened_with_it(run):
    from cte_dask.results.experiment_file import reopen

    out, outcome = run
    assert yaml.safe_load((out / "experiment.yaml").read_text())["combine"] is True
    again = reopen(str(out))
    assert again.combine
    assert again.candidates == outcome.experiment.candidates
    assert again.digest() == outcome.experiment.digest()


def test_python_combines_on_demand(run):
    out, outcome = run
    data = read_scores(open_scores(str(out / "scores.zarr")))
    assert cte_dask.rank(data).combined is None
    assert cte_dask.rank(data, combine=True).combined == outcome.ranking.combined


def test_the_command_prints_families_and_warns_of_disagreement(target, bank_path, tmp_path):
    command = ["rank", str(target), "--bank", str(bank_path), "--out", str(tmp_path / "RUN")]
    options = ["--cluster", "none", "--tile", "1,32,32", "--combine", "--metric", "agreement"]
    done = CliRunner().invoke(app, [*command, *options, "--perturb", "mirror", "--metric", "nhd"])
    assert done.exit_code == 0, done.output
    assert "Combined ranking (Kendall's W of the families" in done.output
    assert "mirror" in done.output.partition("Combined ranking")[2]
    found = json.loads((tmp_path / "RUN" / "ranking.json").read_text())["combined"]
    assert ("disagree" in done.output) == (found["warning"] is not None)


def test_one_family_alone_cannot_be_combined(target, bank_path):
    with pytest.raises(ValueError, match="at least two families"):
        resolve(
            open_volume(str(target)),
            load_bank(str(bank_path)),
            perturbations=("gaussian:0.1", "gaussian:0.2"),
            metrics=("nhd", "ei"),
            combine=True,
        )
