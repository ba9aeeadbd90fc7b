"""The commands: their files, their exit codes, and one clear line for every kind of bad input."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
import zarr
from conftest import write_bank
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from cte_dask.cli.app import app
from cte_dask.consistency import METRICS
from cte_dask.inference import check, trial
from cte_dask.models.network import ModelError
from cte_dask.perturb import PERTURBATIONS, perturbation_kind
from cte_dask.ranking import rank_target
from cte_dask.volume import write_ome_zarr

CLUMSY = re.compile(
    r"\w(Error|Exception)\(|: ?:|ValueError|<\w+[ .].*(object|class)"
    r"|\b(?P<twice>[\w '.]+): (?P=twice): "
)
"""Errors and objects as Python shows them, double colons, prefixes that come twice."""
FAST = ["--cluster", "none", "--tile", "1,32,32", "--quiet"]
MEASURED = [
    "--metric", "nhd", "--metric", "ei", "--perturb", "dropout:0.2", "--perturb", "gaussian:0.1",
    "--rank-by", "consistency",
]  # fmt: skip
ROI = ["--roi", "0:1,0:64,0:64"]


def cte(*arguments: str | Path):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def rank(target, bank, out, *more):
    return cte("rank", target, "--bank", bank, "--out", out, *FAST, *more)


def refused(result, *words: str) -> None:
    """Bad input is exit code 2 and one line that names the value."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert not CLUMSY.search(lines[0]), lines[0]
    for word in words:
        assert word in lines[0], lines[0]


def test_a_target_that_looks_like_labels_is_ranked_with_a_warning(bank_path, tmp_path, image):
    zarr.create_array(tmp_path / "a.zarr", data=(image > image.mean()).astype(np.uint8))
    options = [*ROI, "--perturb", "gaussian:0.1", "--cluster", "none", "--tile", "1,32,32"]
    result = cte(
        "rank", tmp_path / "a.zarr", "--bank", bank_path, "--out", tmp_path / "R", *options
    )
    assert result.exit_code == 0, result.output
    assert "the target looks like labels or a mask" in result.stderr
    ranking = json.loads((tmp_path / "R" / "ranking.json").read_text())
    assert ranking["doubt"] in " ".join(result.stderr.split())


def test_labels_are_refused_as_a_target(bank_path, tmp_path):
    image, size = np.ones((1, 32, 32), np.uint8), {"voxel_size_nm": (1, 1, 1), "chunks": (1, 8, 8)}
    write_ome_zarr(tmp_path / "a.zarr", image, axes="zyx", labels={"cells": image}, **size)
    labels = tmp_path / "a.zarr" / "labels" / "cells"
    refused(
        cte("plan", labels, "--bank", bank_path),
        "holds labels",
        f"name the image that they label, {tmp_path / 'a.zarr'}",
    )


