"""Completes a bank's entry by what the package says about its model. No torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cte_dask.models.format_registry import DESCRIPTIONS
from cte_dask.models.source import fetch
from cte_dask.models.spec import ModelSpec
from cte_dask.models.yaml import one_line
from cte_dask.registry import resolve

if TYPE_CHECKING:
    from cte_dask.models.bank import ModelBank

__all__ = ["described", "described_bank"]


def described(spec: ModelSpec, path: Path | None = None) -> ModelSpec:
    """Return a model completed by its package: what the bank leaves out, the package fills in.

    Parameters
    ----------
    spec
        The bank's entry; its keys win over the package's.
    path
        The verified package on this machine; None fetches it.

    Returns
    -------
    ModelSpec
        The completed model; `spec` itself for formats without a description.

    Raises
    ------
    ValueError
        If the description cannot be read, contradicts the bank's axes, or asks for something that
        is not there, with the reason in one line.
    """
    reader = DESCRIPTIONS.get(spec.format)
    if reader is None:
        return spec
    entry: dict[str, Any] = resolve(reader)(spec, path or fetch(spec))
    bank_entry = spec.model_dump(exclude_unset=True)
    axes = entry.get("axes", spec.axes)
    if bank_entry.get("axes", axes) != axes:
        raise ValueError(f"axes {bank_entry['axes']} in the bank, {axes} in the package")
    # merged key by key: a bank that names the threshold alone keeps the package's activation
    output = {**entry.get("output", {}), **bank_entry.get("output", {})}
    try:
        return ModelSpec.model_validate({**entry, **bank_entry, "output": output})
    except ValidationError as error:
        raise ValueError(one_line(error)) from error


def described_bank(bank: ModelBank) -> ModelBank:
    """Return a bank with every model :func:`described`.

    A model whose description fails stays as it is: loading it will raise the reason.
    """
    return replace(bank, models=tuple(_or_same(spec) for spec in bank))


def _or_same(spec: ModelSpec) -> ModelSpec:
    try:
        return described(spec)
    except ValueError:
        return spec
