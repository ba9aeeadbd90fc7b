"""Voxel sizes: told where they do not fit, matched where a model asks for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import blobs, write_bank
from hypothesis import given
from hypothesis import strategies as st

from cte_dask.inference.outputs import resized
from cte_dask.models import load_bank
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import predict_tiles
from cte_dask.scoring.voxel_matching import mismatch, scale_of
from cte_dask.tiles import frame_of
from cte_dask.volume import VoxelSize, open_volume


def bank_of(folder, nm: float, *, resample: bool, dims: int = 2, z: float | None = None):
    path = write_bank(folder, 1, dims=dims, halo=4)
    depth = f"z: {z}, " if z else ""
    path.write_text(
        path.read_text()
        + f"    voxel_size: {{{depth}y: {nm}, x: {nm}, unit: nanometer}}\n"
        + f"    resample: {str(resample).lower()}\n"
    )
    return load_bank(str(path))


def settle(image, bank, size, **options):
    volume = open_volume(image, voxel_size=size)
    return resolve(
        volume, bank, **{"tile": (1, 32, 32), "perturbations": ["dropout:0.5"], **options}
    )


@given(
    tile=st.integers(1, 300),
    halo=st.integers(0, 60),
    multiple=st.sampled_from([1, 2, 8, 16]),
    scale=st.floats(0.2, 5.0),
)
def test_a_frame_holds_tile_and_halo_at_an_extent_the_network_accepts(tile, halo, multiple, scale):
    frame = frame_of((tile,) * 3, halo=(halo,) * 3, multiple=(multiple,) * 3, scale=(scale,) * 3)
    before, read, seen = frame.before[0], frame.shape[0], frame.extent[0]
    assert before * scale >= halo - 1e-6
    assert read >= tile + 2 * before
    assert seen % multiple == 0
    assert abs(seen / read - scale) <= 0.51 * scale / read * max(1, scale)


def test_models_at_the_target_voxel_size_are_not_touched(tmp_path):
    image = blobs((2, 64, 64))
    plain = settle(image, bank_of(tmp_path / "a", 10, resample=False), "40,10,10 nm")
    matched = settle(image, bank_of(tmp_path / "b", 10, resample=True), "40,10,10 nm")
    assert matched.candidates[0].scale == (1.0, 1.0, 1.0)
    for (_, _, (a, _)), (_, _, (b, _)) in zip(
        *(predict_tiles(e, 0, _draws(e)) for e in (plain, matched)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def _draws(experiment):
    from cte_dask.perturb import draws_of

    return draws_of(experiment.perturbations, 1)


def test_resampling_gives_about_the_prediction_of_the_image_at_the_models_scale(tmp_path):
    """A model for 20 nm on a 10 nm target sees what it would see of the 20 nm image."""
    coarse = blobs((1, 48, 48), seed=3).astype(np.float32)
    fine = coarse.repeat(2, axis=1).repeat(2, axis=2)
    matched = settle(
        fine, bank_of(tmp_path / "a", 20, resample=True), "40,10,10 nm", tile=(1, 64, 64)
    )
    plain = settle(coarse, bank_of(tmp_path / "b", 20, resample=False), "40,20,20 nm")
    assert matched.candidates[0].scale == (1.0, 0.5, 0.5)
    ((_, _, (got,)), *_), ((_, _, (want,)), *_) = (
        list(predict_tiles(e, 0, ())) for e in (matched, plain)
    )
    small = got[0].reshape(32, 2, 32, 2).mean(axis=(1, 3))
    assert np.corrcoef(small.ravel(), want[0].ravel())[0, 1] > 0.95
    assert got.shape == (1, 64, 64)


def test_3d_models_are_matched_along_each_axis_of_an_anisotropic_stack(tmp_path):
    bank = bank_of(tmp_path, 10, z=20, resample=True, dims=3)
    experiment = settle(blobs((12, 40, 40)), bank, "40,10,10 nm", tile=(8, 32, 32))
    (candidate,) = experiment.candidates
    assert candidate.scale == (2.0, 1.0, 1.0)
    frame = candidate.frame((8, 32, 32))
    assert frame.extent[0] == 2 * frame.shape[0]
    assert all(n % 4 == 0 for n in frame.extent)
    ((_, _, (reference, perturbed)), *_) = list(predict_tiles(experiment, 0, _draws(experiment)))
    assert reference.shape == perturbed.shape == (8, 32, 32)


def test_resampling_without_a_voxel_size_is_refused(tmp_path):
    bank = bank_of(tmp_path, 10, resample=True)
    with pytest.raises(ValueError, match="needs the target's voxel size along y, x"):
        settle(blobs((1, 64, 64)), bank, None)


def test_a_mismatch_is_told(tmp_path):
    (spec,) = bank_of(tmp_path, 10, resample=False)
    assert mismatch(spec, VoxelSize(40, 11, 11)) == ""
    assert "2× along y" in mismatch(spec, VoxelSize(40, 20, 20))
    assert mismatch(spec, None) == ""
    assert scale_of(spec, VoxelSize(40, 20, 20)) == (1.0, 1.0, 1.0)
    experiment = settle(blobs((1, 64, 64)), bank_of(tmp_path, 10, resample=False), "40,20,20 nm")
    assert "2× along y" in experiment.candidates[0].note


def test_labels_are_resampled_without_new_ids():
    labels = torch.randint(0, 2**31 - 1, (1, 1, 7, 9))
    big = resized(labels, (1, 14, 18), nearest=True)
    assert big.dtype == labels.dtype
    assert set(big.unique().tolist()) == set(labels.unique().tolist())
    assert torch.equal(big[..., ::2, ::2], labels)
