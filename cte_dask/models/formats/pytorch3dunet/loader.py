"""Models of pytorch-3dunet and PlantSeg: a configuration file and a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from cte_dask.models.described import described
from cte_dask.models.formats.pytorch3dunet.config import Configuration, configuration
from cte_dask.models.formats.pytorch3dunet.network import NETWORKS, Layers, UNet3DFamily
from cte_dask.models.formats.state_dict import load_weights, read_state_dict
from cte_dask.models.network import Network
from cte_dask.models.package import Package
from cte_dask.models.spec import ModelSpec

__all__ = ["Pytorch3dUnet"]

_BEST = ("best_checkpoint", "last_checkpoint")
_SUFFIXES = (".pytorch", ".pt", ".pth", ".safetensors")


class Pytorch3dUnet:
    """Loads a folder or archive of a configuration and a checkpoint; runs nothing of either."""

    def load(self, spec: ModelSpec, path: Path) -> Network:
        """Return the network, giving logits.

        Raises
        ------
        ValueError
            If a file is missing, the configuration is of no known network, or the checkpoint does
            not hold exactly its weights.
        """
        package = Package(path)
        described(spec, path)  # refuses what cannot be honoured, whoever loads it
        found, _ = configuration(package, spec.arguments.get("config"))
        network = _network(found)
        name = _checkpoint(package, spec.arguments.get("checkpoint"))
        with package.files(name) as (weights,), torch.serialization.safe_globals(_PASSED_OVER):
            load_weights(network, read_state_dict(weights))
        return Network(forward=network, kind="module", notes=(f"{found.name} of pytorch-3dunet",))


class _Ignored:
    """Stands for the numbers of NumPy in a checkpoint (scores, steps): kept out, not built."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


# A checkpoint holds the best score as a NumPy number, which torch refuses to read. Nothing of
# NumPy is called: its names stand for a class that takes anything and does nothing.
_PASSED_OVER: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Ignored, name)
    for name in (
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "numpy.dtypes.Float32DType",
        "numpy.dtypes.Float64DType",
        "numpy.dtypes.Int64DType",
    )
]


def _network(found: Configuration) -> UNet3DFamily:
    dims, block = NETWORKS[found.name]
    # The weights drawn here are overwritten: the caller's random state must not notice them.
    with torch.random.fork_rng(devices=[]):
        return UNet3DFamily(
            block=block,
            layers=Layers(
                dims=dims,
                order=found.layer_order,
                groups=found.num_groups,
                # Its residual blocks pay no attention to the padding given.
                padding=found.conv_padding if block == "double" else 1,
            ),
            in_channels=found.in_channels,
            out_channels=found.out_channels,
            features=found.features,
            upscale=found.conv_upscale,
            upsample=found.upsample,
        )


def _checkpoint(package: Package, chosen: object) -> str:
    names = [n for n in package.names() if PurePosixPath(n).suffix in _SUFFIXES]
    if chosen is not None:
        if chosen not in names:
            raise ValueError(f"no checkpoint {chosen!r}: there are {', '.join(names) or 'none'}")
        return str(chosen)
    for stem in _BEST:
        named = [n for n in names if PurePosixPath(n).stem == stem]
        if len(named) == 1:
            return named[0]
    if len(names) != 1:
        raise ValueError(
            f"{len(names)} checkpoints in {package.path}, not one: name it in arguments.checkpoint"
        )
    return names[0]
