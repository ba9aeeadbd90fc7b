"""Stands in for CuPy where there is no GPU: its arrays lie apart from NumPy's, and transfers show.

An array here is NumPy's in a wrapper that refuses what CuPy refuses: to become a NumPy array by
itself, or to meet one in a sum. Each way to the host and back is noted. Functions are NumPy's and
SciPy's under CuPy's names; the kernels of the package are computed by their formulas from what they
are launched with.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from cte_dask.consistency.binary import counts_by_formula
from cte_dask.perturb.philox import normals_by_formula

TRANSFERS: list[tuple[str, tuple[int, ...]]] = []
"""``"to host"`` or ``"to device"``, and the shape; scalars are not noted."""

REDUCTIONS = {"all", "any", "max", "min", "sum", "mean"}
METHODS = REDUCTIONS | {"astype", "copy", "ravel", "reshape", "transpose", "view", "cumsum", "fill"}
FACTS = {"shape", "ndim", "dtype", "size", "nbytes", "itemsize", "strides", "flags"}


class ndarray(NDArrayOperatorsMixin):
    """An array of the device."""

    def __init__(self, data: np.ndarray) -> None:
        self.data_ = data

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return wrapped(getattr(ufunc, method)(*opened(inputs), **opened(options)))

    def __getattr__(self, name: str) -> Any:
        if name in FACTS:
            return getattr(self.data_, name)
        if name not in METHODS:
            raise AttributeError(f"CuPy's arrays have no {name!r} here")

        def method(*args: Any, **options: Any) -> Any:
            if name in REDUCTIONS and set(options) - {"axis", "dtype", "out", "keepdims"}:
                raise TypeError(f"{name}() got an unexpected keyword of {sorted(options)}")
            return wrapped(getattr(self.data_, name)(*opened(args), **opened(options)))

        return method

    def __getitem__(self, index: Any) -> Any:
        return wrapped(self.data_[opened(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.data_[opened(index)] = opened(value)

    def __len__(self) -> int:
        return len(self.data_)

    def __iter__(self) -> Any:
        return (wrapped(row) for row in self.data_)

    def __bool__(self) -> bool:
        return bool(self.data_)

    def __int__(self) -> int:
        return int(self.data_)

    def __index__(self) -> int:
        return self.data_.__index__()

    def __float__(self) -> float:
        return float(self.data_)

    def __dlpack__(self, **options: Any) -> Any:
        return self.data_.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.data_.__dlpack_device__()

    @property
    def T(self) -> ndarray:
        return ndarray(self.data_.T)

    @property
    def device(self) -> Any:
        return nullcontext()

    def get(self) -> np.ndarray:
        """Copy to the host."""
        TRANSFERS.append(("to host", self.data_.shape))
        return self.data_.copy()


ndarray.__module__ = "cupy"


def opened(value: Any) -> Any:
    """Return what NumPy computes with; an array of the host among them is refused."""
    if isinstance(value, ndarray):
        return value.data_
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, list | tuple):
        return type(value)(opened(v) for v in value)
    if isinstance(value, dict):
        return {k: opened(v) for k, v in value.items()}
    return value


def wrapped(value: Any) -> Any:
    """Return what NumPy gave, arrays and their scalars as those of the device."""
    if isinstance(value, np.ndarray | np.generic):
        return ndarray(np.asarray(value))
    return type(value)(map(wrapped, value)) if isinstance(value, tuple) else value


def on_device(function: Callable[..., Any], *, host: tuple[str, ...] = ()) -> Callable[..., Any]:
    """Return a function for arrays of the device; some keywords may be of the host."""

    def called(*args: Any, **options: Any) -> Any:
        named = {k: v if k in host else opened(v) for k, v in options.items()}
        return wrapped(function(*opened(args), **named))

    return called


def asarray(value: Any, dtype: Any = None) -> ndarray:
    """Copy an array of the host to the device."""
    if isinstance(value, ndarray):
        return value if dtype is None else value.astype(dtype)
    if isinstance(value, np.ndarray) and value.ndim:
        TRANSFERS.append(("to device", value.shape))
    return ndarray(np.array(value, dtype=dtype))


class RawKernel:
    """A kernel of the package, by its formula."""

    counts: np.ndarray

    def __init__(self, code: str, name: str, options: tuple[str, ...]) -> None:
        assert name.partition("float")[0] in code, "the source has it"
        self.name = name

    def __call__(self, grid: tuple[int, ...], threads: tuple[int, ...], args: tuple) -> None:
        assert all(n > 0 for n in (*grid, *threads))
        assert all(isinstance(a, ndarray | np.generic) for a in args), "typed, on the device"
        values = [opened(a) for a in args]
        if self.name.startswith("cte_count"):
            p, p_strides, q, q_strides, boxes, threshold, _ = values
            for maps, strides in ((p, p_strides), (q, q_strides)):
                assert [s * maps.itemsize for s in strides] == list(maps.strides)
            RawKernel.counts = counts_by_formula(p, q, boxes, p.dtype.type(threshold))
        elif self.name == "cte_finish":
            values[-1][...] = RawKernel.counts
        elif self.name == "cte_normal_field":
            (k0, k1, *corner), field = map(int, values[:5]), values[-1]
            assert tuple(map(int, values[5:8])) == field.shape
            stop = [a + n for a, n in zip(corner, field.shape, strict=True)]
            field[...] = normals_by_formula((k0, k1), tuple(corner), tuple(stop))
        else:
            assert self.name == "cte_vote_words"
            masks, models, _, step, voxels, votes = values
            looked_at = np.ascontiguousarray(masks[:, :: int(step)])
            bits = np.unpackbits(looked_at.view(np.uint8), axis=-1).astype(np.uint64)
            assert bits.shape == (models, voxels)
            places = np.arange(len(bits), dtype=np.uint64)[:, None]
            votes[...] = (bits << places).sum(axis=0, dtype=np.uint64)


class RawModule:
    """Kernels of the package."""

    def __init__(self, code: str, options: tuple[str, ...]) -> None:
        self.code = code

    def get_function(self, name: str) -> RawKernel:
        """Return one of them."""
        return RawKernel(self.code, name, ())


def lexsort(keys: ndarray) -> ndarray:
    """Sort by the rows of a matrix: CuPy takes no tuple."""
    assert isinstance(keys, ndarray)
    assert keys.ndim == 2
    return ndarray(np.lexsort(keys.data_))


def unique(values: ndarray, **options: Any) -> Any:
    """Return the distinct values of a flat array: of rows, CuPy compares them one by one."""
    assert "axis" not in options, "not on a GPU: it asks the host after each pair of rows"
    return wrapped(np.unique(values.data_, **options))


def modules() -> dict[str, ModuleType]:
    """Return what `sys.modules` holds where CuPy is installed."""
    import scipy.ndimage

    cupy = ModuleType("cupy")
    own = (ndarray, asarray, RawKernel, RawModule, lexsort, unique)
    vars(cupy).update({thing.__name__: thing for thing in own})
    cupy.array = lambda v, order="K", copy=True: ndarray(
        np.array(opened(v), order=order, copy=copy)
    )
    cupy.asnumpy = lambda v: v.get()

    def found(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        there = getattr(np, name)
        return there if isinstance(there, type) else on_device(there)

    cupy.__getattr__ = found  # type: ignore[method-assign]
    ndimage = ModuleType("cupyx.scipy.ndimage")
    for name in ("label", "gaussian_filter", "maximum_filter", "distance_transform_edt"):
        wrapper = on_device(getattr(scipy.ndimage, name), host=("structure",))
        setattr(ndimage, name, wrapper)
    package, cupyx = ModuleType("cupyx.scipy"), ModuleType("cupyx")
    package.ndimage, cupyx.scipy = ndimage, package
    return {
        "cupy": cupy,
        "cupyx": cupyx,
        "cupyx.scipy": package,
        "cupyx.scipy.ndimage": ndimage,
    }


def install() -> None:
    """Let this process import them, and start noting transfers."""
    sys.modules.update(modules())
    TRANSFERS.clear()
