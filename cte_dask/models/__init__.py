"""Source models: what a bank says about them, and how each format becomes a network.

Listing a bank imports neither torch nor dask: :mod:`~cte_dask.models.spec` and
:mod:`~cte_dask.models.bank` are pure data, the formats are resolved when a model is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cte_dask.models.bank import BankError, ModelBank, load_bank
    from cte_dask.models.spec import ModelSpec

__all__ = ["BankError", "ModelBank", "ModelSpec", "load_bank"]

_HOME = {
    "BankError": "cte_dask.models.bank",
    "ModelBank": "cte_dask.models.bank",
    "ModelSpec": "cte_dask.models.spec",
    "load_bank": "cte_dask.models.bank",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
