"""Calibration: the pilot, the curve, the choice, the files, and one line for bad input."""

from __future__ import annotations

import csv
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from cli.test_rank import cte, refused
from conftest import write_bank

import cte_dask
from cte_dask.models import load_bank
from cte_dask.ranking.calibration.calibrate import calibrate, parse_grid, pilot_indices
from cte_dask.ranking.calibration.numbers import calibration_dict
from cte_dask.ranking.calibration.strengths import calibrated
from cte_dask.tiles import TileGrid
from cte_dask.volume import open_volume

GRID = (0.05, 0.2, 0.5)
TILE = (1, 32, 32)


@pytest.fixture(scope="module")
def volume(target):
    return open_volume(str(target))


@pytest.fixture(scope="module")
def bank(bank_path):
    return load_bank(str(bank_path))


@pytest.fixture(scope="module")
def calibration(volume, bank):
    return calibrate(volume, bank, grid=GRID, tile=TILE, pilot_tiles=12)


def curve(calibration) -> list[dict]:
    return calibration_dict(calibration)["strengths"]


@pytest.mark.slow
def test_the_whole_curve_is_reported_and_the_choice_follows_from_it(calibration):
    assert [s.perturbation for s in calibration.strengths] == [
        "dropout:0.05",
        "dropout:0.2",
        "dropout:0.5",
    ]
    for strength in calibration.strengths:
        assert 0 <= strength.agreement <= 1
        assert strength.n_tiles <= calibration.n_pilot == 12
        assert strength.eligible == (strength.spread.ratio > 1)
        assert {m.name for m in strength.models} == set(calibration.compared)
    pool = [s for s in calibration.strengths if s.eligible or calibration.fallback]
    assert calibration.chosen.agreement == max(s.agreement for s in pool)
    assert (calibration.n_grid, calibration.complete) == (54, True)


def test_the_curve_is_that_of_the_whole_run_on_the_pilots_tiles_however_it_is_cut(
    volume, bank, calibration
):
    block = (4, 2, 3)
    names = [s.perturbation for s in calibration.strengths]
    repeats = calibration.experiment.repeats
    assert repeats == 4, "a random perturbation is drawn several times on a pilot"
    lazy = cte_dask.score(
        volume, bank, perturbations=names, tile=TILE, block=block, repeats=repeats
    )
    whole = lazy.compute(scheduler="synchronous")
    pilot = pilot_of(replace(calibration.experiment, per_block=block), 12)
    part = whole.isel(tile=[int(np.flatnonzero(whole.tile == i)[0]) for i in pilot])
    same = calibrated(calibration.experiment, part)
    assert same.index == calibration.index
    for a, b in zip(same.strengths, calibration.strengths, strict=True):
        assert (a.agreement, a.n_tiles) == pytest.approx((b.agreement, b.n_tiles))
        assert a.spread.ratio == pytest.approx(b.spread.ratio, rel=1e-6)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_curve_in_this_process_and_on_a_cluster(
    volume, bank, calibration, address
):
    from distributed import Client

    with Client(address) as client:
        there = calibrate(volume, bank, grid=GRID, tile=TILE, pilot_tiles=12, client=client)
    assert curve(there) == curve(calibration)


def pilot_of(experiment, count: int) -> tuple[int, ...]:
    return pilot_indices(experiment.volume, experiment.grid, count, seed=experiment.seed)


def test_a_pilot_is_spread_over_the_target_and_seeded(experiment):
    pilot = pilot_of(experiment, 12)
    assert list(pilot) == sorted(set(pilot))
    assert {experiment.grid.tile_at(i).start[0] for i in pilot} == set(range(6))
    assert pilot_of(replace(experiment, seed=1), 12) != pilot
    assert pilot_of(experiment, 10**6) == tuple(range(54))


