"""Loads state dicts: weights of a safetensors or ``.pt`` file, into an architecture by name."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cte_dask.models.formats.weights_folder import weight_files
from cte_dask.models.network import ModelError, Network, code_of
from cte_dask.models.spec import OWN, ModelSpec
from cte_dask.registry import resolve

__all__ = ["StateDict", "load_weights", "read_state_dict"]

_WRAPPERS = ("state_dict", "model_state_dict", "network_weights", "model", "net", "weights")
"""Keys under which training frameworks save the weights: Lightning, nnU-Net, plain loops."""
_PREFIXES = ("module.", "_orig_mod.")
_COUNTER = "num_batches_tracked"
_MAX_HEADER = 16 * 1024 * 1024
_SHOWN = 3


class StateDict:
    """Loads a state dict into its architecture; runs nothing that the file holds."""

    def load(self, spec: ModelSpec, path: Path) -> Network:
        """Return the architecture with the weights of the file.

        Raises
        ------
        ValueError
            If the file is no state dict, or does not fit the architecture.
        """
        weights = read_state_dict(path)
        module = _build(spec)
        notes = load_weights(module, weights)
        code = code_of(spec.architecture, spec.arguments)
        return Network(forward=module, kind="module", code=code, notes=notes)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Copy weights into a module, those below the prefix that a wrapping module gave them.

    Parameters
    ----------
    module
        The network.
    weights
        Tensors by name: the module's own, or with a prefix (``model.`` of Lightning); beside those
        of a prefix others may stand, of losses and metrics.

    Returns
    -------
    tuple of str
        What a user should know of the choice.

    Raises
    ------
    ValueError
        If names or shapes differ from the module's; the message lists the first that do.
    """
    expected = module.state_dict()
    prefix = _prefix(weights, expected)
    below = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    _check_fit(below, expected)
    module.load_state_dict(below, strict=False)
    others = len(weights) - len(below)
    left = f", {others} others left out" if others else ""
    return (f"its weights are those named {prefix}* in the file{left}",) if prefix else ()


def _prefix(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return what stands before the names of a network's weights: the shortest that gives all."""
    needed = [k for k in expected if not k.endswith(_COUNTER)]
    if not needed:
        return ""
    ends = (k.removesuffix(needed[0]) for k in weights if k.endswith(needed[0]))
    prefixes = sorted((p for p in ends if not p or p.endswith(".")), key=len)
    return next((p for p in prefixes if all(p + k in weights for k in needed)), "")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read named tensors from a safetensors or ``torch.save`` file without running its code.

    Parameters
    ----------
    path
        The file; its content decides the kind, not its name. A dict may lie nested, as training
        frameworks save it; prefixes of DataParallel and compile are removed. Or a folder of
        safetensors files.

    Raises
    ------
    ValueError
        If it is neither kind, is damaged, or could run code through pickle.
    """
    files = weight_files(path) if path.is_dir() else (path,)
    return _unprefixed({k: v for file in files for k, v in _read(file).items()})


def _read(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file:
        head = file.read(9)
    # safetensors: 8 bytes of length, then a JSON object
    return _read_safetensors(path) if head[8:] == b"{" else _read_pt(path, head)


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    _check_header(path)
    try:
        return load_file(path, device="cpu")
    except Exception as error:  # safetensors raises a type of its own, and OSError
        raise ValueError(f"{path.name} is not a valid safetensors file: {error}") from error


def _check_header(path: Path) -> None:
    """Refuse a header with a false length, before memory of that length is allocated."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(_MAX_HEADER, path.stat().st_size - 8):
            raise ValueError(
                f"{path.name} is not a valid safetensors file: a header of {length} bytes in a "
                f"file of {path.stat().st_size}"
            )
        try:
            json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path.name} has no valid safetensors header: {error}") from error


def _read_pt(path: Path, head: bytes) -> Mapping[str, Any]:
    if not head.startswith((b"PK", b"\x80")):
        raise ValueError(f"{path.name} is neither safetensors nor a torch.save file")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"'torch.load' received a zip file", UserWarning)
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    # torch raises another type for a TorchScript archive, a pickled module, a truncated file.
    except Exception as error:
        raise ValueError(_why_not_loaded(path, error)) from error
    for _ in range(2):  # a training framework may nest one wrapper in another
        if isinstance(loaded, Mapping):
            inner = (loaded[w] for w in _WRAPPERS if isinstance(loaded.get(w), Mapping))
            loaded = next(inner, loaded)
    if not isinstance(loaded, Mapping):
        raise ModelError(f"{path.name} holds a {type(loaded).__name__}, not a state dict")
    return cast("Mapping[str, Any]", loaded)


def _why_not_loaded(path: Path, error: Exception) -> str:
    text = str(error)
    if "TorchScript" in text:
        return f"{path.name} is a TorchScript archive: use format torchscript"
    if "weights_only" in text.lower() or "Unsupported" in text:
        return (
            f"{path.name} holds more than weights and would have to run code to load: "
            "save the state_dict alone, best as safetensors"
        )
    return f"{path.name} cannot be read: {text}"


def _unprefixed(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    if not tensors:
        raise ValueError("the state dict is empty")
    foreign = [k for k, v in tensors.items() if not isinstance(k, str) or not _is_real(v)]
    if foreign:
        raise ValueError(f"not a state dict of real tensors: {_few(foreign)}")
    result = dict(tensors)
    for prefix in _PREFIXES:
        # only if all keys have it: a submodule may be called module
        if all(key.startswith(prefix) for key in result):
            result = {key.removeprefix(prefix): value for key, value in result.items()}
    return result


def _is_real(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_complex()


def _build(spec: ModelSpec) -> nn.Module:
    reference = str(spec.architecture)
    architecture = resolve(reference)
    if not (isinstance(architecture, type) and issubclass(architecture, nn.Module)) and not (
        spec.trust and callable(architecture)
    ):
        raise ValueError(f"{reference} is not a torch.nn.Module")
    if not spec.trust and not architecture.__module__.startswith(OWN):
        raise ValueError(f"{reference} is not one of cte_dask's own: it needs trust: true")
    # Initial weights are drawn, then overwritten: the caller's random state must not advance.
    with torch.random.fork_rng(devices=[]):
        try:
            return cast("Callable[..., nn.Module]", architecture)(**spec.arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{reference} refuses its arguments: {error}") from error


def _check_fit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    # Weights saved before torch 1.0 lack the batch counters, which no prediction depends on.
    missing = [k for k in expected if k not in weights and not k.endswith(_COUNTER)]
    unexpected = [k for k in weights if k not in expected]
    shapes = [
        f"{k} is {tuple(weights[k].shape)}, not {tuple(expected[k].shape)}"
        for k in expected
        if k in weights and weights[k].shape != expected[k].shape
    ]
    groups = {"missing": missing, "unexpected": unexpected, "wrong shapes": shapes}
    faults = [f"{kind}: {_few(names)}" for kind, names in groups.items() if names]
    if faults:
        raise ValueError(f"the weights do not fit the architecture: {'; '.join(faults)}")


def _few(names: Iterable[object]) -> str:
    texts = [str(name) for name in names]
    rest = len(texts) - _SHOWN
    return ", ".join(texts[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
