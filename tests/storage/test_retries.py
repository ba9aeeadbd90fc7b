"""What storage refuses once may come the second time; nobody waits twice for the same refusal."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from obstore.exceptions import GenericError
from zarr.storage import MemoryStore, WrapperStore

from cte_dask.errors import VolumeReadError
from cte_dask.storage import StorageError, retries
from cte_dask.storage.faults import explaining
from cte_dask.storage.retries import read_again, read_patiently
from cte_dask.volume import open_volume

SHAPE = (4, 8, 8)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(retries, "CUT_SHORT_WAITS", (0.0, 0.0))
    monkeypatch.setattr(retries, "READ_WAITS", (0.0, 0.0))


class Answers:
    """A read that gives one answer after the other, or raises it."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.left = list(answers)

    def __call__(self) -> bytes:
        answer = self.left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_an_answer_that_is_cut_short_is_read_again_a_few_times():
    broken = GenericError("Generic S3 error: HTTP error: request or response body error")
    answers = Answers(broken, broken, b"all", broken, broken, broken)

    async def read() -> bytes:
        with explaining("s3://b/x"):
            return answers()

    assert asyncio.run(read_again(read)) == b"all"
    with pytest.raises(StorageError, match="body error"):
        asyncio.run(read_again(read))
    assert not answers.left


def test_what_a_disk_or_web_server_refuses_is_read_three_times():
    answers = Answers(OSError("stale"), RuntimeError("bad checksum"), b"all")
    assert read_patiently(answers) == b"all"
    with pytest.raises(OSError, match="third"):
        read_patiently(Answers(OSError("first"), OSError("second"), OSError("third"), b"all"))


def wrapped(error: Exception) -> Exception:
    """An error raised from that of an object store."""
    try:
        raise OSError("cannot open") from error
    except OSError as outer:
        return outer


@pytest.mark.parametrize(
    "error", [StorageError("503"), MemoryError("full"), wrapped(StorageError("503"))]
)
def test_what_waiting_does_not_mend_is_asked_once(error):
    answers = Answers(error, b"all")
    with pytest.raises(type(error)):
        read_patiently(answers)
    assert answers.left == [b"all"]


class Faltering(WrapperStore[MemoryStore]):
    """A store of which a chunk cannot be read a number of times; copies of it count together."""

    failures: ClassVar[list[str]] = []

    async def get(self, key, prototype, byte_range=None):
        if "c/" in key and self.failures:
            raise OSError(self.failures.pop())
        return await super().get(key, prototype, byte_range)


def test_a_volume_outlives_two_failures_of_its_store_and_not_three():
    store = Faltering(MemoryStore())
    volume = open_volume(zarr.create_array(store, data=np.ones(SHAPE, np.uint8), chunks=SHAPE))
    store.failures += ["the disk is away"] * 2
    assert volume.read((0, 0, 0), SHAPE).all()
    assert not store.failures
    store.failures += ["the disk is away"] * 3
    with pytest.raises(VolumeReadError, match="the disk is away"):
        volume.read((0, 0, 0), SHAPE)
    assert not store.failures


def test_a_lazy_array_is_computed_again():
    calls = []

    def block(block_id):
        calls.append(block_id)
        if len(calls) < 3:
            raise OSError("the network is away")
        return np.ones(SHAPE, np.uint8)

    with dask.config.set(scheduler="synchronous"):
        volume = open_volume(da.map_blocks(block, chunks=SHAPE, dtype=np.uint8, meta=np.empty(0)))
        calls.clear()
        assert volume.read((0, 0, 0), SHAPE).all()
    assert len(calls) == 3
