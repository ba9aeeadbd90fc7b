"""Convolutions of 3 x 3 with a quarter of the multiplications, on the processor.

A patch of 6 x 6 voxels goes to a space where its convolution is one product a point: 36 for 16
outputs, where 144 are needed otherwise (Winograd's minimal filtering, Lavin & Gray 2016, arXiv
1509.09308, at other points). Over channels these are matrix products; what a kernel has along z is
summed in that space. All is float32; results are rounded some units in the last place worse than
oneDNN's, which does what is not worth it: which of the two runs is decided by the shapes alone, so
that a network gives the same on all machines of a kind.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from cte_dask.errors import reason
from cte_dask.inference.graph import winograd_code
from cte_dask.inference.graph.convolutions import empty
from cte_dask.inference.graph.private_torch import WeakTensorKeyDictionary
from cte_dask.inference.graph.winograd_code import FAR, LANES, NEAR, OUT, POINTS

__all__ = ["convolved", "is_quicker", "steps_or_none", "weight_bytes"]

MOST_WEIGHTS = 2**24
"""Bytes of transformed weights; more would not stay near the processor."""
BLOCK = 2**20
"""Bytes of patches that are transformed, multiplied and transformed back at a time."""
LEAST_ROWS = 32
"""Rows of the matrix products, at least."""

# in multiply-adds of oneDNN's convolutions, as `benchmarks/convolutions.py` measures them
_PRODUCT = 1.2
_TRANSFORM = 600
"""Of one channel of a patch, there or back."""
_WEIGHT = 6
"""Of one transformed weight that is read."""
_CALL = 2.5e6
_LEAST_GAIN = 1.15

_MADE: Any = WeakTensorKeyDictionary()
_HERE = threading.local()
_logger = logging.getLogger(__name__)


def is_quicker(shape: Sequence[int], weight: Sequence[int], padding: Sequence[int]) -> bool:
    """Tell whether a convolution in steps of one is clearly quicker this way.

    Parameters
    ----------
    shape
        Of the maps (N, C, [z,] y, x).
    weight
        Of the weights (K, C, [z,] y, x).
    padding
        Voxels a side, [z,] y, x.
    """
    if not weight_bytes(weight) or weight[1] != shape[1]:
        return False
    out, into, *kernel = weight
    along = zip(shape[2:], padding, kernel, strict=True)
    *planes, height, width = size = [n + 2 * p - k + 1 for n, p, k in along]
    if min(size) < 1:
        return False
    patches = math.prod(planes) * math.ceil(height / OUT) * math.ceil(width / OUT)
    direct = math.prod(weight) * math.prod(size)
    products = (_PRODUCT * patches + _WEIGHT) * POINTS * math.prod(weight[:-2])
    return direct > _CALL + _LEAST_GAIN * (products + _TRANSFORM * (into + out) * patches)


def weight_bytes(weight: Sequence[int]) -> int:
    """Return the bytes that transformed weights may take beside weights of a shape; 0 for none."""
    out, into, *kernel = (*weight, 0, 0)[: max(2, len(weight))]
    if kernel[-2:] != [3, 3] or out % LANES or into % LANES:
        return 0
    most = 4 * POINTS * math.prod(weight[:-2])
    return most if most <= MOST_WEIGHTS else 0


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    steps: Sequence[Any],
    *,
    slope: float,
    added: Tensor | None,
) -> Tensor | None:
    """Convolve this way where that is quicker; see `cte_dask.inference.graph.convolutions.Way`."""
    if not _is_ours(x, weight, padding, steps):
        return None
    return _convolved(x, weight, bias, padding, slope=slope, added=added)


def _is_ours(x: Tensor, weight: Tensor, padding: Sequence[int], steps: Sequence[Any]) -> bool:
    stride, dilation, groups = steps
    return (
        groups == 1
        and all(n == 1 for n in (*stride, *dilation))
        and x.dtype == torch.float32
        and x.stride(1) == 1
        and is_quicker(x.shape, weight.shape, padding)
        and torch.get_num_threads() == 1  # oneDNN has all of them
        and torch.backends.cpu.get_cpu_capability() in {"AVX2", "AVX512"}
        and steps_or_none() is not None
    )


@cache
def steps_or_none() -> winograd_code.Steps | None:
    """Return the machine code; None where it cannot be had, as where no memory may be run."""
    try:
        return winograd_code.steps()
    except (RuntimeError, OSError) as error:
        _logger.warning("convolutions are left to oneDNN: %s", reason(error))
        return None


def _matrices(weight: Tensor) -> Tensor:
    """Return weights in the space of the product, (z, 36, C, K); they are kept as long as those."""
    version = 0 if weight.is_inference() else weight._version
    known, made = _MADE.get(weight, (None, None))
    if made is None or known != version:
        g = _g()
        plain = weight.double().reshape(*weight.shape[:2], -1, 3, 3)
        made = torch.einsum("ia,kczab,jb->zijck", g, plain, g).flatten(1, 2).float().contiguous()
        _MADE[weight] = version, made
    return made  # type: ignore[no-any-return]


def _g() -> Tensor:
    """Return matrix G of the paper at these points, (6, 3)."""
    near, far = NEAR**2, FAR**2
    rows = [[1 / (near * far), 0, 0]]
    for point, other in ((NEAR, far), (FAR, near)):
        factor = 2 * point**2 * (point**2 - other)
        rows += [[1 / factor, at / factor, at**2 / factor] for at in (point, -point)]
    return torch.tensor([*rows, [0, 0, 1]], dtype=torch.float64)


class _Buffers:
    """What a thread works in; it grows, and is used again by the next convolution."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def addresses(self, *sizes: int) -> list[int]:
        """Return where arrays of so many numbers each may be, one behind the other."""
        if sum(sizes) > len(self._memory):
            self._memory = torch.empty(sum(sizes))
        return [self._memory.data_ptr() + 4 * sum(sizes[:n]) for n in range(len(sizes))]


