"""The numbers of a block as they are stored: the columns of ``cte-scores/2``, and back."""

from __future__ import annotations

import numpy as np
import pytest

from cte_dask.consistency.vote_patterns import MOST_PATTERNS, VoteTables, words_for
from cte_dask.results.block_codec import (
    CAUSE_BYTES,
    COLUMNS,
    decoded,
    decoded_causes,
    decoded_votes,
    encoded,
    encoded_causes,
    encoded_votes,
    vote_columns,
)
from cte_dask.scoring.block_scores import STATUS, unscored

STORED = (
    "n_union", "n_disagree", "sum_ei", "n_reference", "n_voxels", "n_nan",
    "pair_common", "pair_perturbed", "pair_reference", "status",
)  # fmt: skip
"""The columns of a chunk as every store of schema ``cte-scores/2`` has them."""


@pytest.fixture
def chunk():
    """A chunk as it was written by hand: two models, one draw, three tiles."""
    values = np.arange(2 * 1 * 10 * 3, dtype=np.float64).reshape(2, 1, 10, 3)
    values[:, 0, -1] = [[1, 1, 6], [1, 3, 2]]
    return values


def test_columns_are_those_of_the_schema():
    assert COLUMNS == STORED


def test_a_stored_chunk_is_read_by_name(chunk):
    scores = decoded(chunk)
    for column, name in enumerate(STORED[:-1]):
        np.testing.assert_array_equal(scores.statistics[name], chunk[:, :, column])
    assert scores.status.dtype == np.int8
    assert (scores.status[0, 0] == chunk[0, 0, -1]).all()


def test_what_is_written_is_what_was_read(chunk):
    written = encoded(decoded(chunk))
    assert written.dtype == np.float64
    assert written.tobytes() == chunk.tobytes()


def test_a_chunk_that_no_one_wrote_reads_as_absent():
    scores = decoded(np.full((2, 1, len(STORED), 3), np.nan))
    assert (scores.status == STATUS["absent"]).all()
    assert not scores.scored.any()


def test_a_short_block_fills_its_chunk(chunk):
    written = encoded(decoded(chunk), length=5)
    np.testing.assert_array_equal(written[..., :3], chunk)
    assert np.isnan(written[..., 3:]).all()


def test_causes_come_back_cut_to_what_the_ledger_holds():
    causes = {"b": "OSError: cannot read µ", "c": "x" * 1000}
    rows = encoded_causes(causes, ["a", "b", "c"])
    assert rows.shape == (3, CAUSE_BYTES)
    want = {"b": "OSError: cannot read µ", "c": "x" * CAUSE_BYTES}
    assert decoded_causes(rows, ["a", "b", "c"]) == want


def test_reading_copies_no_number():
    values = encoded(unscored((1, 1, 4), "scored"))
    assert np.shares_memory(decoded(values).statistics["n_union"], values)


@pytest.mark.parametrize("models", [1, 5, 64, 70])
def test_vote_tables_come_back(models):
    rng = np.random.default_rng(0)
    lengths = np.array([0, 3, 1, 7])
    voted = rng.random((4, models)) < 0.7
    patterns = rng.integers(0, 2**63, (11, words_for(models)), dtype=np.int64).astype(np.uint64)
    tables = VoteTables(
        np.cumsum(lengths), patterns, rng.integers(1, 2**40, 11), voted, np.array([0, 1, 2, 1])
    )
    for columns in (None, vote_columns(models)):
        rows = encoded_votes(tables, columns=columns)
        assert rows.dtype == np.uint64
        assert rows.shape == (4, vote_columns(models, 7 if columns is None else MOST_PATTERNS))
        again = decoded_votes(rows, models)
        for field in ("ends", "patterns", "counts", "voted", "step"):
            np.testing.assert_array_equal(getattr(again, field), getattr(tables, field))
