"""Which few tiles to label: those on which leading models differ and the truth is uncertain.

On a tile, the difference of two models' F1 is uncertain by as much as the truth behind each pattern
of votes is: every pattern p of n_p voxels is a coin with the probability u_p of foreground, and

    Var(F1_i − F1_j) = Σ_p (2 n_p (A_ip / (S_i + Q) − A_jp / (S_j + Q)))² u_p (1 − u_p)

with A a model's vote, S its voxels on the tile, and Q those of the truth. A label resolves it.
Tiles are taken one after the other, each the one that adds most to the sum over pairs of models of
the square root of what is resolved so far: tiles that tell different pairs apart are worth more
than several that tell the same one.

u is the mean of the fitted probability and of the votes: the fit alone is too sure of itself, for
models err together. Where instances are compared the place of the variance is taken by the square
of 1 − the average precision of one model's objects against the other's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cte_dask.consistency.degenerate import DISTRUSTED
from cte_dask.consistency.model_pairs import pairs_of
from cte_dask.ranking.ballot import ballot_of
from cte_dask.ranking.consensus import seen_patterns
from cte_dask.ranking.latent_truth import fit_truth
from cte_dask.results.block_codec import votes_in
from cte_dask.results.dataset import read_scores
from cte_dask.results.experiment_file import reopen
from cte_dask.results.label_folder import write_label_folder
from cte_dask.results.provenance import repeat_command
from cte_dask.results.run_folder import RunFolder
from cte_dask.storage.stores import absolute
from cte_dask.tiles import Shape, Tile

if TYPE_CHECKING:
    import xarray as xr

    from cte_dask.ranking.ballot import Ballot
    from cte_dask.results.run_folder import FinishedRun

__all__ = ["MOST_MODELS", "SuggestedTile", "Suggestion", "suggest_tiles", "tiles_to_label"]

Floats = npt.NDArray[np.float64]
Pair = tuple[int, int]

MOST_MODELS = 12
"""Leading models whose order is to be decided; nobody picks the thirteenth."""


@dataclass(frozen=True, slots=True)
class SuggestedTile:
    """A tile that is worth labelling.

    Parameters
    ----------
    tile
        Its number.
    start
        Its first voxel (z, y, x) in the target's array, at the level that was ranked.
    models
        Names of the two models that it would tell apart most.
    """

    tile: int
    start: Shape
    models: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Tiles to label, and where their files are.

    Parameters
    ----------
    folder
        Folder or URL of the files.
    tiles
        Best first.
    command
        What goes on with the labels.
    note
        Why there are fewer than were asked for; empty if there are as many.
    """

    folder: str
    tiles: tuple[SuggestedTile, ...]
    command: str
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        tiles = [
            {"tile": t.tile, "start": list(t.start), "models": list(t.models)} for t in self.tiles
        ]
        return {
            "folder": self.folder,
            "tiles": tiles,
            "command": self.command,
            "note": self.note or None,
        }


