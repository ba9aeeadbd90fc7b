"""Every public name is in the reference, with a docstring that says what a caller must know."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from documents.pages import REPOSITORY
from pydantic import BaseModel

import cte_dask

REFERENCE = (REPOSITORY / "docs" / "reference" / "api.md").read_text()
ENTRY = r"^\.\. auto(?:function|class|exception|data):: (\S+)$"
DOCUMENTED = re.findall(ENTRY, REFERENCE, re.MULTILINE)
WITH_METHODS = set(re.findall(ENTRY + r"\n   :members:$", REFERENCE, re.MULTILINE))
PACKAGES = [m.name for m in pkgutil.iter_modules(cte_dask.__path__, "cte_dask.") if m.ispkg]
NUMPYDOC = {
    "GL08": "has a docstring",
    "SS01": "has a summary",
    "SS03": "ends its summary with a full stop",
    "PR01": "names every parameter",
    "PR02": "names no parameter that is not there",
    "PR03": "names them in order",
    "YD01": "says what it yields",
}


def resolved(place: str) -> object:
    module, _, name = place.rpartition(".")
    return getattr(importlib.import_module(module), name)


def public() -> list[str]:
    """The public API: what the package and each of its packages list."""
    names = [f"cte_dask.{n}" for n in cte_dask.__all__]
    for package in PACKAGES:
        listed = getattr(importlib.import_module(package), "__all__", ())
        names += [f"{package}.{n}" for n in listed]
    return names


def identity(place: str) -> object:
    """What a name stands for: things of one home are one, values by their name."""
    found = resolved(place)
    home = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    return home if inspect.isclass(found) or inspect.isfunction(found) else place


def test_every_public_name_is_in_the_reference():
    there = {identity(place) for place in DOCUMENTED}
    by_commands = {"cte_dask.cli.app"}  # the reference of the commands is made from it
    missing = [p for p in public() if identity(p) not in there and p not in by_commands]
    assert missing == []


def test_nothing_is_in_the_reference_twice():
    homes = [identity(place) for place in DOCUMENTED]
    assert len(set(homes)) == len(homes)


def is_ours(thing: object) -> bool:
    return str(getattr(thing, "__module__", "")).startswith("cte_dask")


CALLABLES = [p for p in DOCUMENTED if callable(resolved(p)) and is_ours(resolved(p))]


def shown(place: str) -> list[str]:
    """A class or function of the reference, and the methods that it shows."""
    found = resolved(place)
    if place not in WITH_METHODS or issubclass(found, BaseModel):  # pydantic adds its own
        return [place]
    methods = [
        name
        for name, value in vars(found).items()
        if inspect.isfunction(value) or isinstance(value, classmethod)
    ]
    return [place, *(f"{place}.{name}" for name in methods if not name.startswith("_"))]


@pytest.mark.parametrize("place", [m for p in CALLABLES for m in shown(p)])
def test_what_is_public_says_what_a_caller_must_know(place):
    validate = pytest.importorskip("numpydoc.validate").validate
    told = {code: text for code, text in validate(place)["errors"] if code in NUMPYDOC}
    if place in DOCUMENTED and getattr(resolved(place), "_is_protocol", False):
        told.pop("PR01", None)  # a protocol is not made, its methods are what is documented
    assert told == {}


@pytest.mark.parametrize("place", [p for p in CALLABLES if inspect.isfunction(resolved(p))])
def test_a_function_that_returns_something_has_a_returns_section_and_one_that_raises_says_so(place):
    function = resolved(place)
    doc = inspect.getdoc(function) or ""
    source = inspect.getsource(function)
    returned = inspect.signature(function).return_annotation
    if returned not in ("None", None, inspect.Signature.empty) and "Iterator" not in str(returned):
        sentence = re.match(r"(Return|Tell)\b", doc)  # the summary says it all
        assert "\nReturns\n" in doc or sentence, place
    if re.search(r"^ {4,}raise [A-Z]", source, re.MULTILINE):
        assert "\nRaises\n" in doc, place


@pytest.mark.parametrize("place", [p for p in DOCUMENTED if not callable(resolved(p))])
def test_a_documented_value_has_a_docstring_of_its_own(place):
    module, _, name = place.rpartition(".")
    text = Path(importlib.import_module(module).__file__).read_text()
    assert re.search(rf'^{name}\b[^\n]*=(.*?)\n"""', text, re.MULTILINE | re.DOTALL), place


def test_the_reference_of_commands_is_made_from_the_program():
    assert "<!-- commands -->" in (REPOSITORY / "docs" / "reference" / "cli.md").read_text()
