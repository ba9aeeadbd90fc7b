"""Which engine reads targets: zarr-python with obstore against tensorstore.

Both read the same blocks with their halo, in turn, in one process: from a local disk (its cache),
from a real SeaweedFS and from a web server. Between the servers and the readers stands the relay of
storage.py, which counts requests and bytes and can hold each request back as a distant server.
What is read is compared with what was written.

    python benchmarks/engines.py  # writes benchmarks/results/engines.json
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
import zarr
from measuring import ratio, save, spread
from storage import BLOCK, LAYOUTS, SHAPE, Relay, blocks, structure

from cte_dask.storage.objects import zarr_store
from cte_dask.volume.zarr_source import ZarrSource, open_zarr_source

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))
HALO = 16
OURS, BARE, OTHER = "zarr-python", "zarr-python, chunk by chunk", "tensorstore"
Reader = Callable[[tuple[slice, ...]], np.ndarray]


class Ranged(SimpleHTTPRequestHandler):
    """A web server's files, and parts of them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        data, status = path.read_bytes(), 200
        if span := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            low, high = span.groups()
            first = int(low) if low else len(data) - int(high)
            last = int(high) if low and high else len(data) - 1
            total, data, status = len(data), data[first : last + 1], 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/{total}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        return None

    def log_message(self, *_: object) -> None:
        pass


def _serve(folder: Path, pipe: Connection) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranged, directory=str(folder))) as server:
        pipe.send(server.server_port)
        server.serve_forever()


@contextmanager
def web_server(folder: Path) -> Iterator[int]:
    """Yield the port of a web server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(folder, theirs), daemon=True)
    process.start()
    try:
        yield int(ours.recv())
    finally:
        process.terminate()
        process.join()


def boxes() -> list[tuple[slice, ...]]:
    """Return the blocks with their halo."""
    return [
        tuple(
            slice(max(0, s.start - HALO), min(n, s.stop + HALO))
            for s, n in zip(b, SHAPE, strict=True)
        )
        for b in blocks()
    ]


def ours(url: str) -> Reader:
    return open_zarr_source(url, "", storage_options={}).read


def bare(url: str) -> Reader:
    """The same without the shards' chunks fetched together."""
    source = open_zarr_source(url, "", storage_options={})

    class ChunkByChunk(ZarrSource):
        def _few_requests(self, *_: Any) -> Any:
            from contextlib import nullcontext

            return nullcontext()

    names = ("url", "path", "shape", "dtype", "chunks", "shards", "fill_value")
    return ChunkByChunk(**{name: getattr(source, name) for name in names}).read


def theirs(kvstore: dict[str, Any], driver: str = "zarr3") -> Reader:
    array = ts.open({"driver": driver, "kvstore": kvstore}, read=True).result()
    if driver != "neuroglancer_precomputed":
        return lambda box: np.asarray(array[box].read().result())
    planes = array[..., 0].T  # precomputed counts x, y, z
    return lambda box: np.asarray(planes[box].read().result())


def measured(
    readers: dict[str, Reader],
    voxels: np.ndarray,
    traffic: Callable[[], tuple[int, int]],
    turns: int,
) -> dict[str, Any]:
    """Read all boxes with each reader in turn; the first turn connects and warms up."""
    rows: dict[str, list[tuple[float, float, int, int]]] = {name: [] for name in readers}
    for turn in range(turns + 1):
        for name in list(readers)[:: 1 if turn % 2 else -1]:
            traffic()
            parts: list[np.ndarray] = []
            wall, processor = time.perf_counter(), time.process_time()
            parts.extend(readers[name](box) for box in boxes())
            row = time.perf_counter() - wall, time.process_time() - processor
            if not all(np.array_equal(p, voxels[b]) for p, b in zip(parts, boxes(), strict=True)):
                raise RuntimeError(f"{name}: other voxels than were written")
            if turn:
                rows[name].append((*row, *traffic()))
    return {name: _summary(measurements) for name, measurements in rows.items()}


def _summary(rows: list[tuple[float, float, int, int]]) -> dict[str, Any]:
    walls, processors, requests, answered = (list(column) for column in zip(*rows, strict=True))
    return {
        "wall_s": spread(walls),
        "cpu_s": spread(processors),
        "requests": int(np.median(requests)),
        "megabytes": round(float(np.median(answered)) / 1e6, 2),
    }


