"""A damaged score store: what is lost is scored again, or named; no number changes unnoticed."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import cte_dask
from cte_dask.cli.app import app
from cte_dask.consistency.vote_patterns import no_votes
from cte_dask.results.dataset import read_scores
from cte_dask.results.layout import Layout, layout_of
from cte_dask.results.new_store import create
from cte_dask.results.repair import damaged_blocks, repair
from cte_dask.results.run_folder import RunFolder
from cte_dask.results.store import DONE, count_all, open_scores
from cte_dask.scoring.block_scores import STATUS, TILE_STATISTICS, BlockScores, TileScores
from cte_dask.scoring.resolve import resolve
from cte_dask.volume import open_volume

TILES = {"tile": (1, 32, 32), "block": (1, 3, 4), "metrics": ("nhd",)}
FAILED = 4
"""A block on which a model failed."""


def scores_of(layout: Layout, index: int) -> BlockScores:
    """Return numbers that no other block has."""
    rng = np.random.default_rng(index)
    tiles = layout.blocks.tile_count(index)
    shape = len(layout.models), len(layout.perturbations) * layout.repeats, tiles
    statistics = {name: rng.integers(1, 99, shape).astype(float) for name in TILE_STATISTICS}
    status = np.full(shape, STATUS["scored"], np.int8)
    failures = {}
    if index == FAILED:
        status[0], failures = STATUS["failed"], {layout.models[0]: "out of luck"}
    votes = no_votes(tiles, len(layout.models))
    return BlockScores(index, TileScores(statistics, status), failures, votes, None)


def write_all(scores, indices) -> None:
    for index in indices:
        scores.write(scores_of(scores.layout, int(index)))


@pytest.fixture(scope="module")
def sound(target, bank_path, tmp_path_factory) -> tuple[Path, Layout]:
    """A folder as a run leaves it, but with numbers of ours."""
    volume, bank = open_volume(str(target)), cte_dask.load_bank(str(bank_path))
    experiment = resolve(volume, bank, **TILES)
    folder = RunFolder(str(tmp_path_factory.mktemp("sound") / "RUN"))
    folder.create()
    layout = layout_of(experiment)
    scores = create(folder.scores_url, layout)
    write_all(scores, range(len(layout.blocks)))
    count_all(scores)
    folder.write_experiment(experiment)
    folder.write_ranking({"models": []}, "rank,model\n")
    folder.add_session({"seconds": 1.0})
    return Path(folder.url), layout


def damage(folder: Path, rng: np.random.Generator) -> str:
    """Damage one file in one way."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    file, other = (files[i] for i in rng.choice(len(files), 2, replace=False))
    content = bytearray(file.read_bytes())
    way = rng.choice(["delete", "truncate", "flip", "empty", "swap"])
    if way == "delete":
        file.unlink()
    elif way == "truncate":
        file.write_bytes(content[: rng.integers(len(content))])
    elif way == "flip":
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        file.write_bytes(content)
    elif way == "empty":
        file.write_bytes(b"")
    else:
        file.write_bytes(other.read_bytes())
        other.write_bytes(content)
    return f"{way} {file.relative_to(folder)}, {other.relative_to(folder)}"


def readers(folder: RunFolder):
    yield folder.finished
    yield folder.read_experiment
    yield folder.read_ranking
    yield folder.read_sessions
    yield lambda: read_scores(folder.open_scores())


def check(folder: Path, layout: Layout, what: str) -> None:
    """Resume: the numbers of before, or an error in one line."""
    run = RunFolder(str(folder))
    for read in readers(run):
        with suppress(ValueError, OSError):
            read()
    try:
        scores = create(run.scores_url, layout, resume=True)
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "zarr.json" in refusal or "another experiment" in refusal, what
        assert "--overwrite" in refusal, what
        return
    repair(scores, tell=lambda _: None)
    write_all(scores, scores.missing())
    assert not damaged_blocks(scores), what
    again = open_scores(run.scores_url)
    for index in range(len(layout.blocks)):
        want = scores_of(layout, index)
        read = again.block(index)
        assert (read.status == want.tiles.status).all(), what
        for name in TILE_STATISTICS:
            np.testing.assert_array_equal(read.statistics[name], want.tiles.statistics[name], what)
        assert again.failures(index) == want.failures or index != FAILED, what
        assert again.votes(index).voted.sum() == 0, what
    assert (again.done() == DONE["complete"]).sum() == len(layout.blocks) - 1, what


