"""Areas of one value, padding or chunks that are not stored, change nothing of what is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import blobs, write_bank
from troubled import cte, write_flood

from cte_dask.volume import open_volume, write_ome_zarr
from cte_dask.volume.statistics import intensity_statistics

SHAPE = (4, 128, 128)
LEFT = slice(0, 2)


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Path:
    return write_bank(tmp_path_factory.mktemp("bank"), 2)


def target(path: Path, image: np.ndarray) -> Path:
    size = {"voxel_size_nm": (10.0, 10.0, 10.0), "chunks": (1, 64, 64), "n_levels": 1}
    write_ome_zarr(path, image, axes="zyx", **size)
    return path


@pytest.fixture
def half_written(tmp_path) -> Path:
    """A conversion that broke off: the last two planes were never written."""
    path = target(tmp_path / "half.zarr", blobs(SHAPE))
    array = next(p for p in path.rglob("c") if p.is_dir())
    for plane in ("2", "3"):
        shutil.rmtree(array / plane)
    return path


@pytest.fixture
def padded(tmp_path) -> Path:
    """The same image with a black border of planes."""
    image = blobs(SHAPE)
    image[2:] = 0
    return target(tmp_path / "padded.zarr", image)


def ranked(path: Path, bank: Path, *options: str) -> tuple[dict, str]:
    run = path.parent / f"{path.stem}-RUN"
    asked = ["--cluster", "none", "--tile", "1,64,64", *options]
    done = cte("rank", path, "--bank", bank, "--out", run, *asked)
    assert done.exit_code == 0, done.output
    return json.loads((run / "ranking.json").read_text()), done.output


@pytest.mark.parametrize("kind", ["half_written", "padded"])
def test_intensities_are_those_of_what_was_imaged(kind, request):
    path = request.getfixturevalue(kind)
    whole = open_volume(path)
    imaged = intensity_statistics(open_volume(blobs(SHAPE)[LEFT]))
    statistics = intensity_statistics(whole)
    assert statistics.percentiles == imaged.percentiles
    assert statistics.mean == imaged.mean
    assert statistics.constant_fraction == 0.5


@pytest.mark.parametrize("kind", ["half_written", pytest.param("padded", marks=pytest.mark.slow)])
def test_models_are_scored_where_something_was_imaged_and_nowhere_else(kind, request, bank):
    path = request.getfixturevalue(kind)
    result, _ = ranked(path, bank)
    only, _ = ranked(target(path.parent / "only.zarr", blobs(SHAPE)[LEFT]), bank)
    assert result["skipped"] == {"constant": 8}
    for model, alone in zip(result["models"], only["models"], strict=True):
        assert model["name"] == alone["name"]
        for name, score in model["scores"].items():
            assert score["n_tiles"] == 8
            assert score["cte"] == alone["scores"][name]["cte"]


def test_a_model_that_predicts_everything_is_found_on_the_tiles_that_hold_something(
    half_written, tmp_path
):
    """Over all of the target it would mark half."""
    bank = write_bank(tmp_path / "bank", 2)
    write_flood(tmp_path / "bank" / "model-1.safetensors")
    result, _ = ranked(half_written, bank)
    assert {m["name"]: m["flags"] for m in result["models"]} == {
        "model-0": [],
        "model-1": ["predicts everything"],
    }
    assert [m["name"] for m in result["models"]] == ["model-0", "model-1"]


def test_chunks_that_are_not_stored_are_told_by_plan_rank_status_and_report(half_written, bank):
    told = "8 of 16 chunks are not stored"
    result, output = ranked(half_written, bank)
    run = half_written.parent / "half-RUN"
    assert result["not_stored"].startswith(told)
    assert told in output
    assert told in cte("status", run).output
    assert told in cte("plan", half_written, "--bank", bank, "--tile", "1,64,64").output
    assert cte("report", run, "--gallery", "0", "--quiet").exit_code == 0
    assert told in (run / "report.html").read_text()


def test_a_target_that_is_all_there_is_told_nothing(tmp_path, bank):
    result, output = ranked(target(tmp_path / "t.zarr", blobs(SHAPE)), bank)
    assert "not_stored" not in result
    assert "not stored" not in output


def test_a_dark_background_that_is_not_of_one_value_stays(tmp_path):
    image = np.zeros(SHAPE, np.uint8)
    image[:, ::8, ::8] = np.random.default_rng(0).integers(1, 255, (4, 16, 16))
    assert intensity_statistics(open_volume(image)).constant_fraction == 0
