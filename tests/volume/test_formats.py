"""The contract of every volume format: an image for its own targets, None for all others."""

from __future__ import annotations

import pytest

from cte_dask.volume.formats import FORMATS


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_leaves_what_it_does_not_know_to_others(name: str) -> None:
    find = FORMATS.load(name)
    assert find(object(), {}) is None
    assert find(3.5, {}) is None
