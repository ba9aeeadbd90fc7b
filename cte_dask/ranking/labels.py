"""What was measured on labelled tiles, put beside the scores of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.ranking.correction import LABELLED, LABELLED_DIMS
from cte_dask.results.score_table import ScoreTable

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from cte_dask.results.label_folder import LabelledTile

__all__ = ["label_failures", "with_labels"]

Entry = Mapping[str, Any]


def with_labels(scores: ScoreTable | xr.Dataset, entries: Sequence[Entry]) -> ScoreTable:
    """Return tile scores with what was measured on labelled tiles beside them.

    Parameters
    ----------
    scores
        Tile scores, from `read_table` or `read_scores`.
    entries
        Of ``labels.json``.

    Returns
    -------
    ScoreTable
        With `LABELLED`, (model, labelled), and the numbers of the labelled tiles; as it was if
        there are none.
    """
    data = ScoreTable.of(scores)
    if not entries:
        return data

    def table(name: str) -> NDArray[np.float64]:
        rows = [[e[name].get(model) for e in entries] for model in data.models]
        return np.array(rows, np.float64)  # None becomes NaN

    variables = {LABELLED[name]: (LABELLED_DIMS, table(name)) for name in LABELLED}
    tiles = np.array([int(e["tile"]) for e in entries], np.int64)
    return replace(
        data,
        variables={**data.variables, **variables},
        places={**data.places, "labelled": (("labelled",), tiles)},
    )


def label_failures(
    entries: Sequence[Entry], labelled: Sequence[LabelledTile]
) -> dict[str, dict[str, str]]:
    """Return why models could not be measured on labelled tiles, by number of the tile and name.

    Parameters
    ----------
    entries
        Of ``labels.json``.
    labelled
        The tiles that were to be measured.
    """
    failures = {str(e["tile"]): dict(e["failures"]) for e in entries if e["failures"]}
    done = {(int(e["tile"]), e["sha256"]) for e in entries}
    for tile in labelled:
        if (tile.tile.index, tile.sha256) not in done:
            failures[str(tile.tile.index)] = {"all": "it was not measured: go on with --resume"}
    return failures
