"""Names of things: one did-you-mean, one error wording, one way to import, for every family."""

from __future__ import annotations

import doctest
import subprocess
import sys
from types import ModuleType

import pytest

import cte_dask.registry
from cte_dask.consistency import METRICS
from cte_dask.engine.clusters import CLUSTERS
from cte_dask.inference.segmenters import SEGMENTERS
from cte_dask.models.format_registry import FORMATS as MODEL_FORMATS
from cte_dask.perturb import PERTURBATIONS
from cte_dask.registry import Registry, checked, is_reference, resolve
from cte_dask.volume.formats import FORMATS as VOLUME_FORMATS

FAMILIES = (
    METRICS, PERTURBATIONS, MODEL_FORMATS, SEGMENTERS, VOLUME_FORMATS, CLUSTERS,
)  # fmt: skip
LISTED = [
    pytest.param(family, name, id=f"{family.family}-{name}")
    for family in FAMILIES
    for name in family
]
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.family)


@pytest.mark.parametrize(("family", "name"), LISTED)
def test_everything_listed_is_there(family: Registry, name: str) -> None:
    assert family.load(name) is resolve(family[name])


@every_family
def test_a_misspelt_name_is_answered_with_the_nearest_and_all(family: Registry) -> None:
    name = next(iter(family))
    with pytest.raises(ValueError, match=f"unknown {family.family} '{name}x'") as refusal:
        family.load(f"{name}x")
    assert f"did you mean {name!r}" in str(refusal.value)
    assert "'your_package.module:Thing'" in str(refusal.value)
    assert all(listed in str(refusal.value) for listed in family)


@every_family
def test_every_family_takes_things_from_outside(
    family: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("their_package")
    module.Thing = object()
    monkeypatch.setitem(sys.modules, "their_package", module)
    assert family.load("their_package:Thing") is module.Thing
    with pytest.raises(ValueError, match=f"{family.family} .* their_package has no 'Thin'"):
        family.load("their_package:Thin")
    with pytest.raises(ValueError, match=r"'no\.such:Thing' cannot be imported: No module"):
        family.load("no.such:Thing")


def test_a_misspelt_name_with_more_behind_it_is_still_understood() -> None:
    with pytest.raises(ValueError, match=r"'slrum:site' cannot be imported.* mean 'slurm'"):
        CLUSTERS.load("slrum:site")


@pytest.mark.parametrize(
    ("text", "name", "rest"),
    [
        ("slurm:site.yaml", "slurm", ["site.yaml"]),
        ("tcp://host:1", "tcp", ["//host", "1"]),
        ("mine:LAB", "mine:LAB", []),
        ("my.package:LAB:site:x", "my.package:LAB", ["site", "x"]),
        ("other:0.5", "other", ["0.5"]),
    ],
)
def test_a_name_is_told_from_what_follows_it(text: str, name: str, rest: list[str]) -> None:
    assert CLUSTERS.split(text) == (name, rest)


@pytest.mark.parametrize("text", ["", "thing", ":thing", "a.b:", "a:b:c", "a/b:c", "a.:b", "1a:b"])
def test_what_is_no_reference_is_not_imported(text: str) -> None:
    assert not is_reference(text)
    with pytest.raises(ValueError, match="unknown metric"):
        METRICS.check(text)


def test_a_thing_of_another_kind_is_named() -> None:
    assert checked(3, int, "three") == 3
    with pytest.raises(TypeError, match="'three' is a str, not a int"):
        checked("3", int, "three")


def test_the_examples_run() -> None:
    result = doctest.testmod(cte_dask.registry)
    assert result.attempted
    assert not result.failed


def test_names_are_looked_up_by_the_standard_library_alone() -> None:
    code = "import sys; before = set(sys.modules); import cte_dask.registry\n"
    code += "print(*({m.partition('.')[0] for m in set(sys.modules) - before}"
    code += " - set(sys.stdlib_module_names)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cte_dask"]
