"""The tables of a run: its tiles for Parquet, its ranking as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency import METRICS
from cte_dask.results.csv_text import csv_text
from cte_dask.results.dataset import table_of
from cte_dask.results.layout import DONE
from cte_dask.scoring.block_scores import STATUS

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from cte_dask.results.score_table import ScoreTable
    from cte_dask.results.store import Scores


__all__ = ["ranking_csv", "tile_tables"]


def ranking_csv(result: Mapping[str, Any]) -> str:
    """Return the models of a ranking as CSV, in rank order.

    Parameters
    ----------
    result
        Content of ``ranking.json``.
    """
    names = sorted({name for m in result["models"] for name in m["scores"]})
    fields = ("cte", "low", "high", "n_tiles", "nan_fraction")
    columns = [f"{name} {field}" for name in names for field in fields]
    bank = ("transfer", "estimated_f1", "consistency")
    lead = ["rank", "model", "flags", "excluded", "foreground_fraction"]
    ends = [f"{b}{end}" for b in bank for end in ("", " low", " high")]
    rows: list[list[Any]] = [[*lead, *ends, *columns, "note"]]
    for model in result["models"]:
        cells = [model["scores"].get(n, {}).get(f) for n in names for f in fields]
        flags = "; ".join(model["flags"])
        own = [model["rank"], model["name"], flags, model["excluded"], model["foreground_fraction"]]
        judged = [model.get(b, {}).get(end) for b in bank for end in ("value", "low", "high")]
        rows.append([*own, *judged, *cells, model["note"]])
    return csv_text(rows)


def tile_tables(scores: Scores) -> Iterator[pa.Table]:
    """Yield a table a block, one row a model, perturbation and tile.

    Parameters
    ----------
    scores
        The score store.

    Yields
    ------
    pyarrow.Table
        With every metric that the statistics give; all of one schema.
    """
    names = dict.fromkeys((*METRICS, *scores.layout.metrics))
    layout = replace(scores.layout, metrics=tuple(names))
    for block in map(int, np.flatnonzero(scores.done() != DONE["missing"])):
        yield _table(table_of(layout, scores.block(block), [block]))


def _table(data: ScoreTable) -> pa.Table:
    import pyarrow as pa

    models, perturbations, tiles = data["status"].shape
    rows = models * perturbations
    model, perturbation, _ = np.indices(data["status"].shape)
    columns: dict[str, Any] = {
        "model": _strings(data.models, model.ravel()),
        "perturbation": _strings(data.perturbations, perturbation.ravel()),
        "tile": np.tile(data["tile"], rows),
    }
    for axis in "zyx":
        start, extent = data[axis], data[f"{axis}_extent"]
        columns[f"{axis}0"] = np.tile(start, rows)
        columns[f"{axis}1"] = np.tile(start + extent, rows)
    columns["n_union"] = data["n_union"].ravel()
    for name in ("nhd", "ei", "vrand"):
        columns[name] = data[name].ravel() if name in data else np.full(rows * tiles, np.nan)
    columns["foreground_fraction"] = (data["n_reference"] / data["n_voxels"]).ravel()
    columns["status"] = _strings(sorted(STATUS, key=STATUS.__getitem__), data["status"].ravel())
    arrays = [c if isinstance(c, pa.Array) else _numbers(c) for c in columns.values()]
    return pa.Table.from_arrays(arrays, names=list(columns))


# pa.array would load pandas, to see whether that is what it is given


def _numbers(values: NDArray[Any]) -> pa.Array:
    import pyarrow as pa

    contents = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, contents])


def _strings(names: Sequence[str], places: NDArray[np.integer[Any]]) -> pa.Array:
    import pyarrow as pa

    encoded = [name.encode() for name in names]
    lengths = np.array([len(name) for name in encoded], np.int32)
    ends = np.cumsum(np.append(np.int32(0), lengths[places]), dtype=np.int32)
    text = b"".join(map(encoded.__getitem__, places.tolist()))
    return pa.StringArray.from_buffers(len(places), pa.py_buffer(ends), pa.py_buffer(text))
