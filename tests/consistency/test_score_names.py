"""Names of scores: read and written alike, and which there are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cte_dask.consistency.score_names import ScoreName, families_of, score_names

WORDS = st.text("abcxyz_.:0123456789@", min_size=1)


@given(metric=WORDS.filter(lambda text: "@" not in text), perturbation=WORDS)
def test_a_name_is_read_as_it_was_written(metric, perturbation):
    name = ScoreName(metric, perturbation)
    assert ScoreName.parse(str(name)) == name


@pytest.mark.parametrize("text", ["", "nhd", "@rotate", "nhd@", "entropy"])
def test_what_is_no_name_is_refused_with_the_form_that_is_accepted(text):
    with pytest.raises(ValueError, match=f"score '{text}' must be metric@perturbation"):
        ScoreName.parse(text)


@pytest.mark.parametrize(
    ("score", "family"),
    [
        ("nhd@dropout:0.2", "dropout"),
        ("ei@dropout:0.5:fixed", "dropout"),
        ("nhd@rotate", "rotate"),
        ("agreement@none", "agreement"),
        ("consensus@none", "agreement"),
        ("nhd@your_package.module:thing:0.3", "your_package.module:thing"),
        ("nhd@mine:Stripes:0.3", "mine:Stripes"),
        ("nhd@mine:Turned", "mine:Turned"),
    ],
)
def test_a_family_is_a_kind_of_evidence(score, family):
    assert ScoreName.parse(score).family == family
    assert families_of([score]) == {family: (score,)}


def test_metrics_of_a_bank_lie_at_the_unperturbed_prediction_alone():
    names = score_names(("nhd", "ei", "agreement"), ("rotate", "none", "mirror"))
    assert [str(n) for n in names] == [
        "nhd@rotate",
        "ei@rotate",
        "agreement@none",
        "nhd@mirror",
        "ei@mirror",
    ]
    assert all(name.applies for name in names)
    assert [n.of_bank for n in names] == [False, False, True, False, False]


def test_names_can_be_sorted_and_kept_in_sets():
    one, two = ScoreName("ei", "rotate"), ScoreName("nhd", "mirror")
    assert sorted({two, one, ScoreName.parse("nhd@mirror")}) == [one, two]
