"""Loads MONAI bundles: MONAI's own networks with the bundle's weights, or its TorchScript."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cte_dask.models.described import described
from cte_dask.models.formats.axes_order import in_our_order
from cte_dask.models.formats.monai_bundle.config import Bundle, read_bundle
from cte_dask.models.formats.state_dict import load_weights, read_state_dict
from cte_dask.models.formats.torchscript import TorchScript
from cte_dask.models.network import Network, code_of
from cte_dask.models.spec import ModelSpec

__all__ = ["MonaiBundle"]

_REMEDY = "pip install 'cte-dask[monai]'"


class MonaiBundle:
    """Loads the folder or archive of a bundle; evaluates no expression and runs no code of it."""

    def load(self, spec: ModelSpec, path: Path) -> Network:
        """Return the network, for arrays (N, C, [z,] y, x).

        Raises
        ------
        ValueError
            If it is no bundle, its network is none of `config.NETWORKS` or has arguments that are
            no plain values, MONAI is not installed, or the weights do not fit.
        """
        spec = described(spec, path)  # raises for what a bank cannot express
        bundle = read_bundle(path, spec.arguments)
        name = bundle.weights(spec.arguments.get("weights"))
        with bundle.package.files(f"{bundle.root}models/{name}") as (weights,):
            network = (_scripted if name.endswith(".ts") else _built)(spec, bundle, weights)
        notes = (f"MONAI bundle: {name}{_version(bundle)}", *network.notes, *_notes(spec, bundle))
        forward = in_our_order(network.forward, bundle.order)
        return dataclasses.replace(network, forward=forward, notes=notes)


def _scripted(spec: ModelSpec, _: Bundle, weights: Path) -> Network:
    return TorchScript().load(spec, weights)


def _built(_: ModelSpec, bundle: Bundle, weights: Path) -> Network:
    network, shape = _network(bundle)
    notes = load_weights(network, read_state_dict(weights))
    code = code_of("monai", bundle.class_name, bundle.arguments, bundle.order)
    return Network(forward=network, kind="module", fixed_shape=shape, code=code, notes=notes)


def _network(bundle: Bundle) -> tuple[nn.Module, tuple[int | None, ...] | None]:
    architecture: type[nn.Module] = getattr(_library(), bundle.class_name)
    arguments = _accepted(architecture, bundle.arguments)
    size = arguments.get("img_size")
    extents = [size] * bundle.dims if isinstance(size, int) else size
    shape = (None, None, *(extents[axis] for axis in bundle.order)) if extents else None
    # Initial weights are drawn, then overwritten: the caller's random state must not advance.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            network: nn.Module = architecture(**arguments)
        except ImportError as error:  # MONAI's transformers are written with einops
            raise ValueError(f"{bundle.class_name} needs more: {_REMEDY}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{architecture.__name__} refuses its arguments: {error}") from error
    return network, shape


def _library() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module("monai.networks.nets")
    except ImportError as error:
        raise ValueError(f"format monai needs monai: {_REMEDY}") from error


def _accepted(architecture: type[nn.Module], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments without those that older MONAI took, or that would download weights."""
    known = inspect.signature(architecture.__init__).parameters
    if "img_size" not in known:  # of SwinUNETR: a check only, and gone since MONAI 1.5
        arguments.pop("img_size", None)
    if "pretrained" in known:
        arguments["pretrained"] = False
    return arguments


def _version(bundle: Bundle) -> str:
    names = [bundle.metadata.get(key) for key in ("name", "version")]
    text = " ".join(str(n) for n in names if isinstance(n, str))
    return f" of {text}" if text else ""


def _notes(spec: ModelSpec, bundle: Bundle) -> list[str]:
    notes = []
    if bundle.window is not None:
        extents = " × ".join(map(str, bundle.window))
        remedy = ": name them in extent to do so here" if spec.extent is None else ""
        notes.append(f"the bundle predicts windows of {extents} ({', '.join(spec.axes)}){remedy}")
    if spec.voxel_size is not None and not spec.resample:
        notes.append("the bundle resamples to its voxel size: resample: true does so here")
    return notes
