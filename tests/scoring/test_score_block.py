"""A tile's numbers are the method's, whatever the cut, the order, the bank or the place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import zarr
from conftest import blobs, examples, write_bank
from hypothesis import given
from hypothesis import strategies as st

from cte_dask.consistency.binary import binary_agreement, ei, nhd
from cte_dask.inference.graph.bottleneck import hooked
from cte_dask.models import ModelBank, load_bank
from cte_dask.perturb import draws_of
from cte_dask.perturb.kinds import DrawnTiles
from cte_dask.scoring.block_scores import STATUS, TILE_STATISTICS, TileScores
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import predict_tiles, score_block
from cte_dask.volume import open_volume

TILE = (1, 32, 32)
PERTURBATIONS = ("dropout:0.5", "gaussian:0.1", "rotate", "mirror", "zoom:1.125")


def settle(volume, bank, **options):
    given = {"tile": TILE, "perturbations": PERTURBATIONS, "metrics": ("nhd", "ei"), "batch": 3}
    return resolve(volume, bank, **{**given, **options})


def tile_table(experiment, order=None) -> dict[str, dict[int, TileScores]]:
    """Model → tile index → numbers (draw,), blocks taken in some order."""
    table = {c.name: {} for c in experiment.candidates}
    for index in order if order is not None else range(len(experiment.blocks)):
        scores = score_block(experiment, index)
        assert not scores.failures
        for number, candidate in enumerate(experiment.candidates):
            for column, tile in enumerate(experiment.blocks.block_at(index).tiles):
                table[candidate.name][tile.index] = scores.tiles[number, :, column]
    return table


def assert_same_bits(got, want) -> None:
    for model in got:
        assert got[model].keys() == want[model].keys()
        for tile, numbers in got[model].items():
            other = want[model][tile]
            np.testing.assert_array_equal(numbers.status, other.status)
            for name in TILE_STATISTICS:
                np.testing.assert_array_equal(numbers.statistics[name], other.statistics[name])


@pytest.fixture(scope="module")
def bank(bank_path) -> ModelBank:
    return load_bank(str(bank_path))


@pytest.fixture(scope="module")
def volume(target):
    return open_volume(str(target))


@pytest.fixture(scope="module")
def plain(volume, bank):
    """The numbers with one tile a block, in order."""
    return tile_table(settle(volume, bank, block=(1, 1, 1)))


def test_scores_are_not_trivial(plain):
    for draw in range(len(PERTURBATIONS)):
        tiles = [t for of_model in plain.values() for t in of_model.values()]
        union, disagree = (
            np.array([t.statistics[name][draw] for t in tiles])
            for name in ("n_union", "n_disagree")
        )
        assert (union > 0).mean() > 0.9
        consistency = nhd(union, disagree)
        assert (consistency < 1).mean() > 0.3
        assert np.nanmedian(consistency) > 0.2


@pytest.mark.slow
@given(
    block=st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 3)),
    chunks=st.tuples(st.integers(1, 6), st.integers(16, 88), st.integers(16, 104)),
    chosen=st.sets(st.integers(0, 2), min_size=1),
    randomness=st.randoms(use_true_random=False),
)
@examples(12)
def test_same_bits_for_any_blocks_order_chunks_and_bank(
    tmp_path_factory, plain, bank, image, block, chunks, chosen, randomness
):
    path = tmp_path_factory.mktemp("chunked") / "image.zarr"
    zarr.create_array(path, data=image, chunks=chunks)
    part = bank.select([f"model-{i}" for i in sorted(chosen)])
    experiment = settle(open_volume(str(path)), part, block=block)
    order = list(range(len(experiment.blocks)))
    randomness.shuffle(order)
    assert_same_bits(tile_table(experiment, order), plain)


def test_batch_size_and_threads_change_no_score_beyond_rounding(volume, bank, plain):
    for options in ({"batch": 1}, {"batch": 7}, {"threads": 2}):
        experiment = settle(volume, bank, block=(2, 2, 2), **options)
        other = tile_table(experiment, order=(0, len(experiment.blocks) - 1))
        for model in plain:
            for tile, got in other[model].items():
                want = plain[model][tile]
                for score, name in ((nhd, "n_disagree"), (ei, "sum_ei")):
                    a, b = (score(t.statistics["n_union"], t.statistics[name]) for t in (got, want))
                    # one voxel of 1024 may cross the threshold by an ulp
                    np.testing.assert_allclose(a, b, atol=1 / 256)
    torch.set_num_threads(1)


def test_numbers_are_those_of_plain_predictions_done_by_hand(volume, bank, image):
    """The whole chain in the plainest way: preprocess, predict, perturb, predict, count."""
    experiment = settle(volume, bank, block=(1, 1, 1))
    block = experiment.blocks.block_at(4)
    (tile,) = block.tiles
    low, high = np.percentile(image, [1, 99.8])
    padded = np.pad(image, ((0, 0), (8, 48), (8, 48)), mode="reflect")
    (z0, y0, x0) = tile.start
    frame = padded[z0, y0 : y0 + 48, x0 : x0 + 48].astype(np.float32)
    x = torch.from_numpy(((frame - low) / (high - low + 1e-6)).astype(np.float32))[None, None]
    for number, candidate in enumerate(experiment.candidates):
        from cte_dask.models.loading import load_network
        from cte_dask.perturb.dropout import channel_mask

        net = load_network(candidate.spec).forward
        draw = draws_of(experiment.perturbations, 1)[0]
        mask = channel_mask(8, 0.5, key=draw.key(experiment.seed, tile, 0))
        with torch.no_grad():
            reference = torch.sigmoid(net(x))
            with hooked(
                net,
                ("encoders.2",),
                lambda _, y, m=mask: y * torch.from_numpy(m).reshape(1, -1, 1, 1),
            ):
                perturbed = torch.sigmoid(net(x))
        core = (0, 0, slice(8, 40), slice(8, 40))
        want = binary_agreement(reference[core].numpy(), perturbed[core].numpy())
        got = score_block(experiment, 4).tiles[number, 0, 0].statistics
        assert abs(got["n_union"] - want.n_union) <= 2
        assert abs(got["n_disagree"] - want.n_disagree) <= 2
        np.testing.assert_allclose(got["sum_ei"], want.sum_ei, rtol=1e-3)
        assert got["n_voxels"] == 32 * 32


def test_neutral_input_perturbations_are_perfectly_consistent(volume, bank):
    neutral = ("gaussian:0", "brightness:0", "contrast:1", "gamma:1")
    experiment = settle(volume, bank, perturbations=neutral, block=(6, 3, 4))
    statistics = score_block(experiment, 0).statistics
    assert (statistics["n_union"] > 0).any()
    assert (statistics["n_disagree"] == 0).all()


def test_two_models_with_different_halos_see_the_same_noise(volume, bank):
    wide = bank.models[0].model_copy(update={"name": "wide", "halo": {"y": 16, "x": 16}})
    experiment = settle(volume, replace(bank, models=(bank.models[0], wide)), block=(1, 1, 1))
    from cte_dask.scoring.loaded import predictor

    tile = experiment.grid.tile_at(4)
    draw = draws_of(experiment.perturbations, 1)[1]
    seen = []
    for candidate in experiment.candidates:
        ready = predictor(candidate, experiment.inference)
        view, before = ready.view(None), ready.frame.before
        raw = np.zeros((1, *ready.frame.shape), np.float32)
        drawn = DrawnTiles(view, [tile], [draw.key(0, tile)], low=0.0, high=1.0)
        noisy, _ = draw.perturbation.images(raw, drawn)
        core = tuple(slice(b, b + t) for b, t in zip(before, tile.shape, strict=True))
        seen.append(noisy[0][core])
    np.testing.assert_array_equal(*seen)


def test_cut_tiles_are_scored_on_their_core_only(volume, bank, image):
    experiment = settle(volume, bank, block=(6, 3, 4))
    assert experiment.grid.counts == (6, 3, 3)  # 88 = 2·32 + 24 is kept, 104 = 3·32 + 8 is not
    voxels = score_block(experiment, 0).statistics["n_voxels"][0, 0].reshape(6, 3, 3)
    assert set(voxels[:, :2].ravel()) == {32 * 32}
    assert set(voxels[:, 2].ravel()) == {24 * 32}


def test_boxes_under_a_2d_model_share_one_mask_and_one_score(volume, bank):
    experiment = settle(volume, bank, tile=(3, 32, 32), block=(2, 3, 4))
    statistics = score_block(experiment, 0).statistics
    assert set(statistics["n_voxels"][0, 0, :2]) == {3 * 32 * 32}
    assert not np.isnan(statistics["n_union"]).any()


def test_3d_models_are_scored_on_boxes(tmp_path):
    bank = load_bank(str(write_bank(tmp_path / "bank", 2, dims=3, halo=4)))
    image = blobs((24, 40, 40), seed=2)
    volume = open_volume(image)
    table = tile_table(settle(volume, bank, tile=(8, 16, 16), block=(1, 1, 1)))
    again = tile_table(settle(volume, bank, tile=(8, 16, 16), block=(2, 3, 2)), [3, 0, 2, 1])
    assert len(table["model-0"]) == 3 * 3 * 3
    assert_same_bits(again, table)


def test_a_2d_image_can_be_one_tile(bank, image):
    experiment = settle(open_volume(image[0]), bank, tile=(1, 88, 104))
    scores = score_block(experiment, 0)
    assert scores.status.shape[-1] == 1
    assert scores.status[0, 0, 0] == STATUS["scored"]


def test_tiles_outside_the_mask_are_not_predicted(bank, image, target):
    mask = np.zeros(image.shape, np.uint8)
    mask[2, 34:60, 40] = 1
    volume = open_volume(str(target), mask=mask)
    experiment = settle(volume, bank, block=(6, 3, 4))
    status = score_block(experiment, 0).status
    tile = (2 * 3 + 1) * 3 + 1
    assert (status[..., tile] == STATUS["scored"]).all()
    others = np.delete(status, tile, axis=-1)
    assert (others == STATUS["masked"]).all()


def test_tiles_with_nan_are_counted_not_scored(bank, image):
    broken = image.astype(np.float32)
    broken[0, 5, 5] = np.nan
    experiment = settle(open_volume(broken), bank, block=(1, 3, 4))
    scores = score_block(experiment, 0)
    assert (scores.status[:, :, 0] == STATUS["non_finite_input"]).all()
    assert all(np.isnan(numbers[:, :, 0]).all() for numbers in scores.statistics.values())
    assert (scores.status[:, :, 8] == STATUS["scored"]).all()


def test_a_model_that_fails_on_a_block_is_a_failure_with_its_cause(volume, bank, monkeypatch):
    from cte_dask.scoring import score_block as scoring

    experiment = settle(volume, bank, block=(1, 3, 4))
    predictor = scoring.predictor

    def broken(candidate, inference):
        if candidate.name == "model-1":
            raise RuntimeError("this network has had enough\nof it")
        return predictor(candidate, inference)

    monkeypatch.setattr(scoring, "predictor", broken)
    scores = score_block(experiment, 0)
    assert scores.failures == {"model-1": "RuntimeError: this network has had enough of it"}
    assert (scores.status[1] == STATUS["failed"]).all()
    assert all(np.isnan(numbers[1]).all() for numbers in scores.statistics.values())
    assert (scores.status[0] == STATUS["scored"]).all()


def test_an_unreadable_block_is_a_failure_never_a_score(tmp_path, bank, image):
    zarr.create_array(tmp_path / "image.zarr", data=image, chunks=(6, 44, 52))
    volume = open_volume(str(tmp_path / "image.zarr"))
    experiment = settle(volume, bank, block=(6, 1, 1))
    for chunk in (tmp_path / "image.zarr" / "c" / "0" / "0").iterdir():
        chunk.write_bytes(b"not a chunk")
    scores = score_block(experiment, 0)
    assert set(scores.failures) == {"model-0", "model-1", "model-2"}
    assert (scores.status == STATUS["failed"]).all()


def test_repeats_draw_anew(volume, bank):
    experiment = settle(volume, bank, repeats=3, block=(1, 1, 1))
    statistics = score_block(experiment, 0).statistics
    numbers = [statistics[name][0, :, 0] for name in ("n_union", "n_disagree", "sum_ei")]
    for start in (0, 3):
        assert len(set(zip(*(n[start : start + 3] for n in numbers), strict=True))) == 3


def test_seeds_change_draws_and_nothing_else(volume, bank, plain):
    first = score_block(settle(volume, bank, block=(1, 1, 1), seed=1), 0).statistics
    want = {n: np.stack([plain[f"model-{i}"][0].statistics[n] for i in range(3)]) for n in first}
    np.testing.assert_array_equal(first["n_reference"][..., 0], want["n_reference"])
    assert (first["sum_ei"][..., 0] != want["sum_ei"]).any()


def test_each_chunk_of_an_aligned_volume_is_read_once_for_the_whole_bank(tmp_path, bank, image):
    from cte_dask.storage import stores as volume_store

    path = tmp_path / "image.zarr"
    zarr.create_array(path, data=blobs((4, 64, 64), seed=5), chunks=(2, 32, 32))
    no_halo = tuple(
        m.model_copy(update={"halo": {"y": 0, "x": 0}, "name": f"{m.name}-{copy}"})
        for m in bank.models
        for copy in range(2)
    )
    experiment = settle(
        open_volume(str(path)),
        replace(bank, models=no_halo),
        block=(2, 1, 1),
        perturbations=[p for p in PERTURBATIONS if not p.startswith("zoom")],  # it has a neighbour
    )
    reads = []
    original = zarr.storage.LocalStore.get

    async def counted(self, key, *args, **kwargs):
        value = await original(self, key, *args, **kwargs)
        if "/c/" in f"/{key}" and value is not None:
            reads.append(key)
        return value

    assert volume_store is not None
    zarr.storage.LocalStore.get = counted
    try:
        for index in range(len(experiment.blocks)):
            score_block(experiment, index)
    finally:
        zarr.storage.LocalStore.get = original
    assert len(no_halo) == 6
    assert sorted(reads) == sorted(set(reads))
    assert len(reads) == 2 * 2 * 2


def test_predictions_to_look_at_are_those_that_are_scored(volume, bank):
    experiment = settle(volume, bank, block=(1, 3, 4))
    draws = draws_of(experiment.perturbations, 1)
    statistics = score_block(experiment, 0).statistics
    seen = 0
    for name, tile, (reference, *perturbed) in predict_tiles(experiment, 0, draws):
        number = int(name[-1])
        for draw, prediction in enumerate(perturbed):
            want = binary_agreement(
                np.ascontiguousarray(reference), np.ascontiguousarray(prediction)
            )
            assert statistics["n_union"][number, draw, tile.index] == want.n_union
            assert statistics["n_disagree"][number, draw, tile.index] == want.n_disagree
            seen += 1
    assert seen == 3 * 9 * len(PERTURBATIONS)


def test_tile_statistics_of_a_2d_model_are_those_of_its_plane(image, bank):
    """Preprocessing of scope tile sees one plane, however many planes a tile has."""
    steps = ({"name": "zero_mean_unit_variance", "scope": "tile"},)
    spec = type(bank.models[0]).model_validate(
        {**bank.models[0].model_dump(exclude_unset=True), "preprocessing": steps}
    )
    shifted = image.astype(np.float32) + 1000 * np.arange(len(image))[:, None, None]
    one = replace(bank, models=(spec,))
    draws = ()
    flat, deep = (
        settle(open_volume(shifted), one, tile=tile, block=(9, 1, 1), perturbations=("gaussian:0",))
        for tile in ((1, 32, 32), (3, 32, 32))
    )
    planes = [p[0] for _, _, p in predict_tiles(flat, 0, draws)][:3]
    ((_, _, (box,)), *_) = list(predict_tiles(deep, 0, draws))
    np.testing.assert_allclose(box, np.concatenate(planes), atol=1e-6)
