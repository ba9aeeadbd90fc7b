"""Everything ``cte rank`` does: from a target and a bank to files and an exit code.

`rank_target` prepares a run (what is asked for is checked before anything is opened, then the
target is opened, models are tried, the store is made), runs it, and concludes.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cte_dask.engine.anytime import Anytime, goal_for
from cte_dask.engine.checkpoint import Checkpoint
from cte_dask.engine.clusters import get_ready, has_gpus, open_cluster, planned_workers
from cte_dask.engine.cost import Plan, plan
from cte_dask.engine.dask_runner import run_jobs
from cte_dask.engine.jobs import Listed, Shard, missing_jobs
from cte_dask.engine.lost_workers import SchedulerLostError
from cte_dask.engine.racing.goal import Goal
from cte_dask.models import load_bank
from cte_dask.ranking.frozen import FrozenTransfer
from cte_dask.ranking.measure_labels import measure_labels
from cte_dask.ranking.options import PlanOptions, RankOptions
from cte_dask.ranking.outcome import EXIT, Outcome, all_tried, concluded
from cte_dask.results.label_folder import LabelledTile, read_label_folder
from cte_dask.results.layout import Layout, layout_of
from cte_dask.results.new_store import create
from cte_dask.results.repair import repair
from cte_dask.results.run_folder import RunFolder
from cte_dask.results.store import Scores
from cte_dask.scoring.experiment import Experiment
from cte_dask.scoring.resolve import experiment_of
from cte_dask.scoring.settings import TargetOptions, keywords
from cte_dask.scoring.target import open_target
from cte_dask.storage.files import check_apart
from cte_dask.tiles import Shape, TileGrid
from cte_dask.volume import Volume

__all__ = ["plan_target", "rank_target", "rank_with"]

SPARE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run that is ready to start.

    Parameters
    ----------
    folder
        Where its results go.
    experiment, scores
        What is computed, and where it is kept.
    shard
        The part of the blocks to score; None for all.
    race
        The work of an anytime run; None of an exhaustive one.
    work
        The blocks wanted.
    session
        What its log will hold.
    labelled
        Tiles that somebody labelled.
    """

    folder: RunFolder
    experiment: Experiment
    scores: Scores
    shard: Shard | None
    race: Anytime | None
    work: Listed | Anytime
    session: dict[str, Any]
    labelled: Sequence[LabelledTile] = ()


def rank_with(target: TargetOptions, bank_path: str, out: str, options: RankOptions) -> Outcome:
    """Rank a bank on a target and write the results into a folder.

    Parameters
    ----------
    target
        The target.
    bank_path
        Path or URL of ``bank.yaml``.
    out
        Folder or URL of the results.
    options
        Everything else. `rank_target` takes its fields as keywords.

    Returns
    -------
    Outcome

    Raises
    ------
    ValueError, OSError
        For any bad value, naming it and the remedy.
    """
    began = datetime.now(UTC)
    run = _prepared(target, bank_path, out, options)
    interrupted = _run(run, options)
    return _concluded(run, options, began, interrupted=interrupted)


rank_target = keywords(RankOptions)(rank_with)


def _prepared(target: TargetOptions, bank_path: str, out: str, options: RankOptions) -> PreparedRun:
    """Check what is asked for, open everything, and make or open the score store."""
    check_apart(out, target.target)
    folder, clock = RunFolder(out), time.monotonic()
    options.goal(1)  # refuse what cannot be before anything is opened
    shard = None if options.shard is None else Shard.parse(options.shard)
    if shard is not None and options.overwrite:
        raise ValueError("--shard and --overwrite exclude each other: shards share what OUT holds")
    if shard is not None and options.labels is not None:
        raise ValueError(
            "--shard and --labels exclude each other: give --resume --labels once all shards are "
            "done"
        )
    resume = options.resume or shard is not None
    _check_out(folder, resume=resume, overwrite=options.overwrite)
    workers = planned_workers(options.cluster, workers=options.workers, threads=options.threads)
    workers *= shard.of if shard else 1  # all shards cut the target alike
    _check_device(options.cluster, options.device)
    block = options.block or (_stored_cut(folder) if resume else None)
    options = _with_runtimes(options, folder if resume else None, shard)
    bank = load_bank(bank_path)
    options.tell("opening the target")
    volume = open_target(target, bank)
    # with worker processes the models need not be here, where one that crashes would end the run
    apart = options.cluster != "none"
    options = replace(options, workers=workers, block=block, apart=apart)
    get_ready(options.cluster, threads=options.threads)
    experiment = experiment_of(volume, bank, options)
    layout = layout_of(experiment)
    _check_space(out, layout)
    labelled = _labelled(options, experiment.volume, experiment.grid)
    if options.overwrite:
        folder.drop_results()
    scores = create(folder.scores_url, layout, resume=resume, overwrite=options.overwrite)
    blocks = range(len(layout.blocks))
    if resume:
        repair(scores, shard.part(blocks) if shard else blocks, tell=options.tell)
    folder.write_experiment(experiment)
    goal = goal_for(len(blocks), options, shard=shard is not None)
    race = None if goal is None else _race(experiment, scores, goal, began=clock)
    work = Listed(missing_jobs(scores, shard)) if race is None else race
    session = {
        "bank": bank_path if "://" in bank_path else os.path.abspath(bank_path),
        "cluster": options.cluster,
        "workers": workers,
        "threads": options.threads,
    }
    return PreparedRun(folder, experiment, scores, shard, race, work, session, labelled)


