"""Planning: whole chunks a block, enough blocks, few enough tasks, and true predictions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import zarr
from conftest import examples, write_bank
from hypothesis import given
from hypothesis import strategies as st

from cte_dask.engine.cost import plan
from cte_dask.engine.jobs import MOST_VOTING_TILES
from cte_dask.engine.racing.goal import TYPICAL_BLOCKS
from cte_dask.models import load_bank
from cte_dask.ranking.options import PlanOptions
from cte_dask.ranking.rank_target import plan_target
from cte_dask.report.terminal.tables import _anytime_rows
from cte_dask.scoring.block_size import MOST_DRAWN_BLOCKS, plan_blocks
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import score_block
from cte_dask.scoring.settings import TargetOptions
from cte_dask.tiles import BlockGrid, TileGrid
from cte_dask.volume import open_volume


class Target:
    """What planning needs to know of a volume."""

    def __init__(self, shape, unit) -> None:
        self.shape, self.read_unit = shape, unit


class Draft:
    def __init__(self, shape, tile, unit) -> None:
        self.grid, self.volume = TileGrid(shape, tile), Target(shape, unit)


@st.composite
def drafts(draw) -> Draft:
    shape = draw(st.tuples(*[st.integers(1, 3000)] * 3))
    tile = tuple(min(n, draw(st.sampled_from([1, 32, 64, 256]))) for n in shape)
    unit = tuple(min(n, draw(st.sampled_from([1, 16, 64, 128, 512]))) for n in shape)
    return Draft(shape, tile, unit)


@given(drafts(), st.integers(1, 64))
@examples(200)
def test_every_plan_is_a_valid_cut_with_enough_blocks_for_the_workers(draft, workers):
    cut = plan_blocks(draft.grid, draft.volume.read_unit, workers=workers)
    blocks = BlockGrid(draft.grid, cut)
    assert all(1 <= c <= n for c, n in zip(cut, draft.grid.counts, strict=True))
    if workers > 1:
        assert len(blocks) >= min(2 * workers, len(draft.grid)) / 4
    assert math.prod(blocks.block_shape) <= max(
        2**29,
        math.prod(u + t for u, t in zip(draft.volume.read_unit, draft.grid.tile, strict=True)),
    )


def test_blocks_are_whole_chunks_where_tiles_and_chunks_fit():
    draft = Draft((512, 4096, 4096), (1, 256, 256), (64, 128, 128))
    cut = plan_blocks(draft.grid, draft.volume.read_unit, workers=8)
    shape = BlockGrid(draft.grid, cut).block_shape
    assert [n % u for n, u in zip(shape, draft.volume.read_unit, strict=True)] == [0, 0, 0]


def test_a_terabyte_has_at_most_two_thousand_blocks():
    draft = Draft((10_000, 10_000, 10_000), (1, 256, 256), (128, 128, 128))
    cut = plan_blocks(draft.grid, draft.volume.read_unit, workers=256)
    assert 512 <= len(BlockGrid(draft.grid, cut)) <= 2000


@pytest.mark.parametrize(
    ("shape", "tile", "tiles"),
    [
        ((10_000, 10_000, 10_000), (1, 256, 256), (64, 256)),  # a terabyte
        ((10_000, 10_000, 10_000), (64, 128, 128), (4, 32)),
        ((20_000, 50_000, 100_000), (1, 256, 256), (512, 2048)),  # a hundred
    ],
)
def test_blocks_that_are_drawn_are_small(shape, tile, tiles):
    grid = TileGrid(shape, tile)
    blocks = BlockGrid(grid, plan_blocks(grid, (64, 64, 64), workers=256, drawn=True))
    assert tiles[0] <= blocks.tiles_per_block <= tiles[1]
    assert len(blocks) <= 2 * MOST_DRAWN_BLOCKS


@given(drafts(), st.integers(1, 64))
@examples(200)
def test_every_drawn_plan_is_a_valid_cut(draft, workers):
    cut = plan_blocks(draft.grid, draft.volume.read_unit, workers=workers, drawn=True)
    assert all(1 <= c <= n for c, n in zip(cut, draft.grid.counts, strict=True))


def test_a_run_that_is_decided_by_some_blocks_has_many_small_ones(tmp_path, bank_path):
    """Else a terabyte's votes would be full after eight blocks, and nothing decided."""
    path = tmp_path / "terabyte.zarr"
    zarr.create_array(path, shape=(10_000,) * 3, chunks=(64,) * 3, shards=(512,) * 3, dtype="uint8")
    planned = {
        name: plan_target(TargetOptions(str(path)), str(bank_path), PlanOptions(**options))[0]
        for name, options in {"drawn": {}, "all": {"exhaustive": True}}.items()
    }
    drawn, every = (planned[n].blocks.tiles_per_block for n in ("drawn", "all"))
    assert MOST_VOTING_TILES // drawn >= 2 * TYPICAL_BLOCKS[1]
    assert MOST_VOTING_TILES // every < TYPICAL_BLOCKS[0]