@pytest.mark.parametrize(
    ("first", "number"),
    [(0, 20), *(pytest.param(n, 140, marks=pytest.mark.slow) for n in range(20, 1000, 140))],
)
def test_a_damaged_run_is_mended_or_refused_and_never_other_numbers(sound, tmp_path, first, number):
    folder, layout = sound
    for seed in range(first, first + number):
        copy = tmp_path / "RUN"
        shutil.copytree(folder, copy)
        what = damage(copy, np.random.default_rng(seed))
        check(copy, layout, f"seed {seed}: {what}")
        shutil.rmtree(copy)


@pytest.mark.parametrize(
    ("array", "way"),
    [*product(["values", "sums", "done"], ["delete", "swap"]), ("causes", "delete")],
)
def test_a_chunk_that_is_gone_or_another_block_s_is_seen(sound, tmp_path, array, way):
    folder, layout = sound
    copy = shutil.copytree(folder, tmp_path / "RUN")
    chunks = sorted(p for p in (copy / "scores.zarr" / array / "c").rglob("*") if p.is_file())
    first, last = chunks[0], chunks[-1]
    before, after = first.read_bytes(), last.read_bytes()
    if way == "delete":
        last.unlink()
    else:
        first.write_bytes(after)
        last.write_bytes(before)
    changed = before != after or way == "delete"
    scores = open_scores(str(copy / "scores.zarr"))
    # without its mark a block is not damaged but missing
    assert bool(damaged_blocks(scores)) == (changed and (array, way) != ("done", "delete"))
    check(copy, layout, f"{way} {array}")


def test_resuming_a_run_with_a_lost_chunk_gives_its_scores_again(target, bank_path, tmp_path):
    words = ["rank", target, "--bank", bank_path, "--out", tmp_path / "RUN", "--cluster", "none"]
    words += ["--tile", "1,32,32", "--block", "1,2,2", "--roi", "0:2,0:64,0:64", "--json"]
    ran = CliRunner().invoke(app, [*map(str, words), "--quiet"])
    assert ran.exit_code == 0, ran.output
    (tmp_path / "RUN" / "scores.zarr" / "values" / "c" / "1" / "0" / "0" / "0" / "0").unlink()
    reported = CliRunner().invoke(app, ["report", str(tmp_path / "RUN"), "--gallery", "0"])
    assert reported.exit_code == 2
    assert "block 1 damaged since written: cte rank --resume" in reported.stderr
    again = CliRunner().invoke(app, [*map(str, words), "--resume"])
    assert again.exit_code == 0, again.output
    assert "block 1 of the score store: damaged, scored again" in again.stderr
    assert json.loads(again.stdout)["models"] == json.loads(ran.stdout)["models"]


@pytest.mark.slow
def test_no_command_on_a_damaged_run_ends_in_a_traceback_or_other_numbers(
    target, bank_path, tmp_path
):
    words = ["rank", target, "--bank", bank_path, "--tile", "1,32,32", "--block", "1,2,2"]
    words += ["--roi", "0:2,0:64,0:64", "--cluster", "none", "--json", "--quiet", "--out"]
    run, copy = tmp_path / "sound", tmp_path / "RUN"
    ran = CliRunner().invoke(app, [*map(str, words), str(run)])
    assert ran.exit_code == 0, ran.output
    sound, mended = json.loads(ran.stdout)["models"], 0
    for seed in range(40):
        shutil.copytree(run, copy)
        what = f"seed {seed}: {damage(copy, np.random.default_rng(seed))}"
        for command in (["status"], ["report", "--gallery", "0", "--quiet"], ["maps"]):
            done = CliRunner().invoke(app, [command[0], str(copy), *command[1:]])
            refused_in_one_line(done, what)
        again = CliRunner().invoke(app, [*map(str, words), str(copy), "--resume"])
        refused_in_one_line(again, what)
        if again.exit_code == 0:
            assert json.loads(again.stdout)["models"] == sound, what
            mended += 1
        shutil.rmtree(copy)
    assert mended > 20, "most of what may happen to a file can be mended"


def refused_in_one_line(done, what: str) -> None:
    assert done.exception is None or isinstance(done.exception, SystemExit), what
    assert done.exit_code in (0, 2), f"{what}: {done.output}"
    if done.exit_code == 2:
        [line] = [s for s in done.stderr.splitlines() if s.startswith("error: ")]
        assert len(line) < 500, what
