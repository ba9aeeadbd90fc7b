"""Loads a network from a Python factory, which may run any code, and so only with trust."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from cte_dask.models.network import ModelError, Network
from cte_dask.models.spec import ModelSpec
from cte_dask.registry import resolve

__all__ = ["PythonFactory"]


class PythonFactory:
    """Calls ``package.module:function`` with the arguments of the bank."""

    def load(self, spec: ModelSpec, path: Path) -> Network:
        """Return the network that the factory returns.

        Raises
        ------
        ValueError
            If the bank does not trust the factory, it cannot be imported or called, or returns no
            module.
        """
        if not spec.trust:
            raise ValueError(f"{spec.source} runs code outside cte_dask: it needs trust: true")
        module = resolve(spec.source)(**spec.arguments)
        if not isinstance(module, nn.Module):
            raise ModelError(f"{spec.source} returned a {type(module).__name__}, not a nn.Module")
        return Network(forward=module.eval(), kind="module")
