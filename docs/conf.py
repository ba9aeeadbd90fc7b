"""Sphinx's configuration: ``make docs`` builds these pages; every warning is an error."""

from __future__ import annotations

import re
import subprocess
import sys

from sphinx.application import Sphinx

import cte_dask

project = "cte_dask"
author = "The cte_dask developers"
copyright = author  # noqa: A001 - Sphinx wants this name
version = release = cte_dask.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["_build"]
default_role = "py:obj"  # `name` in a docstring is a link where there is such a name

myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 3
suppress_warnings: list[str] = []

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_type_aliases = {"Array": "Array", "Shape": "Shape"}
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "pydata_sphinx_theme"
html_title = "cte_dask"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True, "secondary_sidebar_items": ["page-toc"]}

COMMANDS = "<!-- commands -->"
OUTSIDE = re.compile(r"\]\((?=(?:\.\./)+(?:benchmarks|cte_dask|deploy|examples|tests)/)")
"""Start of a link to a file of the repository that is no page: such files are shipped along."""


def prepared(_app: Sphinx, _name: str, source: list[str]) -> None:
    """Write the help of every command where a page says so, and mark links to other files."""
    source[0] = OUTSIDE.sub("](path:", source[0])
    if COMMANDS in source[0]:
        source[0] = source[0].replace(COMMANDS, help_of_all_commands())


def help_of_all_commands() -> str:
    """Return the reference of the command line as Markdown, its top heading left out."""
    program = [sys.executable, "-m", "typer", "cte_dask.cli", "utils", "docs", "--name", "cte"]
    told = subprocess.run(program, check=True, capture_output=True, text=True).stdout  # noqa: S603
    for name, summary in re.findall(r"^## `cte ([a-z]+)`\n\n(.+)$", told, re.MULTILINE):
        told = re.sub(rf"(?m)^\* `{name}`: .*$", f"* `{name}`: {summary}", told)  # it cuts them
    return told.partition("\n")[2]


def setup(app: Sphinx) -> None:
    """Register what is above."""
    app.connect("source-read", prepared)
