"""The tables of a run: its tiles for Parquet, its ranking as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency import METRICS
from cte_dask.results.csv_text import csv_text
from cte_dask.results.dataset import dataset_of
from cte_dask.results.layout import DONE
from cte_dask.scoring.block_scores import STATUS

if TYPE_CHECKING:
    import pyarrow as pa
    import xarray as xr

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
        yield _table(dataset_of(layout, scores.block(block), [block]))


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
    columns["foreground_fraction"] = (data.n_reference / data.n_voxels).to_numpy().ravel()
    names = {code: name for name, code in STATUS.items()}
    columns["status"] = pa.array([names[int(s)] for s in data.status.to_numpy().ravel()])
    return pa.table(columns)
