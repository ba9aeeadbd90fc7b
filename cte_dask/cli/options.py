"""The options that commands share, and how their texts become values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from cte_dask.ranking.rank_target import TargetOptions

Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="The volume: path or URL of a zarr array or group, or OME-Zarr image.",
    ),
]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="Folder or URL that cte rank wrote (its --out).")
]
Bank = Annotated[
    str, typer.Option("--bank", help="Path or URL of bank.yaml, which lists the models.")
]
Level = Annotated[
    str, typer.Option(help="Resolution to score: 0 the finest, or auto: by the models' voxel size.")
]
Axes = Annotated[
    str | None, typer.Option(help="Axes of an array that does not name them, such as zyx or tczyx.")
]
Channel = Annotated[int | None, typer.Option(help="Channel to score, from 0.")]
Time = Annotated[int | None, typer.Option(help="Time point to score, from 0.")]
Roi = Annotated[
    str | None, typer.Option(help="Score this region only, in voxels: z0:z1,y0:y1,x0:x1.")
]
Mask = Annotated[
    str | None,
    typer.Option(help="Path or URL of an array; tiles where it is 0 throughout are skipped."),
]
TileOption = Annotated[
    str | None,
    typer.Option(
        "--tile", help="Extent of a scored tile in voxels: z,y,x. Default: 1,256,256 (2D)."
    ),
]
METRICS_HELP = (
    "nhd: overlap of the foregrounds (IoU); ei: the same, weighed by the probabilities; vrand: "
    "agreement of the instances (pairs of voxels)."
)
BANK_METRICS_HELP = (
    "Of the whole bank, unperturbed: agreement: overlap with the other models' predictions, alike "
    "ones counted once; consensus: overlap with the others' majority."
)
STRENGTHS_HELP = (
    "Kinds and usual strengths: dropout (rate of feature maps dropped at the bottleneck, "
    "0.05-0.5; grey boxes only); gaussian (standard deviation of noise, 0.01-0.2), brightness "
    "(offset, 0.02-0.3), both in units of the target's 1st to 99.8th percentile; contrast "
    "(factor, 0.4-0.9); gamma (exponent, 1.1-2.5)"
)
Perturb = Annotated[
    list[str] | None,
    typer.Option(
        help=f"What is disturbed: kind:strength, repeatable. {STRENGTHS_HELP}; zoom (factor, "
        "0.8-1.25); rotate and mirror (no strength). Default: dropout:0.2 for grey boxes and "
        "gaussian:0.1."
    ),
]
MetricOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        help=f"Repeatable, the first one ranks. {METRICS_HELP} {BANK_METRICS_HELP} Default: nhd.",
    ),
]
Cluster = Annotated[
    str,
    typer.Option(
        help="none (this process), local, cuda[:SITE], slurm[:SITE], tcp://HOST:PORT, "
        "tls://HOST:PORT, or the FILE.json of a scheduler."
    ),
]
Combine = Annotated[
    bool,
    typer.Option("--combine", help="Rank by all perturbations and metrics together as well."),
]
Border = Annotated[
    int, typer.Option(help="vrand: band in voxels along reference borders that is left out.")
]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
Repeats = Annotated[int, typer.Option(help="Perturbed runs of each perturbation.")]
Workers = Annotated[int | None, typer.Option(help="Worker processes; by default one a core.")]
Threads = Annotated[int, typer.Option(help="Threads of inference in each worker.")]
Batch = Annotated[
    int | None,
    typer.Option(help="Images in one pass of a network; by default what suits the device."),
]
BlockOption = Annotated[
    str | None,
    typer.Option("--block", help="Tiles read and scored together: z,y,x. Planned by default."),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda (an NVIDIA GPU).")]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Anonymous = Annotated[
    bool, typer.Option("--anonymous", help="TARGET is in a public bucket: send no credentials.")
]
ShardOption = Annotated[
    str | None, typer.Option("--shard", help="Score part i of n of the blocks; all n share --out.")
]
Until = Annotated[
    str | None,
    typer.Option(
        help="When to stop: decided, a number of blocks, or a time such as 90s, 10m, 2h. Above "
        "256 blocks decided is the default."
    ),
]
Top = Annotated[int | None, typer.Option(help="How many of the best models to find; default 1.")]
FullOrder = Annotated[
    bool, typer.Option("--full-order", help="Find the order of all models, not the best alone.")
]
Delta = Annotated[
    float | None, typer.Option(help="Probability of a wrong decision, at most; default 0.05.")
]
Epsilon = Annotated[
    float | None, typer.Option(help="Difference of CTE that does not matter; default 0.005.")
]
Exhaustive = Annotated[
    bool, typer.Option("--exhaustive", help="Score every block, however large the target.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress, only the result.")]


def _triple(text: str | None, what: str) -> tuple[int, int, int] | None:
    if text is None:
        return None
    try:
        z, y, x = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{what} {text!r} must be three whole numbers z,y,x") from None
    if min(z, y, x) < 1:
        raise ValueError(f"{what} {text!r} must be at least 1 along z, y and x")
    return z, y, x


def _level(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise ValueError(f"--level {text!r} must be auto or a number from 0")
    return int(text)


def target_options(
    target: str,
    *,
    level: str,
    axes: str | None,
    channel: int | None,
    time: int | None,
    roi: str | None,
    mask: str | None,
    anonymous: bool = False,
) -> TargetOptions:
    """Return how a target is to be opened.

    Raises
    ------
    ValueError
        If the level is neither auto nor a number.
    """
    from cte_dask.ranking.rank_target import TargetOptions

    return TargetOptions(target, _level(level), axes, channel, time, roi, mask, anonymous)


def settings(
    perturb: list[str] | None,
    metric: list[str] | None,
    tile: str | None,
    block: str | None,
    **others: Any,
) -> dict[str, Any]:
    """Return the options that were given, as `cte_dask.scoring.resolve.resolve` takes them.

    Raises
    ------
    ValueError
        If a triple is malformed.
    """
    given = {
        "perturbations": tuple(perturb) if perturb else None,
        "metrics": tuple(metric) if metric else None,
        "tile": _triple(tile, "--tile"),
        "block": _triple(block, "--block"),
    }
    return {**{name: value for name, value in given.items() if value is not None}, **others}
