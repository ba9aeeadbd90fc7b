"""The files of a run: the resolved experiment, per-tile Parquet, the ranking as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import fsspec
import numpy as np

from cte_dask.consistency import BANK_METRICS, METRICS
from cte_dask.results.bank_metrics import similarity_in
from cte_dask.results.dataset import dataset_of, read_scores
from cte_dask.results.store import DONE, Scores
from cte_dask.scoring.block_scores import STATUS
from cte_dask.storage import is_cloud

if TYPE_CHECKING:
    import pyarrow as pa
    import xarray as xr


__all__ = ["read_ranking", "write_ranking", "write_tiles"]


def write_ranking(out: str, result: dict[str, Any]) -> None:
    """Write ``ranking.json`` and ``ranking.csv``; both whole, or the old ones stay."""
    _write(f"{out}/ranking.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    _write(f"{out}/ranking.csv", _csv(result))


def read_ranking(out: str) -> Any:
    """Return the content of ``ranking.json``; None if there is none."""
    try:
        with fsspec.open(f"{out}/ranking.json", "r") as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def _write(path: str, text: str) -> None:
    with _whole(path, "w") as file:
        file.write(text)


@contextmanager
def _whole(path: str, mode: str) -> Iterator[Any]:
    """Open a file to write that takes its place when it is closed; until then the old one stays."""
    filesystem, place = fsspec.core.url_to_fs(path)
    if is_cloud(path):  # an object is there whole or not at all
        with filesystem.open(place, mode) as file:
            yield file
        return
    part = f"{place}.{uuid4().hex}.part"  # shards write the same file, maybe at once
    try:
        with filesystem.open(part, mode) as file:
            yield file
        filesystem.mv(part, place)
    except BaseException:
        with suppress(FileNotFoundError):
            filesystem.rm_file(part)
        raise


def _csv(result: dict[str, Any]) -> str:
    names = sorted({name for m in result["models"] for name in m["scores"]})
    fields = ("cte", "low", "high", "n_tiles", "nan_fraction")
    columns = [f"{name} {field}" for name in names for field in fields]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["rank", "model", "flags", "excluded", "foreground_fraction", *columns])
    for model in result["models"]:
        cells = [model["scores"].get(n, {}).get(f) for n in names for f in fields]
        flags = "; ".join(model["flags"])
        lead = [model["rank"], model["name"], flags, model["excluded"]]
        table.writerow([*lead, model["foreground_fraction"], *cells])
    return text.getvalue()


def write_tiles(out: str, scores: Scores) -> None:
    """Write ``tiles.parquet``: one row a model, perturbation and tile; a block at a time."""
    import pyarrow.parquet as pq

    tables = _tables(scores)
    first = next(tables, None)
    if first is None:
        return
    with (
        _whole(f"{out}/tiles.parquet", "wb") as file,
        pq.ParquetWriter(file, first.schema, compression="zstd") as writer,
    ):
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _tables(scores: Scores) -> Iterator[pa.Table]:
    """Yield a table a block, with every metric that the statistics give."""
    names = dict.fromkeys((*METRICS, *scores.layout.metrics))
    layout = replace(scores.layout, metrics=tuple(names))
    similarity = similarity_in(read_scores(scores)) if layout.bank_metrics else None
    for index in np.flatnonzero(scores.done() != DONE["missing"]):
        block = int(index)
        overlaps = scores.overlaps(block)
        yield _table(
            dataset_of(
                layout, scores.block(block), [block], overlaps=overlaps, similarity=similarity
            )
        )


def _table(data: xr.Dataset) -> pa.Table:
    import pyarrow as pa

    models, perturbations, tiles = (data.sizes[d] for d in ("model", "perturbation", "tile"))
    rows = models * perturbations
    columns: dict[str, Any] = {
        "model": pa.array(np.repeat(data.model.to_numpy(), perturbations * tiles)),
        "perturbation": pa.array(np.tile(np.repeat(data.perturbation.to_numpy(), tiles), models)),
        "tile": np.tile(data.tile.to_numpy(), rows),
    }
    for axis in "zyx":
        start, extent = data[axis].to_numpy(), data[f"{axis}_extent"].to_numpy()
        columns[f"{axis}0"] = np.tile(start, rows)
        columns[f"{axis}1"] = np.tile(start + extent, rows)
    columns["n_union"] = data.n_union.to_numpy().ravel()
    for name in ("nhd", "ei", "vrand"):
        known = data[name].to_numpy().ravel() if name in data else np.full(rows * tiles, np.nan)
        columns[name] = known
    columns |= {name: data[name].to_numpy().ravel() for name in BANK_METRICS if name in data}
    columns["foreground_fraction"] = (data.n_reference / data.n_voxels).to_numpy().ravel()
    names = {code: name for name, code in STATUS.items()}
    columns["status"] = pa.array([names[int(s)] for s in data.status.to_numpy().ravel()])
    return pa.table(columns)
