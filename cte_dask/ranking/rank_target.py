"""Everything ``cte rank`` does: from a target and a bank to files and an exit code."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import fsspec
from rich.console import Console

from cte_dask.engine.anytime import Anytime, goal_for
from cte_dask.engine.checkpoint import Checkpoint
from cte_dask.engine.clusters import has_gpus, open_cluster, planned_workers
from cte_dask.engine.cost import plan
from cte_dask.engine.dask_runner import run_jobs
from cte_dask.engine.jobs import Listed, Shard, missing_jobs
from cte_dask.engine.lost_workers import SchedulerLostError
from cte_dask.engine.racing.goal import Asked
from cte_dask.models import ModelBank, load_bank
from cte_dask.models.described import described_bank
from cte_dask.ranking.outcome import EXIT, Outcome, all_tried, concluded
from cte_dask.report.terminal.progress import RunProgress
from cte_dask.results.experiment_file import write_experiment
from cte_dask.results.layout import layout_of
from cte_dask.results.session_log import add_session
from cte_dask.results.store import create, open_scores
from cte_dask.scoring.experiment import Experiment
from cte_dask.scoring.resolve import resolve
from cte_dask.storage import is_cloud
from cte_dask.volume import Volume, open_volume

__all__ = ["EXIT", "Outcome", "TargetOptions", "open_target", "rank_target"]

SPARE_BYTES = 2**20
ASKED = Asked()


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """How a target is opened: see `cte_dask.open_volume`."""

    target: str
    level: int | Literal["auto"] = "auto"
    axes: str | None = None
    channel: int | None = None
    time: int | None = None
    roi: str | None = None
    mask: str | None = None
    anonymous: bool = False


def open_target(options: TargetOptions, bank: ModelBank) -> Volume:
    """Open a target at the pyramid level that suits the bank."""
    anonymous = {"anonymous": True} if options.anonymous and is_cloud(options.target) else {}
    return open_volume(
        options.target,
        storage_options=anonymous,
        level=options.level,
        axes=options.axes,
        channel=options.channel,
        time=options.time,
        roi=options.roi,
        mask=options.mask,
        training_voxel_size=training_voxel_size(bank),
    )


def training_voxel_size(bank: ModelBank) -> tuple[float | None, float, float] | None:
    """Return the median of the voxel sizes (nanometre, zyx) that a bank's models declare."""
    import statistics

    known = [s for m in described_bank(bank) if (s := m.voxel_size_nm) is not None]
    if not known:
        return None
    depths = [z for z, _, _ in known if z is not None]
    return (
        statistics.median(depths) if depths else None,
        statistics.median(y for _, y, _ in known),
        statistics.median(x for _, _, x in known),
    )


