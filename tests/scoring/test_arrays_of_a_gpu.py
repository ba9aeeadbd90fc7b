"""Scoring on arrays of a GPU, the same lines: the same numbers, and only numbers come back.

A stand-in for CuPy refuses what CuPy refuses; networks run on the processor. See
``tests/standin_cupy.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import write_bank

SCRIPT = """
import json, sys
from contextlib import nullcontext
from dataclasses import replace

import standin_cupy

standin_cupy.install()

import numpy as np
from conftest import blobs
from cte_dask import arrays
from cte_dask.inference import outputs, predictor
from cte_dask.models import load_bank
from cte_dask.perturb import kinds
from cte_dask.scoring import block_reader
from cte_dask.scoring.loaded import predictor as predictor_of
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import score_block
from cte_dask.scoring.score_tiles import TileScorer
from cte_dask.volume import open_volume

bank, dims = sys.argv[1], int(sys.argv[2])
shape, tile = {2: ((4, 72, 72), (1, 32, 32)), 3: ((24, 40, 48), (16, 32, 32))}[dims]
settled = resolve(
    open_volume(blobs(shape), axes="zyx"), load_bank(bank), tile=tile, block=(2, 9, 9),
    perturbations=["dropout:0.3", "gaussian:0.1", "brightness:0.1", "contrast:0.7", "gamma:0.8",
                   "rotate", "mirror", "zoom:0.8"],
    metrics=["nhd", "ei", "vrand"], runtime="torch", batch=2,
)
here = [score_block(settled, i) for i in range(len(settled.blocks))]

class Uploads:
    def send(self, voxels):
        return voxels
    def received(self, sent):
        return nullcontext(standin_cupy.asarray(sent))

# what tensors of a GPU would become, and the way there
from_torch, to_torch = arrays.from_torch, arrays.to_torch
for module in (outputs, predictor, kinds):
    module.from_torch = lambda tensor: standin_cupy.ndarray(from_torch(tensor))
kinds.to_torch = lambda frames, device: to_torch(frames)
block_reader.uploads_to = lambda device: Uploads()
standin_cupy.TRANSFERS.clear()
there = [score_block(settled, i) for i in range(len(settled.blocks))]
for one, other in zip(here, there, strict=True):
    assert not one.failures and not other.failures, (one.failures, other.failures)
    assert one.tiles.scored.all()
    np.testing.assert_array_equal(one.status, other.status)
    for name, values in one.tiles.statistics.items():
        np.testing.assert_allclose(other.tiles.statistics[name], values, rtol=1e-6, err_msg=name)
    for name in ("patterns", "counts", "ends", "step"):
        np.testing.assert_array_equal(getattr(one.votes, name), getattr(other.votes, name))
    np.testing.assert_array_equal(one.precision, other.precision)
transfers = list(standin_cupy.TRANSFERS)
scorer = TileScorer(settled, predictor_of(settled.candidates[0], settled.inference),
                    block_reader.read_window(settled, settled.blocks.block_at(0)))
(_, wanted), *_ = scorer.predictions(settled.blocks.block_at(0).tiles[:1], [])
window = replace(scorer.window, voxels=standin_cupy.asarray(scorer.window.voxels))
(_, shown), *_ = replace(scorer, window=window).predictions(
    settled.blocks.block_at(0).tiles[:1], []
)
for one, other in zip(wanted[0], shown[0], strict=True):
    assert type(other) is np.ndarray
    np.testing.assert_array_equal(one, other)
print(json.dumps({"transfers": transfers, "blocks": len(settled.blocks)}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_a_block_is_scored_on_the_gpu_and_only_numbers_come_back(tmp_path, dims):
    bank = write_bank(tmp_path, 2, dims=dims, halo=8)
    command = [sys.executable, "-c", SCRIPT, str(bank), str(dims)]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # the stand-in, as here
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=found)
    assert done.returncode == 0, done.stderr
    noted = json.loads(done.stdout.splitlines()[-1])
    sizes: dict[str, list[int]] = {"to host": [], "to device": []}
    for direction, shape in noted["transfers"]:
        size = 1
        for extent in shape:
            size *= extent
        sizes[direction].append(size)
    tile = 32 * 32
    assert max(sizes["to host"]) < tile / 4
    # the voxels of each block once; else core masks of a bit a voxel, bounds and strides
    large = [size for size in sizes["to device"] if size >= tile]
    assert len(large) == noted["blocks"]
