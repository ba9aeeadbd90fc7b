"""Options of the public functions: keywords that an editor shows, and no others."""

from __future__ import annotations

import inspect

import pytest

import cte_dask
from cte_dask.scoring.settings import ScoringOptions, keywords


@keywords(ScoringOptions)
def settled(volume: str, bank: str, options: ScoringOptions) -> tuple[str, str, ScoringOptions]:
    """Settle."""
    return volume, bank, options


def test_fields_are_keywords():
    volume, bank, options = settled("v", bank="b", seed=3, metrics=("ei",))
    assert (volume, bank, options) == ("v", "b", ScoringOptions(seed=3, metrics=("ei",)))


def test_an_unknown_keyword_is_refused_by_the_name_of_the_function():
    with pytest.raises(TypeError, match="settled takes no 'sead': accepted are tile, seed"):
        settled("v", "b", sead=3)


@pytest.mark.parametrize("name", ["score", "resolve", "calibrate"])
def test_public_functions_show_their_options_with_plain_types(name):
    shown = inspect.signature(getattr(cte_dask, name)).parameters
    assert list(shown)[:2] == ["volume", "bank"]
    assert shown["tile"].annotation == "Shape | None"
    assert shown["seed"].default == 0


def test_an_array_or_a_path_is_told_how_to_be_opened(image, bank_path):
    with pytest.raises(TypeError, match=r"opened by cte_dask\.open_volume, not ndarray"):
        cte_dask.score(image, cte_dask.load_bank(str(bank_path)))
    with pytest.raises(TypeError, match=r"loaded by cte_dask\.load_bank, not PosixPath"):
        cte_dask.score(cte_dask.open_volume(image), bank_path)
