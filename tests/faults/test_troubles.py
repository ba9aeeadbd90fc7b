"""One run with every trouble that data and models make, on workers of Dask: all of it is told.

A chunk that cannot be decoded, voxels that are NaN, a model that raises, and a block that kills
every worker that touches it with one of the models; the rest is unharmed.
"""

from __future__ import annotations

import json
import math

import dask
import noting
import numpy as np
import pytest
from conftest import blobs
from typer.testing import CliRunner

from cte_dask.cli.app import app
from cte_dask.models import load_bank
from cte_dask.ranking.rank_target import rank_target
from cte_dask.results.block_codec import encoded
from cte_dask.results.store import DONE, open_scores
from cte_dask.scoring.block_scores import STATUS
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import score_block
from cte_dask.scoring.settings import TargetOptions
from cte_dask.volume import open_volume, write_ome_zarr

OPTIONS = {"tile": (1, 32, 32), "block": (1, 2, 2), "perturbations": ("gaussian:0.2",)}
POISONED, NAN, CORRUPT, RAISED = 2, 5, 7, 9


@pytest.fixture
def troubled(tmp_path):
    """A target of twelve blocks, four of them troubled, and a bank of three models."""
    image = blobs((12, 64, 64)).astype(np.float32)
    image[POISONED, 5, 5] = 1e6
    image[NAN, 40, 40] = math.nan
    image[RAISED, 5, 5] = -1e6
    path = tmp_path / "target.zarr"
    write_ome_zarr(path, image, axes="zyx", voxel_size_nm=(40.0, 10.0, 10.0), chunks=(1, 64, 64))
    [chunk] = path.rglob(f"c/{CORRUPT}/0/0")
    chunk.write_bytes(b"not a chunk")
    log = str(tmp_path / "log")
    bank = noting.write_bank(
        tmp_path / "bank.yaml",
        noting.entry("sound", "factory", log=log, seconds=0.0),
        noting.entry("raising", "raising"),
        noting.entry("poison", "poison"),
    )
    return str(path), str(bank)


def test_troubles_end_in_statuses_and_the_rest_is_unharmed(troubled, tmp_path):
    target, bank = troubled
    out = str(tmp_path / "RUN")
    seldom = {"distributed.scheduler.allowed-failures": 1}  # two deaths are as good as four
    with dask.config.set(seldom):
        outcome = rank_target(
            TargetOptions(target), bank, out, cluster="local", workers=2, **OPTIONS
        )
    assert outcome.exit_code == 3
    scores = open_scores(f"{out}/scores.zarr")
    assert np.flatnonzero(scores.done() == DONE["failures"]).tolist() == [2, 7, 9]
    assert not (scores.done() == DONE["missing"]).any()

    died = scores.failures(POISONED)
    assert died.keys() == {"poison"}
    assert "the worker process died whenever it was tried" in died["poison"]
    unread = scores.failures(CORRUPT)
    assert unread.keys() == {"sound", "raising", "poison"}
    assert all("cannot read" in why for why in unread.values())
    assert scores.failures(RAISED) == {"raising": "RuntimeError: too dark for me"}

    experiment = resolve(open_volume(target), load_bank(bank), **OPTIONS)
    for index in set(range(12)) - {CORRUPT}:
        models = (0, 1) if index == POISONED else (0, 1, 2)
        want = score_block(experiment, index, models=models).tiles[list(models)]
        got = scores.block(index)[list(models)]
        np.testing.assert_array_equal(encoded(got), encoded(want))
    status = scores.block(NAN).status
    assert (status[..., 3] == STATUS["non_finite_input"]).all()
    assert (status[..., :3] == STATUS["scored"]).all()

    result = json.loads((tmp_path / "RUN" / "ranking.json").read_text())
    assert not result["complete"]
    assert result["blocks"] == {"total": 12, "done": 9, "failed": 3}
    told = CliRunner().invoke(app, ["status", out]).output
    assert "9 of 12 blocks complete, 3 with failures, 0 missing" in told
    assert "block 9, model raising: RuntimeError: too dark for me" in told
    assert "1 tile with NaN or infinite voxels in the target" in told
    assert result["skipped"] == {"non_finite_input": 1, "failed": 12}
