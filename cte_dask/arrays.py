"""The device seam: which array library an array belongs to, and the way to and from torch.

Everything below works on NumPy and CuPy arrays alike and takes its functions from
`namespace`. CuPy and torch are imported only when one of their arrays is at hand, so a machine
without a GPU, or with NumPy alone, loses nothing. No function here moves an array to another device
unless it is named for that.

`resolve_device` and `dtype_of` turn the names that users give into a device and a dtype;
`numba_pays` tells which of two ways to the same bits costs less.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = [
    "Array",
    "dtype_of",
    "from_torch",
    "namespace",
    "native_threshold",
    "numba_pays",
    "resolve_device",
    "set_threads",
    "to_numpy",
    "to_torch",
]

Array = npt.NDArray[Any]
"""A NumPy or CuPy array; CuPy's own type is not visible to the type checker."""


def namespace(*arrays: object) -> ModuleType:
    """Return the array library of some arrays.

    Parameters
    ----------
    *arrays
        NumPy or CuPy arrays; Python and NumPy scalars may be among them.

    Returns
    -------
    module
        ``cupy`` if the arrays are CuPy's, otherwise ``numpy``.

    Raises
    ------
    TypeError
        If NumPy and CuPy arrays are mixed, or an array belongs to another library.
    """
    homes = {_home(a) for a in arrays} - {"scalar"}
    foreign = homes - {"numpy", "cupy"}
    if foreign:
        raise TypeError(
            f"expected NumPy or CuPy arrays, got one of {', '.join(sorted(foreign))}: "
            "convert it first (torch tensors with arrays.from_torch)"
        )
    if homes == {"numpy", "cupy"}:
        raise TypeError(
            "NumPy and CuPy arrays are mixed: "
            "copy one over on purpose (arrays.to_numpy, cupy.asarray)"
        )
    return sys.modules["cupy"] if homes == {"cupy"} else np


def native_threshold(threshold: float, dtype: np.dtype[Any]) -> Any:
    """Return a threshold in the maps' dtype.

    float32(0.3) is greater than the float64 0.3, so upcasting either side would move voxels across.
    For integers ``value > threshold`` and ``value > floor(threshold)`` are the same.

    Parameters
    ----------
    threshold
        The threshold as the user wrote it.
    dtype
        Data type of the maps.

    Returns
    -------
    scalar
        Of type `dtype`, or int for integer maps.
    """
    return dtype.type(threshold) if dtype.kind not in "biu" else math.floor(threshold)


def to_numpy(array: object) -> Array:
    """Return an array on the host: itself if it is NumPy's, else a copy.

    Parameters
    ----------
    array
        NumPy or CuPy array, or torch tensor on any device.

    Returns
    -------
    numpy.ndarray
        Same shape and dtype.

    Raises
    ------
    TypeError
        If it belongs to another library.
    """
    if _home(array) == "torch":
        array = from_torch(array)
    if namespace(array) is np:
        return np.asarray(array)
    copied: Array = array.get()  # type: ignore[attr-defined]
    return copied


def from_torch(tensor: torch.Tensor | object) -> Array:
    """Return a torch tensor as an array that shares its memory.

    Parameters
    ----------
    tensor
        On the CPU or on a CUDA device; it is detached.

    Returns
    -------
    numpy.ndarray or cupy.ndarray
        On the tensor's device, without a copy.

    Raises
    ------
    TypeError
        If it is no tensor, lies on another kind of device, or has a dtype NumPy lacks.
    """
    if _home(tensor) != "torch":
        raise TypeError(f"expected a torch tensor, got {type(tensor).__qualname__}")
    detached: Any = tensor.detach()  # type: ignore[union-attr]
    kind = detached.device.type
    if kind == "cuda":
        import cupy

        shared: Array = cupy.from_dlpack(detached)
        return shared
    if kind != "cpu" or str(detached.dtype) == "torch.bfloat16":
        raise TypeError(
            f"cannot share a {detached.dtype} tensor on {kind!r}: accepted are CPU and CUDA "
            "tensors, and on the CPU no bfloat16 (cast it with .float(), which is exact)"
        )
    host: Array = detached.numpy()
    return host


def to_torch(array: Array, device: str | torch.device = "cpu") -> torch.Tensor:
    """Return an array as a torch tensor, sharing memory where the device is already right.

    Parameters
    ----------
    array
        NumPy or CuPy array.
    device
        Where the tensor shall lie; an array that lies elsewhere is copied there, as asked.

    Returns
    -------
    torch.Tensor
        Same shape and dtype. Read-only, reversed and byte-swapped arrays are copied, since torch
        has no such tensors.

    Raises
    ------
    TypeError
        If the array belongs to another library.
    """
    import torch
    from torch.utils.dlpack import from_dlpack

    if namespace(array) is np:
        return torch.from_numpy(_torch_ready(array)).to(device)
    return from_dlpack(array).to(device)


def _torch_ready(array: Array) -> Array:
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not native.flags.writeable or any(s < 0 for s in native.strides):
        return native.copy()
    return native


def _home(value: object) -> str:
    """Top-level package of an array's type, or ``"scalar"`` for a number."""
    if isinstance(value, (bool, int, float, np.generic)):
        return "scalar"
    if isinstance(value, np.ndarray):
        return "numpy"
    return type(value).__module__.partition(".")[0]


LOADING_NUMBA = 0.4
"""Seconds that loading Numba and its kernels takes."""
_BY_NUMPY = [0.0]


def numba_pays(seconds: float) -> bool:
    """Return whether a kernel of Numba shall do a piece of work, not array functions.

    It shall once a process has met as much work as would pay for loading Numba. Until then array
    functions do it, and always where Numba is not installed.

    Parameters
    ----------
    seconds
        What NumPy takes for it, about; the result must be the same bits either way.
    """
    if not _has_numba():
        return False
    _BY_NUMPY[0] += seconds
    return _BY_NUMPY[0] >= LOADING_NUMBA


@cache
def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None


PRECISIONS = ("auto", "float32", "tf32", "bfloat16", "float16")


def resolve_device(name: str) -> str:
    """Return ``"cpu"`` or ``"cuda"`` for ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    ValueError
        If the name is unknown, or ``cuda`` is asked for where there is no GPU.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in {"cpu", "cuda"}:
        raise ValueError(f"device {name!r} is not one of auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' asked for, but torch sees no GPU; use --device cpu or auto")
    return name


def set_threads(number: int) -> None:
    """Set the threads that one operation of a network may use in this process."""
    import torch

    torch.set_num_threads(number)


def dtype_of(precision: str) -> torch.dtype:
    """Return the floating type of a precision; ``auto`` is float32, and so is what TF32 is kept in.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    import torch

    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    dtype: torch.dtype = getattr(
        torch, {"auto": "float32", "tf32": "float32"}.get(precision, precision)
    )
    return dtype
