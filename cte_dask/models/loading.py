"""Loads a model of a bank; any failure becomes one line, and never stops the other models."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import nn

from cte_dask.errors import FOREIGN, reason
from cte_dask.models.network import ModelError, Network, find_loader
from cte_dask.models.source import fetch

if TYPE_CHECKING:
    from cte_dask.models.spec import ModelSpec

__all__ = ["ModelError", "Network", "load_network"]


def load_network(
    spec: ModelSpec, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Network:
    """Load a source model, ready to predict.

    Parameters
    ----------
    spec
        The model.
    device
        Device that it will run on.
    dtype
        Floating type of its weights.

    Returns
    -------
    Network
        In evaluation mode, without gradients, on `device` in `dtype`.

    Raises
    ------
    ModelError
        If the model cannot be loaded; one line ``model 'name': reason``. A lack of memory is no
        fault of the model: its own error is raised.
    """
    try:
        network = find_loader(spec.format).load(spec, fetch(spec))
        _check_weights(network.forward)
        return _placed(_one_output(network, spec.output.index), torch.device(device), dtype)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    # A loader runs other people's code and formats: any failure excludes this model alone.
    except FOREIGN as error:
        raise ModelError(f"model {spec.name!r}: {reason(error)}") from error


class _OutputSelector(nn.Module):
    """A network of several outputs that returns one of them."""

    def __init__(self, network: nn.Module, index: int | str) -> None:
        super().__init__()
        self.network, self.index = network, index

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _picked(self.network(x), self.index)


def _one_output(network: Network, index: int | str | None) -> Network:
    """Return a network that returns one output; of several, that of `index`."""
    if network.kind in ("script", "graph"):
        # TorchScript takes no hooks. A wrapper shifts the names of modules, but the layers of these
        # two kinds are found by graph node, not by module name
        wrapped = network.forward if index is None else _OutputSelector(network.forward, index)
        return dataclasses.replace(network, forward=wrapped)

    # a hook in place of a wrapper, so that modules keep the names that the bank uses
    def pick(_module: nn.Module, _args: object, output: object) -> torch.Tensor:
        return _picked(output, index)

    network.forward.register_forward_hook(pick)
    return network


def _picked(output: object, index: int | str | None) -> torch.Tensor:
    if index is None and isinstance(output, torch.Tensor):
        return output
    if index is None:
        raise ValueError(f"it gives {_described(output)}: name one with output.index")
    try:
        tensor: torch.Tensor = output[index]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        message = f"output.index {index!r} is not there: it gives {_described(output)}"
        raise ValueError(message) from None
    return tensor


def _described(output: object) -> str:
    if isinstance(output, dict):
        return f"outputs named {', '.join(map(repr, output))}"
    if isinstance(output, (list, tuple)):
        return f"{len(output)} outputs"
    return f"a {type(output).__name__}"


def _check_weights(module: nn.Module) -> None:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"the weights {name} hold NaN or infinity: the model is damaged")


def _placed(network: Network, device: torch.device, dtype: torch.dtype) -> Network:
    module = network.forward
    if network.kind == "graph" and dtype != torch.float32:
        raise ValueError(f"an exported program runs in the type it was exported in, not {dtype}")
    if network.kind != "graph":  # an exported graph refuses eval()
        module = module.eval()
    if network.kind != "graph" or device.type != "cpu":
        module = module.to(device=device, dtype=dtype)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return dataclasses.replace(network, forward=module)
