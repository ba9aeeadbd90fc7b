"""The page of the benchmarks: every ratio that is recorded, as a table and a picture.

    python benchmarks/draw.py

Reads ``benchmarks/results/*.json``; writes ``docs/benchmarks.md`` and ``docs/benchmarks.png``.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"
PARTS = {
    "peers": "Against the authors' procedure, MONAI and bioimageio.core",
    "roofline": "From end to end against the bare passes",
    "runtimes": "Passes compiled by OpenVINO, against PyTorch's",
    "convolutions": "Convolutions of 3 x 3, against oneDNN's",
    "kernels": "Comparing predictions, against the formulas in NumPy",
    "scaling": "Workers and banks",
    "gpu": "On a GPU",
}
HEAD = """# How fast it is

Ratios of processor time (of wall time where workers are compared), forms run in turn in one
process, median of all turns with the lowest and the highest. Machines differ and neighbours make
noise: repeat them with the script that each heading names. The page is made by
`benchmarks/draw.py` from the records in `benchmarks/results`.

![Every ratio with its spread](benchmarks.png)
"""

START = """`benchmarks/start.py`, {machine}: {models} residual U-Nets of one architecture,
{parameters} parameters each, halos measured, tiles of 256 x 256. Processor seconds of all
processes. What depends on the architecture alone is found with its first network; of each of the
others, two inputs and a tile of the target are compared (before: each network went through all of
it, in a process of its own where there is a cluster). What a run of one tile, or a worker's first
task, does not need is not loaded; workers are forked from a process that has loaded the rest. A
halo that was measured before is taken from the cache folder where the network still gives the same
of noise:
"""
FIVE = """`benchmarks/five_perturbations.py`, {machine}, {date}: {models} of the 2D U-Nets of
`benchmarks/roofline.py`, {tiles} tiles of 256 x 256. Operations of a tile, counted, and processor
time from its voxels to scores. Under dropout the encoder's outputs are the reference's, and the
decoder alone runs again; what changes the image needs a whole pass, `zoom` one of another extent.
Ratios of passes are to the reference, those of sums to reference and dropout:
"""
SCALES = """The same networks under dropout, every block scored at each scale. A scale s shows them
s² times the pixels of a tile, with the same halo of {halo} pixels around: at small scales most of
what they see is halo. Layers run where the tile depends on them at every scale. An anytime run
drops most candidates early.
"""
ENGINES = """`benchmarks/engines.py`, {machine}, {date}: the blocks of a volume of 256 x 256 x 256
with their halo, 23 million voxels, read by zarr-python (with obstore from S3, with fsspec over
http, and with the chunks of a shard fetched together) and by tensorstore, in turn in one process:
"""
DECISION = """Tensorstore is quicker: by a quarter to twice over a network, more than twice from a
disk, with less of the processor. Of a shard it asks more often for fewer bytes. Zarr-python by
itself, which reads a shard chunk by chunk, takes four times as long as tensorstore at 30 ms a
request ({bare} s against {other} s); with the chunks fetched together it takes half as long
again.

