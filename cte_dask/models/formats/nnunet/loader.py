"""Loads models of nnU-Net v2: the networks of its own builder, and the checkpoint of one fold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cte_dask.models.described import described
from cte_dask.models.formats.axes_order import in_our_order
from cte_dask.models.formats.nnunet.plans import Plans, read_plans
from cte_dask.models.formats.numpy_scalars import ignored_numbers
from cte_dask.models.formats.state_dict import load_weights, read_state_dict
from cte_dask.models.network import ModelError, Network, code_of
from cte_dask.models.spec import ModelSpec

__all__ = ["NETWORKS", "NnUNet"]

NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")
"""Classes of dynamic_network_architectures.architectures.unet that plans may name."""

_PLACE = "dynamic_network_architectures.architectures"
_TARGET = re.compile(rf"{re.escape(_PLACE)}\.\w+\.(\w+)")
_CHECKPOINT = "checkpoint_final.pth"
_LAYERS = {
    layer.__name__: layer
    for layer in (
        *(nn.Conv2d, nn.Conv3d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.BatchNorm2d),
        *(nn.BatchNorm3d, nn.Dropout2d, nn.Dropout3d, nn.Dropout, nn.LeakyReLU, nn.ReLU),
        *(nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.PReLU),
    )
}
_LAYER = re.compile(r"torch\.nn\.(?:modules\.\w+\.)?(\w+)")


class NnUNet:
    """Loads the folder or archive of a trained model; runs no code of its trainer."""

    def load(self, spec: ModelSpec, path: Path) -> Network:
        """Return the network of one fold, for arrays (N, C, [z,] y, x); its output is logits.

        Raises
        ------
        ValueError
            If the plans name no known network, a file is missing, the weights do not fit, or
            dynamic_network_architectures is not installed.
        """
        spec = described(spec, path)  # raises for what a bank cannot express
        plans = read_plans(path, spec.arguments.get("configuration"))
        network = _network(plans)
        checkpoint, folds = _checkpoint(plans, spec.arguments)
        with plans.package.files(plans.root + checkpoint) as (weights,), ignored_numbers():
            load_weights(network, read_state_dict(weights))
        return Network(
            forward=in_our_order(network, plans.order),
            kind="module",
            code=code_of("nnunet", *_architecture(plans), len(plans.classes), plans.order),
            notes=tuple(_notes(spec, plans, checkpoint, folds)),
        )


def _network(plans: Plans) -> nn.Module:
    class_name, arguments = _architecture(plans)
    arguments |= {
        "input_channels": plans.in_channels,
        "num_classes": len(plans.classes),
        "deep_supervision": False,  # outputs at lower resolutions are for the training
    }
    architecture = getattr(_library(), class_name)
    # Initial weights are drawn, then overwritten: the caller's random state must not advance.
    with torch.random.fork_rng(devices=[]):
        try:
            network: nn.Module = architecture(**arguments)
        except (TypeError, ValueError, AssertionError, KeyError, IndexError) as error:
            raise ValueError(f"{class_name} refuses its arguments: {error}") from error
    return network


def _library() -> Any:
    try:
        return import_module(f"{_PLACE}.unet")
    except ImportError as error:
        raise ValueError(
            "format nnunet needs dynamic_network_architectures: pip install 'cte-dask[nnunet]'"
        ) from error


def _architecture(plans: Plans) -> tuple[str, dict[str, Any]]:
    """Return the network's class, one of :data:`NETWORKS`, and its arguments."""
    section = plans.configuration.get("architecture") or _older(plans.configuration)
    target = str(section.get("network_class_name"))
    match = _TARGET.fullmatch(target)
    if match is None or match[1] not in NETWORKS:
        raise ValueError(
            f"its network {target} is none that is known here ({', '.join(NETWORKS)}): "
            "load it with format python and trust: true"
        )
    arguments = dict(section.get("arch_kwargs") or {})
    for key in section.get("_kw_requires_import") or ():
        if arguments.get(key) is not None:
            arguments[key] = _layer(key, str(arguments[key]))
    return match[1], arguments


def _layer(key: str, target: str) -> type[nn.Module]:
    match = _LAYER.fullmatch(target)
    if match is None or match[1] not in _LAYERS:
        raise ValueError(f"{key} of its network is {target}, not one of {', '.join(_LAYERS)}")
    return _LAYERS[match[1]]


def _older(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the architecture of plans from before nnU-Net 2.4, as nnU-Net itself reads them."""
    try:
        plain = configuration["UNet_class_name"] == "PlainConvUNet"
        blocks = configuration["n_conv_per_stage_encoder"]
        dims = len(configuration["patch_size"])
        base, most = (configuration[k] for k in ("UNet_base_num_features", "unet_max_num_features"))
        arguments = {
            "n_stages": len(blocks),
            "features_per_stage": [min(base * 2**stage, most) for stage in range(len(blocks))],
            "conv_op": f"torch.nn.Conv{dims}d",
            "kernel_sizes": configuration["conv_kernel_sizes"],
            "strides": configuration["pool_op_kernel_sizes"],
            "n_conv_per_stage" if plain else "n_blocks_per_stage": blocks,
            "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": f"torch.nn.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
    except KeyError as error:
        raise ModelError(f"plans.json tells no architecture: {error} is missing") from error
    return {
        "network_class_name": f"{_PLACE}.unet.{configuration['UNet_class_name']}",
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }


def _checkpoint(plans: Plans, arguments: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the file of one fold, and the folds that there are."""
    file_name = str(arguments.get("checkpoint", _CHECKPOINT))
    pattern = re.compile(rf"{re.escape(plans.root)}fold_(\w+)/{re.escape(file_name)}")
    folds = sorted(m[1] for m in map(pattern.fullmatch, plans.package.names()) if m)
    fold = str(arguments.get("fold", folds[0] if folds else 0))
    if fold not in folds:
        raise ValueError(f"no fold_{fold}/{file_name}: arguments.fold, of {', '.join(folds)}")
    return f"fold_{fold}/{file_name}", folds


def _notes(spec: ModelSpec, plans: Plans, checkpoint: str, folds: list[str]) -> list[str]:
    dataset = plans.plans.get("dataset_name", "")
    notes = [f"nnU-Net {dataset} {plans.name}: {checkpoint}"]
    if len(folds) > 1 and "fold" not in spec.arguments:
        notes.append(f"one of its {len(folds)} folds: name others in arguments.fold, a model each")
    extents = " × ".join(map(str, plans.patch_size))
    remedy = ": name them in extent to predict in such" if spec.extent is None else ""
    notes.append(f"it was trained on patches of {extents} ({', '.join(spec.axes)}){remedy}")
    if plans.has_regions:
        notes.append(f"its channels are {', '.join(plans.classes)}: output.channel names one")
    if spec.voxel_size is not None and not spec.resample:
        notes.append("nnU-Net resamples to its voxel size: resample: true does so here")
    return notes
