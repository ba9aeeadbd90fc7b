"""Consensus of a bank: what its models, taken together, see of a target, and how surely.

The fitted truth (`cte_dask.ranking.latent_truth`) takes the errors of models as independent. They
are not, so it is too sure of itself; what is told here of a voxel's uncertainty goes by the mean of
the fitted probability and of the share of the models with a say that call it foreground.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cte_dask.consistency.degenerate import DISTRUSTED
from cte_dask.ranking.ballot import ballot_of
from cte_dask.ranking.latent_truth import fit_truth
from cte_dask.ranking.transfer import FEWEST
from cte_dask.results.block_codec import votes_in
from cte_dask.results.dataset import read_scores

if TYPE_CHECKING:
    import xarray as xr

    from cte_dask.ranking.ballot import Ballot
    from cte_dask.ranking.latent_truth import Fit
    from cte_dask.results.run_folder import FinishedRun

__all__ = [
    "Consensus",
    "consensus_in",
    "consensus_of",
    "seen_by",
    "seen_patterns",
    "uncertainty_of",
]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Consensus:
    """What a bank sees of the tiles of a target.

    Parameters
    ----------
    models
        Names of the models that have a say, in the order of `fit`.
    fit
        Their rates, to be asked of any voxel (`seen_by`).
    tile
        Numbers of the tiles, int64 (tile,).
    foreground
        Expected fraction of foreground voxels, float64 (tile,); NaN where no model voted.
    uncertainty
        One minus the F1 that the consensus, the voxels more likely foreground than not, is expected
        to have, float64 (tile,); NaN where it has no foreground.
    """

    models: tuple[str, ...]
    fit: Fit
    tile: npt.NDArray[np.int64]
    foreground: Floats
    uncertainty: Floats


def consensus_of(data: xr.Dataset, degenerate: Mask) -> Consensus:
    """Fit what the models of a bank see.

    Parameters
    ----------
    data
        Tile scores with the tables of votes, from `read_scores`.
    degenerate
        Models that predict nothing or everything and have no say, bool (model,).

    Returns
    -------
    Consensus

    Raises
    ------
    ValueError
        If too few models have a say.
    """
    ballot = ballot_of(votes_in(data))
    fit = fit_truth(ballot, ~degenerate).consensus
    if (number := int(fit.say[0].sum())) < FEWEST:
        raise ValueError(
            f"{number} models of this run have a say, a consensus takes {FEWEST}: rank a larger "
            "bank to see one"
        )
    probability, tempered = seen_patterns(fit, ballot)
    seen = (probability > 0.5).astype(np.float64)
    columns = [tempered * seen, seen, tempered, np.ones_like(seen)]
    common, foreground, expected, voxels = ballot.per_tile(np.stack(columns, axis=1)).T
    some = (foreground > 0) & ballot.voted.any(axis=1)
    f1 = 2 * common / np.where(some, foreground + expected, np.nan)
    own = np.flatnonzero(fit.say[0])
    return Consensus(
        models=tuple(map(str, data.model.to_numpy()[own])),
        fit=replace(
            fit,
            sensitivity=fit.sensitivity[:, own],
            false_positive_rate=fit.false_positive_rate[:, own],
            say=fit.say[:, own],
        ),
        tile=data.tile.to_numpy(),
        foreground=expected / np.where(ballot.voted.any(axis=1), voxels, np.nan),
        uncertainty=1 - f1,
    )


def consensus_in(run: FinishedRun) -> tuple[Consensus | None, str]:
    """Return what the bank of a finished run sees, or why that is not known.

    Parameters
    ----------
    run
        The run.
    """
    data = read_scores(run.scores)
    flags = {m["name"]: set(m["flags"]) for m in run.ranking["models"]}
    degenerate = [bool(DISTRUSTED & flags[str(n)]) for n in data.model.to_numpy()]
    try:
        return consensus_of(data, np.array(degenerate, bool)), ""
    except ValueError as error:
        return None, str(error)


def seen_by(fit: Fit, votes: Mask, voted: Mask) -> tuple[Floats, Floats]:
    """Return the probability of foreground, as fitted and as tempered by the share of votes.

    Parameters
    ----------
    fit
        Rates of the models; the first fit counts.
    votes
        Patterns, bool (pattern, model).
    voted
        Models that voted on all of them, bool (model,).

    Returns
    -------
    tuple of ndarray of float64, shape (pattern,)
        The fitted probability; its mean with the share of the models with a say that vote for it.
    """
    heard = fit.say[0] & voted
    fitted = fit.only(0).probability(votes.astype(np.float64), voted)[:, 0]
    share = votes[:, heard].mean(axis=1) if heard.any() else fitted
    return fitted, (fitted + share) / 2


def seen_patterns(fit: Fit, ballot: Ballot) -> tuple[Floats, Floats]:
    """Return `seen_by` of every pattern of votes of a target.

    Parameters
    ----------
    fit
        Rates of the models; the first fit counts.
    ballot
        The votes.
    """
    probability, tempered = np.empty(len(ballot.votes)), np.empty(len(ballot.votes))
    for rows, voted in ballot.pieces():
        probability[rows], tempered[rows] = seen_by(fit, ballot.votes[rows], voted)
    return probability, tempered


def uncertainty_of(tempered: Floats) -> Floats:
    """Return how unsure a probability is: 0 if it is 0 or 1, 1 if it is one half.

    Parameters
    ----------
    tempered
        From `seen_by`, any shape.

    Examples
    --------
    >>> uncertainty_of(np.array([0.0, 0.25, 0.5, 1.0])).tolist()
    [0.0, 0.5, 1.0, 0.0]
    """
    uncertainty: Floats = 1 - np.abs(2 * tempered - 1)
    return uncertainty
