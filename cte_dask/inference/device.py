"""What a GPU needs that a processor does not, all of it in this file. Not yet run on a GPU.

Its arithmetic (TF32 is never taken for float32), its memory, its asynchrony (`synchronize`), and
the way of a target's voxels to it: through memory that the card reads by itself, on a stream beside
the one that computes, the next voxels while networks see the present ones::

      host        read 1 | read 2 | read 3 |
      copies             | 1 ~~>  | 2 ~~>  | 3 ~~>
      computing                   | 1      | 2      | 3

Two buffers take turns. A buffer on the host is written again when its copy has ended, one on the
card when all that computes from it has: both are told by events, and nobody else waits. What comes
back is scores, a few numbers a tile.

On the CPU each function does nothing or the obvious. torch and CuPy are imported when needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from numpy.typing import NDArray

__all__ = [
    "Copies",
    "CudaCopies",
    "Sent",
    "Uploads",
    "arithmetic",
    "free_memory",
    "on_device",
    "peak_of",
    "rounding",
    "synchronize",
    "uploads_to",
]

FLOAT32_ROUNDING = 1e-4
LOW_ROUNDING = 1e-2
LOW_UNITS = 4
"""Units in the last place of the largest output, where they are more than `LOW_ROUNDING`."""


def synchronize(device: str) -> None:
    """Wait until the device has ended what it was given: before a clock is read."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def arithmetic(device: str, precision: str) -> AbstractContextManager[None]:
    """Compute float32 in float32 inside the context, and in TF32 only for precision ``"tf32"``.

    PyTorch runs the convolutions of a GPU in TF32, of ten bits, unless it is told otherwise.

    Parameters
    ----------
    device
        ``"cpu"`` or ``"cuda"``.
    precision
        See `cte_dask.inference.settings.Inference`.
    """
    return _tensor_cores(tf32=precision == "tf32") if device == "cuda" else nullcontext()


@contextmanager
def _tensor_cores(*, tf32: bool) -> Iterator[None]:
    from torch import backends

    # the older of PyTorch's two ways to say it: its compiler reads it, too, and mixes ill
    convolutions, products = backends.cudnn, backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = tf32
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


def rounding(x: torch.Tensor, *, float32: float = FLOAT32_ROUNDING) -> float:
    """Return how far two orders of the same sums may lie apart, as a part of the largest output.

    Parameters
    ----------
    x
        What goes in; inside of `arithmetic`.
    float32
        What to return of float32.
    """
    import torch

    tf32 = x.is_cuda and torch.backends.cudnn.allow_tf32
    if x.dtype == torch.float32 and not tf32:
        return float32
    unit = 0.0 if x.dtype == torch.float32 else float(torch.finfo(x.dtype).eps)
    return max(LOW_ROUNDING, LOW_UNITS * unit)


def free_memory() -> int:
    """Return the bytes of the card that PyTorch can still give to a network."""
    import torch

    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return int(torch.cuda.mem_get_info()[0]) + unused


