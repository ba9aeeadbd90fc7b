"""Names of scores: read and written alike, and which there are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cte_dask.consistency.score_names import ScoreName, score_names

WORDS = st.text("abcxyz_.:0123456789@", min_size=1)


@given(metric=WORDS.filter(lambda text: "@" not in text), perturbation=WORDS)
def test_a_name_is_read_as_it_was_written(metric, perturbation):
    name = ScoreName(metric, perturbation)
    assert ScoreName.parse(str(name)) == name


@pytest.mark.parametrize("text", ["", "nhd", "@rotate", "nhd@", "entropy"])
def test_what_is_no_name_is_refused_with_the_form_that_is_accepted(text):
    with pytest.raises(ValueError, match=f"score '{text}' must be metric@perturbation"):
        ScoreName.parse(text)


def test_scores_of_a_perturbation_stand_together():
    names = score_names(("nhd", "ei"), ("rotate", "mirror"))
    assert [str(n) for n in names] == ["nhd@rotate", "ei@rotate", "nhd@mirror", "ei@mirror"]


def test_names_can_be_sorted_and_kept_in_sets():
    one, two = ScoreName("ei", "rotate"), ScoreName("nhd", "mirror")
    assert sorted({two, one, ScoreName.parse("nhd@mirror")}) == [one, two]
