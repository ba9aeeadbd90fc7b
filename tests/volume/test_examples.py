from __future__ import annotations

import doctest
from importlib import import_module

import pytest

MODULES = ["errors", "box", "voxel_size", "axes", "padding", "mask"]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_documentation_are_true(name: str) -> None:
    result = doctest.testmod(import_module(f"cte_dask.volume.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
