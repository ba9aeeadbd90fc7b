"""Latent truth: what the models of a bank, taken together, say of each voxel, and of each other.

Every model votes on every voxel. Given the truth, which nobody knows, the votes are taken as
independent, each model with a sensitivity and a false positive rate of its own; expectation
maximisation finds both, and the probability of the truth behind every pattern of votes (Dawid &
Skene 1979, doi:10.2307/2346806; of segmentations: STAPLE, Warfield et al. 2004,
doi:10.1109/TMI.2004.828354).

A model is judged by the truth that *the others* tell: with its own vote, one that stands alone
would confirm itself. So there is one fit for each model, left out, and all of them run at once, as
products of small matrices over the distinct patterns of votes (`cte_dask.ranking.ballot`); no voxel
is touched.

The rule, fixed beforehand: `ROUNDS` rounds from the mean of the votes; the limits below; a model
whose votes speak against the foreground (sensitivity no higher than its false positive rate) has no
say, nor have models that predict nothing or everything; exact copies are one voter, left out
together. On a tile where a model has no prediction it has no vote.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cte_dask.ranking.ballot import copies

if TYPE_CHECKING:
    from cte_dask.ranking.ballot import Ballot

__all__ = ["Fit", "LatentTruth", "fit_truth", "fits_of"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ROUNDS = 25
START = 0.01, 0.99
SENSITIVITY = 0.02, 0.98
FALSE_POSITIVE_RATE = 0.002, 0.98
PRIOR = 0.003, 0.9
LARGEST_LOGIT = 30.0
"""Limits of what is fitted: no model is taken as certain, nor the foreground as absent."""


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """What expectation maximisation found, of several sets of voters at once.

    Parameters
    ----------
    sensitivity, false_positive_rate
        P(vote | foreground) and P(vote | background) of every model, float64 (fit, model).
    prior
        Fraction of foreground, float64 (fit,).
    say
        Which models' votes count, bool (fit, model).
    """

    sensitivity: Floats
    false_positive_rate: Floats
    prior: Floats
    say: Mask

    def rows(self, chosen: slice) -> Fit:
        """Return some of the fits.

        Parameters
        ----------
        chosen
            Their places.
        """
        return Fit(
            self.sensitivity[chosen],
            self.false_positive_rate[chosen],
            self.prior[chosen],
            self.say[chosen],
        )

    def only(self, number: int) -> Fit:
        """Return one of the fits.

        Parameters
        ----------
        number
            Its place.
        """
        return self.rows(slice(number, number + 1))

    def probability(self, votes: Floats, voted: Mask) -> Floats:
        """Return the probability that voxels are foreground.

        Parameters
        ----------
        votes
            Patterns, 0 or 1, float64 (pattern, model).
        voted
            Models that voted on all of them, bool (model,).

        Returns
        -------
        ndarray of float64, shape (pattern, fit)
        """
        a, b = self.sensitivity, self.false_positive_rate
        heard = self.say & voted
        # Σ over heard models of log(a/b) if they vote, log((1-a)/(1-b)) if they do not
        silent = np.where(heard, np.log1p(-a) - np.log1p(-b), 0.0)
        weight = np.where(heard, np.log(a) - np.log(b), 0.0) - silent
        start = np.log(self.prior) - np.log1p(-self.prior) + silent.sum(axis=1)
        logit = votes @ weight.T + start
        np.clip(logit, -LARGEST_LOGIT, LARGEST_LOGIT, out=logit)
        np.negative(logit, out=logit)
        np.exp(logit, out=logit)
        logit += 1.0
        probability: Floats = np.reciprocal(logit, out=logit)
        return probability


def fits_of(ballot: Ballot, voters: Mask) -> Fit:
    """Fit sensitivities, false positive rates and the prior by expectation maximisation.

    Parameters
    ----------
    ballot
        The votes.
    voters
        For each fit the models that may have a say, bool (fit, model).

    Returns
    -------
    Fit
        Rates are of every model, those of models without a say as the others see them.
    """
    total, fit = ballot.total, None
    for _ in range(ROUNDS):
        fit = _maximised(ballot, total, voters, fit)
    assert fit is not None
    return fit


def _maximised(ballot: Ballot, total: Floats, voters: Mask, fit: Fit | None) -> Fit:
    """Take one round: the probabilities that a fit gives, and the rates that follow from them."""
    shape = len(voters), ballot.models
    true_votes, true_voxels = np.zeros(shape), np.zeros(shape)
    votes, voxels = np.zeros(ballot.models), np.zeros(ballot.models)
    foreground = np.zeros(len(voters))
    for rows, voted in ballot.pieces():
        own = ballot.votes[rows].astype(np.float64)
        q = _start(own, voters & voted) if fit is None else fit.probability(own, voted)
        truth = q * total[rows, None]
        true_votes += truth.T @ own
        true_voxels += np.outer(truth.sum(axis=0), voted)
        votes += total[rows] @ own
        voxels += total[rows].sum() * voted
        foreground += truth.sum(axis=0)
    a = _ratio(true_votes, true_voxels).clip(*SENSITIVITY)
    b = _ratio(votes - true_votes, voxels - true_voxels).clip(*FALSE_POSITIVE_RATE)
    prior = (foreground / max(total.sum(), 1.0)).clip(*PRIOR)
    return Fit(a, b, prior, voters & (a > b))


def _start(votes: Floats, heard: Mask) -> Floats:
    """Return the mean of the votes that each fit hears, (pattern, fit)."""
    start: Floats = (votes @ heard.T / np.maximum(heard.sum(axis=1), 1)).clip(*START)
    return start


def _ratio(numerator: Floats, total: Floats) -> Floats:
    return numerator / np.where(total > 0, total, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class LatentTruth:
    """What a bank says of a target, and of each of its models.

    Parameters
    ----------
    consensus
        The fit of all voters, to be asked of any voxel.
    others
        For each model the fit without it and its copies, (model,).
    original
        For each model the first one that it is a copy of, itself if of none, (model,).
    """

    consensus: Fit
    others: Fit
    original: npt.NDArray[np.int64]

    @property
    def sensitivity(self) -> Floats:
        """The foreground that each model sees, against the truth of all voters, (model,)."""
        rates: Floats = self.consensus.sensitivity[0]
        return rates

    @property
    def false_positive_rate(self) -> Floats:
        """The background that each model calls foreground, by the same truth, (model,)."""
        rates: Floats = self.consensus.false_positive_rate[0]
        return rates

    def judged_by(self, panel: Mask) -> LatentTruth:
        """Return the same rates, but let some models alone have a say.

        Parameters
        ----------
        panel
            Which, bool (model,).
        """
        consensus, others = (replace(f, say=f.say & panel) for f in (self.consensus, self.others))
        return LatentTruth(consensus, others, self.original)

    def f1(self, ballot: Ballot) -> Floats:
        """Return the estimated F1 of each model on each tile: by what the others see.

        Parameters
        ----------
        ballot
            Votes, those of the fit or others.

        Returns
        -------
        ndarray of float64, shape (model, tile)
            2 Σ A q / (Σ A + Σ q) of a model's foreground A and the others' probabilities q. NaN
            where it has no prediction, or neither it nor the others see any foreground.
        """
        f1 = np.full((ballot.models, len(ballot.voted)), np.nan)
        for model in np.unique(self.original).tolist():
            tiles = _tile_f1(ballot, self.others.only(model), model)
            f1[self.original == model] = tiles
        return np.where(ballot.voted.T, f1, np.nan)

    def certainty(self, ballot: Ballot) -> float:
        """Return the F1 that the consensus is expected to have on a typical tile.

        Parameters
        ----------
        ballot
            Votes.

        Returns
        -------
        float
            The consensus are the voxels more likely foreground than not. The median over tiles;
            NaN where none has any foreground.
        """
        q = _probabilities(ballot, self.consensus)
        seen = (q > 0.5).astype(np.float64)
        common, votes, truth = ballot.per_tile(np.stack([seen * q, seen, q], axis=1)).T
        some = votes > 0
        return float(np.median(2 * common[some] / (votes + truth)[some])) if some.any() else np.nan


def fit_truth(ballot: Ballot, usable: Mask) -> LatentTruth:
    """Estimate the truth from the votes of a bank: all of them, and without each of its models.

    Parameters
    ----------
    ballot
        The votes.
    usable
        Models that may have a say: not those that predict nothing or everything, bool (model,).

    Returns
    -------
    LatentTruth
    """
    original = copies(ballot)
    voters = usable & (original == np.arange(ballot.models))
    # row 0: everyone; then a row for each model, its original left out
    absent = original[:, None] == np.arange(ballot.models)
    fit = fits_of(ballot, np.concatenate([voters[None], voters & ~absent]))
    return LatentTruth(fit.only(0), fit.rows(slice(1, None)), original)


def _probabilities(ballot: Ballot, fit: Fit) -> Floats:
    """Return the probability of foreground of each pattern under one fit, float64 (pattern,)."""
    q = np.empty(len(ballot.votes))
    for rows, voted in ballot.pieces():
        q[rows] = fit.probability(ballot.votes[rows].astype(np.float64), voted)[:, 0]
    return q


def _tile_f1(ballot: Ballot, fit: Fit, model: int) -> Floats:
    q, own = _probabilities(ballot, fit), ballot.votes[:, model].astype(np.float64)
    common, votes, truth, seen = ballot.per_tile(
        np.stack([own * q, own, q, (q > 0.5).astype(np.float64)], axis=1)
    ).T
    judged = ((votes > 0) | (seen > 0)) & fit.say.any()
    return np.where(judged, 2 * common / np.where(judged, votes + truth, 1.0), np.nan)