def test_a_plan_tells_after_how_many_blocks_the_votes_of_a_race_are_full(tmp_path, bank_path):
    path = tmp_path / "terabyte.zarr"
    zarr.create_array(path, shape=(10_000,) * 3, chunks=(64,) * 3, dtype="uint8")
    target, goal = TargetOptions(str(path)), PlanOptions().goal(10_000)
    for rule, shown in {"transfer": "1,024 blocks (", "consistency": "238,797 blocks ("}.items():
        experiment, costs = plan_target(target, str(bank_path), PlanOptions(rank_by=rule))
        rows = _anytime_rows(costs, experiment, goal)
        assert f"stops when it is decided, {shown}" in rows[0][1]


@pytest.mark.slow
def test_predicted_reads_are_those_of_the_run(tmp_path, bank_path):
    image = np.random.default_rng(0).integers(0, 255, (4, 96, 96)).astype(np.uint8)
    path = tmp_path / "image.zarr"
    zarr.create_array(path, data=image, chunks=(2, 32, 32))
    volume = open_volume(str(path))
    experiment = resolve(volume, load_bank(str(bank_path)), tile=(1, 32, 32), block=(2, 1, 1))
    read = []
    original = zarr.storage.LocalStore.get

    async def counted(self, key, *args, **kwargs):
        value = await original(self, key, *args, **kwargs)
        if "/c/" in f"/{key}" and value is not None:
            read.append(key)
        return value

    zarr.storage.LocalStore.get = counted
    try:
        for index in range(len(experiment.blocks)):
            score_block(experiment, index)
    finally:
        zarr.storage.LocalStore.get = original
    assert plan(experiment).bytes_read == len(read) * 2 * 32 * 32


def test_a_shard_is_read_chunk_by_chunk_where_a_halo_touches_it(tmp_path, bank_path, monkeypatch):
    image = np.random.default_rng(0).integers(0, 255, (2, 128, 128)).astype(np.uint8)
    path = tmp_path / "image.zarr"
    zarr.create_array(path, data=image, chunks=(1, 16, 16), shards=(2, 64, 64), compressors=None)
    volume = open_volume(str(path))
    experiment = resolve(volume, load_bank(str(bank_path)), tile=(1, 32, 32), block=(2, 2, 2))
    read = []
    original = zarr.storage.LocalStore.get

    async def counted(self, key, *args, **kwargs):
        value = await original(self, key, *args, **kwargs)
        if "/c/" in f"/{key}" and value is not None:
            read.append(len(value))
        return value

    monkeypatch.setattr(zarr.storage.LocalStore, "get", counted)
    for index in range(len(experiment.blocks)):
        score_block(experiment, index)
    chunk, per_shard = 16 * 16, 2 * 16
    index_bytes = 16 * per_shard + 4  # offset and length of each chunk, and a checksum
    whole = per_shard * chunk + index_bytes  # a shard read in one go
    chunks = sum((n - index_bytes * (n == whole)) // chunk for n in read if n != index_bytes)
    assert plan(experiment).bytes_read == chunks * chunk
    assert plan(experiment).bytes_read < 2.5 * image.nbytes


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 3])
def test_flops_count_one_encoder_and_a_decoder_a_pass(target, bank_path, repeats):
    volume, bank = open_volume(str(target)), load_bank(str(bank_path))
    options = {"tile": (1, 32, 32), "sample": False}

    def flops(*perturbations, repeats=1):
        settled = resolve(volume, bank, perturbations=perturbations, repeats=repeats, **options)
        return plan(settled).models[0].flops

    plain = flops("gaussian:0.1") / 2
    decoder = flops("dropout:0.2") - plain
    assert 0 < decoder < plain
    assert flops("dropout:0.2", repeats=repeats) == plain + repeats * decoder
    both = flops("dropout:0.2", "gaussian:0.1", repeats=repeats)
    assert both == plain + repeats * (decoder + plain)


def test_planes_of_a_box_count(tmp_path, target):
    bank = load_bank(str(write_bank(tmp_path / "bank", 1)))
    volume = open_volume(str(target))
    flat = resolve(volume, bank, tile=(1, 32, 32), sample=False)
    deep = replace(flat, grid=TileGrid(volume.shape, (3, 32, 32)))
    assert plan(deep).models[0].flops == 3 * plan(flat).models[0].flops


def test_settling_planning_and_scoring_load_each_model_once(tmp_path, monkeypatch):
    from cte_dask.inference import needs
    from cte_dask.inference import predictor as predict

    made = []
    real = predict.load_network

    def load(spec, **options):
        made.append(spec.name)
        return real(spec, **options)

    for module in (needs, predict):  # what was loaded to measure a model is used for the run
        monkeypatch.setattr(module, "load_network", load)
    target = np.random.default_rng(0).random((2, 64, 64), np.float32)
    bank = load_bank(str(write_bank(tmp_path)))
    experiment = resolve(open_volume(target, axes="zyx"), bank, tile=(1, 32, 32))
    plan(experiment)
    score_block(experiment, 0)
    assert sorted(made) == sorted(bank.names)
