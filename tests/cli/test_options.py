"""Options are written once: a field with a help text is an option of each command that takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from cte_dask.cli.options import expanded
from cte_dask.ranking.options import RankOptions
from cte_dask.scoring.settings import TargetOptions
from cte_dask.tiles import Shape


@dataclass(frozen=True, kw_only=True)
class MoreOptions(RankOptions):
    patience: Annotated[int, "Rounds to wait."] = 3
    hidden: int = 0


@dataclass(frozen=True, kw_only=True)
class Kinds:
    box: Annotated[Shape | None, "A box."] = None
    level: Annotated[int | Literal["auto"], "A level."] = "auto"
    names: Annotated[tuple[str, ...] | None, "Names.", "--name"] = None
    flag: Annotated[bool, "A flag."] = False
    rate: Annotated[float | None, "A rate."] = None
    sizes: Annotated[Sequence[float] | None, "Sizes."] = None


def run(command, *arguments: str):
    app = typer.Typer()
    app.command()(expanded(command))
    return CliRunner().invoke(app, list(arguments))


def test_a_new_option_of_rank_is_one_line():
    seen = []

    def rank(target: TargetOptions, options: MoreOptions) -> None:
        seen.append((target.target, options.patience, options.seed))

    assert "--patience" in run(rank, "--help").output
    assert "--hidden" not in run(rank, "--help").output, "a field without a help text is Python's"
    assert run(rank, "t.zarr", "--patience", "5", "--seed", "7").exit_code == 0
    assert seen == [("t.zarr", 5, 7)]


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        ([], Kinds()),
        (["--box", "1,2,3"], Kinds(box=(1, 2, 3))),
        (["--level", "2"], Kinds(level=2)),
        (["--name", "a", "--name", "b"], Kinds(names=("a", "b"))),
        (["--flag", "--rate", "0.5"], Kinds(flag=True, rate=0.5)),
        (["--sizes", "0.25,1, 2"], Kinds(sizes=(0.25, 1.0, 2.0))),
    ],
)
def test_texts_become_values_of_the_field(arguments, want):
    seen = []

    def show(kinds: Kinds) -> None:
        seen.append(kinds)

    assert run(show, *arguments).exit_code == 0
    assert seen == [want]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--box", "1,2"], "--box '1,2' must be three whole numbers z,y,x"),
        (["--box", "0,1,1"], "at least 1"),
        (["--sizes", "1,big"], "--sizes '1,big' must be numbers such as 0.5,1,2"),
        (["--sizes", ""], "--sizes '' must be numbers"),
        (["--level", "deep"], "--level 'deep' must be auto or a number from 0"),
    ],
)
def test_a_text_that_is_no_value_is_refused_in_one_line(arguments, words):
    def show(kinds: Kinds) -> None:
        raise AssertionError(kinds)

    result = run(show, *arguments)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert words in line