@pytest.fixture(scope="module")
def run(target, bank_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "RUN"
    result = rank(target, bank_path, out, *MEASURED)
    assert result.exit_code == 0, result.output
    return out, result


def test_rank_prints_the_ranking_and_leaves_every_file(run):
    out, result = run
    assert "Ranking by nhd@dropout:0.2" in result.stdout
    names = {p.name for p in out.iterdir()}
    assert {"experiment.yaml", "scores.zarr", "tiles.parquet", "ranking.json"} <= names
    assert "ranking.csv" in names


def test_ranking_json_has_the_promised_fields(run):
    ranking = json.loads((run[0] / "ranking.json").read_text())
    assert ranking["schema"] == "cte-ranking/1"
    assert ranking["primary"] == "nhd@dropout:0.2"
    assert ranking["complete"] is True
    assert ranking["blocks"]["done"] == ranking["blocks"]["total"] > 0
    assert ranking["blocks"]["failed"] == 0
    assert ranking["seed"] == 0
    assert ranking["versions"]["torch"]
    assert [m["rank"] for m in ranking["models"]] == [1, 2, 3]
    ctes = [m["scores"]["nhd@dropout:0.2"]["cte"] for m in ranking["models"]]
    assert ctes == sorted(ctes, reverse=True)
    for model in ranking["models"]:
        assert model["excluded"] is None
        assert set(model["scores"]) == {
            f"{m}@{p}" for m in ("nhd", "ei") for p in ("dropout:0.2", "gaussian:0.1")
        }
        for score in model["scores"].values():
            assert score["low"] <= score["cte"] <= score["high"]
            assert score["n_tiles"] == 6 * 3 * 3


def test_an_interval_of_one_region_is_a_dash_with_its_reason(target, bank_path, tmp_path):
    done = rank(target, bank_path, tmp_path / "RUN", *MEASURED, "--roi", "0:1,0:32,0:32")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("no interval: one region alone") == 3
    assert " – " in done.stdout
    assert "– –" not in done.stdout
    ranking = json.loads((tmp_path / "RUN" / "ranking.json").read_text())
    for model in ranking["models"]:
        assert {(s["low"], s["high"]) for s in model["scores"].values()} == {(None, None)}
        assert model["first"] is model["beaten"] is None
    rows = list(csv.DictReader((tmp_path / "RUN" / "ranking.csv").read_text().splitlines()))
    assert [row["note"] for row in rows] == [m["note"] for m in ranking["models"]]
    assert cte("report", tmp_path / "RUN", "--gallery", "0").exit_code == 0
    page = (tmp_path / "RUN" / "report.html").read_text()
    assert "no interval: one region alone has a score" in page
    assert "– –" not in page


def test_no_old_result_lies_beside_the_scores_that_overwrite_it(
    target, bank_path, tmp_path, monkeypatch
):
    out = tmp_path / "RUN"
    assert rank(target, bank_path, out, *ROI).exit_code == 0
    assert cte("report", out, "--gallery", "0").exit_code == 0
    assert cte("maps", out).exit_code == 0
    (out / "mine.txt").write_text("a note")
    seen = []

    def killed(*_, **__):
        seen.append({p.name for p in out.iterdir()})
        raise SystemExit(137)

    monkeypatch.setattr(rank_target, "run_jobs", killed)
    assert rank(target, bank_path, out, *ROI, "--overwrite").exit_code == 137
    assert seen == [{"experiment.yaml", "scores.zarr", "mine.txt"}]
    refused(cte("report", out, "--quiet"), "no finished run", "--resume")
    monkeypatch.undo()
    assert rank(target, bank_path, out, *ROI, "--resume").exit_code == 0
    assert {p.name for p in out.iterdir()} >= {"ranking.json", "ranking.csv", "tiles.parquet"}


def test_tiles_parquet_has_one_row_a_model_perturbation_and_tile(run):
    table = pq.read_table(run[0] / "tiles.parquet").to_pandas()
    assert len(table) == 3 * 2 * 6 * 3 * 3
    columns = "model perturbation z0 z1 y0 y1 x0 x1 n_union nhd ei vrand foreground_fraction status"
    assert set(columns.split()) <= set(table.columns)
    assert set(table.status) == {"scored"}
    ranking = json.loads((run[0] / "ranking.json").read_text())
    first = ranking["models"][0]
    rows = table[(table.model == first["name"]) & (table.perturbation == "dropout:0.2")]
    assert rows.nhd.median() == first["scores"]["nhd@dropout:0.2"]["cte"]
    assert (rows.y1 - rows.y0).max() == 32


def test_ranking_csv_agrees_with_the_json(run):
    rows = list(csv.DictReader((run[0] / "ranking.csv").read_text().splitlines()))
    ranking = json.loads((run[0] / "ranking.json").read_text())
    assert [r["model"] for r in rows] == [m["name"] for m in ranking["models"]]
    got = float(rows[0]["ei@gaussian:0.1 cte"])
    assert got == ranking["models"][0]["scores"]["ei@gaussian:0.1"]["cte"]


def test_experiment_yaml_is_resolved_with_hashes_and_versions(run):
    experiment = yaml.safe_load((run[0] / "experiment.yaml").read_text())
    assert len(experiment["hash"]) == 64
    assert experiment["intensity"]["percentiles"]
    assert all(len(m["sha256"]) == 64 for m in experiment["models"])
    assert all(m["layers"] == ["encoders.2"] for m in experiment["models"])
    assert experiment["versions"]["zarr"]


def test_an_existing_run_is_neither_lost_nor_repeated(run, target, bank_path):
    out, _ = run
    refused(rank(target, bank_path, out), "--resume", "--overwrite")
    before = (out / "scores.zarr" / "values" / "c").stat().st_mtime_ns
    again = rank(target, bank_path, out, *MEASURED, "--resume")
    assert again.exit_code == 0, again.output
    assert (out / "scores.zarr" / "values" / "c").stat().st_mtime_ns == before


def test_resume_computes_the_missing_blocks_only_and_ends_with_the_same_ranking(
    target, bank_path, tmp_path
):
    out = tmp_path / "RUN"
    options = ("--block", "1,3,3")
    assert rank(target, bank_path, out, *options).exit_code == 0
    whole = json.loads((out / "ranking.json").read_text())
    group = zarr.open_group(out / "scores.zarr", mode="r+")
    group["done"][2:4] = 0
    group["values"][2:4] = np.nan
    kept = out / "scores.zarr" / "values" / "c" / "0" / "0" / "0" / "0" / "0"
    before = kept.stat().st_mtime_ns
    status = cte("status", out)
    assert "4 of 6 blocks complete, 0 with failures, 2 missing" in status.stdout
    assert rank(target, bank_path, out, *options, "--resume").exit_code == 0
    assert json.loads((out / "ranking.json").read_text()) == whole
    assert kept.stat().st_mtime_ns == before


def test_a_target_that_was_turned_over_meanwhile_is_another_one(bank_path, tmp_path, image):
    """Its intensities are the same, but what was scored belongs to other voxels."""
    path, out = tmp_path / "t.zarr", tmp_path / "RUN"
    size = {"axes": "zyx", "voxel_size_nm": (10.0, 10.0, 10.0), "chunks": (2, 64, 64)}
    write_ome_zarr(path, image, **size)
    options = ("--tile", "1,64,64", *MEASURED)
    assert rank(path, bank_path, out, *options).exit_code == 0
    shutil.rmtree(path)
    write_ome_zarr(path, image[:, ::-1], **size)
    result = rank(path, bank_path, out, *options, "--resume")
    assert result.exit_code == 2
    assert "the target, a model or an option differs" in result.stderr


def test_resume_refuses_another_experiment(target, bank_path, tmp_path):
    out = tmp_path / "RUN"
    assert rank(target, bank_path, out, "--roi", "0:1,0:64,0:64").exit_code == 0
    result = rank(target, bank_path, out, "--roi", "0:1,0:64,0:64", "--seed", "1", "--resume")
    refused(result, "another experiment", "--overwrite")


def test_json_is_all_that_is_printed_on_standard_output(target, bank_path, tmp_path):
    result = rank(target, bank_path, tmp_path / "RUN", "--json", "--roi", "0:1,0:64,0:64")
    assert json.loads(result.stdout)["schema"] == "cte-ranking/1"


def test_a_bad_model_is_excluded_with_its_reason_and_the_rest_is_ranked(target, tmp_path):
    bank = write_bank(tmp_path / "bank", 3)
    (tmp_path / "bank" / "model-1.safetensors").write_bytes(b"broken")
    result = rank(target, bank, tmp_path / "RUN", "--roi", "0:1,0:64,0:64", "--json")
    assert result.exit_code == 3
    ranking = json.loads(result.stdout)
    assert ranking["complete"] is False
    last = ranking["models"][-1]
    assert (last["name"], last["rank"]) == ("model-1", None)
    assert "safetensors" in last["excluded"].lower()
    assert [m["rank"] for m in ranking["models"][:2]] == [1, 2]


def test_a_black_box_moves_the_ranking_to_a_perturbation_that_all_support(target, tmp_path):
    bank = write_bank(tmp_path / "bank", 2)
    text = (
        bank.read_text()
        + """
  flat:
    format: python
    source: flatnet:make
    trust: true
    axes: yx
    halo: {y: 8, x: 8}
    preprocessing: [{name: scale_range, scope: volume}]
"""
    )
    bank.write_text(text)
    assert (Path(__file__).parents[1] / "flatnet.py").is_file(), "found on the tests' path"
    result = rank(target, bank, tmp_path / "RUN", *ROI, "--json")
    assert result.exit_code == 0, result.output
    ranking = json.loads(result.stdout)
    assert (ranking["primary"], ranking["score"]) == ("cte", "nhd@mirror")
    both = ["--perturb", "dropout:0.2", "--perturb", "gaussian:0.1", "--rank-by", "consistency"]
    ranking = json.loads(rank(target, bank, tmp_path / "B", *both, *ROI, "--json").stdout)
    assert ranking["primary"] == "nhd@gaussian:0.1"
    flat = next(m for m in ranking["models"] if m["name"] == "flat")
    assert set(flat["scores"]) == {"nhd@gaussian:0.1"}
    only = rank(target, bank, tmp_path / "no", "--perturb", "dropout:0.2")
    refused(only, "flat", "--perturb gaussian")


def test_plan_reads_no_voxel_and_agrees_with_the_run(target, bank_path, run):
    result = cte("plan", target, "--bank", bank_path, "--tile", "1,32,32", "--json", "--quiet")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["tiles"] == 6 * 3 * 3
    assert plan["flops"] > 0
    assert {m["name"] for m in plan["models"]} == {"model-0", "model-1", "model-2"}
    assert [m["passes"] for m in plan["models"]] == [3, 3, 3]
    shown = cte("plan", target, "--bank", bank_path, "--tile", "1,32,32", "--quiet").stdout
    assert "ranks by" in shown
    assert "consistency (CTE) over all perturbations" in shown
    assert "mirror, zoom:0.8" in shown


@pytest.fixture
def check_here(monkeypatch):
    """Models are tried in this process: tests/inference/test_check.py tries some in their own."""

    def report(spec, _timeout, _running):
        try:
            return trial.check_model(spec)
        except ModelError as error:
            return check.ModelReport(name=spec.name, ok=False, reason=str(error))

    monkeypatch.setattr(check, "_checked", report)


def test_models_check_lists_good_and_bad_models(tmp_path, check_here):
    bank = write_bank(tmp_path / "bank", 2)
    (tmp_path / "bank" / "model-1.safetensors").unlink()
    result = cte("models", "check", bank)
    assert result.exit_code == 3
    assert "encoders.2" in result.stdout
    assert "unusable" in result.stdout
    assert "1 of 2: model-0: usable" in result.stderr
    assert "2 of 2: model-1: unusable" in result.stderr


def test_a_check_that_is_stopped_keeps_what_it_has(tmp_path, monkeypatch):
    def interrupted(spec, _timeout, _running):
        if spec.name == "model-1":
            raise KeyboardInterrupt
        return trial.check_model(spec)

    monkeypatch.setattr(check, "_checked", interrupted)
    result = cte("models", "check", write_bank(tmp_path / "bank", 3))
    assert result.exit_code == 130
    assert "encoders.2" in result.stdout
    assert "stopped: 2 of 3 models were not checked" in result.stderr


def test_the_version_is_told():
    assert cte("--version").stdout.strip() == __import__("cte_dask").__version__


# Bad input --------------------------------------------------------------------------------------


def test_bad_targets_are_refused(bank_path, tmp_path):
    out = tmp_path / "RUN"
    refused(rank(tmp_path / "nowhere.zarr", bank_path, out), "nowhere.zarr")
    (tmp_path / "text.zarr").write_text("hello")
    refused(rank(tmp_path / "text.zarr", bank_path, out), "text.zarr")
    (tmp_path / "folder").mkdir()
    refused(rank(tmp_path / "folder", bank_path, out), "folder")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--axes", "zzx"), ("zzx",)),
        (("--axes", "yx"), ("yx",)),
        (("--channel", "3"), ("channel", "3")),
        (("--roi", "3:3,0:32,0:32"), ("3:3",)),
        (("--roi", "0:1,0:32"), ("larger than the target", "--tile")),
        (("--roi", "banana"), ("banana",)),
        (("--level", "9"), ("9",)),
        (("--level", "two"), ("two",)),
        (("--tile", "1,512,512"), ("(1, 512, 512)", "larger than the target")),
        (("--tile", "1,2"), ("1,2", "z,y,x")),
        (("--tile", "0,32,32"), ("0,32,32",)),
        (("--tile", "1,4,4"), ("halo", "larger than the tile")),
        (("--perturb", "dropot:0.2"), ("dropot", "dropout")),
        (("--perturb", "dropout:1.5"), ("1.5",)),
        (("--metric", "nhdd"), ("nhdd", "nhd")),
        (("--repeats", "0"), ("repeats", "0")),
        (("--threads", "0"), ("threads", "0")),
        (("--batch", "0"), ("batch", "0")),
        (("--threads", "10000"), ("threads", "10000", "at most")),
        (("--batch", "100000000"), ("batch", "100000000", "at most 4096")),
        (("--cluster", "local", "--workers", "100000"), ("workers", "100000", "at most")),
        (("--seed", "-1"), ("seed must be at least 0, not -1",)),
        (("--time-limit", "0"), ("time_limit", "above 0 seconds")),
        (("--device", "tpu"), ("tpu",)),
        (("--precision", "float8"), ("float8",)),
        (("--cluster", "lokal"), ("lokal", "local")),
        (("--cluster", "tcp://127.0.0.1:1"), ("tcp://127.0.0.1:1",)),
        (("--workers", "0"), ("workers", "0")),
        (("--resume", "--overwrite"), ("--resume", "--overwrite")),
        (("--mask", "/nowhere/mask.zarr"), ("mask.zarr",)),
    ],
)
def test_bad_options_are_refused(target, bank_path, tmp_path, options, words):
    out = tmp_path / "RUN"
    refused(rank(target, bank_path, out, *options), *words)
    assert not (out / "ranking.json").exists()


