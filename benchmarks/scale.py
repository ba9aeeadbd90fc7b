"""Hours and money for large volumes and banks, computed from the measured rates.

    python benchmarks/scale.py

Reads ``benchmarks/results``; writes ``docs/explanation/scale.md``. Nothing is run.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cte_dask.scoring.block_size import plan_blocks
from cte_dask.tiles import BlockGrid, Shape, TileGrid

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "explanation" / "scale.md"

TILE: Shape = (1, 256, 256)
CHUNK: Shape = (128, 128, 128)
SHARD: Shape = (512, 512, 512)
VOLUMES: dict[str, Shape] = {
    "1 TB": (10_000, 10_000, 10_000),
    "100 TB": (20_000, 50_000, 100_000),
    "1 PB": (50_000, 100_000, 200_000),
}
BANKS = 10, 50, 200
CORES, CORES_DRAWING = 1000, 16
DOLLARS_A_CORE_HOUR = 0.04
DOLLARS_A_GPU_HOUR = 3.0
ANYTIME_BLOCKS = 56
"""Three of four simulated banks on a terabyte are decided by then (`docs/how-to/anytime.md`)."""


@dataclass(frozen=True)
class Rates:
    """What one core does.

    Parameters
    ----------
    passes
        Seconds a voxel and model: reference and dropout from end to end.
    decode
        Seconds of processor a voxel read, the halo included.
    scheduler
        Seconds of scheduler and client a block.
    """

    passes: float
    decode: float
    scheduler: float


@dataclass(frozen=True)
class Bill:
    """What a run takes.

    Parameters
    ----------
    blocks
        Scored.
    core_hours
        Of workers.
    hours
        Of the slowest of what a run does at the same time.
    bottleneck
        What that is.
    megabytes_a_second
        That the storage gives meanwhile.
    """

    blocks: int
    core_hours: float
    hours: float
    bottleneck: str
    megabytes_a_second: float


def record(name: str) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return contents


def measured() -> Rates:
    case = record("roofline")["cases"]["2D dropout:0.2"]
    read = record("engines")
    depth, height, width = read["array"]["shape"]
    engine = read["figures"]["sharded, S3, 30 ms a request"]["zarr-python"]
    return Rates(
        passes=case["end to end"]["cpu_s"]["median"] / (case["tiles"] * math.prod(TILE)),
        decode=engine["cpu_s"]["median"] / (depth * height * width),
        scheduler=record("scheduling")["together"]["cpu_ms_a_block"] / 1e3,
    )


def bill(shape: Shape, models: int, rates: Rates, *, anytime: bool) -> Bill:
    grid = TileGrid(shape, TILE)
    cores, unit = (CORES_DRAWING, CHUNK) if anytime else (CORES, SHARD)
    blocks = BlockGrid(grid, plan_blocks(grid, unit, workers=cores, drawn=anytime))
    number = ANYTIME_BLOCKS if anytime else len(blocks)
    voxels = math.prod(shape) * number / len(blocks)
    core_hours = (rates.passes * models + rates.decode) * voxels / 3600
    parts = {"passes": core_hours / cores, "scheduler": rates.scheduler * number / 3600}
    bottleneck = max(parts, key=lambda name: parts[name])
    hours = parts[bottleneck]
    return Bill(number, core_hours, hours, bottleneck, voxels / 1e6 / (hours * 3600))


def shown(value: float) -> str:
    """Two figures that tell."""
    digits = 0 if value >= 10 else 1 if value >= 1 else 2
    return f"{float(f'{value:.2g}'):,.{digits}f}"


def rows(rates: Rates, *, anytime: bool) -> list[str]:
    lines = []
    for name, shape in VOLUMES.items():
        for models in BANKS:
            one = bill(shape, models, rates, anytime=anytime)
            cells = [
                name,
                str(models),
                f"{one.blocks:,}",
                shown(one.core_hours),
                f"{shown(one.core_hours * DOLLARS_A_CORE_HOUR)} $",
                shown(one.hours),
                one.bottleneck,
                shown(one.megabytes_a_second),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def table(rates: Rates, *, anytime: bool) -> str:
    cores = f"{CORES_DRAWING if anytime else CORES:,}"
    titles = ["Volume", "models", "blocks", "core-hours", f"at {DOLLARS_A_CORE_HOUR} $"]
    titles += [f"hours on {cores} cores", "bottleneck", "MB/s read"]
    head = [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)]
    return "\n".join([*head, *rows(rates, anytime=anytime)])


def page() -> str:
    rates = measured()
    even = DOLLARS_A_GPU_HOUR / DOLLARS_A_CORE_HOUR
    return TEXT.format(
        machine=record("roofline")["machine"]["processor"],
        microseconds=shown(rates.passes * 1e6),
        nanoseconds=shown(rates.decode * 1e9),
        milliseconds=shown(rates.scheduler * 1e3),
        blocks_a_second=shown(1 / rates.scheduler),
        share=shown(100 * rates.decode / (10 * rates.passes)),
        exhaustive=table(rates, anytime=False),
        anytime=table(rates, anytime=True),
        drawn=ANYTIME_BLOCKS,
        even=shown(even),
        voxels=shown(even * 3600 / (rates.passes * 1e9)),
    )


TEXT = """# Hours and money at scale

Computed by `benchmarks/scale.py` from what was measured ([how fast it is](../benchmarks.md)), not
run: no volume of this size was at hand. One byte a voxel, chunks of 128³ in shards of 512³, tiles
of 256×256, the default perturbation, the small 2D U-Net of `benchmarks/roofline.py`. A network of
ten times its operations takes ten times the core-hours.

| Rate of one core ({machine}) | |
| --- | --- |
| reference and dropout, from end to end | {microseconds} µs a voxel and model |
| reading and decoding from S3 | {nanoseconds} ns a voxel, once for all models |
| scheduler and client | {milliseconds} ms a block: {blocks_a_second} blocks a second |

## Every block

{exhaustive}

The passes are what costs, at every size. Reading is {share} % of them for ten models, and less for
more, since a block is read once for the whole bank. Blocks are large, about 2,000 a tebibyte, so
that the scheduler stays far from its limit.

## Anytime, the default above 256 blocks

{anytime}

{drawn} blocks decide three of four simulated banks of up to 50 models, whatever the size of the
volume: what a run costs follows from the blocks that it draws, and the planner makes these small.
What makes a place unlike others is in a small block too, and a larger one tells little more. All
models are counted on all blocks here; a run drops most after its pilot. Rounds are scored ahead of
the decision, so that workers are busy.

## On GPUs

None of these rates was measured on a GPU yet ([what runs there](gpu.md)). At 3 $ an hour one pays
where it does the work of {even} cores: {voxels} thousand million voxels an hour of one such model.
Predictions are compared on the device; what may limit then is decoding, which is done on the cores
beside it.
"""


def main() -> None:
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