def rank_target(
    options: TargetOptions,
    bank_path: str,
    out: str,
    *,
    cluster: str = "local",
    workers: int | None = None,
    threads: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    shard: Shard | None = None,
    asked: Asked = ASKED,
    console: Console | None = None,
    tell: Callable[[str], None] = lambda _: None,
    **settings: Any,
) -> Outcome:
    """Rank a bank on a target and write the results into a folder.

    Parameters
    ----------
    options
        The target.
    bank_path
        Path or URL of ``bank.yaml``.
    out
        Folder or URL of the results.
    cluster, workers, threads
        Where it runs; see `cte_dask.engine.clusters.open_cluster`.
    resume, overwrite
        Whether to go on with results that exist, or to drop them.
    shard
        The part of the blocks to score; the shard that finds all done ranks them.
    asked
        What is to be found out; by default the best model, without scoring every block of a large
        target.
    console
        Where progress is shown; None shows none.
    tell
        Receives one line per preparatory step.
    **settings
        As of `cte_dask.scoring.resolve.resolve`.

    Returns
    -------
    Outcome

    Raises
    ------
    ValueError, OSError
        For any bad value, naming it and the remedy.
    """
    url, began, clock = f"{out}/scores.zarr", datetime.now(UTC), time.monotonic()
    asked.goal(1)
    if shard is not None and overwrite:
        raise ValueError("--shard and --overwrite exclude each other: shards share what OUT holds")
    resume = resume or shard is not None
    _check_out(out, url, resume=resume, overwrite=overwrite)
    parallel = planned_workers(cluster, workers=workers, threads=threads)
    parallel *= shard.of if shard else 1
    _check_device(cluster, settings.get("device", "auto"))
    if resume:
        settings = {**_stored_cut(url), **settings}
    bank = load_bank(bank_path)
    tell("opening the target")
    volume = open_target(options, bank)
    experiment = resolve(volume, bank, threads=threads, workers=parallel, tell=tell, **settings)
    _check_space(out, experiment)
    scores = create(url, layout_of(experiment), resume=resume, overwrite=overwrite)
    write_experiment(out, experiment)
    goal = goal_for(experiment, asked, shard=shard is not None)
    race = None if goal is None else Anytime(experiment, scores, goal, began=clock)
    work = Listed(missing_jobs(scores, shard)) if race is None else race
    progress = RunProgress(experiment, work.most, console or Console(quiet=True), race)
    tell("starting")
    interrupted = False
    try:
        with open_cluster(cluster, workers=workers, threads=threads) as client, progress.shown():
            run_jobs(Checkpoint(experiment, url), work, client=client, progress=progress)
    except KeyboardInterrupt:
        interrupted = True
    except SchedulerLostError as error:
        (console or Console(stderr=True)).print(f"error: {error}", style="red", highlight=False)
    outcome = concluded(out, experiment, scores, race, interrupted=interrupted, shard=shard)
    if shard and not all_tried(scores):
        return outcome  # the files are for the shard that sees the whole
    session = {
        "bank": bank_path if "://" in bank_path else os.path.abspath(bank_path),
        "cluster": cluster,
        "workers": parallel,
        "threads": threads,
        "started": began.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - began).total_seconds(), 3),
        "blocks": work.taken,
        "state": next(name for name, code in EXIT.items() if code == outcome.exit_code),
    }
    add_session(out, session, anew=overwrite)
    return outcome


def _check_device(cluster: str, device: str) -> None:
    """Refuse to waste GPUs: models are settled here for the device that they will run on."""
    from cte_dask.arrays import resolve_device

    if has_gpus(cluster) and device == "auto" and resolve_device("auto") == "cpu":
        raise ValueError(
            f"the workers of --cluster {cluster} have GPUs and this host has none, but models are "
            "tried out here first: run the command in a job with a GPU, or say --device cpu"
        )


def _stored_cut(url: str) -> dict[str, Any]:
    """Return how a run that exists was cut into blocks: its rest must be cut alike."""
    try:
        return {"block": open_scores(url).layout.blocks.per_block}
    except FileNotFoundError:
        return {}


def _check_out(out: str, url: str, *, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    filesystem, path = fsspec.core.url_to_fs(url)
    if filesystem.exists(path) and not (resume or overwrite):
        raise FileExistsError(
            f"{out} holds results already: give --resume to go on with them or --overwrite to "
            "drop them"
        )
    filesystem.makedirs(path.rsplit("/", 1)[0], exist_ok=True)


def _check_space(out: str, experiment: Experiment) -> None:
    """Refuse a run whose scores would not fit where they are to be written."""
    if "://" in out:
        return
    layout = layout_of(experiment)
    needed = (
        SPARE_BYTES
        + 8
        * len(layout.blocks)
        * layout.blocks.tiles_per_block
        * len(layout.models)
        * len(layout.perturbations)
        * layout.repeats
    )
    free = shutil.disk_usage(os.path.abspath(out)).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{out} has {free:,} bytes free, the results may need {needed:,}: choose another --out",
        )


def plan_target(
    options: TargetOptions,
    bank_path: str,
    *,
    tell: Callable[[str], None] = lambda _: None,
    **settings: Any,
) -> tuple[Experiment, Any]:
    """Resolve a run without touching the target's voxels and work out its cost."""
    bank = load_bank(bank_path)
    experiment = resolve(open_target(options, bank), bank, sample=False, tell=tell, **settings)
    return experiment, plan(experiment, tell=tell)
