"""Progress: the medians shown are those of the tiles so far, kept in memory of fixed size."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import blobs
from rich.console import Console

from cte_dask.models import load_bank
from cte_dask.report.terminal.progress import BINS, RunProgress
from cte_dask.results.layout import layout_of
from cte_dask.scoring.block_scores import STATUS, BlockScores, unscored
from cte_dask.scoring.resolve import resolve
from cte_dask.volume import open_volume


@pytest.fixture(scope="module")
def progress(bank_path):
    volume = open_volume(blobs((2, 64, 64)))
    experiment = resolve(volume, load_bank(str(bank_path)), tile=(1, 32, 32), block=(1, 2, 2))
    return RunProgress(layout_of(experiment), 50, Console(quiet=True))


def test_shown_medians_are_those_of_all_tiles_and_memory_does_not_grow(progress):
    random, seen = np.random.default_rng(0), [[], [], []]
    before = progress.counts.nbytes
    for index in range(50):
        tiles = unscored((3, 2, 40), "scored")
        tiles.statistics["n_union"][:] = 1000
        disagree = random.integers(0, 1000, (3, 40)) // np.array([[1], [2], [4]])
        tiles.statistics["n_disagree"][:] = disagree[:, None]
        tiles.status[0, :, :7] = STATUS["failed"]
        for model, row in enumerate(disagree):
            seen[model] += list(1 - row[7 if model == 0 else 0 :] / 1000)
        progress(BlockScores(index, tiles, {}))
    shown = dict(progress._medians())
    for model, consistencies in enumerate(seen):
        assert shown[f"model-{model}"] == pytest.approx(np.median(consistencies), abs=2e-3)
    assert progress.counts.nbytes == before == 3 * (BINS + 1) * 8
    assert progress.counts.sum() == sum(map(len, seen))


def test_a_tile_counts_with_the_mean_of_its_draws(bank_path):
    volume = open_volume(blobs((2, 64, 64)))
    bank = load_bank(str(bank_path)).select(["model-0"])
    options = {"perturbations": ("gaussian:0.1",), "repeats": 2, "tile": (1, 32, 32)}
    layout = layout_of(resolve(volume, bank, **options))
    progress = RunProgress(layout, 1, Console(quiet=True))
    tiles = unscored((1, 2, 3), "scored")
    tiles.statistics["n_union"][:] = 100
    tiles.statistics["n_disagree"][:] = [[[0, 0, 0], [40, 40, 40]]]
    progress(BlockScores(0, tiles, {}))
    assert dict(progress._medians()) == {"model-0": 0.8}
