"""A GPU gives the scores that a processor gives, up to rounding. Not yet run on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import blobs, write_bank

from cte_dask.models import load_bank
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import score_block
from cte_dask.volume import open_volume

OPTIONS = {
    "perturbations": ["dropout:0.3", "gaussian:0.1", "gamma:0.8", "mirror", "zoom:0.8"],
    "block": (1, 9, 9),
    "runtime": "torch",
}
CASES = {2: ((6, 88, 104), (1, 32, 32)), 3: ((24, 40, 48), (16, 32, 32))}


def scored(tmp_path, dims: int, device: str, metrics=("nhd", "ei", "vrand"), **options) -> list:
    """Every block of a small bank on one device, and the experiment."""
    shape, tile = CASES[dims]
    bank = load_bank(str(write_bank(tmp_path, 2, dims=dims, halo=8)))
    volume = open_volume(blobs(shape), axes="zyx")
    options = {**OPTIONS, "tile": tile, "metrics": list(metrics), "device": device, **options}
    settled = resolve(volume, bank, **options)
    scores = [score_block(settled, index) for index in range(len(settled.blocks))]
    assert not any(s.failures for s in scores)
    return [settled, *scores]


def assert_alike(here: list, there: list) -> None:
    """A voxel at the threshold may fall to either side, and so may one of two objects at a seam."""
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one.status, other.status)
        a, b = one.tiles.statistics, other.tiles.statistics
        assert np.isfinite(a["n_union"]).any()
        for name in ("n_union", "n_disagree", "sum_ei"):
            difference = np.abs(a[name] - b[name]) / np.maximum(a["n_union"], 100)
            assert float(np.nanmax(difference)) < 0.01, name


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_a_batch_changes_scores_by_rounding_alone(tmp_path, dims):
    (_, *one), (_, *two) = (scored(tmp_path, dims, "cpu", batch=b) for b in (1, 2))
    assert_alike(one, two)


@pytest.mark.gpu
@pytest.mark.parametrize("dims", [2, 3])
def test_gpu_scores_are_those_of_the_processor(tmp_path, dims):
    pytest.importorskip("cupy")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    (_, *here), (_, *there) = (scored(tmp_path, dims, d, batch=2) for d in ("cpu", "cuda"))
    assert_alike(here, there)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["tf32", "bfloat16", "float16"])
def test_gpu_precision_has_its_certificate(tmp_path, precision):
    pytest.importorskip("cupy")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    settled, *_ = scored(tmp_path, 2, "cuda", ("nhd", "ei"), precision=precision)
    for candidate in settled.candidates:
        assert f"{precision} changes scores of 8 tiles by up to" in candidate.note
        assert candidate.proof.form.kind != "split", "fused as in float32"


@pytest.mark.gpu
def test_gpu_batches_are_filled_and_change_scores_by_rounding_alone(tmp_path):
    pytest.importorskip("cupy")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    (filled, *many), (_, *one) = (scored(tmp_path, 2, "cuda", batch=b) for b in (None, 1))
    assert all(c.batch > 1 for c in filled.candidates)
    assert_alike(many, one)
