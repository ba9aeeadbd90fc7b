"""The runner of the paper's experiment: its records, what it compares, and what it repeats."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import write_bank

from cte_dask.evaluation.rank_correlation import rank_correlation
from cte_dask.volume import write_ome_zarr

PAPER = Path(__file__).resolve().parents[2] / "benchmarks" / "paper"


@pytest.fixture(scope="module")
def paper():
    """The runner's modules; they are scripts, found by their folder."""
    sys.path.insert(0, str(PAPER))
    try:
        import figures
        import study
        import tables

        yield study, tables, figures
    finally:
        sys.path.remove(str(PAPER))


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Path:
    path = write_bank(tmp_path_factory.mktemp("bank"), 4)
    document = yaml.safe_load(path.read_text())
    for model in document["models"].values():
        weights = (path.parent / model["source"]).read_bytes()
        model["sha256"] = hashlib.sha256(weights).hexdigest()
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    seen = {name: {"labels_seen": ["pack-a"], "images_seen": []} for name in document["models"]}
    seen["model-3"] = {"labels_seen": ["pack-a"], "images_seen": ["pack-b"]}
    (path.parent / "training.json").write_text(json.dumps(seen))
    return path


@pytest.fixture(scope="module")
def target(tmp_path_factory, image) -> Path:
    from scipy.ndimage import label

    path = tmp_path_factory.mktemp("targets") / "pack-b.zarr"
    labels = np.stack([label(plane > 130)[0] for plane in image]).astype(np.uint32)
    options = {"axes": "zyx", "voxel_size_nm": (1.0, 1.0, 1.0), "chunks": (1, 64, 64)}
    write_ome_zarr(path, image, labels={"blobs": labels}, n_levels=1, **options)
    made = {"domain": "pack-b", "groups": ["one", "one", "two", "two", "three", "four"]}
    path.with_suffix(".json").write_text(json.dumps(made))
    return path


@pytest.fixture(scope="module")
def done(paper, bank, target, tmp_path_factory):
    study, _, _ = paper
    folder = tmp_path_factory.mktemp("study")
    lines: list[str] = []

    def again(**changes):
        perturbations = ("dropout:0.2", "gaussian:0.1", "gaussian:0.05")
        plan = study.Plan(perturbations, tile=(1, 32, 32), tiles=36, resamples=50, **changes)
        task = study.Task("blobs", "pack", "blobs", ("nhd", "ei", "vrand"), {"name": "components"})
        where = {"runs": folder / "runs", "out": folder / "results"}
        return study.study(task, plan, bank, target, **where, workers=1, tell=lines.append)

    return again(), again, lines, folder


def test_models_that_know_the_domain_are_marked_and_not_compared(done):
    record, *_ = done
    assert {m["name"] for m in record["models"] if m["left_out"]} == {"model-3"}
    assert {a["n"] for a in record["agreement"]} == {3}
    assert all(m["f1"] is not None for m in record["models"])
    rows = {(a["score"], a["performance"]): a for a in record["agreement"]}
    compared = [m for m in record["models"] if not m["left_out"]]
    ctes = [m["scores"]["vrand@gaussian:0.1"]["own"] for m in compared]
    wanted = rank_correlation(ctes, [m["map"] for m in compared])
    assert rows["vrand@gaussian:0.1", "map"]["pearson"] == pytest.approx(wanted.pearson)


def test_a_record_says_what_made_it_and_where_it_was_not(done):
    record, _, _, folder = done
    assert record["recipe"]["perturbations"][:2] == ["dropout:0.2", "gaussian:0.1"]
    assert record["bootstrap_units"] == 2, "the planes of a group are drawn together"
    assert record["versions"]["torch"]
    text = (folder / "results" / "blobs-pack-b.json").read_text()
    assert str(folder) not in text
    assert "/tmp" not in text


def test_a_known_target_is_not_run_again_and_a_changed_recipe_is(done):
    record, again, lines, folder = done
    path = folder / "results" / "blobs-pack-b.json"
    before = path.stat().st_mtime_ns
    assert again() == record
    assert path.stat().st_mtime_ns == before
    assert lines[-1] == "blobs on pack-b: known"
    assert again(seed=1)["identity"] != record["identity"]
    assert path.stat().st_mtime_ns != before
    again()  # what it was


