from __future__ import annotations

import pickle
import sys
from types import ModuleType

import numpy as np
import pytest

from cte_dask.consistency import METRICS, STATISTICS, Metric, metric


@pytest.mark.parametrize("name", METRICS)
def test_every_listed_metric_is_found_under_its_name(name: str) -> None:
    found = metric(name)
    assert isinstance(found, Metric)
    assert found.name == name
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize("name", ["nhd", "ei"])
def test_metrics_of_one_pass_share_its_statistics(name: str) -> None:
    assert set(metric(name).statistics) <= set(STATISTICS)


def test_a_table_of_statistics_is_scored_tile_by_tile() -> None:
    table = {
        "n_union": np.array([4, 0, 2]),
        "n_disagree": np.array([1, 0, 2]),
        "sum_ei": np.array([2.0, 0.0, 0.0]),
    }
    np.testing.assert_array_equal(metric("nhd")(table), [0.75, np.nan, 0.0])
    np.testing.assert_array_equal(metric("ei")(table), [0.5, np.nan, 0.0])


def test_a_missing_statistic_is_named() -> None:
    with pytest.raises(ValueError, match="'nhd' needs \\['n_disagree'\\]"):
        metric("nhd")({"n_union": np.array([1])})


def test_a_metric_from_outside_is_taken_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("somewhere")
    module.JACCARD = Metric("jaccard", ("n_union", "n_disagree"), lambda u, d: 1 - d / u)
    monkeypatch.setitem(sys.modules, "somewhere", module)
    assert metric("somewhere:JACCARD").name == "jaccard"
    module.JACCARD = "no metric"
    with pytest.raises(TypeError, match="not a Metric"):
        metric("somewhere:JACCARD")


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'nhd'"):
        metric("ndh")
    with pytest.raises(ValueError, match="cannot be imported"):
        metric("no_such_package.module:THING")
