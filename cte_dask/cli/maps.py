"""``cte maps``: consistencies and what the bank sees, as images that lie over the target."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cte_dask.cli.console import clear_errors, console_of, result_alone, teller
from cte_dask.cli.options import JsonOption, Quiet, Run, expanded
from cte_dask.engine.clusters import ClusterOptions

__all__ = ["maps"]


@expanded
def maps(
    run: Run,
    cluster: ClusterOptions,
    out: Annotated[
        str | None, typer.Option(help="Folder or URL of the maps; by default maps.zarr in RUN.")
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(help="metric@perturbation, such as ei@gaussian:0.1; by default what ranks."),
    ] = None,
    target_url: Annotated[
        str | None, typer.Option(help="URL at which a browser finds the target, for Neuroglancer.")
    ] = None,
    maps_url: Annotated[
        str | None, typer.Option(help="URL at which a browser finds the maps, for Neuroglancer.")
    ] = None,
    voxels: Annotated[
        bool,
        typer.Option(
            "--voxels",
            help="Write the consensus at every voxel, not every tile: the models predict again.",
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace maps there.")] = False,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Write consistencies and consensus as OME-Zarr images."""
    with clear_errors():
        from cte_dask.report.maps.write_maps import write_maps

        with result_alone():
            result = write_maps(
                run,
                out,
                score=score,
                voxels=voxels,
                cluster=cluster,
                target_url=target_url,
                maps_url=maps_url,
                overwrite=overwrite,
                tell=teller(console_of(quiet)),
            )
        typer.echo(json.dumps(result, indent=1) if as_json else _summary(result))


def _summary(result: dict[str, object]) -> str:
    notes = result["notes"]
    lines = [
        f"maps: {result['maps']}",
        f"napari: {result['napari']}",
        f"neuroglancer: {result['neuroglancer']}",
        *(f"note: {note}" for note in (notes if isinstance(notes, list) else [])),
    ]
    return "\n".join(lines)