def _labelled(options: RankOptions, volume: Volume, grid: TileGrid) -> list[LabelledTile]:
    if options.labels is None:
        return []
    return read_label_folder(options.labels.rstrip("/"), volume, grid, tell=options.tell)


def _race(experiment: Experiment, scores: Scores, goal: Goal, *, began: float) -> Anytime:
    values = None
    if experiment.rule == "transfer":
        values = FrozenTransfer(len(experiment.candidates))
    return Anytime(experiment, scores, goal, values=values, began=began)


def _run(run: PreparedRun, options: RankOptions) -> bool:
    """Score what is wanted; return whether somebody stopped it."""
    options.tell("starting")
    display = options.progress(layout_of(run.experiment), run.work.most, run.race)
    cluster = open_cluster(options.cluster, workers=options.workers, threads=options.threads)
    try:
        with cluster as client, display as progress:
            task = Checkpoint(run.experiment, run.folder.scores_url)
            run_jobs(task, run.work, client=client, progress=progress)
            measure_labels(
                run.folder, run.experiment, run.labelled, client=client, tell=options.tell
            )
    except KeyboardInterrupt:
        return True
    except SchedulerLostError as error:
        options.tell(f"error: {error}")
    return False


def _concluded(
    run: PreparedRun, options: RankOptions, began: datetime, *, interrupted: bool
) -> Outcome:
    """Rank what was scored, write the results, and note the session."""
    # of several shards, the files are for the one that sees the whole
    final = run.shard is None or all_tried(run.scores)
    outcome = concluded(
        run.folder,
        run.experiment,
        run.scores,
        run.race,
        interrupted=interrupted,
        shard=run.shard,
        final=final,
        labelled=run.labelled,
    )
    if not final:
        return outcome
    session = {
        **run.session,
        "started": began.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - began).total_seconds(), 3),
        "blocks": run.work.taken,
        "state": next(name for name, code in EXIT.items() if code == outcome.exit_code),
    }
    run.folder.add_session(session, anew=options.overwrite)
    return outcome


def _check_device(cluster: str, device: str) -> None:
    """Refuse to waste GPUs: models are settled here for the device that they will run on."""
    from cte_dask.arrays import resolve_device

    if has_gpus(cluster) and device == "auto" and resolve_device("auto") == "cpu":
        raise ValueError(
            f"the workers of --cluster {cluster} have GPUs and this host has none, but models are "
            "tried out here first: run the command in a job with a GPU, or say --device cpu"
        )


def _stored_cut(folder: RunFolder) -> Shape | None:
    """Return how a run that exists was cut into blocks: its rest must be cut alike."""
    try:
        return folder.open_scores().layout.blocks.per_block
    except FileNotFoundError:
        return None


def _with_runtimes(
    options: RankOptions, folder: RunFolder | None, shard: Shard | None
) -> RankOptions:
    """Let the rest of a run, and shards that cannot ask each other, run networks alike."""
    if options.runtime != "auto":
        return options
    try:
        models = folder.read_experiment()["models"] if folder else None
    except FileNotFoundError:
        models = None
    if models is not None:
        return replace(options, runtimes={m["name"]: m.get("runtime", "torch") for m in models})
    return options if shard is None else replace(options, runtime="torch")


def _check_out(folder: RunFolder, *, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    if folder.has_scores() and not (resume or overwrite):
        raise FileExistsError(
            f"{folder.url} holds results already: give --resume to go on with them or --overwrite "
            "to drop them"
        )
    folder.create()


def _check_space(out: str, layout: Layout) -> None:
    """Refuse a run whose scores would not fit where they are to be written."""
    if "://" in out:
        return
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
    target: TargetOptions, bank_path: str, options: PlanOptions
) -> tuple[Experiment, Plan]:
    """Resolve a run without touching the target's voxels and work out its cost."""
    options.goal(1)  # refuse what cannot be before anything is opened
    workers = planned_workers(options.cluster, workers=options.workers, threads=options.threads)
    bank = load_bank(bank_path)
    options = replace(options, workers=workers, sample=False)
    experiment = experiment_of(open_target(target, bank), bank, options)
    return experiment, plan(experiment, tell=options.tell)
