"""Agreement in a run: from the reference predictions that are there anyway, and it resumes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from conftest import write_bank

import cte_dask
from cte_dask.consistency.model_pairs import pairs_of
from cte_dask.engine.checkpoint import Checkpoint
from cte_dask.engine.dask_runner import run_jobs
from cte_dask.engine.jobs import Job, Listed
from cte_dask.models import load_bank
from cte_dask.perturb import Perturbation
from cte_dask.ranking.rank_target import rank_target
from cte_dask.results.block_codec import encoded
from cte_dask.results.dataset import read_scores
from cte_dask.results.layout import layout_of
from cte_dask.results.store import create
from cte_dask.scoring import bank_overlaps
from cte_dask.scoring import score_block as scoring
from cte_dask.scoring.block_scores import overlap_rows
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import predict_tiles, score_block
from cte_dask.scoring.settings import TargetOptions
from cte_dask.volume import open_volume

OPTIONS = {"tile": (1, 32, 32), "batch": 3, "perturbations": ("gaussian:0.1",)}
BOTH = ("agreement", "consensus", "nhd")


@pytest.fixture(scope="module")
def bank(bank_path):
    return load_bank(str(bank_path))


@pytest.fixture(scope="module")
def volume(target):
    return open_volume(str(target))


def settled(volume, bank, **options):
    return resolve(volume, bank, **{**OPTIONS, "metrics": BOTH, "block": (6, 3, 4), **options})


def overlaps_by_tile(experiment, order=None) -> dict[int, np.ndarray]:
    table = {}
    for index in order or range(len(experiment.blocks)):
        scores = score_block(experiment, index)
        assert not scores.failures
        for column, tile in enumerate(experiment.blocks.block_at(index).tiles):
            table[tile.index] = scores.overlaps[:, column]
    return table


@pytest.fixture(scope="module")
def whole(volume, bank):
    return overlaps_by_tile(settled(volume, bank))


def test_overlaps_are_those_of_the_predictions(volume, bank, whole):
    experiment = settled(volume, bank)
    masks = {}
    for name, tile, (reference,) in predict_tiles(experiment, 0, []):
        masks[name, tile.index] = reference > 0.5
    for index, rows in whole.items():
        found = [masks[f"model-{m}", index] for m in range(3)]
        for row, (i, j) in zip(rows, pairs_of(3), strict=False):
            a, b = found[i], found[j]
            assert row == pytest.approx((a & b).sum() / (a | b).sum())


def test_the_consensus_of_three_is_what_the_other_two_share(volume, bank, whole):
    experiment = settled(volume, bank)
    masks = {}
    for name, tile, (reference,) in predict_tiles(experiment, 0, []):
        masks[name, tile.index] = reference > 0.5
    for index, rows in whole.items():
        a, b, c = (masks[f"model-{m}", index] for m in range(3))
        for value, own, both in zip(rows[3:], (a, b, c), (b & c, a & c, a & b), strict=True):
            assert value == pytest.approx((own & both).sum() / (own | both).sum())


@pytest.mark.parametrize(
    ("block", "batch", "most"), [((1, 1, 1), 3, 2**28), ((2, 2, 3), 3, 2**28), ((6, 3, 4), 3, 900)]
)
def test_same_bits_for_any_blocks_order_and_memory(volume, bank, whole, monkeypatch, block, batch,
                                                   most):  # fmt: skip
    monkeypatch.setattr(bank_overlaps, "MOST_BYTES", most)
    experiment = settled(volume, bank, block=block, batch=batch)
    order = list(reversed(range(len(experiment.blocks))))
    found = overlaps_by_tile(experiment, order)
    assert found.keys() == whole.keys()
    for index in found:
        np.testing.assert_array_equal(found[index], whole[index])


def test_what_is_kept_of_a_block_is_bounded(volume, bank, monkeypatch):
    monkeypatch.setattr(bank_overlaps, "MOST_BYTES", 900)
    sizes = []
    original = bank_overlaps.BankOverlaps.rows

    def measured(self):
        sizes.append(sum(m.nbytes for m in self.masks))
        return original(self)

    monkeypatch.setattr(bank_overlaps.BankOverlaps, "rows", measured)
    score_block(settled(volume, bank), 0)
    assert len(sizes) > 10
    assert max(sizes) <= 900


def test_agreement_adds_no_forward_pass(volume, bank, monkeypatch):
    calls = []
    original = cte_dask.inference.passes.Passes.run

    def counted(self, x, masks, **how):
        for output in original(self, x, masks, **how):
            calls.append(tuple(x.shape))
            yield output

    monkeypatch.setattr(cte_dask.inference.passes.Passes, "run", counted)
    counts, flops = {}, {}
    for metrics in (("nhd",), ("nhd", "agreement", "consensus")):
        experiment = settled(volume, bank, metrics=metrics)
        calls.clear()
        score_block(experiment, 0)
        counts[metrics] = list(calls)
        flops[metrics] = [m.flops for m in cte_dask.plan(experiment).models]
    first, second = counts
    assert len(counts[first]) > 0
    assert counts[first] == counts[second]
    assert flops[first] == flops[second]
    experiment = settled(volume, bank, metrics=("agreement",), perturbations=None)
    assert [p.name for p in experiment.perturbations] == ["none"]
    calls.clear()
    score_block(experiment, 0)
    assert 2 * len(calls) == len(counts[first])


def test_agreement_changes_no_other_number(volume, bank):
    plain = score_block(settled(volume, bank, metrics=("nhd",)), 0).tiles
    beside = score_block(settled(volume, bank, metrics=("nhd", "agreement")), 0).tiles
    np.testing.assert_array_equal(encoded(beside[:, :1]), encoded(plain))


def test_a_model_that_fails_takes_no_part(volume, bank, monkeypatch):
    loaded = scoring.loaded
    monkeypatch.setattr(bank_overlaps, "MOST_BYTES", 8000)

    def broken(experiment, candidate):
        ready = loaded(experiment, candidate)
        if candidate.name == "model-1":
            seen.append(1)
            if len(seen) > 1:
                raise RuntimeError("worn out")
        return ready

    seen: list[int] = []
    monkeypatch.setattr(scoring, "loaded", broken)
    scores = score_block(settled(volume, bank), 0)
    assert list(scores.failures) == ["model-1"]
    pairs, consensus = scores.overlaps[:3], scores.overlaps[3:]
    assert np.isnan(pairs[[0, 2]]).all()
    assert np.isnan(consensus[1]).all()
    assert not np.isnan(pairs[1]).any()
    assert not np.isnan(consensus[[0, 2]]).any()


def test_masked_tiles_and_tiles_that_are_not_finite_have_no_overlap(image, bank):
    broken = image.astype(np.float32)
    broken[0, 5, 5] = np.nan
    mask = np.ones(image.shape, np.uint8)
    mask[3:] = 0
    experiment = settled(open_volume(broken, mask=mask), bank)
    rows = score_block(experiment, 0).overlaps.reshape(6, 6, 3, 3)
    assert np.isnan(rows[:, 0, 0, 0]).all()
    assert np.isnan(rows[:, 3:]).all()
    assert not np.isnan(rows[:, 1:3]).any()


def test_instances_are_compared_by_v_rand(volume, bank):
    from cte_dask.consistency.instance import v_rand
    from cte_dask.scoring.block_reader import read_window
    from cte_dask.scoring.score_block import loaded
    from cte_dask.scoring.score_tiles import TileScorer

    experiment = settled(volume, bank, metrics=("vrand", "agreement"))
    scores = score_block(experiment, 0)
    block = experiment.blocks.block_at(0)
    tile, labels = block.tiles[0], []
    for candidate in experiment.candidates:
        scorer = TileScorer(
            experiment, loaded(experiment, candidate), read_window(experiment, block)
        )
        labels.append(scorer.predict([tile], [])[0].labels[0])
    for row, (i, j) in zip(scores.overlaps[:3, 0], pairs_of(3), strict=True):
        assert row == pytest.approx(v_rand(labels[i], labels[j]))


def test_lazy_scores_are_those_of_a_store_and_each_block_is_scored_once(
    volume, bank, tmp_path, monkeypatch
):
    experiment = settled(volume, bank, block=(3, 3, 2))
    url = str(tmp_path / "scores.zarr")
    scores = create(url, layout_of(experiment))
    run_jobs(Checkpoint(experiment, url), Listed(map(Job, range(len(experiment.blocks)))))
    stored = read_scores(scores)
    lazy = cte_dask.score(volume, bank, **{**OPTIONS, "metrics": BOTH, "block": (3, 3, 2)})
    assert lazy.agreement.chunks is not None
    blocks = []
    original = scoring.score_block
    monkeypatch.setattr(
        "cte_dask.engine.lazy.score_block", lambda e, i: blocks.append(i) or original(e, i)
    )
    lazy = cte_dask.score(volume, bank, **{**OPTIONS, "metrics": BOTH, "block": (3, 3, 2)})
    computed = lazy.compute(scheduler="synchronous")
    assert sorted(blocks) == list(range(len(experiment.blocks)))
    computed.attrs = stored.attrs
    xr.testing.assert_identical(computed, stored)


def test_agreement_lies_at_the_unperturbed_prediction_alone(volume, bank, tmp_path):
    experiment = settled(volume, bank)
    scores = create(str(tmp_path / "scores.zarr"), layout_of(experiment))
    run_jobs(Checkpoint(experiment, str(tmp_path / "scores.zarr")), Listed(map(Job, [0])))
    data = read_scores(scores)
    assert list(data.perturbation) == ["gaussian:0.1", "none"]
    for name in ("agreement", "consensus"):
        assert np.isnan(data[name].sel(perturbation="gaussian:0.1")).all()
        assert not np.isnan(data[name].sel(perturbation="none")).any()
    assert np.isnan(data.nhd.sel(perturbation="none")).all()
    ranking = cte_dask.rank(data)
    assert ranking.primary == "agreement@none"
    assert set(ranking.models[0].scores) == {"agreement@none", "consensus@none", "nhd@gaussian:0.1"}
    pairs = data.overlap.to_numpy()
    mean = (pairs[[0, 0, 1]] + pairs[[1, 2, 2]]) / 2  # three unlike models: the plain mean
    np.testing.assert_allclose(data.agreement.sel(perturbation="none"), mean)


def test_a_run_writes_its_similarity_and_resumes_to_the_same(target, bank_path, tmp_path, capsys):
    from rich.console import Console

    from cte_dask.report.terminal.bank_tables import dendrogram
    from cte_dask.report.terminal.tables import print_outcome

    out = str(tmp_path / "RUN")
    options = {**OPTIONS, "metrics": ("agreement", "nhd"), "block": (2, 3, 2), "cluster": "none"}
    outcome = rank_target(TargetOptions(str(target)), str(bank_path), out, **options)
    first = (tmp_path / "RUN" / "ranking.json").read_text()
    found = json.loads(first)
    assert found["primary"] == "agreement@none"
    assert found["schema"] == "cte-ranking/1"
    similarity = found["similarity"]
    assert similarity["names"] == ["model-0", "model-1", "model-2"]
    assert len(similarity["linkage"]) == 2
    assert np.array(similarity["matrix"]).shape == (3, 3)
    import zarr

    group = zarr.open_group(f"{out}/scores.zarr", mode="r+")
    assert group["overlaps"].shape[1] == overlap_rows(3)
    group["done"][1] = 0
    group["overlaps"][1] = np.nan
    again = rank_target(TargetOptions(str(target)), str(bank_path), out, resume=True, **options)
    assert (tmp_path / "RUN" / "ranking.json").read_text() == first
    print_outcome(outcome, out, as_json=False, console=Console(quiet=True))
    shown = capsys.readouterr().out
    assert "Overlap of the models' predictions" in shown
    assert dendrogram(again.ranking.similarity) in shown
    import pyarrow.parquet as pq

    table = pq.read_table(f"{out}/tiles.parquet").to_pandas()
    none = table[table.perturbation == "none"].groupby("model").agreement.median()
    for model in again.ranking.models:
        assert none[model.name] == pytest.approx(model.scores["agreement@none"].cte)


def test_a_run_without_agreement_is_not_resumed_with_it(target, bank_path, tmp_path):
    out = str(tmp_path / "RUN")
    options = {**OPTIONS, "block": (6, 3, 4), "cluster": "none"}
    rank_target(TargetOptions(str(target)), str(bank_path), out, metrics=("nhd",), **options)
    with pytest.raises(ValueError, match="another experiment"):
        rank_target(
            TargetOptions(str(target)),
            str(bank_path),
            out,
            resume=True,
            metrics=("nhd", "agreement"),
            **options,
        )


def test_a_bank_of_one_has_no_agreement_and_is_told_why(volume, bank, tmp_path):
    one = replace(bank, models=bank.models[:1])
    experiment = settled(volume, one, metrics=("agreement",))
    scores = create(str(tmp_path / "scores.zarr"), layout_of(experiment))
    run_jobs(Checkpoint(experiment, str(tmp_path / "scores.zarr")), Listed(map(Job, [0])))
    (model,) = cte_dask.rank(read_scores(scores)).models
    assert np.isnan(model.scores["agreement@none"].cte)
    assert "no other model that segments something" in model.note


def test_copies_in_a_bank_move_no_other_model(volume, tmp_path):
    bank = load_bank(str(write_bank(tmp_path / "bank", 3)))
    copies = tuple(bank.models[0].model_copy(update={"name": f"copy-{i}"}) for i in range(3))
    values = []
    for models in (bank.models, (*copies, *bank.models)):
        experiment = settled(volume, replace(bank, models=models), metrics=("agreement",))
        url = str(tmp_path / f"{len(models)}.zarr")
        scores = create(url, layout_of(experiment))
        run_jobs(Checkpoint(experiment, url), Listed(map(Job, [0])))
        found = {m.name: m.scores["agreement@none"].cte for m in cte_dask.rank(
            read_scores(scores)).models}  # fmt: skip
        values.append(found)
    for name, value in values[0].items():
        assert values[1][name] == pytest.approx(value, abs=1e-12)
    assert values[1]["copy-0"] == pytest.approx(values[0]["model-0"], abs=1e-12)


def test_a_perturbation_that_does_nothing_ranks_nothing(volume, bank):
    with pytest.raises(ValueError, match="no perturbation fits"):
        settled(volume, bank, metrics=("nhd",), perturbations=("none",))
    assert Perturbation.parse("none").name == "none"
