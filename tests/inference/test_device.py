"""Voxels reach a device by copies that run beside its work; nothing is overwritten too early.

Streams need a GPU; what stands in for them is `streams`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from streams import EarlyCopies, LateCopies

from cte_dask.inference.device import Uploads, arithmetic, on_device, rounding, uploads_to


@pytest.mark.parametrize("kind", [LateCopies, EarlyCopies])
@pytest.mark.parametrize("grows", [False, True])
def test_no_buffer_is_reused_before_its_copy_and_what_computes_from_it_have_ended(kind, grows):
    copies, sums = kind(), []
    uploads = Uploads(copies)
    arrays = [np.full((2, 3 + i * grows, 4), i + 1, np.uint16) for i in range(7)]

    def compute(voxels: np.ndarray) -> None:
        copies.computing.add(lambda: sums.append(int(voxels.sum())))

    sent = uploads.send(arrays[0])
    for array, following in zip(arrays, [*arrays[1:], None], strict=True):
        coming = None if following is None else uploads.send(following)  # while this one is used
        with uploads.received(sent) as voxels:
            assert (voxels.shape, voxels.dtype) == (array.shape, array.dtype)
            compute(voxels)
        sent = coming
    copies.computing.run(len(copies.computing.work))
    assert sums == [int(a.sum()) for a in arrays]
    assert copies.buffers == (7 if grows else 2)


def test_the_host_may_change_what_it_sent():
    uploads, array = Uploads(copies := LateCopies()), np.arange(6).reshape(2, 3)
    sent, array[:] = uploads.send(array), 0
    with uploads.received(sent) as voxels:
        copies.computing.run(1)
        assert voxels.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_bytes_arrive_in_the_order_of_the_device():
    uploads = Uploads(copies := LateCopies())
    sent = uploads.send(np.array([1, 256], ">u2"))
    with uploads.received(sent) as voxels:
        copies.computing.run(1)
        assert (voxels.dtype, voxels.tolist()) == (np.dtype("<u2"), [1, 256])


def test_on_the_cpu_arrays_are_there_already():
    array, uploads = np.zeros((2, 3)), uploads_to("cpu")
    with uploads.received(uploads.send(array)) as voxels:
        assert voxels is array
    assert on_device("cpu", array) is array


def flags() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("device", "precision", "wanted"),
    [
        ("cuda", "float32", (False, False)),
        ("cuda", "bfloat16", (False, False)),
        ("cuda", "tf32", (True, True)),
    ],
)
def test_a_gpu_computes_in_tf32_only_if_it_is_asked_for(device, precision, wanted):
    before = flags()
    with pytest.raises(KeyError), arithmetic(device, precision):  # noqa: PT012
        assert flags() == wanted
        raise KeyError
    assert flags() == before
    with arithmetic("cpu", precision):
        assert flags() == before


def test_rounding_is_that_of_the_type():
    coarse = [rounding(torch.zeros(1, dtype=getattr(torch, t))) for t in ("float32", "float16")]
    assert coarse == [1e-4, 1e-2]
    assert rounding(torch.zeros(1, dtype=torch.bfloat16)) == pytest.approx(4 / 128)


@pytest.mark.gpu
def test_gpu_copies_overtake_nothing():
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("no GPU")
    uploads, sums, wanted = uploads_to("cuda"), [], []
    arrays = [np.full((64, 512, 512), i, np.uint16) for i in range(9)]
    sent = uploads.send(arrays[0])
    for array, following in zip(arrays, [*arrays[1:], None], strict=True):
        coming = None if following is None else uploads.send(following)
        with uploads.received(sent) as voxels:
            sums += [voxels.astype("float64").sum() for _ in range(4)]
        wanted += [float(array.sum())] * 4
        sent = coming
    assert [float(s) for s in sums] == wanted


@pytest.mark.gpu
def test_gpu_float32_is_no_tf32():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    torch.manual_seed(0)
    network = torch.nn.Conv2d(64, 64, 3, padding=1).cuda()
    x = torch.rand(1, 64, 64, 64, device="cuda")
    errors = {}
    with torch.no_grad():
        exact = torch.nn.functional.conv2d(
            x.double(), network.weight.double(), network.bias.double(), padding=1
        )
        for precision in ("float32", "tf32"):
            with arithmetic("cuda", precision):
                errors[precision] = float((network(x) - exact).abs().max())
    assert errors["float32"] < 1e-5 < errors["tf32"]
