"""``cte suggest``, and ``cte rank --labels`` with what somebody drew: from one end to the other."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from cte_dask.cli.app import app
from cte_dask.results.experiment_file import reopen
from cte_dask.results.run_folder import RunFolder

FAST = ["--cluster", "none", "--tile", "1,32,32", "--quiet"]
MEASURED = ["--roi", "1:3,0:88,0:104", "--perturb", "mirror", "--rank-by", "transfer"]
NUMBER = 3


def cte(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def rank(target, bank, out, *more):
    return cte("rank", target, "--bank", bank, "--out", out, *FAST, *MEASURED, *more)


def refused(result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    for word in words:
        assert word in line, line


def drawn(folder: Path, number: int, truth: np.ndarray) -> np.ndarray:
    """Save labels of a tile as napari does: the truth below it."""
    entry = next(
        e for e in json.loads((folder / "tiles.json").read_text())["tiles"] if e["tile"] == number
    )
    box = tuple(slice(a, b) for a, b in zip(entry["start"], entry["stop"], strict=True))
    labels = truth[box][0].astype(np.uint16)
    tifffile.imwrite(folder / f"tile-{number}-label.tif", labels, compression="zlib")
    return labels


@pytest.fixture(scope="module")
def truth(image):
    return image > np.percentile(image, 60)


@pytest.fixture(scope="module")
def finished(target, bank_path, tmp_path_factory):
    """A run, and tiles suggested for it."""
    out = tmp_path_factory.mktemp("run") / "RUN"
    assert rank(target, bank_path, out).exit_code == 0
    result = cte("suggest", out, "--tiles", NUMBER, "--json", "--quiet")
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, to be changed."""
    return Path(shutil.copytree(finished[0], tmp_path / "RUN"))


def test_tiles_are_files_that_any_viewer_opens(finished, image):
    out, suggestion = finished
    folder = out / "suggestion"
    assert suggestion["folder"] == str(folder)
    assert len(suggestion["tiles"]) == NUMBER
    described = json.loads((folder / "tiles.json").read_text())
    assert described["schema"] == "cte-suggestion/1"
    for tile, entry in zip(suggestion["tiles"], described["tiles"], strict=True):
        assert tile["tile"] == entry["tile"]
        assert tile["start"] == entry["start"]
        assert set(tile["models"]) < {"model-0", "model-1", "model-2"}
        box = tuple(slice(a, b) for a, b in zip(entry["start"], entry["stop"], strict=True))
        assert box[0].start >= 1, "in voxels of the target, not of its region"
        np.testing.assert_array_equal(tifffile.imread(folder / entry["image"]), image[box][0])
        empty = tifffile.imread(folder / entry["label"])
        assert (empty.dtype, empty.any()) == (np.uint16, False)
        assert empty.shape == image[box][0].shape
    readme = (folder / "README.txt").read_text()
    assert suggestion["command"] in readme
    assert "napari" in readme


def test_the_same_run_suggests_the_same_tiles_as_a_table(finished, tmp_path):
    out, suggestion = finished
    again = cte("suggest", out, "--tiles", NUMBER, "--out", tmp_path / "T", "--quiet")
    assert again.exit_code == 0, again.output
    for tile in suggestion["tiles"]:
        assert str(tile["tile"]) in again.stdout
        assert " and ".join(tile["models"]) in again.stdout
    for name in ("tiles.json", *(f"tile-{t['tile']}-label.tif" for t in suggestion["tiles"])):
        assert (tmp_path / "T" / name).read_bytes() == (out / "suggestion" / name).read_bytes()


def test_labels_that_exist_are_never_overwritten(finished):
    refused(cte("suggest", finished[0], "--quiet"), "suggestion exists", "another --out")


def test_more_tiles_than_there_are_are_all_of_them(finished, tmp_path):
    result = cte("suggest", finished[0], "--tiles", 1000, "--out", tmp_path / "T", "--json")
    suggestion = json.loads(result.stdout)
    assert len(suggestion["tiles"]) <= 2 * 3 * 3
    assert f"only {len(suggestion['tiles'])} tiles" in suggestion["note"]


def test_the_printed_command_goes_on_with_what_is_drawn(run, finished, truth, target, bank_path):
    numbers = [t["tile"] for t in finished[1]["tiles"]]
    folder = run / "suggestion"
    for number in numbers[:2]:
        drawn(folder, number, truth)
    suggestion = cte("suggest", run, "--tiles", 1, "--out", run / "more", "--json", "--quiet")
    _, *words = shlex.split(json.loads(suggestion.stdout)["command"])
    words[words.index("--labels") + 1] = str(folder)
    before = (run / "scores.zarr" / "values" / "c").stat().st_mtime_ns
    result = cte(*words, "--cluster", "none")
    assert result.exit_code == 0, result.output
    assert "corrected by 2 labelled tiles" in result.stdout
    assert f"not labelled, left out: tiles {numbers[2]}" in result.stderr
    assert (run / "scores.zarr" / "values" / "c").stat().st_mtime_ns == before

    ranking = json.loads((run / "ranking.json").read_text())
    assert ranking["primary"] == "labelled_f1"
    assert ranking["bank"]["labelled_tiles"] == 2
    values = [m["estimated_f1"]["value"] for m in ranking["models"]]
    assert values == sorted(values, reverse=True)
    kept = json.loads((run / "labels.json").read_text())
    assert kept["schema"] == "cte-labels/1"
    assert [e["tile"] for e in kept["tiles"]] == sorted(numbers[:2])

    assert rank(target, bank_path, run, "--resume").exit_code == 0
    assert json.loads((run / "ranking.json").read_text()) == ranking, "kept without the labels"

    more = cte("suggest", run, "--tiles", 1000, "--out", run / "rest", "--json", "--quiet")
    assert not {t["tile"] for t in json.loads(more.stdout)["tiles"]} & set(numbers[:2])
    page = cte("report", run, "--gallery", 0)
    assert page.exit_code == 0, page.output
    text = (run / "report.html").read_text()
    assert "corrected by 2 labelled tiles" in text
    for model in ranking["models"]:  # under CTE, not what ranks
        value = model["consistency"]["value"]
        assert f'<td class="r" data-value="{value}">{value:.3f}</td>' in text


