"""The base of everything read from a bank: frozen, and an unknown key is an error with a hint."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from cte_dask.models.suggest import unknown

__all__ = ["Strict", "one_line"]

_SHOWN = 3


class Strict(BaseModel):
    """A frozen value that refuses keys it does not know, naming the nearest one it does."""

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
    """Return a validation error as one line: the keys, what is wrong, and the value given."""
    problems = error.errors(include_url=False)
    shown = "; ".join(_problem(dict(p)) for p in problems[:_SHOWN])
    rest = len(problems) - _SHOWN
    return f"{shown}; and {rest} more" if rest > 0 else shown


def _problem(problem: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{where}: this key is required"
    if problem["type"] != "value_error":
        message = f"{message}, not {_short(problem['input'])}"
    return f"{where}: {message}" if where else message


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
