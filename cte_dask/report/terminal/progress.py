"""Live progress of a run in a terminal; a plain line now and then where there is none."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cte_dask.report.terminal.numbers import shown_number
from cte_dask.results.dataset import consistency_of
from cte_dask.results.provenance import shown_urls

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.engine.anytime import Anytime
    from cte_dask.ranking.options import ShowProgress
    from cte_dask.results.layout import Layout
    from cte_dask.scoring.block_scores import BlockScores, TileScores

__all__ = ["RunProgress", "shown_on"]

LEADERS = 10
PLAIN_EVERY_S = 10.0
BINS = 10_000
"""Bins of the consistencies so far: medians from bins need no memory that grows with the target."""


class RunProgress:
    """Progress of a run: blocks, tiles a second, time left and a live leaderboard.

    Parameters
    ----------
    layout
        What the numbers of a block mean.
    blocks
        Blocks to do.
    console
        Where to show it.
    race
        The work of an anytime run, which may end long before all blocks are done.
    """

    def __init__(
        self,
        layout: Layout,
        blocks: int,
        console: Console,
        race: Anytime | None = None,
    ) -> None:
        self.layout = layout
        self.console, self.race = console, race
        self.total, self.blocks, self.tiles, self.failed = blocks, 0, 0, 0
        self.began = self.last_line = time.monotonic()
        self.counts = np.zeros((len(layout.models), BINS + 1), np.int64)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} blocks"),
            TextColumn("{task.fields[rate]} tiles/s"),
            TimeElapsedColumn(),
            *([] if race else [TimeRemainingColumn()]),
            console=console,
        )
        self.task = self.bar.add_task("scoring", total=blocks, rate="–")
        self.live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[RunProgress]:
        """Show progress inside the context: live on a terminal, a line now and then elsewhere."""
        if not self.console.is_terminal:
            yield self
            return
        with Live(self._view(), console=self.console, transient=True) as self.live:
            yield self

    def __call__(self, scores: BlockScores) -> None:
        """Count a finished block and show the progress."""
        self.blocks += 1
        self.tiles += scores.status.shape[-1]
        self.failed += bool(scores.failures)
        self._count(scores.tiles)
        for name, cause in scores.failures.items():
            line = f"block {scores.index}, model {name}: failed: {shown_urls(cause)}"
            self.console.print(Text(line))
        self._tell()

    def _count(self, tiles: TileScores) -> None:
        for model, row in enumerate(consistency_of(self.layout, tiles, self.layout.primary)):
            bins = np.rint(np.clip(row[~np.isnan(row)], 0, 1) * BINS).astype(np.int64)
            self.counts[model] += np.bincount(bins, minlength=BINS + 1)

    @property
    def rate(self) -> float:
        """Tiles a second so far, each under all models."""
        return self.tiles / max(time.monotonic() - self.began, 1e-9)

    def _tell(self) -> None:
        self.bar.update(self.task, completed=self.blocks, rate=f"{self.rate:.1f}")
        if self.live is not None:
            self.live.update(self._view())
        elif time.monotonic() - self.last_line > PLAIN_EVERY_S or self.blocks == self.total:
            self.last_line = time.monotonic()
            self.console.print(
                f"{self.blocks}/{self.total} blocks, {self.rate:.1f} tiles/s, {self._left()}; "
                f"{self._leaders(3)}"
            )

    def _left(self) -> str:
        if self.race is not None:
            return self.race.summary()
        seconds = (self.last_line - self.began) / self.blocks * (self.total - self.blocks)
        return f"about {seconds:.0f} s left"

    def _medians(self) -> Sequence[tuple[str, float]]:
        names = self.layout.models
        medians = map(_median, self.counts)
        active = [True] * len(names) if self.race is None else self.race.race.active
        pairs = [
            (n, m)
            for n, m, is_active in zip(names, medians, active, strict=True)
            if is_active and not math.isnan(m)  # beaten models have seen fewer blocks
        ]
        return sorted(pairs, key=lambda pair: -pair[1])

    def _leaders(self, most: int) -> str:
        return ", ".join(f"{name} {shown_number(cte)}" for name, cte in self._medians()[:most])

    def _view(self) -> Group:
        table = Table(title=f"consistency so far, {self.layout.primary}", title_justify="left")
        table.add_column("model")
        table.add_column("CTE", justify="right")
        for name, cte in self._medians()[:LEADERS]:
            table.add_row(Text(name), shown_number(cte))
        race_lines = [] if self.race is None else [Text(self.race.summary())]
        return Group(self.bar.get_renderable(), *race_lines, table)


def shown_on(console: Console) -> ShowProgress:
    """Return what shows the progress of a run on a console."""

    def show(
        layout: Layout, blocks: int, race: Anytime | None, /
    ) -> AbstractContextManager[RunProgress]:
        return RunProgress(layout, blocks, console, race).shown()

    return show


def _median(counts: NDArray[np.int64]) -> float:
    total = np.cumsum(counts)
    if not total[-1]:
        return math.nan
    # The bin at which half of the tiles is reached: the lower median, exact to 1 / BINS.
    return float(np.searchsorted(total, (total[-1] + 1) // 2)) / BINS