def test_overwriting_a_run_forgets_its_labels(run, finished, truth, target, bank_path):
    drawn(run / "suggestion", finished[1]["tiles"][0]["tile"], truth)
    RunFolder(str(run)).write_labels(reopen(str(run)).digest(), [])
    assert rank(target, bank_path, run, "--overwrite").exit_code == 0
    assert json.loads((run / "ranking.json").read_text())["primary"] == "cte"
    assert not (run / "labels.json").exists()


def test_labels_correct_a_race_at_its_end(run, finished, truth, target, bank_path):
    for tile in finished[1]["tiles"]:
        drawn(run / "suggestion", tile["tile"], truth)
    options = ["--resume", "--until", "decided", "--labels", run / "suggestion"]
    result = rank(target, bank_path, run, *options)
    assert result.exit_code == 0, result.output
    ranking = json.loads((run / "ranking.json").read_text())
    assert ranking["verdict"]
    assert ranking["primary"] == "labelled_f1"
    values = [m["estimated_f1"] for m in ranking["models"]]
    assert all(v["low"] <= v["value"] <= v["high"] for v in values), "not those of the race"
    assert [m["transfer"]["low"] for m in ranking["models"]] == [v["low"] for v in values]
    assert cte("report", run, "--gallery", 0).exit_code == 0
    page = (run / "report.html").read_text()
    assert ranking["verdict"] not in page, "what a race without labels has proven"


def test_a_new_run_on_the_target_takes_labels_of_an_earlier_one(
    run, finished, truth, target, bank_path, tmp_path
):
    folder = run / "suggestion"
    for tile in finished[1]["tiles"]:
        drawn(folder, tile["tile"], truth)
    wider = [*FAST, "--perturb", "mirror", "--roi", "0:3,0:88,0:104", "--labels", folder]
    out = tmp_path / "NEW"
    result = cte("rank", target, "--bank", bank_path, "--out", out, *wider)
    assert result.exit_code == 0, result.output
    kept = json.loads((out / "labels.json").read_text())["tiles"]
    assert [e["tile"] for e in kept] == sorted(t["tile"] + 3 * 3 for t in finished[1]["tiles"]), (
        "a plane of tiles further on"
    )
    assert json.loads((out / "ranking.json").read_text())["primary"] == "labelled_f1"


def test_labels_are_looked_at_before_anything_is_scored(run, target, bank_path, tmp_path):
    out = tmp_path / "OTHER"
    refused(rank(target, bank_path, out, "--labels", run / "suggestion"), "is labelled", "draw")
    refused(rank(target, bank_path, out, "--labels", tmp_path), "cte suggest")
    refused(rank(target, bank_path, out, "--labels", tmp_path, "--shard", "1/2"), "--shard")
    assert not (out / "scores.zarr").exists()


def test_instances_are_measured_where_they_are_compared(target, bank_path, tmp_path, image):
    from scipy.ndimage import label

    out = tmp_path / "RUN"
    options = [*FAST, "--roi", "0:1,0:64,0:64", "--perturb", "mirror", "--metric", "vrand"]
    options += ["--rank-by", "transfer"]
    ranked = cte("rank", target, "--bank", bank_path, "--out", out, *options)
    assert ranked.exit_code == 0, ranked.output
    result = cte("suggest", out, "--tiles", 2, "--json", "--quiet")
    assert result.exit_code == 0, result.output
    objects = np.stack([label(plane)[0] for plane in image > np.percentile(image, 60)])
    folder = out / "suggestion"
    for tile in json.loads(result.stdout)["tiles"]:
        drawn(folder, tile["tile"], objects)
    assert "a number of its own" in (folder / "README.txt").read_text()
    more = cte(
        "rank", target, "--bank", bank_path, "--out", out, *options, "--resume", "--labels", folder
    )
    assert more.exit_code == 0, more.output
    ranking = json.loads((out / "ranking.json").read_text())
    assert ranking["primary"] == "labelled_precision"
    values = [m["precision"]["value"] for m in ranking["models"]]
    assert values == sorted(values, reverse=True)
    assert "precision of the objects, corrected by 2 labelled tiles" in more.stdout
    assert cte("report", out, "--gallery", 0).exit_code == 0
    page = (out / "report.html").read_text()
    assert f'<td class="r" data-value="{values[0]}">{values[0]:.2f}</td>' in page
    for entry in json.loads((out / "labels.json").read_text())["tiles"]:
        assert set(entry["precision"]) == {"model-0", "model-1", "model-2"}
