"""Agreement between models: which predictions of a bank are alike, and whose word counts how much.

Models that are right agree with each other, models that are wrong mostly each in its own way. So
the mean overlap with the others' predictions ranks a bank without any perturbation, unless some
models are siblings: then they agree because they are alike. The rule, fixed beforehand:

1. **Copies** are one model: models whose predictions are the same on every tile (every defined
   overlap is exactly 1; of two that are silent everywhere, those with every other model are equal)
   share one vote. What follows sees one of them.
2. **Clusters**: average linkage of the distinct models on 1 - (median over tiles of their overlap),
   cut at `CUT`, so that predictions that overlap by 95 % or more say one thing. A pair whose
   overlap is not known is at distance 1.
3. Models flagged for predicting nothing or everything have no vote (they still get a value).
4. **Each cluster counts once**; the models of a cluster share its vote equally.
5. A model's value on a tile is the mean of its overlaps with the models *outside its own cluster*,
   weighted by their votes; pairs without foreground on either side are left out, and a tile without
   a pair is NaN. Only where the whole bank is one cluster do a model's own cluster, and itself
   (overlap 1), count: models that are all the same agree perfectly.

Hence a copy of a model, put into the bank, changes no other model's value, and none of its own.
A bank of one model has no agreement: NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cte_dask.consistency.model_pairs import pair_table, pairs_of

Floats = NDArray[np.float64]

__all__ = ["CUT", "Similarity", "similarity_of", "tile_agreement", "tile_votes"]

CUT = 0.05
"""Distance (1 - median overlap) up to which average linkage joins models into one cluster."""


@dataclass(frozen=True, slots=True, eq=False)
class Similarity:
    """How alike the models of a bank predict, and their votes.

    Parameters
    ----------
    names
        The models.
    matrix
        Median over tiles of the overlap of each pair (model, model), 1 on the diagonal; NaN where
        no tile tells.
    linkage
        Average linkage (model - 1, 4) as SciPy writes it: the two clusters joined, their distance,
        models in the result. Copies are joined first, at distance 0.
    cluster
        Number of each model's cluster.
    original
        For each model the first one that it is a copy of, itself if of none.
    votes
        Weight of each model (row) of each other model's word (column); rows sum to 1, or to 0 where
        there is no one to agree with.
    """

    names: tuple[str, ...]
    matrix: Floats
    linkage: Floats
    cluster: NDArray[np.int64]
    original: NDArray[np.int64]
    votes: Floats

    def note(self, name: str) -> str:
        """Return the note that the ranking shows beside a model; empty if there is none."""
        if self.votes[self.names.index(name)].sum() > 0:
            return ""
        return "no agreement: the bank has no other model that segments something"

    def order(self) -> list[int]:
        """Return the models as the dendrogram's leaves, those alike beside each other."""
        from scipy.cluster.hierarchy import leaves_list

        return [int(i) for i in leaves_list(self.linkage)] if len(self.linkage) else [0]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, the entry ``similarity`` of ``ranking.json``."""
        return {
            "names": list(self.names),
            "matrix": [[None if np.isnan(v) else float(v) for v in row] for row in self.matrix],
            "linkage": self.linkage.tolist(),
            "cluster": self.cluster.tolist(),
            "order": self.order(),
            "cut": CUT,
        }


def similarity_of(
    names: Sequence[str], pairs: Floats, *, voters: NDArray[np.bool_] | None = None
) -> Similarity:
    """Cluster the models of a bank by their overlaps.

    Parameters
    ----------
    names
        The models.
    pairs
        Overlap of each pair on each tile, (pair, tile), pairs as in
        `cte_dask.consistency.model_pairs.pairs_of`; NaN where neither has foreground or one is
        missing.
    voters
        Which models have a vote; all by default.

    Returns
    -------
    Similarity
    """
    models = len(names)
    voters = np.ones(models, bool) if voters is None else voters
    matrix = pair_table(_median(pairs), models)
    copy_of = _copies(pairs, models)
    distinct = np.flatnonzero(copy_of == np.arange(models))
    linkage, cluster = _clusters(matrix[np.ix_(distinct, distinct)])
    place = {int(m): i for i, m in enumerate(distinct)}
    member = np.array([cluster[place[int(c)]] for c in copy_of], np.int64)
    np.fill_diagonal(matrix, 1.0)
    return Similarity(
        names=tuple(names),
        matrix=matrix,
        linkage=_with_copies(linkage, distinct, copy_of),
        cluster=member,
        original=copy_of,
        votes=_votes(copy_of, member, voters),
    )


def tile_votes(pairs: Floats, *, voters: NDArray[np.bool_]) -> Floats:
    """Return the votes (model, voter) that one tile's own overlaps give, by the rule above.

    Parameters
    ----------
    pairs
        Overlaps on one tile, (pair,).
    voters
        Which models have a prediction there.
    """
    return similarity_of([""] * len(voters), pairs[:, None], voters=voters).votes


def tile_agreement(pairs: Floats, similarity: Similarity) -> Floats:
    """Return each model's agreement with the others on each tile.

    Parameters
    ----------
    pairs
        Overlaps (pair, tile).
    similarity
        Whose word counts how much.

    Returns
    -------
    ndarray of float64, shape (model, tile)
        NaN where no pair with a vote is defined.
    """
    models = len(similarity.names)
    values = np.empty((models, pairs.shape[1]))
    table = pair_table(pairs, models)
    for model, weights in enumerate(similarity.votes):
        # A copy says what the model itself says: overlap 1 wherever the model has any overlap.
        overlaps, own = table[model], similarity.original == similarity.original[model]
        overlaps[own] = np.where(np.isnan(overlaps).all(axis=0), np.nan, 1.0)
        defined = ~np.isnan(overlaps)
        # Weights are renormalised tile by tile over the pairs that the tile defines.
        total = (weights[:, None] * defined).sum(axis=0)
        mean = (weights[:, None] * np.where(defined, overlaps, 0.0)).sum(axis=0)
        values[model] = mean / np.where(total > 0, total, np.nan)
    return values


def _median(pairs: Floats) -> Floats:
    """Return the median over tiles, NaN left out; NaN where all are."""
    return np.array([np.median(row[~np.isnan(row)]) if (~np.isnan(row)).any() else np.nan
                     for row in pairs])  # fmt: skip


def _copies(pairs: Floats, models: int) -> NDArray[np.int64]:
    """Return for each model the first one that predicts the same on every tile."""
    defined = ~np.isnan(pairs)
    same = np.all((pairs == 1) | ~defined, axis=1)
    # The diagonal of a pair table is NaN, which nan_to_num makes False until it is filled.
    table = np.nan_to_num(pair_table(same.astype(np.float64), models)) > 0
    np.fill_diagonal(table, val=True)
    overlaps = pair_table(pairs, models)
    for (i, j), has_overlap in zip(pairs_of(models), np.any(defined, axis=1).tolist(), strict=True):
        if not has_overlap:  # no foreground in both, or one missing
            # The pair itself says nothing: they are the same if all other models see them alike.
            third = np.delete(overlaps[[i, j]], [i, j], axis=1)
            table[i, j] = table[j, i] = np.array_equal(third[0], third[1], equal_nan=True)
    first = np.arange(models)
    for model in range(models):  # copies of copies lead back to the first
        first[model] = first[int(np.argmax(table[model]))]
    return first


def _clusters(matrix: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return average linkage and flat clusters of the distinct models."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(matrix) < 2:
        return np.empty((0, 4)), np.zeros(len(matrix), np.int64)
    distances = 1 - np.nan_to_num(matrix, nan=0.0)
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(distances, checks=False), method="average")
    return tree, fcluster(tree, CUT, criterion="distance").astype(np.int64) - 1


def _with_copies(tree: Floats, distinct: NDArray[np.int64], copy_of: NDArray[np.int64]) -> Floats:
    """Return a linkage of all models: copies joined at 0, then the tree of the distinct ones."""
    models = len(copy_of)
    rows: list[list[float]] = []
    node = {
        int(m): int(m) for m in distinct
    }  # SciPy's cluster number of each model and its copies so far
    size = dict.fromkeys(range(models), 1)
    for model in np.flatnonzero(copy_of != np.arange(models)):
        first, new = int(copy_of[model]), models + len(rows)
        size[new] = size[node[first]] + 1
        rows.append([node[first], int(model), 0.0, size[new]])
        node[first] = new
    # The tree numbers distinct models 0..n-1 and its own clusters from n on; translate both.
    name = {i: node[int(m)] for i, m in enumerate(distinct)}
    for number, (a, b, distance, _) in enumerate(tree):
        new = models + len(rows)
        left, right = name[int(a)], name[int(b)]
        size[new] = size[left] + size[right]
        rows.append([left, right, float(distance), size[new]])
        name[len(distinct) + number] = new
    return np.array(rows, np.float64).reshape(-1, 4)


def _votes(
    copy_of: NDArray[np.int64], cluster: NDArray[np.int64], voters: NDArray[np.bool_]
) -> Floats:
    """Return the weight of each voter (column) for each model (row), by rules 3 to 5."""
    weights = np.zeros(len(copy_of))
    for number in np.unique(cluster[voters]):
        inside = np.flatnonzero((cluster == number) & voters)
        originals, group, copies = np.unique(
            copy_of[inside], return_inverse=True, return_counts=True
        )
        # A cluster's one vote is split over its distinct models, each share over that one's copies.
        weights[inside] = 1 / (len(originals) * copies[group])
    if len(copy_of) < 2:
        return np.zeros((1, 1))
    outside = np.where(cluster[:, None] != cluster[None, :], weights[None, :], 0.0)
    alone = outside.sum(axis=1) == 0
    # Where the whole bank is one cluster, votes from inside the cluster count (rule 5).
    table = np.where(alone[:, None], weights[None, :], outside)
    table[np.count_nonzero(table, axis=1) == np.diag(table > 0)] = (
        0  # the only vote would be its own
    )
    total = table.sum(axis=1, keepdims=True)
    return np.asarray(table / np.where(total > 0, total, 1.0))