def test_results_go_into_a_folder_not_into_a_file(target, bank_path, tmp_path):
    (tmp_path / "file").write_text("something else")
    refused(rank(target, bank_path, tmp_path / "file"), "is a file", "--out")
    assert (tmp_path / "file").read_text() == "something else"


@pytest.mark.parametrize("place", ["", " ", "{}", "{}/RUN", "{}/../target.zarr/0/RUN"])
def test_results_never_go_into_the_target(target, bank_path, place):
    before = sorted(target.rglob("*"))
    out = place.format(target)
    refused(rank(target, bank_path, out), "--out")
    refused(cte("calibrate", target, "--bank", bank_path, "--out", out), "--out")
    assert sorted(target.rglob("*")) == before


def test_maps_and_reports_never_go_into_the_target(run, target):
    for command in ("maps", "report"):
        done = cte(command, run[0], "--out", target / "new", "--quiet")
        refused(done, "--out", "never written to")
    assert not (target / "new").exists()


def test_targets_without_information_are_refused(bank_path, tmp_path):
    for name, value in (("nan", np.nan), ("constant", 7.0)):
        path = tmp_path / f"{name}.zarr"
        zarr.create_array(path, data=np.full((2, 64, 64), value, np.float32), chunks=(2, 64, 64))
        refused(rank(path, bank_path, tmp_path / "RUN"), f"{name}.zarr")