def _buffers() -> _Buffers:
    if not hasattr(_HERE, "buffers"):
        _HERE.buffers = _Buffers()
    return _HERE.buffers  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class _Maps:
    """Where maps lie: those of 2D are the planes of one sample.

    Parameters
    ----------
    address
        Of the first number.
    samples, z, y, x
        Extents.
    strides
        From one to the next, in numbers, of samples, z, y and x.
    """

    address: int
    samples: int
    z: int
    y: int
    x: int
    strides: tuple[int, int, int, int]

    @classmethod
    def of(cls, maps: Tensor) -> _Maps:
        if maps.ndim == 4:
            maps = maps.transpose(0, 1)[None]
        (n, _, z, y, x), (far, _, *near) = maps.shape, maps.stride()
        return cls(maps.data_ptr(), n, z, y, x, (far, near[0], near[1], near[2]))

    def at(self, sample: int, plane: int) -> tuple[int, int, int, int]:
        """Return where a plane of a sample begins, and the strides along z, y and x."""
        far, z, y, x = self.strides
        return self.address + 4 * (sample * far + plane * z), z, y, x


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    *,
    slope: float,
    added: Tensor | None = None,
) -> Tensor:
    steps = steps_or_none()
    assert steps is not None
    forward, multiply, inverse = steps
    matrices = _matrices(weight)
    (out, into), beyond = weight.shape[:2], len(matrices) - 1
    y = empty(x, weight, padding)
    zeros = torch.zeros(out)
    offset = zeros if bias is None else bias.contiguous()
    factor = torch.tensor([slope], dtype=torch.float32)
    seen, given, more = _Maps.of(x), _Maps.of(y), None if added is None else _Maps.of(added)
    in_row = math.ceil(given.x / OUT)
    patches = in_row * math.ceil(given.y / OUT)
    shifts = (0, *padding)[-3:]
    # planes that share nothing are done as many at a time as fit
    alone = beyond == shifts[0] == 0
    fitting = BLOCK // (4 * POINTS * (into + out) * patches)
    planes = max(1, min(given.z, fitting)) if alone else given.z
    fitting = BLOCK // (4 * POINTS * ((planes + beyond) * into + planes * out))
    block = min(patches, max(fitting, math.ceil(LEAST_ROWS / planes)))
    left, right, free = _buffers().addresses(
        POINTS * (planes + beyond) * block * into,
        POINTS * planes * block * out,
        POINTS * max(into, out),
    )
    for sample, plane in product(range(given.samples), range(0, given.z, planes)):
        wide = min(planes, given.z - plane)
        deep, depth = wide + beyond, wide if alone else seen.z
        for first in range(0, patches, block):
            last = min(first + block, patches)
            rows = (last - first) * wide
            forward(
                *(*seen.at(sample, plane), depth, seen.y, seen.x, into, *shifts),
                *(in_row, first, last, deep, left, free),
            )
            for shift, each in enumerate(matrices):
                ours = left + 4 * shift * (last - first) * into
                apart = deep * (last - first) * into
                multiply(
                    *(ours, apart, each.data_ptr(), right, rows * out),
                    *(rows, into, out, int(shift > 0)),
                )
            inverse(
                *(*given.at(sample, plane), given.y, given.x, out),
                *((zeros.data_ptr(), 0, 0, 0) if more is None else more.at(sample, plane)),
                *(zeros.data_ptr(), offset.data_ptr(), factor.data_ptr()),
                *(in_row, first, last, wide, right, free),
            )
    return y
