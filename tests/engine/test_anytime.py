"""Anytime runs: few blocks, the same answer wherever it runs, and never an unfair comparison."""

from __future__ import annotations

import contextlib
import json
from html import escape
from pathlib import Path

import numpy as np
import pytest
import zarr
from conftest import blobs, write_bank
from distributed import Client, LocalCluster
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from cte_dask.cli.app import app
from cte_dask.engine.anytime import Anytime
from cte_dask.engine.checkpoint import Checkpoint
from cte_dask.engine.dask_runner import run_jobs
from cte_dask.engine.racing import rounds
from cte_dask.engine.racing.goal import Goal
from cte_dask.models import load_bank
from cte_dask.ranking.rank_target import rank_target
from cte_dask.report.html.page import write_report
from cte_dask.results.dataset import read_scores
from cte_dask.results.layout import layout_of
from cte_dask.results.new_store import create
from cte_dask.results.store import DONE, counted, open_scores
from cte_dask.scoring.block_reader import margins_of
from cte_dask.scoring.block_scores import STATUS
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.settings import TargetOptions
from cte_dask.volume import open_volume, write_ome_zarr

SETTINGS = {
    "tile": (1, 16, 16), "block": (1, 2, 2), "perturbations": ("gaussian:0.1",), "batch": 4,
}  # fmt: skip
PRIMARY = "nhd@gaussian:0.1"
COUNTS = (16, 2, 2)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A target of 64 blocks of 4 small tiles."""
    path = tmp_path_factory.mktemp("wide") / "target.zarr"
    image = blobs((16, 64, 64), seed=3)
    size = (40.0, 10.0, 10.0)
    write_ome_zarr(path, image, axes="zyx", voxel_size_nm=size, chunks=(1, 32, 32))
    return path


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return write_bank(tmp_path_factory.mktemp("bank"), 4)


@pytest.fixture(scope="module")
def rank_wide(wide, bank):
    def ranked(out, *, cluster="none", asked=None, bank=bank, **options):
        options = {"cluster": cluster, **(asked or {}), **SETTINGS, **options}
        return rank_target(TargetOptions(str(wide)), str(bank), str(out), **options)

    return ranked


@pytest.fixture(scope="module")
def exhaustive(rank_wide, tmp_path_factory):
    """Folder and outcome of a run that scored every block."""
    out = tmp_path_factory.mktemp("whole") / "RUN"
    return out, rank_wide(out, asked={"exhaustive": True})


TWO = {"top": 2, "epsilon": 0.02}


@pytest.fixture(scope="module")
def two(rank_wide, tmp_path_factory):
    """Folder and outcome of a run that found the two best models; one dropped out on the way."""
    out = tmp_path_factory.mktemp("two") / "RUN"
    return out, rank_wide(out, asked=TWO)


def order(most: int) -> list[int]:
    return [b for drawn in rounds(COUNTS, seed=0, most=most) for b in drawn.blocks]


def decision_of(outcome) -> dict:
    """What must not depend on where and when a run ran."""
    result = dict(outcome.result)
    return {k: v for k, v in result.items() if k != "versions"}


def test_the_best_model_of_all_blocks_is_found_in_few(rank_wide, exhaustive, tmp_path):
    outcome = rank_wide(tmp_path / "RUN", asked={"until": "decided"})
    result, best = outcome.result, exhaustive[1].ranking.models[0].name
    assert outcome.exit_code == 0
    assert result["decided"]
    assert result["complete"]
    assert result["proven"] == [best] == [outcome.ranking.models[0].name]
    sampled = result["blocks"]["sampled"]
    assert sampled == result["blocks"]["done"] < 64 / 2
    verdict = f"decided: {best} is the best (error at most 5 %) after {sampled} of 64 blocks"
    assert result["verdict"].startswith(verdict)
    truth = {m.name: m.scores[PRIMARY].cte for m in exhaustive[1].ranking.models}
    for model in outcome.ranking.models:
        score = model.scores[PRIMARY]
        assert score.low <= truth[model.name] <= score.high
    done = open_scores(f"{tmp_path}/RUN/scores.zarr").done()
    assert set(np.flatnonzero(done)) == set(order(sampled)), "one worker reads nothing ahead"


@pytest.mark.slow
def test_beaten_models_are_not_scored_on_later_blocks(two, exhaustive):
    out, outcome = two
    names = [m.name for m in exhaustive[1].ranking.models]
    dropped, sampled = outcome.result["dropped"], outcome.result["blocks"]["sampled"]
    assert outcome.result["proven"] == names[:2]
    early = {name: at for name, at in dropped.items() if at < sampled}
    assert early, "else this shows nothing"
    scores = open_scores(f"{out}/scores.zarr")
    for place, block in enumerate(order(sampled)):
        status = scores.block(block).status
        for row, name in enumerate(scores.layout.models):
            expected = "scored" if place < early.get(name, sampled) else "absent"
            assert (status[row] == STATUS[expected]).all()
    found = {m.name: m for m in outcome.ranking.models}
    for name, at in early.items():
        assert found[name].scores[PRIMARY].n_tiles == 4 * at
        assert f"scored on {at} of {sampled} blocks" in found[name].note
    assert outcome.result["complete"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_finds_the_same(rank_wide, two, tmp_path, workers, address):
    cluster = {1: "local", 2: address}[workers]
    outcome = rank_wide(tmp_path / "RUN", cluster=cluster, workers=workers, asked=TWO)
    assert decision_of(outcome) == decision_of(two[1])
    ours, theirs = (
        read_scores(counted(open_scores(f"{out}/scores.zarr")))
        for out in (tmp_path / "RUN", two[0])
    )
    assert ours.identical(theirs)
    tiles = [(out / "tiles.parquet").read_bytes() for out in (tmp_path / "RUN", two[0])]
    assert tiles[0] == tiles[1]


def impatient(after: int):
    """Progress that presses Ctrl-C after some blocks."""
    blocks = []

    def press(scores) -> None:
        blocks.append(scores.index)
        if len(blocks) == after:
            raise KeyboardInterrupt

    return lambda *_: contextlib.nullcontext(press)


@pytest.mark.slow
@pytest.mark.parametrize("after", [2, 6])
def test_ctrl_c_leaves_a_ranking_and_a_resumed_run_decides_what_an_undisturbed_one_does(
    rank_wide, two, tmp_path, after
):
    outcome = rank_wide(tmp_path / "RUN", asked=TWO, progress=impatient(after))
    assert outcome.exit_code == 130
    result = json.loads((tmp_path / "RUN" / "ranking.json").read_text())
    assert result["complete"] is result["decided"] is False
    assert result["stopped"] == "interrupted"
    assert result["verdict"].startswith("not decided after")
    assert result["blocks"]["sampled"] == after // 4 * 4
    for model in result["models"]:
        score = model["scores"][PRIMARY]
        assert score["low"] < score["cte"] < score["high"]
    marks = tmp_path / "RUN" / "scores.zarr" / "done" / "c"
    before = {p.name: p.stat().st_mtime_ns for p in marks.iterdir()}
    assert len(before) == after
    resumed = rank_wide(tmp_path / "RUN", asked=TWO, resume=True)
    assert decision_of(resumed) == decision_of(two[1])
    assert all((marks / name).stat().st_mtime_ns == at for name, at in before.items())


@pytest.mark.slow
def test_going_on_exhaustively_scores_what_is_missing_and_nothing_else(
    rank_wide, exhaustive, two, tmp_path
):
    import shutil

    shutil.copytree(two[0], tmp_path / "RUN")
    before = open_scores(f"{tmp_path}/RUN/scores.zarr").done()
    assert (before == DONE["partial"]).any()
    marks = tmp_path / "RUN" / "scores.zarr" / "done" / "c"
    kept = {i: (marks / str(i)).stat().st_mtime_ns for i in np.flatnonzero(before == 1)}
    outcome = rank_wide(tmp_path / "RUN", asked={"exhaustive": True}, resume=True)
    assert all((marks / str(i)).stat().st_mtime_ns == at for i, at in kept.items())
    assert decision_of(outcome) == decision_of(exhaustive[1])
    ours, theirs = (
        read_scores(open_scores(f"{out}/scores.zarr")) for out in (tmp_path / "RUN", exhaustive[0])
    )
    assert ours.identical(theirs)


@pytest.mark.slow
@pytest.mark.parametrize(("until", "sampled"), [("3", 3), ("10", 10), ("0.01s", 4)])
def test_a_spent_budget_ends_a_run_well(rank_wide, tmp_path, until, sampled):
    outcome = rank_wide(tmp_path / "RUN", asked={"until": until, "epsilon": 0.0})
    assert outcome.exit_code == 0
    assert outcome.result["complete"]
    assert not outcome.result["decided"]
    assert outcome.result["blocks"]["sampled"] == sampled
    assert "may be better" in outcome.result["verdict"]
    assert {m.scores[PRIMARY].n_tiles for m in outcome.ranking.models} == {4 * sampled}


@pytest.mark.slow
def test_a_budget_as_large_as_the_target_gives_what_all_blocks_give(
    rank_wide, exhaustive, tmp_path
):
    asked = {"until": "64", "full_order": True, "epsilon": 0.0, "delta": 1e-9}
    outcome = rank_wide(tmp_path / "RUN", asked=asked)
    assert outcome.result["decided"]
    assert outcome.result["verdict"] == "decided: the order of all 4 models: every block was read"
    assert [m.name for m in outcome.ranking.models] == [
        m.name for m in exhaustive[1].ranking.models
    ]


@pytest.mark.slow
def test_large_targets_are_ranked_anytime_and_small_ones_whole(rank_wide, tmp_path, monkeypatch):
    assert "decided" not in rank_wide(tmp_path / "small", asked={}).result
    monkeypatch.setattr("cte_dask.engine.racing.goal.ANYTIME_ABOVE", 63)
    assert rank_wide(tmp_path / "large", asked={}).result["decided"]


@pytest.mark.slow
def test_what_excludes_each_other_is_refused_in_one_line(rank_wide, tmp_path):
    with pytest.raises(ValueError, match=r"--shard scores a fixed part .* leave out --until"):
        rank_wide(tmp_path / "a", asked={"until": "decided"}, shard="1/2")
    with pytest.raises(ValueError, match="--exhaustive scores every block: leave out --until"):
        rank_wide(tmp_path / "c", asked={"until": "9", "exhaustive": True})
    assert not (tmp_path / "c").exists()


def bank_with(folder, entries: dict[str, str]):
    """Write a bank of four good models and some of another source."""
    path = write_bank(folder, 4)
    text = path.read_text()
    first = text[text.index("\n  model-0:") : text.index("\n  model-1:")]
    path.write_text(text + "".join(first.replace("model-0", name) for name in entries))
    for name, kind in entries.items():
        weights = load_file(folder / "model-0.safetensors")
        weights["head.bias"] = weights["head.bias"] + {"flood": 1000, "empty": -1000}[kind]
        save_file(weights, folder / f"{name}.safetensors")
    return path


@pytest.mark.slow
def test_models_that_predict_nothing_or_everything_never_win_nor_hold_up_the_answer(
    rank_wide, exhaustive, tmp_path
):
    bank = bank_with(tmp_path / "bank", {"all": "flood", "none": "empty"})
    outcome = rank_wide(tmp_path / "RUN", bank=bank, asked={"until": "decided"})
    result = outcome.result
    assert result["proven"] == [exhaustive[1].ranking.models[0].name]
    assert result["aside"] == ["all", "none"]
    assert result["blocks"]["sampled"] <= 40
    assert [m.name for m in outcome.ranking.models[-2:]] == ["all", "none"]


@pytest.mark.slow
def test_a_bank_of_nothing_else_is_given_up(rank_wide, tmp_path):
    bank = bank_with(tmp_path / "bank", {"all": "flood"})
    text = bank.read_text()
    bank.write_text(text[: text.index("\n  model-0:")] + text[text.index("\n  all:") :])
    outcome = rank_wide(tmp_path / "RUN", bank=bank, asked={"until": "decided"})
    assert outcome.exit_code == 0
    assert not outcome.result["decided"]
    assert "no model can be recommended after" in outcome.result["verdict"]
    assert outcome.result["blocks"]["sampled"] < 32


@pytest.mark.slow
def test_a_model_that_fails_everywhere_costs_the_exit_code_but_not_the_answer(
    rank_wide, exhaustive, tmp_path, monkeypatch
):
    from cte_dask.scoring import score_block as scoring

    real = scoring._score_model

    def failing(work, candidate, *rest):
        if candidate.name == "model-2":
            raise RuntimeError("out of luck")
        return real(work, candidate, *rest)

    monkeypatch.setattr(scoring, "_score_model", failing)
    outcome = rank_wide(tmp_path / "RUN", asked={"until": "decided"})
    result = outcome.result
    assert outcome.exit_code == 3
    assert not result["complete"]
    assert result["decided"]
    assert result["proven"] == [exhaustive[1].ranking.models[0].name]
    assert result["blocks"]["failed"] == result["blocks"]["sampled"]
    assert result["aside"] == ["model-2"]


@pytest.mark.slow
def test_a_block_that_cannot_be_read_is_told_and_the_others_decide(
    rank_wide, exhaustive, tmp_path, monkeypatch
):
    from cte_dask.scoring import score_block as scoring

    real, bad = scoring.windows, order(8)[2]

    def unreadable(volume, block, *rest, **device):
        if block.index == bad:
            raise OSError("no such chunk")
        return real(volume, block, *rest, **device)

    with monkeypatch.context() as patched:
        patched.setattr(scoring, "windows", unreadable)
        outcome = rank_wide(tmp_path / "RUN", asked={"until": "decided"})
    assert outcome.exit_code == 3
    assert outcome.result["blocks"]["failed"] == 1
    assert outcome.result["proven"] == [exhaustive[1].ranking.models[0].name]
    resumed = rank_wide(tmp_path / "RUN", asked={"until": "decided"}, resume=True)
    assert resumed.exit_code == 0
    assert resumed.result["blocks"]["failed"] == 0


@pytest.mark.slow
def test_status_and_report_tell_what_was_decided(two, wide):
    out, outcome = two
    said = CliRunner().invoke(app, ["status", str(out)]).output
    assert "without models that had been beaten" in said
    assert f"anytime: {outcome.result['verdict']}" in said
    page = Path(write_report(str(out), out=str(out / "page.html"), gallery_models=0)).read_text()
    first, *rest = outcome.result["verdict"]
    assert escape(first.upper() + "".join(rest)) in page
    assert f"{outcome.result['blocks']['sampled']} of 64" in page
    assert "--until decided --top 2 --delta 0.05 --epsilon 0.02" in page


@pytest.mark.slow
def test_the_commands_take_the_options_and_speak_plainly(wide, bank, tmp_path):
    options = [str(wide), "--bank", str(bank), "--tile", "1,16,16", "--block", "1,2,2"]
    options += ["--perturb", "gaussian:0.1", "--batch", "4"]
    plan = CliRunner().invoke(app, ["plan", *options, "--until", "8"]).stdout
    assert "stops when it is decided, 8 blocks (" in plan
    assert "8 blocks" in plan.partition("typically")[2]
    plan = CliRunner().invoke(app, ["plan", *options]).stdout
    assert "every block is scored; --until decided may need fewer" in plan
    out = ["--out", str(tmp_path / "RUN"), "--cluster", "none"]
    done = CliRunner().invoke(app, ["rank", *options, *out, "--until", "8", "--epsilon", "0"])
    assert done.exit_code == 0
    assert "not decided after 8 of 64 blocks: model-0 leads, but" in done.stderr
    assert "--resume goes on" in done.stderr


@pytest.mark.slow
def test_time_ends_a_run_on_a_cluster_once_there_is_something_to_tell(wide, bank, tmp_path):
    volume, url = open_volume(str(wide)), str(tmp_path / "scores.zarr")
    experiment = resolve(volume, load_bank(str(bank)), **SETTINGS)
    scores = create(url, layout_of(experiment))
    work = Anytime(experiment, scores, Goal(delta=1e-9, epsilon=0.0, seconds=0.01))
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        run_jobs(Checkpoint(experiment, url), work, client=client)
    assert 4 <= work.race.blocks <= 16, "what was in flight"
    assert work.decision().stopped == "budget"


@pytest.mark.slow
def test_each_chunk_of_the_sampled_blocks_is_read_once_for_twenty_models(tmp_path, monkeypatch):
    bank = write_bank(tmp_path / "bank", 20, halo=0)
    path = tmp_path / "target.zarr"
    size = (40.0, 10.0, 10.0)
    write_ome_zarr(path, blobs((32, 64, 64)), axes="zyx", voxel_size_nm=size, chunks=(1, 32, 32))
    volume = open_volume(str(path))
    settings = {**SETTINGS, "workers": 1}
    experiment = resolve(volume, load_bank(str(bank)), **settings)
    assert len(experiment.candidates) == 20
    url = str(tmp_path / "scores.zarr")
    scores = create(url, layout_of(experiment))
    reads = []
    original = zarr.storage.LocalStore.get

    async def counted_get(self, key, *args, **kwargs):
        value = await original(self, key, *args, **kwargs)
        if str(self.root).startswith(str(path)) and "/c/" in f"/{key}" and value is not None:
            reads.append(key)
        return value

    monkeypatch.setattr(zarr.storage.LocalStore, "get", counted_get)
    work = Anytime(experiment, scores, Goal(blocks=8, epsilon=0.0))
    run_jobs(Checkpoint(experiment, url), work)
    before, after = margins_of(
        experiment.grid.tile, experiment.candidates, experiment.perturbations
    )
    assert work.race.blocks == 8
    assert before == after == (0, 0, 0)
    assert len(reads) == len(set(reads)) == 8, "a block is a chunk: 1.00 of what was sampled"


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    return write_bank(tmp_path_factory.mktemp("seven"), 7)


@pytest.fixture(scope="module")
def judged(rank_wide, seven, tmp_path_factory):
    """Folder and outcome of a race of a bank that judges itself."""
    out = tmp_path_factory.mktemp("judged") / "RUN"
    asked = {"until": "decided", "rank_by": "transfer", "epsilon": 0.02}
    return out, rank_wide(out, asked=asked, bank=seven)


@pytest.mark.slow
def test_a_bank_that_judges_itself_races_too(judged, rank_wide, seven, tmp_path):
    outcome = judged[1]
    assert outcome.ranking.primary == "transfer"
    assert outcome.result["decided"]
    sampled = outcome.result["blocks"]["sampled"]
    assert 16 <= sampled < 64, "a pilot of 64 tiles, four a block, and few more"
    every = rank_wide(
        tmp_path / "ALL", asked={"exhaustive": True, "rank_by": "transfer"}, bank=seven
    )
    value = {m.name: m.verdict.transfer.value for m in every.ranking.models}
    best = max(value, key=value.get)
    proven = outcome.result["proven"][0]
    assert value[proven] > value[best] - 0.05, "the pilot's fit is not the last one, but near it"
    assert set(outcome.result) >= {"contradiction", "bank", "score"}


@pytest.mark.slow
def test_its_panel_is_scored_to_the_end(judged):
    out, outcome = judged
    scores = counted(open_scores(f"{out}/scores.zarr"))
    blocks = np.flatnonzero(scores.done() != DONE["missing"])
    absent = np.array([scores.block(int(i)).has_status("absent").any(axis=(1, 2)) for i in blocks])
    gone = {scores.layout.models[m] for m in np.flatnonzero(absent.any(axis=0))}
    assert gone < set(outcome.result["dropped"]), "some were beaten and vote on"
    for index, row in zip(blocks, absent, strict=True):
        assert (scores.votes(int(index)).voted.any(axis=0) == ~row).all()


@pytest.mark.slow
def test_its_answer_is_the_same_on_two_workers(judged, rank_wide, seven, tmp_path):
    asked = {"until": "decided", "rank_by": "transfer", "epsilon": 0.02}
    again = rank_wide(tmp_path / "RUN", asked=asked, bank=seven, cluster="local", workers=2)
    assert decision_of(again) == decision_of(judged[1])
