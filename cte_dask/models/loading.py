"""Loads a model of a bank; any failure becomes one line, and never stops the other models."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import nn

from cte_dask.errors import FOREIGN, reason
from cte_dask.models.network import ModelError, Network, code_of, find_loader
from cte_dask.models.one_image import ChannelsLast, OneImage, Selector, channels_last
from cte_dask.models.source import fetch
from cte_dask.models.windows import Windows

if TYPE_CHECKING:
    from cte_dask.models.spec import ModelSpec

__all__ = ["ModelError", "Network", "load_network"]

LAST = "channels_last"


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
        network = _with_one_image(_in_layout(_coded(network, spec), spec), spec)
        return _in_windows(_placed(network, torch.device(device), dtype), spec)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    # A loader runs other people's code and formats: any failure excludes this model alone.
    except FOREIGN as error:
        raise ModelError(f"model {spec.name!r}: {reason(error)}") from error


def _coded(network: Network, spec: ModelSpec) -> Network:
    """Let what is done to a network here be part of what identifies its architecture."""
    if not network.code:
        return network
    windows = (spec.extent, spec.extent and spec.halo)
    chosen = (spec.output.index, spec.output.activation == "labels", spec.layout)
    return dataclasses.replace(network, code=code_of(network.code, *chosen, *windows))


def _in_layout(network: Network, spec: ModelSpec) -> Network:
    """Return a network that takes (N, C, [z,] y, x), wherever its own channels stand."""
    shape = network.fixed_shape
    if not (_ends_with_channels(shape, spec) if spec.layout is None else spec.layout == LAST):
        return network
    if shape is not None:
        network = dataclasses.replace(network, fixed_shape=(shape[0], shape[-1], *shape[1:-1]))
    if network.kind in ("script", "graph"):
        network = dataclasses.replace(network, forward=ChannelsLast(network.forward))
    else:
        network.forward.register_forward_pre_hook(_with_channels_last)
    return dataclasses.replace(network, channels_last=True)


def _ends_with_channels(shape: tuple[int | None, ...] | None, spec: ModelSpec) -> bool:
    return shape is not None and shape[1] != spec.in_channels == shape[-1]


def _with_channels_last(_module: nn.Module, args: tuple[torch.Tensor]) -> torch.Tensor:
    return channels_last(args[0])


def _with_one_image(network: Network, spec: ModelSpec) -> Network:
    """Return a network that gives one image of its input's extent."""
    image = OneImage(spec.output.index, nearest=spec.output.activation == "labels")
    network = dataclasses.replace(network, image=image)
    if network.kind in ("script", "graph"):
        # TorchScript takes no hooks. A wrapper shifts the names of modules, but the layers of these
        # two kinds are found by graph node, not by module name
        return dataclasses.replace(network, forward=Selector(network.forward, image))

    # a hook in place of a wrapper, so that modules keep the names that the bank uses
    def pick(_module: nn.Module, args: tuple[torch.Tensor], output: object) -> torch.Tensor:
        return image(output, args[0].movedim(-1, 1) if network.channels_last else args[0])

    network.forward.register_forward_hook(pick)
    return network


def _in_windows(network: Network, spec: ModelSpec) -> Network:
    """Return a network of one extent as one that takes any; it needs to know its halo for that."""
    extent = network.fixed_spatial
    if spec.extent is not None:
        extent = tuple(spec.extent[axis] for axis in spec.axes)
    if extent is None or spec.halo is None:
        return network
    halo = tuple(spec.halo[axis] for axis in spec.axes)
    windows = Windows(network.forward, extent=extent, halo=halo)
    return dataclasses.replace(network, forward=windows, window=extent)


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
