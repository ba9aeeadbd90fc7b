"""The votes of a bank on a block: of the reference predictions, the same however it is cut."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import write_bank

import cte_dask
from cte_dask.consistency.model_pairs import pairs_of
from cte_dask.consistency.objects import average_precision
from cte_dask.consistency.vote_patterns import joined
from cte_dask.engine.checkpoint import Checkpoint
from cte_dask.engine.dask_runner import run_jobs
from cte_dask.engine.jobs import Job, Listed
from cte_dask.models import load_bank
from cte_dask.results.block_codec import encoded, votes_in
from cte_dask.results.dataset import read_scores
from cte_dask.results.layout import layout_of
from cte_dask.results.new_store import create
from cte_dask.scoring import bank_votes
from cte_dask.scoring import score_block as scoring
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import predict_tiles, score_block
from cte_dask.volume import open_volume

OPTIONS = {"tile": (1, 32, 32), "batch": 3, "perturbations": ("gaussian:0.1",)}
FIELDS = "patterns", "counts", "voted", "step"


@pytest.fixture(scope="module")
def bank(bank_path):
    return load_bank(str(bank_path))


@pytest.fixture(scope="module")
def volume(target):
    return open_volume(str(target))


def settled(volume, bank, **options):
    return resolve(volume, bank, **{**OPTIONS, "block": (6, 3, 4), **options})


def tables_by_tile(experiment, order=None):
    tables = {}
    for index in order or range(len(experiment.blocks)):
        scores = score_block(experiment, index)
        assert not scores.failures
        for place, tile in enumerate(experiment.blocks.block_at(index).tiles):
            tables[tile.index] = scores.votes.of_tile(place)
    return tables


@pytest.fixture(scope="module")
def tables(volume, bank):
    return tables_by_tile(settled(volume, bank))


def test_votes_are_those_of_the_predictions(volume, bank, tables):
    masks = {}
    for name, tile, (reference,) in predict_tiles(settled(volume, bank), 0, []):
        masks.setdefault(tile.index, {})[name] = reference > 0.5
    for index, table in tables.items():
        votes = np.stack([masks[index][f"model-{m}"].ravel() for m in range(3)], axis=1)
        want, counts = np.unique(votes, axis=0, return_counts=True)
        got = {v.tobytes(): c for v, c in zip(table.votes(), table.counts, strict=True)}
        assert got == {v.tobytes(): c for v, c in zip(want, counts, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "batch", "most"), [((1, 1, 1), 3, 2**28), ((2, 2, 3), 1, 2**28), ((6, 3, 4), 3, 900)]
)
def test_same_bits_for_any_blocks_order_and_memory(
    volume, bank, tables, monkeypatch, block, batch, most
):
    monkeypatch.setattr(bank_votes, "MOST_BYTES", most)
    experiment = settled(volume, bank, block=block, batch=batch)
    found = tables_by_tile(experiment, list(reversed(range(len(experiment.blocks)))))
    assert found.keys() == tables.keys()
    for index, table in found.items():
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(table, field), getattr(tables[index], field))


def test_what_is_kept_of_a_block_is_bounded(volume, bank, monkeypatch):
    monkeypatch.setattr(bank_votes, "MOST_BYTES", 900)
    sizes = []
    original = bank_votes.BankVotes.tables

    def measured(self):
        sizes.append(sum(m.nbytes for m in self.masks))
        return original(self)

    monkeypatch.setattr(bank_votes.BankVotes, "tables", measured)
    score_block(settled(volume, bank), 0)
    assert len(sizes) > 10
    assert max(sizes) <= 900


def test_votes_add_no_forward_pass(volume, bank, monkeypatch):
    calls = []
    original = cte_dask.inference.passes.Passes.run

    def counted(self, x, masks, **options):
        for output in original(self, x, masks, **options):
            calls.append(tuple(x.shape))
            yield output

    monkeypatch.setattr(cte_dask.inference.passes.Passes, "run", counted)
    experiment = settled(volume, bank)
    calls.clear()  # each model is proven on a tile first
    with_votes = score_block(experiment, 0)
    passes = list(calls)
    calls.clear()
    without = score_block(experiment, 0, votes=False)
    assert passes == calls
    assert without.votes is None
    assert with_votes.votes is not None
    np.testing.assert_array_equal(encoded(with_votes.tiles), encoded(without.tiles))


def test_a_model_that_fails_has_no_vote_on_any_tile(volume, bank, monkeypatch):
    predictor = scoring.predictor
    monkeypatch.setattr(bank_votes, "MOST_BYTES", 8000)
    seen: list[int] = []

    def broken(candidate, inference):
        if candidate.name == "model-1":
            seen.append(1)
            if len(seen) > 1:
                raise RuntimeError("worn out")
        return predictor(candidate, inference)

    monkeypatch.setattr(scoring, "predictor", broken)
    scores = score_block(settled(volume, bank), 0)
    assert list(scores.failures) == ["model-1"]
    assert not scores.votes.voted[:, 1].any()
    assert not scores.votes.votes()[:, 1].any()
    assert scores.votes.voted[:, [0, 2]].all()


def test_masked_tiles_and_tiles_that_are_not_finite_have_no_votes(image, bank):
    broken = image.astype(np.float32)
    broken[0, 5, 5] = np.nan
    mask = np.ones(image.shape, np.uint8)
    mask[3:] = 0
    experiment = settled(open_volume(broken, mask=mask), bank)
    votes = score_block(experiment, 0).votes
    voted = votes.voted.reshape(6, 3, 3, 3)
    assert not voted[0, 0, 0].any()
    assert not voted[3:].any()
    assert voted[1:3].all()
    np.testing.assert_array_equal(votes.step > 0, votes.voted.any(axis=1))


def test_objects_of_each_two_models_are_compared(volume, bank):
    from cte_dask.scoring.block_reader import read_window
    from cte_dask.scoring.loaded import predictor
    from cte_dask.scoring.score_tiles import TileScorer

    experiment = settled(volume, bank, metrics=("vrand",))
    scores = score_block(experiment, 0)
    block = experiment.blocks.block_at(0)
    tile, labels = block.tiles[0], []
    for candidate in experiment.candidates:
        scorer = TileScorer(
            experiment, predictor(candidate, experiment.inference), read_window(experiment, block)
        )
        labels.append(scorer.predict([tile], [])[0].labels[0])
    for row, (i, j) in zip(scores.precision[:, 0], pairs_of(3), strict=True):
        assert row == pytest.approx(average_precision(labels[i], labels[j]))
    assert score_block(settled(volume, bank), 0).precision is None


def test_some_models_of_a_block_leave_the_others_absent(volume, bank):
    experiment = settled(volume, bank)
    scores = score_block(experiment, 0, models=(0, 2))
    assert scores.tiles.has_status("absent")[1].all()
    assert scores.votes.voted.any(axis=0).tolist() == [True, False, True]


@pytest.mark.parametrize("metrics", [("nhd",), ("vrand",)])
def test_lazy_scores_are_those_of_a_store_and_each_block_is_scored_once(
    volume, bank, tmp_path, monkeypatch, metrics
):
    options = {**OPTIONS, "metrics": metrics, "block": (3, 3, 2)}
    experiment = settled(volume, bank, **options)
    url = str(tmp_path / "scores.zarr")
    scores = create(url, layout_of(experiment))
    run_jobs(Checkpoint(experiment, url), Listed(map(Job, range(len(experiment.blocks)))))
    stored = read_scores(scores)
    blocks = []
    original = scoring.score_block
    monkeypatch.setattr(
        "cte_dask.engine.checkpoint.score_block",
        lambda e, i, **options: blocks.append(i) or original(e, i, **options),
    )
    lazy = cte_dask.score(volume, bank, **options)
    assert lazy.votes.chunks is not None
    computed = lazy.compute(scheduler="synchronous")
    assert sorted(blocks) == list(range(len(experiment.blocks)))
    for name in ("status", *metrics, *(["precision"] if "vrand" in metrics else [])):
        np.testing.assert_array_equal(computed[name], stored[name])
    for field in FIELDS:
        got, want = (getattr(votes_in(data), field) for data in (computed, stored))
        np.testing.assert_array_equal(got, want)


def test_a_store_keeps_the_table_of_more_voters(volume, bank, tmp_path):
    experiment = settled(volume, bank)
    store = create(str(tmp_path / "scores.zarr"), layout_of(experiment))
    store.write(score_block(experiment, 0, models=(0, 1)))
    assert store.votes(0).voted.any(axis=0).tolist() == [True, True, False]
    store.write(score_block(experiment, 0, models=(2,)))
    assert store.votes(0).voted.any(axis=0).tolist() == [True, True, False], "the larger one stays"
    assert not store.block(0).has_status("absent").any()
    store.write(score_block(experiment, 0))
    assert store.votes(0).voted.all()


@pytest.mark.slow
def test_a_copy_in_the_bank_moves_no_other_model(volume, tmp_path):
    from dataclasses import replace

    bank = load_bank(str(write_bank(tmp_path / "bank", 5)))
    copy = bank.models[1].model_copy(update={"name": "copy"})
    rankings = []
    for number, models in enumerate((bank.models, (copy, *bank.models))):
        experiment = settled(volume, replace(bank, models=models), rank_by="transfer")
        url = str(tmp_path / f"{number}.zarr")
        scores = create(url, layout_of(experiment))
        run_jobs(Checkpoint(experiment, url), Listed(map(Job, range(len(experiment.blocks)))))
        rankings.append({m.name: m.verdict for m in cte_dask.rank(read_scores(scores)).models})
    for name, verdict in rankings[0].items():
        again = rankings[1][name]
        for field in ("estimated_f1", "transfer", "consistency"):
            one, two = getattr(verdict, field), getattr(again, field)
            np.testing.assert_allclose(
                [one.value, one.low, one.high], [two.value, two.low, two.high], rtol=1e-9
            )
    assert rankings[1]["copy"] == rankings[1]["model-1"]


def test_tables_of_blocks_join_to_those_of_the_target(volume, bank, tables):
    experiment = settled(volume, bank, block=(2, 3, 2))
    parts = [score_block(experiment, i).votes for i in range(len(experiment.blocks))]
    order = [t.index for i in range(len(parts)) for t in experiment.blocks.block_at(i).tiles]
    everything = joined(parts)
    for place, index in enumerate(order):
        np.testing.assert_array_equal(everything.of_tile(place).counts, tables[index].counts)
