"""Blocks of an evaluation that are done: kept whole, read back, and not computed again."""

from __future__ import annotations

import numpy as np
import pytest

from cte_dask.evaluation.comparators.ccfv import TileFeatures
from cte_dask.evaluation.evaluate_block import BlockEvaluation
from cte_dask.evaluation.parts import Parts, parts_key


@pytest.fixture
def evaluation() -> BlockEvaluation:
    random = np.random.default_rng(0)
    layer = TileFeatures(random.random(3), random.random((3, 3)), 0.25)
    return BlockEvaluation(
        np.array([4, 5]),
        np.array([10, 0]),
        random.random((2, 4, 2)),
        {("a", 4): (layer, layer), ("b", 5): (layer,)},
        {"b": "ValueError: no"},
        {"a": "a black box"},
    )


def same(got: BlockEvaluation, want: BlockEvaluation) -> None:
    for name in ("tiles", "labelled", "values"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    assert (got.failures, got.unreached) == (want.failures, want.unreached)
    assert got.features.keys() == want.features.keys()
    for key, layers in want.features.items():
        for mine, theirs in zip(got.features[key], layers, strict=True):
            np.testing.assert_array_equal(mine.mean, theirs.mean)
            np.testing.assert_array_equal(mine.covariance, theirs.covariance)
            assert mine.variety == theirs.variety


@pytest.mark.parametrize("scheme", ["local", "memory"])
def test_a_block_is_read_back_as_it_was_written(evaluation, tmp_path, scheme):
    parts = Parts(str(tmp_path / "parts") if scheme == "local" else "memory://parts-test/a")
    assert parts.read(7) is None
    parts.write(7, evaluation)
    same(parts.read(7), evaluation)
    parts.clear()
    assert parts.read(7) is None


@pytest.mark.parametrize("damage", [b"", b"PK no archive", None])
def test_a_damaged_block_is_computed_again(evaluation, tmp_path, damage):
    parts = Parts(str(tmp_path))
    parts.write(7, evaluation)
    path = tmp_path / "7.npz"
    path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)
    assert parts.read(7) is None


def test_another_evaluation_has_another_key():
    assert parts_key("run", {"a": 1}) == parts_key("run", {"a": 1})
    assert parts_key("run", {"a": 1}) != parts_key("run", {"a": 2})
