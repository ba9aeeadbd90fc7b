"""Loads models of pytorch-3dunet and PlantSeg: a configuration file and a checkpoint."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import torch

from cte_dask.models.described import described
from cte_dask.models.formats.numpy_scalars import ignored_numbers
from cte_dask.models.formats.pytorch3dunet.config import Configuration, configuration
from cte_dask.models.formats.pytorch3dunet.network import NETWORKS, Layers, UNet3DFamily
from cte_dask.models.formats.state_dict import load_weights, read_state_dict
from cte_dask.models.network import Network, code_of
from cte_dask.models.package import Package
from cte_dask.models.spec import ModelSpec

__all__ = ["Pytorch3dUnet"]

_BEST = ("best_checkpoint", "last_checkpoint")
_SUFFIXES = (".pytorch", ".pt", ".pth", ".safetensors")


class Pytorch3dUnet:
    """Loads a folder or archive with a configuration and a checkpoint; runs no code of either."""

    def load(self, spec: ModelSpec, path: Path) -> Network:
        """Return the network; its output is logits.

        Raises
        ------
        ValueError
            If a file is missing, the configuration names no known network, or the weights of the
            checkpoint do not fit it.
        """
        package = Package(path)
        described(spec, path)  # raises for what a bank cannot express
        model, _ = configuration(package, spec.arguments.get("config"))
        network = _network(model)
        name = _checkpoint(package, spec.arguments.get("checkpoint"))
        with package.files(name) as (weights,), ignored_numbers():
            load_weights(network, read_state_dict(weights))
        return Network(
            forward=network,
            kind="module",
            code=code_of("pytorch3dunet", model.model_dump()),
            notes=(f"{model.name} of pytorch-3dunet",),
        )


def _network(model: Configuration) -> UNet3DFamily:
    dims, block = NETWORKS[model.name]
    # Initial weights are drawn, then overwritten: the caller's random state must not advance.
    with torch.random.fork_rng(devices=[]):
        return UNet3DFamily(
            block=block,
            layers=Layers(
                dims=dims,
                order=model.layer_order,
                groups=model.num_groups,
                # pytorch-3dunet's residual blocks ignore conv_padding
                padding=model.conv_padding if block == "double" else 1,
            ),
            in_channels=model.in_channels,
            out_channels=model.out_channels,
            features=model.features,
            upscale=model.conv_upscale,
            upsample=model.upsample,
        )


def _checkpoint(package: Package, file_name: object) -> str:
    names = [n for n in package.names() if PurePosixPath(n).suffix in _SUFFIXES]
    if file_name is not None:
        if file_name not in names:
            raise ValueError(f"no checkpoint {file_name!r}: there are {', '.join(names) or 'none'}")
        return str(file_name)
    for stem in _BEST:
        named = [n for n in names if PurePosixPath(n).stem == stem]
        if len(named) == 1:
            return named[0]
    if len(names) != 1:
        raise ValueError(
            f"{len(names)} checkpoints in {package.path}, not one: name it in arguments.checkpoint"
        )
    return names[0]