def damaged(folder: Path, change) -> Path:
    """A bank of one model whose weights or text were changed."""
    bank = write_bank(folder, 1)
    change(folder, bank)
    return bank


def unknown_key(_folder, bank):
    bank.write_text(bank.read_text().replace("halo:", "haloo:"))


def missing_weights(folder, _bank):
    (folder / "model-0.safetensors").unlink()


def wrong_digest(_folder, bank):
    bank.write_text(bank.read_text() + f"    sha256: {'0' * 64}\n")


def wrong_shapes(_folder, bank):
    bank.write_text(bank.read_text().replace("[4, 6, 8]", "[4, 6, 10]"))


def nan_weights(folder, _bank):
    path = folder / "model-0.safetensors"
    weights = load_file(path)
    weights["head.weight"][...] = np.nan
    save_file(weights, path)


def not_yaml(_folder, bank):
    bank.write_text("models: [unclosed")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (unknown_key, ("haloo", "halo")),
        (missing_weights, ("model-0.safetensors",)),
        (wrong_digest, ("sha256",)),
        (wrong_shapes, ("model-0", "encoders")),
        (nan_weights, ("model-0", "NaN")),
        (not_yaml, ("bank.yaml",)),
    ],
)
def test_bad_banks_are_refused(target, tmp_path, change, words):
    refused(rank(target, damaged(tmp_path / "bank", change), tmp_path / "RUN"), *words)


