"""Options of commands: fields of dataclasses made options, and those that concern speech alone.

An option is written once, as a field with its type, its default and its help, in the room that uses
it: `cte_dask.scoring.settings`, `cte_dask.engine.clusters`, `cte_dask.engine.racing.goal`,
`cte_dask.ranking.options`. `expanded` makes a command of a function that takes such dataclasses.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from cte_dask.tiles import Shape

__all__ = ["Bank", "JsonOption", "Out", "Quiet", "Run", "expanded"]

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="Folder or URL that cte rank wrote (its --out).")
]
Bank = Annotated[
    str, typer.Option("--bank", help="Path or URL of bank.yaml, which lists the models.")
]
Out = Annotated[str, typer.Option(help="Folder or URL of the results, RUN for other commands.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress, only the result.")]


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command line of a function, each parameter that is a dataclass expanded.

    Parameters
    ----------
    command
        Its other parameters are annotated as typer wants them.

    Returns
    -------
    callable
        Takes one parameter for each field that has a help text, makes the dataclasses and calls
        `command`; a text that is no value of its field's type raises ValueError.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[Any, list[_Option]]] = {}
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if is_dataclass(kind):
            options = _options_of(kind)
            groups[parameter.name] = kind, options
            parameters += [option.parameter() for option in options]
        else:
            parameters.append(parameter.replace(annotation=kind, kind=parameter.KEYWORD_ONLY))
    parameters.sort(key=lambda p: p.default is not inspect.Parameter.empty)

    @functools.wraps(command)
    def call(**arguments: Any) -> None:
        from cte_dask.cli.console import clear_errors

        with clear_errors():
            values = {
                name: kind(**{o.field.name: o.value(arguments.pop(o.field.name)) for o in options})
                for name, (kind, options) in groups.items()
            }
        command(**values, **arguments)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


def _options_of(kind: Any) -> list[_Option]:
    """Return the fields that have a help text as options, those of the first class in front."""
    by_name = {f.name: f for f in fields(kind)}
    options: dict[str, _Option] = {}
    for base in kind.__mro__:
        for name in inspect.get_annotations(base):
            bare, texts = _annotation(base, name)
            if name in by_name and name not in options and texts:
                options[name] = _Option(by_name[name], bare, texts)
    return list(options.values())


def _annotation(owner: type, name: str) -> tuple[Any, tuple[str, ...]]:
    """Return a field's type, and its texts: the help, and a flag or the name of an argument.

    A type that is imported for type checkers alone belongs to a field without a help text.
    """
    text = owner.__annotations__[name]
    if not text.startswith("Annotated["):
        return None, ()
    hint = eval(text, vars(sys.modules[owner.__module__]))  # noqa: S307 - our own annotations
    bare, *texts = get_args(hint)
    return bare, tuple(text for text in texts if isinstance(text, str))


class _Option:
    """A field as an option, or, without a default, as an argument."""

    def __init__(self, field: Field[Any], kind: Any, texts: tuple[str, ...]) -> None:
        self.field, self.kind = field, kind
        self.help, *rest = texts
        self.flag = rest[0] if rest else f"--{field.name.replace('_', '-')}"
        self.plain = _plain(kind)

    def parameter(self) -> inspect.Parameter:
        """Return what typer makes an option of."""
        default = self.field.default
        if default is MISSING:
            info, default = (
                typer.Argument(metavar=self.flag, help=self.help),
                inspect.Parameter.empty,
            )
        else:
            info = typer.Option(self.flag, help=self.help)  # a bool has no --no-
            default = default if self.plain in _PLAIN else None if self.kind != _LEVEL else "auto"
        return inspect.Parameter(
            self.field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[self.plain, info],
        )

    def value(self, argument: Any) -> Any:
        """Return what was given as a value of the field.

        Raises
        ------
        ValueError
            If a text is none.
        """
        if argument is None or (isinstance(argument, list) and not argument):
            return self.field.default
        if parse := next((p for k, p in _PARSERS.items() if k in _members(self.kind)), None):
            return parse(argument, self.flag)
        return tuple(argument) if isinstance(argument, list) else argument


_PLAIN = (str, int, float, bool, str | None, int | None, float | None)
_LEVEL = int | Literal["auto"]


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _plain(kind: Any) -> Any:
    """Return the type that typer reads: texts for what is parsed here, lists for sequences."""
    if kind in _PLAIN:
        return kind
    if any(k in _PARSERS for k in _members(kind)):
        return str | None if type(None) in _members(kind) else str
    return list[str] | None


def _triple(text: str, flag: str) -> Shape:
    try:
        z, y, x = (int(number) for number in text.split(","))
    except ValueError:
        raise ValueError(f"{flag} {text!r} must be three whole numbers z,y,x") from None
    if min(z, y, x) < 1:
        raise ValueError(f"{flag} {text!r} must be at least 1 along z, y and x")
    return z, y, x


def _level(text: str, flag: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise ValueError(f"{flag} {text!r} must be auto or a number from 0")
    return int(text)


def _numbers(text: str, flag: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise ValueError(f"{flag} {text!r} must be numbers such as 0.5,1,2") from None


_PARSERS: dict[Any, Callable[[str, str], Any]] = {
    Shape: _triple,
    Literal["auto"]: _level,
    Sequence[float]: _numbers,
}
"""How the text of an option becomes a value, by a member of its field's type."""
