"""The tables of the zoos: τ of each family, of all combined, and the gain over the paper's two."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from cte_dask.ranking.combination import combine_scores

PAPER = Path(__file__).resolve().parents[2] / "benchmarks" / "paper"


@pytest.fixture(scope="module")
def zoo_tables():
    sys.path.insert(0, str(PAPER))
    try:
        import zoo_tables

        yield zoo_tables
    finally:
        sys.path.remove(str(PAPER))


def record(zoo_tables, scores, f1, flags=(), name="m_one"):
    """A record in which every family has the scores given, dropout those reversed."""
    models = []
    for i, value in enumerate(scores):
        its = dict.fromkeys(zoo_tables.FAMILIES.values(), value)
        its[zoo_tables.FAMILIES["dropout"]] = -value
        models.append(
            {
                "name": f"model-{i}",
                "f1": f1[i],
                "flags": ["predicts nothing"] if i in flags else [],
                "scores": {score: {"own": v} for score, v in its.items()},
            }
        )
    combined = {"kendall_w": 0.5}
    return {"task": "zoo", "target_name": name, "models": models, "combined": combined}


def test_tau_of_each_family_and_of_all_combined(zoo_tables):
    found = zoo_tables.taus_of(record(zoo_tables, [1.0, 2.0, 3.0], [0.1, 0.2, 0.3]))
    assert found["dropout"] == pytest.approx(-1)
    assert found["noise"] == found["agreement"] == found["combined"] == pytest.approx(1)


def test_the_rule_is_the_one_of_the_package(zoo_tables):
    rng = np.random.default_rng(0)
    families = zoo_tables.FAMILIES
    values = {score: rng.random(8) for score in families.values()}
    flagged = np.arange(8) == 3
    models = [
        {
            "name": str(i),
            "f1": float(i),
            "flags": ["x"] if flagged[i] else [],
            "scores": {s: {"own": float(v[i])} for s, v in values.items()},
        }
        for i in range(8)
    ]
    combined = combine_scores(
        [str(i) for i in range(8)],
        {s: v[:, None] for s, v in values.items()},
        degenerate=flagged,
        cell=np.zeros(1, np.int64),
        resamples=2,
    )
    ranks = [-combined.models[str(i)].rank for i in range(8)]
    from scipy.stats import kendalltau

    wanted = kendalltau(ranks, range(8)).statistic
    assert zoo_tables.taus_of({"models": models})["combined"] == pytest.approx(wanted)


def test_flagged_models_come_last_whatever_their_scores(zoo_tables):
    with_flag = record(zoo_tables, [9.0, 2.0, 3.0], [0.1, 0.2, 0.3], flags=(0,))
    assert zoo_tables.taus_of(with_flag)["noise"] == pytest.approx(1)


def test_the_gain_is_over_the_better_of_dropout_and_noise(zoo_tables, tmp_path):
    its = [record(zoo_tables, [1, 2, 3], [0.1, 0.2, 0.3], name=f"m_{i}") for i in range(4)]
    zoo_tables.write_zoo_tables(tmp_path, its)
    found = json.loads((tmp_path / "tables.json").read_text())["zoo"]
    assert found["all"]["gain"] == pytest.approx(0)
    assert found["half a"]["targets"] == ["m_0", "m_2"]
    assert found["half b"]["targets"] == ["m_1", "m_3"]
    assert "| m_3 | 3 | 0.10–0.30 | -1.00 | 1.00 |" in (tmp_path / "tables.md").read_text()