def test_a_missing_bank_is_refused(target, tmp_path):
    refused(rank(target, tmp_path / "no.yaml", tmp_path / "RUN"), "no.yaml")


def test_status_of_no_run_is_refused(tmp_path):
    refused(cte("status", tmp_path), "no score store", "--out")


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for hardly anything; needs root, as CI has."""
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mount], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.decode().strip()}")
    yield mount
    subprocess.run(["umount", mount], check=True)


def test_no_space_in_the_output_is_refused_before_any_work(target, bank_path, small_disk):
    refused(rank(target, bank_path, small_disk / "RUN"), "bytes free", "--out")


def test_an_output_that_cannot_be_made_is_refused(target, bank_path, tmp_path):
    (tmp_path / "file").write_text("")
    refused(rank(target, bank_path, tmp_path / "file" / "RUN"), "file")


# A petabyte -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_petabyte_is_planned_in_little_time_and_memory(tmp_path, bank_path):
    path = tmp_path / "petabyte.zarr"
    zarr.create_array(path, shape=(100_000,) * 3, chunks=(128,) * 3, dtype="uint8")
    code = (
        "import sys; from cte_dask.cli import app; app(sys.argv[1:], standalone_mode=False); "
        "print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    )
    arguments = ["plan", path, "--bank", bank_path, "--json", "--quiet", "--tile", "1,256,256"]
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *text, last, _ = done.stdout.splitlines()
    plan = json.loads("\n".join(text))
    assert plan["bytes_target"] == 10**15
    assert plan["tiles"] == 100_000 * 391**2
    assert plan["blocks"] <= 2_000_000
    assert int(last.split()[1]) < 1_000_000, "kilobytes of memory"


def test_the_command_is_installed(target):
    script = Path(sys.executable).with_name("cte")
    done = subprocess.run(
        [script, "plan", target, "--bank", target],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


COMMANDS = (
    "", "rank", "plan", "calibrate", "evaluate", "report", "maps", "doctor", "status", "models",
    "models check", "demo",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal_of_80_columns(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80
    assert "..." not in result.output.partition("Commands:")[2]  # no command's line is cut


@pytest.mark.parametrize("command", ["rank", "plan", "calibrate"])
def test_help_tells_every_metric_and_perturbation(command):
    told = cte(command, "--help").output
    for metric in METRICS:
        assert f"{metric}:" in told
    for kind in set(PERTURBATIONS) - {"none"}:
        if command != "calibrate" or perturbation_kind(kind).strengths:
            assert kind in told


def bank_of(folder, models):
    return write_bank(folder / f"bank-{models}", models)


@pytest.mark.parametrize(
    ("options", "primary", "perturbations"),
    [
        ([], "transfer", {"dropout:0.2"}),
        (["--perturb", "mirror"], "nhd@mirror", {"mirror"}),
        (["--perturb", "mirror", "--rank-by", "transfer"], "transfer", {"mirror"}),
        (["--perturb", "mirror", "--perturb", "rotate"], "transfer", {"mirror", "rotate"}),
        (["--metric", "vrand"], "transfer", {"dropout:0.2"}),
    ],
)
def test_a_bank_of_five_judges_itself_unless_one_score_is_asked_for(
    target, tmp_path, options, primary, perturbations
):
    bank = bank_of(tmp_path, 5)
    done = rank(target, bank, tmp_path / "RUN", *options, *ROI)
    assert done.exit_code == 0, done.output
    ranking = json.loads((tmp_path / "RUN" / "ranking.json").read_text())
    assert ranking["primary"] == primary
    assert ranking["bank"]["usable"] == 5
    for model in ranking["models"]:
        assert {name.partition("@")[2] for name in model["scores"]} == perturbations
        assert 0 <= model["estimated_f1"]["low"] <= model["estimated_f1"]["high"] <= 1
        assert ("precision" in model) == ("vrand" in options)
    rows = list(csv.DictReader((tmp_path / "RUN" / "ranking.csv").read_text().splitlines()))
    first = ranking["models"][0]
    assert float(rows[0]["estimated_f1"]) == first["estimated_f1"]["value"]
    assert float(rows[0]["transfer"]) == first["transfer"]["value"]
    assert "estimated F1" in done.stdout


def test_a_rule_that_is_none_is_refused(target, bank_path, tmp_path):
    refused(rank(target, bank_path, tmp_path / "RUN", "--rank-by", "luck"), "'luck'", "transfer")
