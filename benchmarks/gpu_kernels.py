"""The kernels of `consistency` and `perturb` against a copy of the same device's memory.

Each is given the bytes that it must move at least; what it moves a second, over what a plain copy
moves, says how far it is from what the memory allows. Needs torch and, on a GPU, CuPy alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cte_dask.arrays import from_torch, namespace
from cte_dask.consistency.binary import binary_agreement_batch
from cte_dask.consistency.instance import v_rand
from cte_dask.consistency.vote_patterns import core_bits, packed, vote_tables
from cte_dask.perturb import Perturbation
from cte_dask.perturb.kinds import DrawnTiles
from cte_dask.perturb.philox import normal_field
from cte_dask.perturb.views import TileContext, plain_view
from cte_dask.tiles import Tile

SIZES = {"cuda": (64, 1024, 1024), "cpu": (2, 128, 128)}
"""Maps that a call compares: tiles, y, x."""
MODELS = 9
VALUES = ("gaussian:0.1", "brightness:0.1", "contrast:0.8", "gamma:0.8")


@dataclass(frozen=True)
class Kernel:
    """A call, and the bytes that it must read and write at least."""

    call: Callable[[], Any]
    bytes: int


def wait(device: str) -> None:
    """Return when the device has ended what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], device: str, *, repeats: int) -> dict[str, Any]:
    """Return median, fastest and slowest of some calls, after two that warm up."""
    times: list[float] = []
    for number in range(repeats + 2):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        if number > 1:
            times.append(time.perf_counter() - began)
    spread = {"median_s": statistics.median(times), "fastest_s": min(times), "repeats": len(times)}
    return {**spread, "slowest_s": max(times)}


def launches(work: Callable[[], Any], device: str) -> int | None:
    """Count the kernels that a call starts, whoever's they are; None without a GPU."""
    if device != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        wait(device)
    kinds = torch.autograd.DeviceType
    ran = (e for e in profiler.events() if e.device_type == kinds.CUDA)
    return sum(not e.name.lower().startswith(("memcpy", "memset")) for e in ran)


def kernels(device: str) -> Iterator[tuple[str, Callable[[], Kernel]]]:
    """Yield each kernel by its name, the copy first; nothing is allocated before it is made."""
    shape = SIZES[device]
    yield "copy", lambda: _copy(shape, device)
    yield "agreement", lambda: _agreement(shape, device)
    yield "packed masks", lambda: _packed(shape, device)
    yield "vote tables", lambda: _votes(shape, device)
    yield "v_rand", lambda: _rand(shape, device)
    yield "normals", lambda: _normals(shape, device)
    for name in VALUES:
        yield name, lambda name=name: _values(name, shape, device)


def _copy(shape: tuple[int, ...], device: str) -> Kernel:
    source = torch.rand((4, *shape), device=device)
    target = torch.empty_like(source)
    return Kernel(lambda: target.copy_(source), 2 * source.numel() * source.element_size())


def _maps(shape: tuple[int, ...], device: str) -> tuple[Any, Any]:
    p = torch.rand(shape, device=device)
    q = (p + 0.1 * torch.randn(shape, device=device)).clamp(0, 1)
    return from_torch(p[:, None]), from_torch(q[:, None])


def _agreement(shape: tuple[int, ...], device: str) -> Kernel:
    """NHD and EI: each voxel is read once from both maps."""
    p, q = _maps(shape, device)
    return Kernel(lambda: binary_agreement_batch(p, q), p.nbytes + q.nbytes)


def _cores(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    return [(slice(0, 1), *(slice(0, n) for n in shape[1:]))] * shape[0]


def _packed(shape: tuple[int, ...], device: str) -> Kernel:
    """Foreground as bits: each voxel is read once, and a bit written."""
    p, _ = _maps(shape, device)
    cores = _cores(shape)
    return Kernel(lambda: packed([p], cores=cores, threshold=0.5), p.nbytes + p.size // 8)


def _votes(shape: tuple[int, ...], device: str) -> Kernel:
    """Vote patterns of a bank: each model's bits are read once."""
    tiles, cores = shape[0], _cores(shape)
    maps = [_maps(shape, device)[0] for _ in range(MODELS)]
    words = [packed([m], cores=cores, threshold=0.5) for m in maps]
    masks = namespace(*words).stack(words)
    inside, voted = core_bits((1, *shape[1:]), cores), np.ones((tiles, MODELS), bool)
    return Kernel(lambda: vote_tables(masks, inside, voted), masks.nbytes)


def _rand(shape: tuple[int, ...], device: str) -> Kernel:
    """V^Rand of two label images whose objects are cubes of 16 voxels, one moved by one."""
    _, y, x = shape
    grid = torch.arange(y * x, device=device).reshape(y, x)
    labels = (grid // x // 16 * (x // 16) + grid % x // 16 + 1).to(torch.int32)
    moved = torch.roll(labels, (1, 1), (0, 1)).contiguous()
    a, b = from_torch(labels), from_torch(moved)
    return Kernel(lambda: v_rand(a, b), a.nbytes + b.nbytes)


def _normals(shape: tuple[int, ...], device: str) -> Kernel:
    """Normal numbers of Philox, counted from the voxel they belong to: each is written once."""
    like = from_torch(torch.empty(0, device=device))
    call = lambda: normal_field((1, 2), (0, 0, 0), shape, like=like)  # noqa: E731
    return Kernel(call, 4 * int(np.prod(shape)))


def _values(name: str, shape: tuple[int, ...], device: str) -> Kernel:
    """A perturbation of values: each voxel is read once and written once."""
    count, y, x = shape
    frames = from_torch(torch.rand((count, 1, y, x), device=device))
    view = plain_view(TileContext((1, y, x), 2, (0, 0, 0), (1, 1, 1)))
    tiles = [Tile(i, (i, 0, 0), (i + 1, y, x)) for i in range(count)]
    drawn = DrawnTiles(view, tiles, [(1, i) for i in range(count)], 0.1, 0.9)
    perturbation = Perturbation.parse(name)
    return Kernel(lambda: perturbation.images(frames, drawn), 2 * frames.nbytes)