def test_another_bank_or_target_is_another_identity(paper, bank, target, tmp_path):
    study, _, _ = paper
    task, plan = study.Task("blobs", "pack", "blobs", ("nhd",)), study.Plan.quick()
    known = study.identity(task, plan, bank, target)
    other = tmp_path / "bank.yaml"
    other.write_text(bank.read_text().replace("threshold: 0.5", "threshold: 0.6"))
    record = bank.parent / "training.json"
    (tmp_path / "training.json").write_text(record.read_text())
    changed = study.identity(task, plan, other, target)
    assert {k for k in known if changed[k] != known[k]} == {"bank"}
    assert study.identity(task, study.Plan.full(), bank, target)["recipe"] != known["recipe"]


def test_the_two_perturbations_of_the_tables_come_first(paper):
    study, _, _ = paper
    assert study.Plan.full().perturbations == ("dropout:0.2", "gaussian:0.1")
    assert study.Plan.sweep().perturbations[:2] == ("dropout:0.2", "gaussian:0.1")
    assert len(set(study.Plan.sweep().perturbations)) == 16
    assert study.Plan.quick().perturbations == ("dropout:0.2", "gaussian:0.1")
    assert study.Plan.bordered().perturbations == ("dropout:0.2", "gaussian:0.1")


def test_a_border_is_another_recipe_and_none_is_the_recipe_it_was(paper):
    study, _, _ = paper
    assert "border" not in study.Plan.full().recipe
    assert study.Plan.bordered().recipe == {**study.Plan.full().recipe, "border": 1}


def test_means_are_over_targets_with_an_interval_by_hand(paper):
    _, tables, _ = paper
    found = tables.mean_interval([0.5, None, 0.5, 0.5])
    assert found == {"mean": 0.5, "low": 0.5, "high": 0.5, "n_targets": 3}
    two = tables.mean_interval([0.0, 1.0])
    assert (two["mean"], two["low"], two["high"]) == (0.5, 0.0, 1.0)
    assert tables.mean_interval([0.3])["low"] is None
    assert tables.mean_interval([None])["mean"] is None


def test_tables_and_figures_show_every_target_and_model(paper, done, tmp_path):
    _, tables, figures = paper
    record, *_ = done
    second = json.loads(json.dumps(record))
    second["target_name"] = "pack-c"
    for row in second["agreement"]:
        row["kendall"] = None
    tables.write_tables(tmp_path, [record, second])
    found = json.loads((tmp_path / "tables.json").read_text())["blobs"]["f1"]["nhd@dropout:0.2"]
    tau = next(a for a in record["agreement"] if a["score"] == "nhd@dropout:0.2")["kendall"]
    assert found["mean"]["kendall"] == {"mean": tau, "low": None, "high": None, "n_targets": 1}
    assert set(found["targets"]) == {"pack-b", "pack-c"}
    text = (tmp_path / "tables.md").read_text()
    for shown in ("V^Rand input", "| pack-c | 3 |", "model-3", "at home", "gaussian:0.05"):
        assert shown in text
    figures.write_figures(tmp_path, "blobs", [record])
    made = {p.name for p in tmp_path.glob("*.svg")}
    assert {"blobs-f1-performance.svg", "blobs-map-performance.svg"} <= made
    assert "blobs-f1-strength.svg" in made


def test_a_pick_costs_what_a_hand_computes_and_pairs_are_told_apart_by_their_gap(paper):
    import choices

    def model(f1, cte, left_out=""):
        return {"f1": f1, "scores": {"nhd@x": {"own": cte}}, "left_out": left_out}

    first = [model(0.9, 0.7), model(0.89, 0.8), model(0.5, 0.7), model(1.0, 0.9, "at home")]
    second = [model(0.6, 0.5), model(0.56, 0.4), model(None, 0.9)]
    records = [{"models": first}, {"models": second}]
    picked = choices.choices(records, "f1", "nhd@x")
    assert picked["lost"] == pytest.approx((0.01 + 0) / 2)
    assert picked["lost_at_random"] == pytest.approx((0.9 - 2.29 / 3 + 0.02) / 2)
    assert (picked["best_found"], picked["n_targets"]) == (0.5, 2)
    pairs = choices.ordered_pairs(records, "f1", "nhd@x")
    assert [(p["above"], p["below"]) for p in pairs] == [
        (0, 0.02),
        (0.02, 0.05),
        (0.05, 0.1),
        (0.1, 1),
    ]
    assert [p["pairs"] for p in pairs] == [1, 1, 0, 2]
    assert [p["share"] for p in pairs] == [0, 1, None, 0.75]
    assert choices.choices([], "f1", "nhd@x")["lost"] is None
