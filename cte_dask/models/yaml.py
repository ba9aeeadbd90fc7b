"""Reads other people's YAML: bounded in size, depth and expansion, without duplicate keys.

`Strict` is the base of every value of a bank: frozen, and an unknown key is an error with a hint.
"""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from cte_dask.registry import unknown

__all__ = ["MAX_BYTES", "Strict", "one_line", "parse"]

MAX_BYTES = 1_000_000
MAX_NODES = 100_000


def parse(text: str) -> Any:
    """Parse one YAML document into plain Python values.

    Parameters
    ----------
    text
        The document. Anchors and merge keys may be used.

    Raises
    ------
    ValueError
        If it is too large or no YAML, if aliases expand to more than :data:`MAX_NODES` nodes or
        to themselves, or if a mapping names a key twice.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes: this is not a bank")
    # SafeLoader builds plain values only; the node graph is checked before anything expands.
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:  # an empty document
            return None
        _check(node, sizes={}, inside=set())
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.YAMLError as error:
        message = " ".join(str(error).replace('"<unicode string>", ', "").split())
        tab = "; indent with spaces" if r"character '\t'" in message else ""
        raise ValueError(f"not valid YAML: {message}{tab}") from error
    finally:
        loader.dispose()


def _check(node: yaml.Node, *, sizes: dict[int, int], inside: set[int]) -> int:
    """Return the number of nodes after aliases are expanded, without expanding them.

    An alias is the same node object again, so that each object is counted once and its size reused:
    the time stays linear for a document that would expand to billions.
    """
    if id(node) in sizes:
        return sizes[id(node)]
    if id(node) in inside:
        raise ValueError(f"{_line(node)}: an alias contains itself")
    # `inside` holds the ancestors: meeting one again is a cycle
    inside.add(id(node))
    size = 1 + sum(_check(child, sizes=sizes, inside=inside) for child in _children(node))
    inside.discard(id(node))
    if size > MAX_NODES:
        raise ValueError(f"aliases expand to more than {MAX_NODES} values")
    sizes[id(node)] = size
    return size


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        _refuse_duplicates(node)
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _refuse_duplicates(node: yaml.MappingNode) -> None:
    keys: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.YAMLError(f"{_line(key)}: a key must be a plain word")
        if key.value in keys:
            raise ValueError(f"{_line(key)}: the key {key.value!r} appears twice")
        keys.add(key.value)


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


_SHOWN = 3


class Strict(BaseModel):
    """A frozen value; an unknown key raises an error that names the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(unknown("key", key, cls.model_fields))
        return data


def one_line(error: ValidationError) -> str:
    """Return a validation error as one line: the keys, what is wrong, and the bad value."""
    problems = error.errors(include_url=False)
    line = "; ".join(_problem(dict(p)) for p in problems[:_SHOWN])
    rest = len(problems) - _SHOWN
    return f"{line}; and {rest} more" if rest > 0 else line


def _problem(problem: dict[str, Any]) -> str:
    key = ".".join(str(name) for name in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{key}: this key is required"
    if problem["type"] != "value_error":
        message = f"{message}, not {_short(problem['input'])}"
    return f"{key}: {message}" if key else message


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
