"""The contract of every volume format: an image for its own targets, None for all others."""

from __future__ import annotations

from importlib import import_module

import pytest

from cte_dask.volume.formats import FORMATS


@pytest.mark.parametrize("place", FORMATS.values(), ids=FORMATS)
def test_a_format_leaves_what_it_does_not_know_to_others(place: str) -> None:
    module, _, function = place.partition(":")
    find = getattr(import_module(module), function)
    assert find(object(), {}) is None
    assert find(3.5, {}) is None