Zarr targets are read by zarr-python all the same. A run reads a block once for its whole bank,
and these voxels in half a second, where the small 2D network of `benchmarks/roofline.py` needs
about 40 seconds of a core for them: another engine would save about one per cent of a run on
processors. It would cost the one owner of retries, timeouts and credentials that targets share
with banks and results, the check that a missing object is an omitted chunk and no failure, zip
files, and stores from Python. Tensorstore reads what zarr-python cannot: N5 and Neuroglancer
precomputed. With a fast network on a GPU reading may count for more; there it has not been
measured.
"""


def records() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in PARTS:
        for path in sorted(RESULTS.glob(f"{name}*.json")):
            record = json.loads(path.read_text())
            if record.get("ratios"):
                yield name, record


def page(measurements: list[tuple[str, dict[str, Any]]]) -> str:
    lines = [HEAD]
    for name, record in measurements:
        machine = record["machine"]
        lines.append(f"## {PARTS[name]}\n")
        lines.append(
            f"`benchmarks/{name}.py`, {machine['processor']}, {machine['cores']} cores, "
            f"{record['date']}, torch {record['versions']['torch']}:\n"
        )
        rows = [
            [title, f"**{number(r['median'])}**", number(r["low"]), number(r["high"])]
            for title, r in record["ratios"].items()
        ]
        lines += table(["Ratio", "median", "lowest", "highest"], rows)
    lines.append(memory())
    lines.append(scheduling())
    lines.append(start())
    lines.append(more())
    lines.append(engines())
    return "\n".join(lines)


def number(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.1g}"


def memory() -> str:
    record = json.loads((RESULTS / "memory.json").read_text())
    rows = []
    for name in ("gigabyte", "terabyte"):
        planned, measured = (f"{record[name][k] / 1e6:.0f} MB" for k in ("planned", "measured"))
        rows.append([name, planned, measured, f"{record[name]['measured_over_planned']:.2f}"])
    said = "`benchmarks/memory.py`: peak of a worker's resident memory, two blocks, two models:\n"
    heading = ["Target", "planned", "measured", "measured / planned"]
    return "\n".join(["## Memory of a worker\n", said, *table(heading, rows)])


def scheduling() -> str:
    record = json.loads((RESULTS / "scheduling.json").read_text())
    rows = [
        [
            f"{r['blocks']} of {r['seconds_each']:g} s",
            str(r["workers"]),
            f"{r['of_ideal']:.3f}",
            f"{r['idle_between_tasks']:.3f}",
            f"{r['cpu_ms_a_block']:.1f} ms",
        ]
        for r in (record[n] for n in ("overhead", "together", "many") if n in record)
    ]
    said = (
        "`benchmarks/scheduling.py`: blocks that sleep, all else real, on this machine's cores:\n"
    )
    heading = [
        "Blocks",
        "workers",
        "of ideal",
        "idle between tasks",
        "scheduler and client, a block",
    ]
    return "\n".join(["## What scheduling costs\n", said, *table(heading, rows)])


def start() -> str:
    """Return the table of what a run does before its first tile, before and after it was shared."""
    record = json.loads((RESULTS / "start.json").read_text())
    forms = [record[name] for name in ("before", "after")]

    def row(title: str, value: Callable[[dict[str, Any]], Any]) -> list[str]:
        return [title, *(str(value(form)) for form in forms)]

    def seconds(title: str, group: str, key: str) -> list[str]:
        def median(form: dict[str, Any]) -> str:
            return f"{statistics.median(form[group][key]):.2f}" if key in form[group] else ""

        return row(f"{title}, s", median)

    many, first = "residual_unets", "first_task_of_a_worker"
    rows = [
        row("their operations, GFLOP", lambda form: form[many]["gflop"]),
        row(
            "their whole plain passes, megavoxels", lambda f: f[many]["megavoxels_of_plain_passes"]
        ),
        row("plain passes, most of them small probes", lambda form: form[many]["plain_passes"]),
        row("traces", lambda form: form[many]["traces"]),
        seconds("in one process", many, "cpu_s_in_one_process"),
        seconds("in one process, their halos known", many, "cpu_s_in_one_process_again"),
        seconds("tried apart, as with a cluster", many, "cpu_s_with_a_cluster"),
        seconds("so, their halos known", many, "cpu_s_with_a_cluster_again"),
        seconds("`cte rank` of one tile, nine models", "one_tile_nine_models", "cpu_s"),
        seconds("`cte models check`, a model", "models_check", "cpu_s_a_model"),
        seconds("first task of a worker after torch, nine models", first, "cpu_s"),
        row("what it loads for that", lambda form: ", ".join(form[first]["loaded"])),
    ]
    said = START.format(machine=record["machine"]["processor"], **forms[1][many])
    heading = ["Until the first tile", "before", "after"]
    return "\n".join(["## The start of a run\n", said, *table(heading, rows)])


def more() -> str:
    """Return the tables of what more perturbations and more scales cost, a line a pass or scale."""
    record = json.loads((RESULTS / "five-perturbations.json").read_text())
    five, four = record["perturbations"], record["scales"]
    passes, scales = five["flops_a_tile"], four["flops_a_tile"]

    def row(title: str, flops: float, unit: float, *more: str) -> list[str]:
        return [title, f"{flops / 1e9:.2f}", number(flops / unit), *more]

    reference, alone = passes["reference"], passes["reference"] + passes["dropout:0.2"]
    rows = [row(title, flops, reference, "") for title, flops in passes.items()]
    rows.append(row("**reference and dropout**", alone, alone, number(1)))
    rows.append(
        row("**reference and all five**", sum(passes.values()), alone, spread(five["cpu_ratio"]))
    )
    heading = ["Pass", "GFLOP a tile", "operations, ratio", "processor, ratio"]
    lines = [*table(heading, rows)]
    rows = [
        row(scale, flops, scales["1"], number(float(scale) ** 2), number(1) if scale == "1" else "")
        for scale, flops in scales.items()
    ]
    last = number(four["pixels_ratio"]), spread(four["cpu_ratio"])
    rows.append(row("**all four**", sum(scales.values()), scales["1"], *last))
    heading = ["Scale", "GFLOP a tile", "operations, ratio", "pixels, ratio", "processor, ratio"]
    lines += [SCALES.format(halo=record["halo"]), *table(heading, rows)]
    said = FIVE.format(**{**record, "machine": record["machine"]["processor"]})
    return "\n".join(["## More perturbations, and more scales\n", said, *lines])


def spread(ratio: dict[str, float]) -> str:
    return f"{number(ratio['median'])} ({number(ratio['low'])}–{number(ratio['high'])})"


def engines() -> str:
    """Return the table of what reads targets, a line a layout and place, and what follows."""
    record = json.loads((RESULTS / "engines.json").read_text())
    rows = []
    for title, figure in record["figures"].items():
        if not {"zarr-python", "tensorstore"} <= set(figure):
            continue
        times = [record["ratios"][f"{title}: zarr-python / tensorstore, wall_s"]]
        times.append(record["ratios"][f"{title}: zarr-python / tensorstore, cpu_s"])
        spreads = [spread(r) for r in times]
        pair = [figure[name] for name in ("zarr-python", "tensorstore")]
        seconds = [number(row["wall_s"]["median"]) for row in pair]
        counts = [f"{row['requests']}, {row['megabytes']:.0f} MB" for row in pair]
        remote = [""] * 2 if "disk" in title else counts
        rows.append([title, *seconds, *spreads, *remote])
    heading = [
        *("Target", "zarr-python, s", "tensorstore, s", "wall time, ratio", "processor, ratio"),
        *("zarr-python asks", "tensorstore asks"),
    ]
    said = ENGINES.format(machine=record["machine"]["processor"], date=record["date"])
    slow = record["figures"]["sharded, S3, 30 ms a request"]
    names = ("zarr-python, chunk by chunk", "tensorstore")
    bare, other = (number(slow[name]["wall_s"]["median"]) for name in names)
    decision = DECISION.format(bare=bare, other=other)
    return "\n".join(["## What reads targets\n", said, *table(heading, rows), decision])


def table(heading: list[str], rows: list[list[str]]) -> list[str]:
    lines = [heading, ["---"] * len(heading), *rows]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def picture(measurements: list[tuple[str, dict[str, Any]]]) -> None:
    rows = [(title, r) for _, record in measurements for title, r in record["ratios"].items()]
    rows = [(title, r) for title, r in rows if "comparing" not in title][::-1]
    figure, axes = plt.subplots(figsize=(8, 0.3 * len(rows) + 1), layout="constrained")
    middle = [r["median"] for _, r in rows]
    spread = [[m - r["low"] for m, (_, r) in zip(middle, rows, strict=True)]]
    spread.append([r["high"] - m for m, (_, r) in zip(middle, rows, strict=True)])
    axes.errorbar(middle, range(len(rows)), xerr=spread, fmt="o", color="#1f4e79", capsize=3)
    axes.axvline(1, color="0.6", linewidth=1)
    axes.set(xscale="log", xlabel="ratio", yticks=range(len(rows)))
    axes.set_yticklabels([title for title, _ in rows], fontsize=8)
    axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(DOCS / "benchmarks.png", dpi=120)


def main() -> None:
    measurements = list(records())
    (DOCS / "benchmarks.md").write_text(page(measurements))
    picture(measurements)


if __name__ == "__main__":
    main()
