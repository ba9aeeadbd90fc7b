"""A worker's memory is that of a block's slabs: a terabyte wants what a gigabyte does, as planned.

Everything is real but the networks' passes, which would take hours: the target is read slab by slab
through zarr, its tiles get made-up numbers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import zarr

EDGES = {"gigabyte": 1024, "terabyte": 10240}
SCRIPT = """
import json, sys
from types import SimpleNamespace
import numpy as np
from cte_dask.models import load_bank
from cte_dask.engine.cost import plan
from cte_dask.scoring import score_block as scoring
from cte_dask.scoring.block_scores import unscored
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_tiles import TileScorer
from cte_dask.engine.cost import load_kernels
from cte_dask.inference.memory import peak_memory
from cte_dask.volume import open_volume

def made_up(self, tiles, draws, keep=None):
    scores = unscored((len(draws), len(tiles)), "scored")
    for tile in tiles:
        assert not self._box(tile, self.ready.view(None).box).any()
    if keep is not None:  # the bank's masks of a block wait for each other, as the plan counts
        nothing = np.zeros((len(tiles), *self.experiment.grid.tile), np.float32)
        cores = [tuple(slice(0, n) for n in tile.shape) for tile in tiles]
        prediction = SimpleNamespace(foreground=[nothing], labels=None)
        valid = np.ones(len(tiles), bool)
        keep(list(range(len(tiles))), prediction, cores=cores, threshold=0.5, valid=valid)
    return scores

TileScorer.score = made_up
# nothing of the target is stored, so that it fits here; its tiles are to be scored all the same
scoring._mark_constant = lambda *_: None
target, bank, what = sys.argv[1:]
experiment = resolve(open_volume(target), load_bank(bank), workers=2, sample=False)
if what == "plan":
    planned = plan(experiment)
    print(json.dumps({"bytes": planned.bytes_worker, "blocks": planned.blocks}))
else:
    load_kernels("cpu", instances=False)  # as the real TileScorer.score would
    scores = scoring.score_block(experiment, len(experiment.blocks) // 2)
    assert not scores.failures, scores.failures
    voxels = int(np.prod(experiment.blocks.block_shape))
    print(json.dumps({"bytes": peak_memory("cpu")[0], "voxels": voxels}))
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory, bank_path) -> dict[str, dict[str, dict[str, int]]]:
    """What a plan foretells and what scoring one block took, for both targets."""
    folder, found = tmp_path_factory.mktemp("sparse"), {}
    for name, edge in EDGES.items():
        path = folder / f"{name}.zarr"
        zarr.create_array(path, shape=(edge,) * 3, chunks=(64, 128, 128), dtype="uint8")
        found[name] = {what: said(path, bank_path, what) for what in ("plan", "score")}
    return found


def said(target: Path, bank: Path, what: str) -> dict[str, int]:
    command = [sys.executable, "-c", SCRIPT, str(target), str(bank), what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, int] = json.loads(done.stdout)
    return result


def test_a_terabyte_wants_the_memory_of_a_gigabyte(reports):
    assert reports["terabyte"]["score"]["voxels"] > 4 * reports["gigabyte"]["score"]["voxels"]
    ratio = reports["terabyte"]["score"]["bytes"] / reports["gigabyte"]["score"]["bytes"]
    assert 0.9 < ratio < 1.1


@pytest.mark.parametrize("name", EDGES)
def test_memory_is_as_planned(reports, name):
    ratio = reports[name]["score"]["bytes"] / reports[name]["plan"]["bytes"]
    assert 1 / 1.3 < ratio < 1.3, reports
    assert reports[name]["plan"]["blocks"] <= 2000 * max(1, EDGES[name] ** 3 / 2**40)
