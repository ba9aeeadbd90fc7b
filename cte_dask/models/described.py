"""What a package says about its own model, under what the bank says. No torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cte_dask.models.source import fetch
from cte_dask.models.spec import ModelSpec
from cte_dask.models.yaml import one_line
from cte_dask.registry import resolve

if TYPE_CHECKING:
    from cte_dask.models.bank import ModelBank

__all__ = ["described", "described_bank"]

_READERS = {
    "bioimageio": "cte_dask.models.formats.bioimageio.description:described_entry",
    "pytorch3dunet": "cte_dask.models.formats.pytorch3dunet.config:described_entry",
}
"""Format → function of (spec, path) that returns keys of a bank's entry."""


def described(spec: ModelSpec, path: Path | None = None) -> ModelSpec:
    """Return a model with what its package says filled in, where the bank says nothing.

    Parameters
    ----------
    spec
        What the bank says: every key given there wins.
    path
        The verified package on this machine; fetched when left out.

    Returns
    -------
    ModelSpec
        The model itself for formats without a description; describing it again changes nothing.

    Raises
    ------
    ValueError
        If the description cannot be read, contradicts the bank's axes, or asks for something that
        is not there, with the reason in one line.
    """
    reader = _READERS.get(spec.format)
    if reader is None:
        return spec
    entry: dict[str, Any] = resolve(reader)(spec, path or fetch(spec))
    given = spec.model_dump(exclude_unset=True)
    axes = entry.get("axes", spec.axes)
    if given.get("axes", axes) != axes:
        raise ValueError(f"axes {given['axes']} in the bank, {axes} in the package")
    output = {**entry.get("output", {}), **given.get("output", {})}
    try:
        return ModelSpec.model_validate({**entry, **given, "output": output})
    except ValidationError as error:
        raise ValueError(one_line(error)) from error


def described_bank(bank: ModelBank) -> ModelBank:
    """Return a bank with every model described; one that cannot be is left for its loading to say.

    See :func:`described`.
    """
    return replace(bank, models=tuple(_or_same(spec) for spec in bank))


def _or_same(spec: ModelSpec) -> ModelSpec:
    try:
        return described(spec)
    except ValueError:
        return spec