def suggest_tiles(
    run: str,
    number: int = 5,
    out: str | None = None,
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> Suggestion:
    """Choose the tiles of a run whose labels would decide the order, and write files to label.

    Parameters
    ----------
    run
        Folder or URL of a finished run.
    number
        Tiles wanted; those that were labelled already do not count.
    out
        Folder or URL of the files; by default ``suggestion`` in the run.
    tell
        Receives one line per step.

    Returns
    -------
    Suggestion

    Raises
    ------
    FileNotFoundError
        If there is no finished run.
    FileExistsError
        If `out` holds files already.
    ValueError
        If `number` is below 1, no tile tells any two models apart, or the target is not as it was.
    """
    if number < 1:
        raise ValueError(f"the number of tiles must be at least 1, not {number}")
    folder = RunFolder(run.rstrip("/"))
    finished = folder.finished()
    where = (folder.suggestion_url if out is None else out).rstrip("/")
    tell("opening the target")
    experiment = reopen(run)
    tell("looking where the models differ")
    data = read_scores(finished.scores)
    labelled = [int(e["tile"]) for e in folder.read_labels(experiment.digest())]
    choice = tiles_to_label(data, number, leading=_leading(finished), labelled=labelled)
    tiles = [experiment.grid.tile_at(t) for t, _ in choice]
    command = _command(finished, where)
    write_label_folder(
        where, experiment, tiles, pairs=[pair for _, pair in choice], command=command
    )
    note = "" if len(tiles) == number else f"only {len(tiles)} tiles tell any two models apart"
    suggested = [
        SuggestedTile(t.index, _shifted(t, experiment.volume.origin), pair)
        for t, (_, pair) in zip(tiles, choice, strict=True)
    ]
    return Suggestion(where, tuple(suggested), command, note)


def tiles_to_label(
    data: xr.Dataset, number: int, *, leading: Sequence[str], labelled: Sequence[int] = ()
) -> list[tuple[int, tuple[str, str]]]:
    """Choose the tiles whose labels would decide the order of a bank.

    Parameters
    ----------
    data
        Tile scores, computed.
    number
        Tiles wanted.
    leading
        Names of the models whose order matters, best first, without those that predict nothing or
        everything; the first `MOST_MODELS` count.
    labelled
        Numbers of tiles that have labels already: what they tell is known.

    Returns
    -------
    list
        Number of each tile and the names of the models that it tells apart most, best first; fewer
        where no more tiles tell any two models apart. The same tiles for the same scores.

    Raises
    ------
    ValueError
        If there are no two models, or no tile tells any two apart.
    """
    names = [str(name) for name in data.model.to_numpy()]
    models = [names.index(name) for name in leading]
    pairs, worth = _worth(data, models)
    tiles = data.tile.to_numpy()
    chosen = _greedy(worth, number, taken=np.flatnonzero(np.isin(tiles, labelled)))
    if not chosen:
        raise ValueError(
            "no tile tells any two models apart: fewer than two of the bank predict anything, they "
            "predict the same, or all tiles that tell are labelled"
        )
    best = worth[:, chosen].argmax(axis=0)
    apart = [(names[pairs[p][0]], names[pairs[p][1]]) for p in best]
    return [(int(tiles[t]), pair) for t, pair in zip(chosen, apart, strict=True)]


def _worth(data: xr.Dataset, models: Sequence[int]) -> tuple[list[Pair], Floats]:
    """Return pairs of models, and what a label of each tile resolves of each, (pair, tile)."""
    if "precision" in data:
        rows = {pair: row for row, pair in enumerate(pairs_of(data.sizes["model"]))}
        pairs = [p for p in combinations(sorted(models[:MOST_MODELS]), 2) if p in rows]
        precision = data.precision.to_numpy()[[rows[p] for p in pairs]]
        return pairs, np.nan_to_num(1 - precision) ** 2
    tables = votes_in(data)
    ballot = ballot_of(tables)
    usable = np.isin(np.arange(ballot.models), models)
    truth = fit_truth(ballot, usable)
    # a copy differs from its original nowhere: it would take a place among the leading ones
    originals = [m for m in models if truth.original[m] == m and tables.voted[:, m].any()]
    pairs = list(combinations(sorted(originals[:MOST_MODELS]), 2))
    fitted, tempered = seen_patterns(truth.consensus, ballot)
    rows_of = [_variance(ballot, pair, fitted, tempered) for pair in pairs]
    return pairs, np.array(rows_of).reshape(len(pairs), len(tables))


def _variance(ballot: Ballot, pair: Pair, fitted: Floats, tempered: Floats) -> Floats:
    """Return the variance of the difference of two models' F1 on each tile, (tile,)."""
    votes = ballot.votes[:, pair].astype(np.float64)
    *sizes, truth = ballot.per_tile(np.concatenate([votes, fitted[:, None]], axis=1)).T
    lengths = np.diff(ballot.tile_ends, prepend=0)
    tile = np.repeat(np.arange(len(lengths)), lengths)
    first, second = (
        votes[ballot.place, k] / np.maximum(size + truth, 1.0)[tile] for k, size in enumerate(sizes)
    )
    weight = 2 * ballot.voxels * (first - second)
    coin = (tempered * (1 - tempered))[ballot.place]
    variance = np.bincount(tile, weight**2 * coin, minlength=len(lengths))
    return np.where(ballot.voted[:, pair].all(axis=1), variance, 0.0)


def _greedy(worth: Floats, number: int, *, taken: npt.NDArray[np.int64]) -> list[int]:
    """Return the places of the tiles that resolve most together; see the module."""
    resolved = worth[:, taken].sum(axis=1)
    open_ = worth.max(axis=0, initial=0.0) > 0
    open_[taken] = False
    chosen: list[int] = []
    while len(chosen) < number and open_.any():
        gain = np.sqrt(resolved[:, None] + worth).sum(axis=0) - np.sqrt(resolved).sum()
        best = int(np.where(open_, gain, -np.inf).argmax())
        chosen.append(best)
        open_[best] = False
        resolved = resolved + worth[:, best]
    return chosen


def _leading(run: FinishedRun) -> list[str]:
    """Return the models of a ranking that are worth telling apart, best first."""
    models = [m for m in run.ranking["models"] if m["rank"] is not None]
    return [m["name"] for m in models if DISTRUSTED.isdisjoint(m["flags"])]


def _command(run: FinishedRun, labels: str) -> str:
    """Return the command that goes on with the labels."""
    banks = [s["bank"] for s in run.folder.read_sessions() if s.get("bank")]
    return repeat_command(
        run.experiment,
        banks[-1] if banks else "bank.yaml",
        run.ranking.get("goal"),
        out=absolute(run.folder.url),  # whoever labels may be elsewhere when they go on
        labels=absolute(labels),
    )


def _shifted(tile: Tile, origin: Shape) -> Shape:
    z, y, x = (s + o for s, o in zip(tile.start, origin, strict=True))
    return z, y, x