def test_a_pilot_never_lists_the_tiles_of_a_petabyte(experiment, tmp_path):
    path = tmp_path / "petabyte.zarr"
    zarr.create_array(path, shape=(10**5,) * 3, chunks=(128,) * 3, dtype="uint8")
    grid = TileGrid((10**5,) * 3, (1, 256, 256))
    huge = replace(experiment, volume=open_volume(str(path)), grid=grid)
    began = time.monotonic()
    drawn = pilot_of(huge, 64)
    assert time.monotonic() - began < 2
    assert [i * 64 // len(huge.grid) for i in drawn] == list(range(64))


def test_a_pilot_lies_within_the_mask(target, image, experiment, bank):
    mask = np.zeros(image.shape, np.uint8)
    mask[:, 70:, 70:] = 1
    pilot = pilot_of(replace(experiment, volume=open_volume(str(target), mask=mask)), 6)
    assert pilot
    for index in pilot:
        assert min(experiment.grid.tile_at(index).start[1:]) == 64
    empty = open_volume(str(target), mask=np.zeros_like(mask))
    with pytest.raises(ValueError, match="mask"):
        calibrate(empty, bank, tile=TILE, grid=GRID)


def scores_of(experiment, tables: np.ndarray, *, foreground=None):
    """Simulated tile scores (model, perturbation, tile) of an experiment's pilot."""
    from ranking.test_rank import dataset

    names = [c.name for c in experiment.candidates]
    tiles = tables.shape[-1]
    one = dataset({n: [0.5] * tiles for n in names}, foreground=foreground)
    wide = one.isel(perturbation=[0] * len(experiment.perturbations))
    wide = wide.assign_coords(perturbation=[p.name for p in experiment.perturbations])
    return wide.assign(nhd=(("model", "perturbation", "tile"), tables))


@pytest.fixture(scope="module")
def experiment(calibration):
    return calibration.experiment


def tables(*, noise: float = 0.03) -> np.ndarray:
    """Too weak, right and too strong: three models 0.2 apart at the second strength alone.

    (model, perturbation, tile). Each model's noise is the same numbers in another order, so that
    models that are alike have the same median.
    """
    rng = np.random.default_rng(0)
    centres = np.array([[0.95, 0.7, 0.05], [0.95, 0.5, 0.05], [0.95, 0.3, 0.05]])
    same = np.broadcast_to(rng.standard_normal((1, 3, 40)), (3, 3, 40))
    return centres[:, :, None] + noise * rng.permuted(same, axis=2)


def test_too_weak_and_too_strong_strengths_are_not_chosen(experiment):
    calibration = calibrated(experiment, scores_of(experiment, tables()))
    assert [s.eligible for s in calibration.strengths] == [False, True, False]
    assert calibration.chosen.perturbation == "dropout:0.2"
    assert calibration.chosen.agreement > 0.9
    assert not calibration.fallback


def test_where_no_strength_tells_models_apart_it_is_said(experiment):
    same = tables()
    same[:, 1] = same[:, 0]
    calibration = calibrated(experiment, scores_of(experiment, same))
    assert calibration.fallback
    assert not any(s.eligible for s in calibration.strengths)
    assert calibration.chosen.agreement == max(s.agreement for s in calibration.strengths)


def test_a_model_that_predicts_everything_is_left_out(experiment):
    full = tables()
    full[2] = np.random.default_rng(5).random((3, 40))  # would spoil the agreement
    calibration = calibrated(experiment, scores_of(experiment, full, foreground={"model-2": 0.99}))
    assert calibration.compared == ("model-0", "model-1")
    assert calibration.degenerate == {"model-2": ("predicts everything",)}
    assert calibration.chosen.perturbation == "dropout:0.2"
    alone = scores_of(experiment, full, foreground=dict.fromkeys(("model-1", "model-2"), 0.99))
    with pytest.raises(ValueError, match="at least two models"):
        calibrated(experiment, alone)


def test_tiles_on_which_a_model_says_nothing_are_left_out_of_the_agreement(experiment):
    holes = tables()
    holes[0, :, ::4] = math.nan
    holes[1, 2, 1::4] = math.nan
    calibration = calibrated(experiment, scores_of(experiment, holes))
    assert [s.n_tiles for s in calibration.strengths] == [30, 30, 20]
    whole = np.delete(tables(), np.arange(0, 40, 4), axis=2)
    same = calibrated(experiment, scores_of(experiment, whole))
    assert calibration.strengths[1].agreement == same.strengths[1].agreement
    fractions = [m.scores["nhd@dropout:0.2"].nan_fraction for m in calibration.strengths[1].models]
    assert sorted(fractions) == [0, 0, 0.25]


def test_without_a_tile_that_all_models_score_there_is_a_clear_refusal(experiment):
    holes = tables()
    holes[0, :, ::2] = math.nan
    holes[1, :, 1::2] = math.nan
    with pytest.raises(ValueError, match="on 0 tiles all 3 models"):
        calibrated(experiment, scores_of(experiment, holes))


def test_a_kind_of_which_no_strengths_are_known_asks_for_a_grid(volume, bank):
    with pytest.raises(ValueError, match="no strengths are known for 'zoom'"):
        calibrate(volume, bank, kind="zoom")


def test_grids_are_read_as_written():
    assert parse_grid("dropout", None) == ("dropout", None)
    assert parse_grid("gaussian", "0.1,0.2") == ("gaussian", (0.1, 0.2))
    assert parse_grid("gamma:1.1:1.3:3", None) == ("gamma", (1.1, 1.2, 1.3))
    assert parse_grid("my.module:thing:1:2:2", None) == ("my.module:thing", (1.0, 2.0))
    assert parse_grid("mine:thing:1:2:2", None) == ("mine:thing", (1.0, 2.0))
    assert parse_grid("my.module:thing", "3,4") == ("my.module:thing", (3.0, 4.0))


def test_options_that_calibration_decides_are_refused(volume, bank):
    with pytest.raises(TypeError, match="block"):
        calibrate(volume, bank, block=(1, 2, 2))


# The command ------------------------------------------------------------------------------------


def command(target: str | Path, bank: str | Path, out: Path, *more: str):
    fast = ["--cluster", "none", "--tile", "1,32,32", "--quiet", "--pilot-tiles", "6"]
    return cte("calibrate", target, "--bank", bank, "--out", out, *fast, *more)


@pytest.fixture(scope="module")
def written(target, bank_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("calibration") / "OUT"
    result = command(target, bank_path, out, "--strengths", "0.1,0.3")
    assert result.exit_code == 0, result.output
    return out, result


def test_the_command_prints_the_curve_and_writes_numbers_and_picture(written):
    out, result = written
    numbers = json.loads((out / "calibration.json").read_text())
    assert numbers["schema"] == "cte-calibration/1"
    assert numbers["chosen"] in ("dropout:0.1", "dropout:0.3")
    assert f"--perturb {numbers['chosen']}" in result.stdout
    assert [s["chosen"] for s in numbers["strengths"]].count(True) == 1
    for strength in numbers["strengths"]:
        assert {"kendall_w", "spread_ratio", "eligible", "n_tiles"} <= set(strength)
        for model in strength["models"].values():
            assert {"cte", "nan_fraction"} <= set(model)
    rows = list(csv.DictReader((out / "calibration.csv").read_text().splitlines()))
    assert [float(r["strength"]) for r in rows] == [0.1, 0.3]
    first = numbers["strengths"][0]
    assert float(rows[0]["kendall_w"]) == first["kendall_w"]
    assert float(rows[0]["model-1 cte"]) == first["models"]["model-1"]["cte"]
    assert (out / "calibration.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_worker_processes_give_the_same_numbers_bit_for_bit(target, bank_path, tmp_path, address):
    options = ("--perturb", "gaussian:0.05:0.2:2", "--metric", "vrand", "--border", "1")
    here = command(target, bank_path, tmp_path / "none", *options)
    # the last --cluster given counts
    there = command(target, bank_path, tmp_path / "there", *options, "--cluster", address)
    assert (here.exit_code, there.exit_code) == (0, 0), there.output
    one, two = ((tmp_path / n / "calibration.json").read_bytes() for n in ("none", "there"))
    assert one == two
    assert json.loads(one)["metric"] == "vrand"


@pytest.mark.slow
def test_the_border_of_instances_is_left_out_as_asked(volume, bank):
    options = {"kind": "gaussian", "grid": (0.05, 0.1), "metric": "vrand", "pilot_tiles": 6}
    plain, banded = (
        calibrate(volume, bank, tile=TILE, border=border, **options) for border in (0, 1)
    )
    assert (plain.experiment.border, banded.experiment.border) == (0, 1)
    assert curve(plain) != curve(banded)


def test_a_calibration_is_not_lost(written, target, bank_path):
    refused(command(target, bank_path, written[0]), "--overwrite")


@pytest.mark.slow
def test_json_alone_is_printed_and_without_matplotlib_the_remedy_is_told(
    target, bank_path, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    options = ("--perturb", "gaussian:0.05:0.2:2", "--json")
    result = command(target, bank_path, tmp_path / "OUT", *options)
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert [s["strength"] for s in shown["strengths"]] == [0.05, 0.2]
    assert "cte-dask[report]" in result.stderr
    assert {p.name for p in (tmp_path / "OUT").iterdir()} == {"calibration.json", "calibration.csv"}


def test_an_excluded_model_makes_the_calibration_incomplete(target, tmp_path):
    bank = write_bank(tmp_path / "bank", 3)
    (tmp_path / "bank" / "model-1.safetensors").write_bytes(b"broken")
    result = command(target, bank, tmp_path / "OUT", "--strengths", "0.1,0.3")
    assert result.exit_code == 3
    assert "excluded: model-1" in result.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--perturb", "dropot"), ("dropot", "dropout")),
        (("--perturb", "gaussian:0.1"), ("gaussian:0.1", "kind:low:high:number")),
        (("--perturb", "gaussian:a:b:c"), ("gaussian:a:b:c",)),
        (("--perturb", "gaussian:0.1:0.2:1"), ("gaussian:0.1:0.2:1", "two")),
        (("--perturb", "dropout:0.1:1.5:3"), ("1.5", "dropout")),
        (("--perturb", "gaussian:0.1:0.2:3", "--strengths", "1,2"), ("--strengths",)),
        (("--strengths", "0.1;0.2"), ("0.1;0.2",)),
        (("--strengths", "0.1"), ("0.1", "two strengths")),
        (("--strengths", "0.1,0.1"), ("twice",)),
        (("--metric", "nhdd"), ("nhdd", "nhd")),
        (("--perturb", "rotate"), ("'rotate'", "no strength")),
        (("--pilot-tiles", "1"), ("pilot_tiles", "1")),
        (("--seed", "-1"), ("-1",)),
        (("--border", "-1"), ("border", "-1")),
        (("--cluster", "locla"), ("locla", "local")),
        (("--workers", "0"), ("workers", "0")),
        (("--tile", "1,2"), ("1,2",)),
        (("--roi", "banana"), ("banana",)),
    ],
)
def test_bad_options_are_refused(target, bank_path, tmp_path, options, words):
    refused(command(target, bank_path, tmp_path / "OUT", *options), *words)
