"""Labelled tiles are predicted once: the right numbers, kept with the run, failures by name."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import cte_dask
from cte_dask.consistency.accuracy import f1
from cte_dask.engine.jobs import Job
from cte_dask.ranking.labels import label_failures
from cte_dask.ranking.measure_labels import MeasureTile, measure_labels
from cte_dask.results.label_folder import LabelledTile
from cte_dask.results.run_folder import RunFolder
from cte_dask.scoring import measure_tile as measuring
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import predict_tiles
from cte_dask.volume import open_volume

MODELS = {"model-0", "model-1", "model-2"}


@pytest.fixture(scope="module")
def experiment(target, bank_path):
    volume = open_volume(str(target), roi="1:3,0:88,0:104")
    bank = cte_dask.load_bank(str(bank_path))
    return resolve(volume, bank, tile=(1, 32, 32), perturbations=["mirror"])


@pytest.fixture(scope="module")
def truth(image):
    return (image > np.percentile(image, 60)).astype(np.int64)[1:3]


@pytest.fixture
def folder(tmp_path):
    return RunFolder(str(tmp_path))


def labelled(experiment, truth, number: int, sha256: str = "a") -> LabelledTile:
    tile = experiment.grid.tile_at(number)
    box = tuple(slice(a, b) for a, b in zip(tile.start, tile.stop, strict=True))
    return LabelledTile(tile, f"tile-{number}-label.tif", sha256, truth[box])


@pytest.fixture
def calls(monkeypatch):
    """Numbers of the tiles that are read."""
    numbers: list[int] = []
    read = measuring.read_window

    def noted(experiment, block, perturbations):
        numbers.append(block.index)
        return read(experiment, block, perturbations)

    monkeypatch.setattr(measuring, "read_window", noted)
    return numbers


def test_a_tile_has_the_f1_of_the_run_s_own_predictions(experiment, truth, folder):
    tiles = [labelled(experiment, truth, n) for n in (3, 13)]
    measure_labels(folder, experiment, tiles)
    entries = folder.read_labels(experiment.digest())
    for entry, tile in zip(entries, tiles, strict=True):
        want = {
            name: f1(foreground > 0.5, tile.labels)
            for index in range(len(experiment.blocks))
            for name, where, (foreground,) in predict_tiles(experiment, index, ())
            if where == tile.tile
        }
        assert entry["tile"] == tile.tile.index
        assert entry["start"][0] == tile.tile.start[0] + 1, "in voxels of the target"
        assert set(want) == MODELS
        assert entry["f1"] == pytest.approx(want, abs=1e-3)
        assert set(entry["precision"].values()) == {None}


@pytest.mark.slow
def test_workers_measure_the_same(experiment, truth, tmp_path, address):
    from distributed import Client

    tiles = [labelled(experiment, truth, n) for n in (3, 13)]
    here, there = (RunFolder(str(tmp_path / name)) for name in ("here", "there"))
    for folder in (here, there):
        folder.create()
    measure_labels(here, experiment, tiles)
    with Client(address) as client:
        measure_labels(there, experiment, tiles, client=client)
    digest = experiment.digest()
    assert there.read_labels(digest) == here.read_labels(digest)


def test_only_tiles_with_new_labels_are_predicted(experiment, truth, folder, calls):
    first = [labelled(experiment, truth, n) for n in (3, 13)]
    measure_labels(folder, experiment, first)
    assert calls == [3, 13]
    measure_labels(folder, experiment, first)
    measure_labels(folder, experiment, [])
    assert calls == [3, 13]
    changed = labelled(experiment, 1 - truth, 13, "b")
    measure_labels(folder, experiment, [first[0], changed, labelled(experiment, truth, 5)])
    assert calls == [3, 13, 5, 13]
    entries = folder.read_labels(experiment.digest())
    assert [(e["tile"], e["sha256"]) for e in entries] == [(3, "a"), (5, "a"), (13, "b")]
    assert folder.read_labels("another run") == []


def test_a_model_that_fails_has_a_cause_and_is_tried_again(
    experiment, truth, folder, calls, monkeypatch
):
    predictor = measuring.predictor

    def failing(candidate, settings):
        if candidate.name == "model-1":
            raise RuntimeError("out of luck")
        return predictor(candidate, settings)

    tile = labelled(experiment, truth, 3)
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "predictor", failing)
        measure_labels(folder, experiment, [tile])
    entries = folder.read_labels(experiment.digest())
    assert set(entries[0]["f1"]) == MODELS - {"model-1"}
    assert "out of luck" in label_failures(entries, [tile])["3"]["model-1"]
    measure_labels(folder, experiment, [tile])
    entries = folder.read_labels(experiment.digest())
    assert set(entries[0]["f1"]) == MODELS
    assert label_failures(entries, [tile]) == {}


def test_a_tile_that_cannot_be_read_or_whose_worker_died_is_a_failure_of_all(
    experiment, truth, monkeypatch
):
    tile = labelled(experiment, truth, 3)
    task = MeasureTile(experiment, {3: tile.labels})
    job = Job(3)

    def unreadable(*_):
        raise OSError("the disk is gone")

    monkeypatch.setattr(measuring, "read_window", unreadable)
    for accuracy in (task(job), task.give_up(job, OSError("the disk is gone"))):
        assert set(accuracy.failures) == MODELS
        assert all("the disk is gone" in cause for cause in accuracy.failures.values())
        assert accuracy.f1 == {}


def test_a_prediction_with_nan_is_a_failure_not_a_number(experiment, truth, monkeypatch):
    def broken(_scorer, tiles, _draws):
        yield tiles[0], [(np.full(tiles[0].shape, np.nan, np.float32), None)]

    monkeypatch.setattr(measuring.TileScorer, "predictions", broken)
    tile = labelled(experiment, truth, 3)
    accuracy = measuring.measure_tile(experiment, 3, tile.labels)
    assert set(accuracy.failures) == MODELS
    assert not accuracy.f1


def test_a_tile_that_says_nothing_is_null_in_the_file(experiment, truth, folder, monkeypatch):
    monkeypatch.setattr(measuring, "accuracy_of", lambda *_: (math.nan, math.nan))
    measure_labels(folder, experiment, [labelled(experiment, truth, 3)])
    data = json.loads((Path(folder.url) / "labels.json").read_text())
    assert data["schema"] == "cte-labels/1"
    assert set(data["tiles"][0]["f1"].values()) == {None}


def test_labels_that_were_not_measured_are_told(experiment, truth):
    assert "--resume" in label_failures([], [labelled(experiment, truth, 3)])["3"]["all"]