def peak_of(run: Callable[[], object]) -> int:
    """Return the bytes of the card that some work takes at most, beside what is taken already.

    Raises
    ------
    RuntimeError
        If the allocator keeps no account, as RMM's under torch.
    """
    import torch

    synchronize("cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    synchronize("cuda")
    return int(torch.cuda.max_memory_allocated()) - before


def on_device(device: str, voxels: NDArray[Any]) -> Any:
    """Return voxels on a device, copied at once: CuPy's on ``"cuda"``, else themselves."""
    if device != "cuda":
        return voxels
    import cupy

    return cupy.asarray(voxels.astype(voxels.dtype.newbyteorder("="), copy=False))


class Copies(Protocol):
    """Copies to a device beside what it computes; events say how far both are."""

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Return bytes of the host that the device reads by itself."""

    def room(self, size: int) -> Any:
        """Return bytes of the device."""

    def start(self, source: NDArray[np.uint8], target: Any, *, after: Any) -> Any:
        """Copy bytes once an event has come; return the event that they are there."""

    def mark(self) -> Any:
        """Return the event that all has ended which is to be computed until now."""

    def hold(self, event: Any) -> None:
        """Compute what follows when an event has come; the host goes on."""

    def wait(self, event: Any) -> None:
        """Wait on the host until an event has come."""


@dataclass
class _Slot:
    """A buffer on the host and one on the device, and what they wait for."""

    host: Any = None
    device: Any = None
    copied: Any = None
    used: Any = None


@dataclass(frozen=True)
class Sent:
    """Voxels on their way: a buffer, and the shape and type of what is in it."""

    slot: _Slot
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Uploads:
    """Sends arrays to a device, the next while the present one is used; two at a time.

    Parameters
    ----------
    copies
        What copies.
    """

    def __init__(self, copies: Copies) -> None:
        self._copies = copies
        self._slots = [_Slot(), _Slot()]

    def send(self, voxels: NDArray[Any]) -> Sent:
        """Begin to copy an array; the one sent two times before must have been received.

        Parameters
        ----------
        voxels
            Any shape and type; they may be changed as soon as this returns.
        """
        slot = self._slots.pop(0)
        self._slots.append(slot)
        if slot.copied is not None:
            self._copies.wait(slot.copied)  # its bytes on the host are still being read
        size, native = voxels.nbytes, voxels.dtype.newbyteorder("=")  # a GPU has one order of bytes
        if slot.host is None or slot.host.size < size:
            slot.host, slot.device = self._copies.pinned(size), self._copies.room(size)
            # memory that was handed back may still be computed from
            slot.used = self._copies.mark()
        np.copyto(slot.host[:size].view(native).reshape(voxels.shape), voxels)
        target = slot.device[:size]
        slot.copied = self._copies.start(slot.host[:size], target, after=slot.used)
        return Sent(slot, voxels.shape, native)

    @contextmanager
    def received(self, sent: Sent) -> Iterator[Any]:
        """Give an array that was sent; it is lost when the context ends.

        Parameters
        ----------
        sent
            From `send`.
        """
        slot, size = sent.slot, math.prod(sent.shape) * sent.dtype.itemsize
        self._copies.hold(slot.copied)
        try:
            yield slot.device[:size].view(sent.dtype).reshape(sent.shape)
        finally:
            slot.used = self._copies.mark()


class _Here:
    """The host is the device: arrays are there already."""

    def send(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Return the array."""
        return voxels

    def received(self, sent: NDArray[Any]) -> AbstractContextManager[NDArray[Any]]:
        """Give the array."""
        return nullcontext(sent)


def uploads_to(device: str) -> Any:
    """Return what sends arrays to a device: `Uploads`, or the same methods that do nothing."""
    return Uploads(CudaCopies()) if device == "cuda" else _Here()


class CudaCopies:
    """`Copies` through CuPy, on a stream of its own.

    The stream that computes is the one that CuPy and torch have as theirs, the null stream in every
    thread; a non-blocking stream does not wait for it by itself.
    """

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        self._stream = cupy.cuda.Stream(non_blocking=True)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """See `Copies.pinned`."""
        import cupyx

        pinned: NDArray[np.uint8] = cupyx.empty_pinned(size, np.uint8)
        return pinned

    def room(self, size: int) -> Any:
        """See `Copies.room`."""
        return self._cupy.empty(size, np.uint8)

    def start(self, source: NDArray[np.uint8], target: Any, *, after: Any) -> Any:
        """See `Copies.start`."""
        self._stream.wait_event(after)
        target.set(source, stream=self._stream)
        return self._stream.record()

    def mark(self) -> Any:
        """See `Copies.mark`."""
        return self._cupy.cuda.get_current_stream().record()

    def hold(self, event: Any) -> None:
        """See `Copies.hold`."""
        self._cupy.cuda.get_current_stream().wait_event(event)

    def wait(self, event: Any) -> None:
        """See `Copies.wait`."""
        event.synchronize()
