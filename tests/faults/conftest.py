"""A run of cheap blocks that takes a few seconds, and how it went undisturbed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import noting
import pytest
import xarray as xr
from conftest import blobs

from cte_dask.engine.checkpoint import Checkpoint
from cte_dask.engine.dask_runner import run_jobs
from cte_dask.engine.jobs import Job, Listed
from cte_dask.models import load_bank
from cte_dask.results.dataset import read_scores
from cte_dask.results.layout import layout_of
from cte_dask.results.new_store import create
from cte_dask.results.store import open_scores
from cte_dask.scoring.resolve import resolve
from cte_dask.volume import open_volume, write_ome_zarr

SHAPE, TILE, BLOCK = (48, 64, 64), (1, 32, 32), (1, 2, 2)
SECONDS = 0.04  # of a forward pass; a block has two
OPTIONS = {
    "tile": TILE,
    "block": BLOCK,
    "perturbations": ("gaussian:0.2",),
    "metrics": ("nhd", "ei"),
}


@dataclass(frozen=True)
class Undisturbed:
    """A run in one process that nothing happened to.

    Parameters
    ----------
    target, bank
        What was ranked.
    log
        Where the bank's network notes the tiles that it is asked for.
    scores
        The tile scores.
    block_of
        The block that asked for each tile, by the tile's digest; but for that on which models are
        tried.
    """

    target: str
    bank: str
    log: Path
    scores: xr.Dataset
    block_of: dict[str, int]

    @property
    def experiment(self):
        return resolve(open_volume(self.target), load_bank(self.bank), **OPTIONS)

    def assert_equal(self, url: str) -> None:
        """All scores of a store are the bits of the undisturbed run."""
        scores = open_scores(url)
        assert not len(scores.missing())
        dataset = read_scores(scores)
        assert (dataset.status == 1).all()
        xr.testing.assert_identical(dataset.sortby("tile"), self.scores.sortby("tile"))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    target, log, url = folder / "target.zarr", folder / "log", str(folder / "scores.zarr")
    write_ome_zarr(
        target, blobs(SHAPE), axes="zyx", voxel_size_nm=(40.0, 10.0, 10.0), chunks=(1, 64, 64)
    )
    bank = noting.write_bank(
        folder / "bank.yaml", noting.entry("noting", "factory", log=str(log), seconds=SECONDS)
    )
    experiment = resolve(open_volume(str(target)), load_bank(str(bank)), **OPTIONS)
    scores = create(url, layout_of(experiment))
    # each client tries its models on one tile before it begins
    tried = noting.noted(log).keys()
    block_of: dict[str, int] = {}
    for index in range(len(experiment.blocks)):
        log.unlink()
        run_jobs(Checkpoint(experiment, url), Listed(map(Job, [index])))
        asked = noting.noted(log)
        assert len(asked) == 2 * 4  # four tiles, unperturbed and perturbed
        assert not asked.keys() & block_of.keys()
        block_of |= dict.fromkeys(asked.keys() - tried, index)
    assert len(block_of) == 8 * len(experiment.blocks) - 1
    return Undisturbed(str(target), str(bank), log, read_scores(scores), block_of)


class Ledger:
    """Watches a store: which blocks were finished at each kill, and what was computed after."""

    def __init__(self, run: Undisturbed, url: str) -> None:
        self.run, self.marks = run, Path(url) / "done" / "c"
        self.finished: dict[int, int] = {}
        run.log.unlink(missing_ok=True)

    def look(self) -> None:
        """Note the blocks that are finished now, and when each was."""
        if self.marks.is_dir():
            for mark in self.marks.iterdir():
                if mark.name.isdigit():  # others are being written
                    self.finished.setdefault(int(mark.name), mark.stat().st_mtime_ns)

    def assert_finished_once(self, slack_s: float = 0.0) -> int:
        """No finished block was begun, or written, again; returns how many blocks were begun twice.

        Parameters
        ----------
        slack_s
            Seconds after a block's mark within which another task, which began when there was
            no mark yet, may still ask for its first tile.
        """
        times: dict[int, list[int]] = {}
        for digest, moments in noting.noted(self.run.log).items():
            if digest in self.run.block_of:
                times.setdefault(self.run.block_of[digest], []).extend(moments)
        for block, moment in self.finished.items():
            assert (self.marks / str(block)).stat().st_mtime_ns == moment, (
                f"block {block} rewritten"
            )
            late = [t for t in times[block] if t > moment + slack_s * 1e9]
            assert not late, f"block {block} was computed again after it was finished"
        return sum(len(moments) > 8 for moments in times.values())


@pytest.fixture
def ledger(undisturbed) -> Callable[[str], Ledger]:
    return lambda url: Ledger(undisturbed, url)
