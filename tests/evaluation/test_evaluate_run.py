"""``cte evaluate`` end to end: predictions against labels, and nothing of it in the ranking."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from conftest import bank_text, write_bank, write_model
from typer.testing import CliRunner

from cte_dask.cli.app import app
from cte_dask.consistency.accuracy import f1
from cte_dask.consistency.objects import average_precision
from cte_dask.evaluation import evaluate_run as evaluation_run
from cte_dask.evaluation.evaluate_run import evaluate_run
from cte_dask.report.evaluation import print_evaluation
from cte_dask.results.experiment_file import reopen
from cte_dask.scoring.score_block import predict_tiles
from cte_dask.volume import write_ome_zarr

FAST = ["--cluster", "none", "--tile", "1,32,32", "--quiet"]
TWO = ["--perturb", "dropout:0.2", "--perturb", "gaussian:0.1"]
PLAIN = {"features": False, "resamples": 100}
"""Options of evaluations whose test asks neither for CCFV nor for intervals."""


def cte(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def ranked(target, bank, out: Path, *more: object) -> Path:
    result = cte("rank", target, "--bank", bank, "--out", out, *FAST, *more)
    assert result.exit_code == 0, result.output
    return out


def evaluate(run, labels, *more):
    return cte("evaluate", run, "--labels", labels, "--cluster", "none", "--quiet", *more)


def refused(result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0], lines[0]


def save(path: Path, labels: np.ndarray) -> Path:
    zarr.create_array(path, data=labels, chunks=(1, 64, 64))
    return path


@pytest.fixture(scope="module")
def truth(image) -> np.ndarray:
    """Bright structures, as instances a plane; the last plane has none."""
    from scipy.ndimage import label

    planes = [label(plane > 130)[0] for plane in image]
    labels = np.stack(planes).astype(np.int32)
    labels[-1] = 0
    return labels


@pytest.fixture(scope="module")
def labels(truth, tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("labels") / "labels.zarr", truth)


@pytest.fixture(scope="module")
def run(target, bank_path, tmp_path_factory) -> Path:
    options = ("--metric", "nhd", "--metric", "ei", "--perturb", "dropout:0.2")
    more = ("--perturb", "gaussian:0.05", "--perturb", "gaussian:0.1", "--block", "2,3,3")
    return ranked(target, bank_path, tmp_path_factory.mktemp("run") / "RUN", *options, *more)


@pytest.fixture(scope="module")
def result(run, labels):
    before = digests(run)
    done = evaluate(run, labels)
    assert done.exit_code == 0, done.output
    return done, before


def digests(run: Path) -> dict[str, str]:
    files = [p for p in sorted(run.rglob("*")) if p.is_file() and "evaluation" not in p.name]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.slow
def test_performance_is_that_of_the_tiles_predicted_one_by_one(run, truth, result):
    data = json.loads((run / "evaluation.json").read_text())
    experiment = reopen(str(run))
    found: dict[str, list[float]] = {}
    for index in range(len(experiment.blocks)):
        for name, tile, (reference,) in predict_tiles(experiment, index, ()):
            box = tuple(slice(a, b) for a, b in zip(tile.start, tile.stop, strict=True))
            if truth[box].any():
                found.setdefault(name, []).append(f1(reference > 0.5, truth[box]))
    assert {m["name"]: m["f1"] for m in data["models"]} == {
        n: pytest.approx(np.median(v)) for n, v in found.items()
    }
    assert {m["n_labelled"] for m in data["models"]} == {len(found["model-0"])}


def test_labels_never_touch_the_run(run, result):
    _, before = result
    assert digests(run) == before


def test_json_tables_and_figures_are_written(run, result):
    done, _ = result
    data = json.loads((run / "evaluation.json").read_text())
    assert data["schema"] == "cte-evaluation/1"
    ranking = json.loads((run / "ranking.json").read_text())
    assert [m["name"] for m in data["models"]] == [m["name"] for m in ranking["models"]]
    for evaluated, model in zip(data["models"], ranking["models"], strict=True):
        for name, score in model["scores"].items():
            assert evaluated["scores"][name]["own"] == pytest.approx(score["cte"])
    scores = {a["score"] for a in data["agreement"]}
    perturbations = ("dropout:0.2", "gaussian:0.05", "gaussian:0.1")
    wanted = {f"{m}@{p}" for m in ("nhd", "ei") for p in perturbations}
    assert scores == wanted | {"entropy", "confidence", "ccfv", "cte", "estimated_f1"}
    assert all(m["scores"]["ccfv"]["own"] is not None for m in data["models"])
    assert "Agreement of scores with performance" in done.stdout
    figures = {f"evaluation-{n}.{k}" for n in FIGURES for k in ("svg", "png")}
    assert figures == {p.name for p in run.glob("evaluation-*.[sp][vn]g")}
    table = pq.read_table(run / "evaluation-tiles.parquet")
    assert table.num_rows == 3 * 6 * 3 * 3
    assert set(table["labelled"].to_pylist()) > {0}


FIGURES = ("performance", "agreement", "strength")


@pytest.mark.slow
def test_every_way_to_run_gives_the_same_numbers(run, labels, result):
    here = (run / "evaluation.json").read_bytes()
    again = cte("evaluate", run, "--labels", labels, "--cluster", "local", "--workers", 2, "-q")
    assert again.exit_code == 0, again.output
    assert (run / "evaluation.json").read_bytes() == here
    other = evaluate_run(str(run), str(labels), seed=1)
    first = evaluate_run(str(run), str(labels))
    assert first == evaluate_run(str(run), str(labels))
    assert [m.performance for m in other.models] == [m.performance for m in first.models]
    assert [m.scores["ccfv"] for m in other.models] != [m.scores["ccfv"] for m in first.models]


def test_json_is_all_that_is_printed_on_standard_output(run, labels):
    done = evaluate(run, labels, "--json", "--no-figures", "--no-ccfv")
    data = json.loads(done.stdout)
    assert "ccfv" not in data["models"][0]["scores"]


def test_instances_are_evaluated_by_their_average_precision(target, truth, labels, tmp_path):
    bank = write_bank(tmp_path / "bank", 2)
    more = ("--metric", "vrand", "--tile", "2,32,32", "--roi", "0:4,0:64,0:64")
    out = ranked(target, bank, tmp_path / "RUN", *more, *TWO)
    found = evaluate_run(str(out), str(labels), **PLAIN)
    assert found.performances == ("f1", "map")
    assert found.score_correlation("vrand@dropout:0.2").performance == "map"
    from cte_dask.scoring.block_reader import read_window
    from cte_dask.scoring.loaded import predictor

    experiment = reopen(str(out))
    block, candidate = experiment.blocks.block_at(0), experiment.candidates[0]
    ready, window = predictor(candidate, experiment.inference), read_window(experiment, block)
    tile = block.tiles[0]
    low = tuple(a - b for a, b in zip(tile.start, ready.frame.before, strict=True))
    frame = window.frame(low, ready.frame.shape).astype("float32")
    (one,) = ready.run(frame[None], [tile], [], intensity=[experiment.intensity], seed=0)
    planes = truth[:2, :32, :32].astype(np.int64)
    planes[1][planes[1] > 0] += 1000  # a 2D model's objects are of one plane
    row = list(found.tiles["model"]).index(candidate.name)
    assert found.tiles["map"][row] == average_precision(np.asarray(one.labels[0]), planes)


def test_labels_of_the_array_and_of_the_region_are_the_same(target, truth, bank_path, tmp_path):
    out = ranked(target, bank_path, tmp_path / "RUN", "--roi", "1:3,10:74,20:84", *TWO)
    whole = evaluate_run(str(out), str(save(tmp_path / "whole.zarr", truth)), **PLAIN)
    cut = truth[1:3, 10:74, 20:84]
    region = evaluate_run(str(out), str(save(tmp_path / "region.zarr", cut)), **PLAIN)
    assert whole.models == region.models
    pyramid = tmp_path / "pyramid.zarr"
    levels = [np.repeat(truth, 2, axis=2), truth]
    write_ome_zarr(pyramid, levels, axes="zyx", voxel_size_nm=(40.0, 10.0, 5.0), chunks=(2, 64, 64))
    assert evaluate_run(str(out), str(pyramid), **PLAIN).models == whole.models


def test_masked_tiles_are_left_out(target, bank_path, labels, tmp_path, image):
    mask = np.zeros(image.shape, np.uint8)
    mask[:3] = 1
    save(tmp_path / "mask.zarr", mask)
    out = ranked(target, bank_path, tmp_path / "RUN", "--mask", tmp_path / "mask.zarr", *TWO)
    found = evaluate_run(str(out), str(labels), **PLAIN)
    assert max(m.n_labelled for m in found.models) <= 3 * 9
    masked = np.asarray(found.tiles["z"]) >= 3
    assert np.isnan(np.asarray(found.tiles["f1"])[masked]).all()


@pytest.mark.slow
def test_a_network_that_cannot_be_opened_has_no_ccfv_and_it_is_said(target, labels, tmp_path):
    bank = write_bank(tmp_path / "bank", 2)
    flat = (
        "\n  flat:\n    format: python\n    source: flatnet:make\n    trust: true\n    axes: yx\n"
    )
    halo = "    halo: {y: 8, x: 8}\n    preprocessing: [{name: scale_range, scope: volume}]\n"
    bank.write_text(bank.read_text() + flat + halo)
    out = ranked(target, bank, tmp_path / "RUN", *TWO)
    found = evaluate_run(str(out), str(labels))
    score = {m.name: m.scores["ccfv"] for m in found.models}
    assert math.isnan(score["flat"])
    assert not math.isnan(score["model-0"])
    assert any("not available for flat" in note for note in found.notes)
    assert found.score_correlation("ccfv").correlation.n == 2


def test_a_model_that_fails_now_is_left_out_and_the_exit_code_says_so(target, labels, tmp_path):
    folder = tmp_path / "bank"
    folder.mkdir()
    for seed in range(2):
        write_model(folder / f"m{seed}.safetensors", seed=seed)
    (folder / "bank.yaml").write_text(bank_text(["m0", "m1"]))
    out = ranked(target, folder / "bank.yaml", tmp_path / "RUN", *TWO)
    (folder / "m1.safetensors").write_bytes(b"changed")
    from cte_dask.scoring import loaded

    loaded.READY.clear()
    done = evaluate(out, labels, "--no-ccfv", "--no-figures")
    assert done.exit_code == 3, done.output
    models = {m["name"]: m for m in json.loads((out / "evaluation.json").read_text())["models"]}
    assert "sha256" in models["m1"]["cause"]
    assert models["m1"]["f1"] is None
    assert models["m0"]["f1"] is not None


def test_without_matplotlib_the_numbers_are_there_and_one_line_says_so(run, labels, monkeypatch):
    (run / "evaluation.json").unlink(missing_ok=True)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = evaluate(run, labels, "--no-ccfv")
    assert done.exit_code == 0
    assert "matplotlib" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (run / "evaluation.json").exists()


def test_the_table_names_the_score_that_ranks(run, labels, capsys):
    found = evaluate_run(str(run), str(labels), **PLAIN)
    for primary, heading in (("cte", "CTE"), ("nhd@dropout:0.2", "nhd@dropout:0.2")):
        print_evaluation(replace(found, primary=primary), as_json=False)
        assert heading in capsys.readouterr().out.splitlines()[2]


def test_planes_of_one_name_are_drawn_together(run, labels):
    together = evaluate_run(
        str(run), str(labels), bootstrap=["a", "a", "b", "c", "c", "c"], **PLAIN
    )
    assert together.n_units == 3
    with pytest.raises(ValueError, match="5 names for 6 planes"):
        evaluate_run(str(run), str(labels), bootstrap=["a"] * 5)


def test_models_can_be_left_out_of_the_comparison(run, labels):
    done = evaluate(run, labels, "--leave-out", "model-1", "--json", "--no-figures", "--no-ccfv")
    data = json.loads(done.stdout)
    assert {a["n"] for a in data["agreement"]} == {2}
    assert {m["name"] for m in data["models"] if m["left_out"]} == {"model-1"}
    refused(evaluate(run, labels, "--leave-out", "model-9"), "model-9", "model-1")


# Bad input --------------------------------------------------------------------------------------


def test_labels_of_another_shape_are_refused_with_both_shapes(run, truth, tmp_path):
    bad = save(tmp_path / "bad.zarr", truth[:, :-1])
    refused(evaluate(run, bad), "(6, 87, 104)", "(6, 88, 104)")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.astype(np.float32), ("float32", "integers")),
        (lambda t: t - 1, ("-1", "0 (background)")),
        (lambda t: t * 0, ("empty",)),
    ],
)
def test_bad_labels_are_refused(run, truth, tmp_path, change, words):
    refused(evaluate(run, save(tmp_path / "bad.zarr", change(truth))), *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--bootstrap", "block"), ("block", "cell, tile")),
        (("--resamples", "0"), ("resamples", "0")),
        (("--workers", "0"), ("workers", "0")),
    ],
)
def test_bad_options_are_refused(run, labels, options, words):
    refused(evaluate(run, labels, *options), *words)


def test_no_run_and_no_labels_are_refused(run, labels, tmp_path):
    refused(evaluate(tmp_path / "none", labels), "no run", "cte rank")
    refused(evaluate(run, tmp_path / "none.zarr"), "none.zarr")


def test_a_target_that_changed_is_refused(bank_path, image, labels, tmp_path):
    target = tmp_path / "target.zarr"
    zarr.create_array(target, data=image, chunks=(2, 64, 64))
    out = ranked(target, bank_path, tmp_path / "RUN", *TWO)
    zarr.create_array(target, data=image.astype(np.uint16), chunks=(2, 64, 64), overwrite=True)
    refused(evaluate(out, labels), "target.zarr", "not as it was ranked", "uint8", "uint16")


@pytest.mark.slow
def test_an_evaluation_that_was_broken_off_goes_on(run, labels, monkeypatch):
    want = evaluate_run(str(run), str(labels))
    blocks, real = [], evaluation_run.evaluate_block

    def stopped(experiment, truth, task):
        blocks.append(task.index)
        if len(blocks) == 3:
            raise KeyboardInterrupt
        return real(experiment, truth, task)

    monkeypatch.setattr(evaluation_run, "evaluate_block", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(str(run), str(labels))
    assert evaluate_run(str(run), str(labels)) == want
    assert len(blocks) == len(set(blocks)) + 1, "one block was begun twice"
    assert not list(run.glob("evaluation.parts*"))