def local(folder: Path, voxels: np.ndarray, turns: int) -> dict[str, Any]:
    figures = {}
    for layout in LAYOUTS:
        path = folder / f"{layout}.zarr"
        readers = {OURS: ours(str(path)), OTHER: theirs({"driver": "file", "path": f"{path}/"})}
        figures[f"{layout}, local disk"] = measured(readers, voxels, lambda: (0, 0), turns)
    return figures


def bucket(folder: Path, voxels: np.ndarray, turns: int, latency: float) -> dict[str, Any]:
    from services import objects

    figures = {}
    with objects.running("s3", folder) as place:
        relay = Relay(place.front.upstream)
        os.environ.update(place.environment, AWS_ENDPOINT_URL=relay.endpoint)
        os.environ.setdefault("AWS_REGION", "us-east-1")
        try:
            for layout, sizes in LAYOUTS.items():
                url = f"{place.url}/{layout}.zarr"
                zarr.create_array(zarr_store(url), shape=SHAPE, dtype="uint8", **sizes)[:] = voxels
                name, _, path = url.removeprefix("s3://").partition("/")
                kvstore = {
                    "driver": "s3", "bucket": name, "path": f"{path}/",
                    "endpoint": relay.endpoint, "aws_region": os.environ["AWS_REGION"],
                }  # fmt: skip
                readers = {OURS: ours(url), BARE: bare(url), OTHER: theirs(kvstore)}
                if layout == "plain":
                    del readers[BARE]
                for delay in (0.0, latency):
                    figures[f"{layout}, S3, {delay * 1e3:g} ms a request"] = measured(
                        readers, voxels, partial(relay.traffic, delay), turns
                    )
        finally:
            relay.close()
    return figures


def web(folder: Path, voxels: np.ndarray, turns: int, latency: float) -> dict[str, Any]:
    figures = {}
    with web_server(folder) as port:
        relay = Relay(port)
        try:
            for layout, driver in (*((n, "zarr3") for n in LAYOUTS), ("precomputed", "")):
                place = f"{relay.endpoint}/{layout}{'.zarr' if driver else ''}"
                kvstore = {"driver": "http", "base_url": f"{place}/"}
                other = theirs(kvstore, driver or "neuroglancer_precomputed")
                readers = {OURS: ours(place), OTHER: other} if driver else {OTHER: other}
                for delay in (0.0, latency):
                    figures[f"{layout}, http, {delay * 1e3:g} ms a request"] = measured(
                        readers, voxels, partial(relay.traffic, delay), turns
                    )
        finally:
            relay.close()
    return figures


def write(folder: Path, voxels: np.ndarray) -> None:
    """Write the voxels to a folder in all layouts."""
    for layout, sizes in LAYOUTS.items():
        path = folder / f"{layout}.zarr"
        zarr.create_array(path, shape=SHAPE, dtype="uint8", **sizes)[:] = voxels
    volume = ts.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{folder}/precomputed/"},
            "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1},
            "scale_metadata": {
                "size": SHAPE[::-1], "encoding": "raw", "chunk_size": [64] * 3,
                "resolution": [8, 8, 8],
            },
        },
        create=True,
    ).result()  # fmt: skip
    volume[..., 0].write(voxels.T).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--latency", type=float, default=0.03, help="seconds a request")
    options = parser.parse_args()
    voxels = structure()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("files", "server"):
            (folder / part).mkdir()
        write(folder / "files", voxels)
        figures = local(folder / "files", voxels, options.turns)
        figures |= web(folder / "files", voxels, options.turns, options.latency)
        figures |= bucket(folder / "server", voxels, options.turns, options.latency)
    both = {title: rows for title, rows in figures.items() if {OURS, OTHER} <= set(rows)}
    ratios = {
        f"{title}: {OURS} / {OTHER}, {clock}": ratio(rows, OURS, OTHER, clock)
        for title, rows in both.items()
        for clock in ("wall_s", "cpu_s")
    }
    array = {"shape": SHAPE, "block": BLOCK, "halo": HALO, "layouts": LAYOUTS, "dtype": "uint8"}
    libraries = {name: version(name) for name in ("zarr", "obstore", "aiohttp", "tensorstore")}
    save("engines", {"array": array, "engines": libraries, "figures": figures, "ratios": ratios})
    for title, rows in figures.items():
        for name, row in rows.items():
            seconds, counts = row["wall_s"]["median"], (row["requests"], row["megabytes"])
            print(f"{title:36s} {name:28s} {seconds:8.3f} s {counts[0]:5d} requests {counts[1]} MB")


if __name__ == "__main__":
    main()
