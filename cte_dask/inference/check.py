"""``cte models check``: try each model of a bank in a process of its own.

A model may hang, run out of memory or take its process down; the others are still reported.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from cte_dask.inference.apart import EndedError, FailedError, done_apart, end_all
from cte_dask.inference.trial import ModelReport
from cte_dask.models.bank import ModelBank
from cte_dask.models.spec import ModelSpec

__all__ = ["ModelReport", "check_bank", "check_spec"]

PATIENCE = 5
"""Seconds by the clock for each second of processor time: other work may go on beside it."""

Take = Callable[[ModelReport], None]


def check_bank(
    bank: ModelBank, *, timeout: float = 120, jobs: int = 2, take: Take = lambda _: None
) -> list[ModelReport]:
    """Load each model in its own process and run one tile.

    Parameters
    ----------
    bank
        The models.
    timeout
        Seconds of processor time after which a model is given up; by the clock five times as many.
    jobs
        Models tried at the same time; each needs the memory of a process with torch.
    take
        Receives each report as soon as it and those before it are there.

    Returns
    -------
    list of ModelReport
        One for each model, in the order of the bank; a failure is a report, never an exception.
    """
    reports: list[ModelReport] = []
    running: set[Any] = set()
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(_checked, spec, timeout, running) for spec in bank]
        try:
            for future in futures:
                reports.append(future.result())
                take(reports[-1])
        except BaseException:  # stopped: nobody waits for what is under way
            for future in futures:
                future.cancel()
            end_all(running)
            raise
    return reports


def check_spec(spec: ModelSpec, *, timeout: float = 120) -> ModelReport:
    """Check one model in a process of its own; see :func:`check_bank`."""
    return _checked(spec, timeout, set())


def _checked(spec: ModelSpec, timeout: float, running: set[Any]) -> ModelReport:
    check = partial(_check, spec.model_dump_json(exclude_unset=True))
    seconds = PATIENCE * timeout
    try:
        return done_apart(check, seconds=seconds, processor_seconds=timeout, running=running)
    except (EndedError, FailedError) as error:
        why = str(error).removeprefix(f"model {spec.name!r}: ")
        return ModelReport(name=spec.name, ok=False, reason=why)


def _check(entry: str, folder: Path) -> ModelReport:
    """Check a model, in its own process."""
    from cte_dask.arrays import set_threads
    from cte_dask.inference.trial import check_model

    set_threads(1)  # several are checked at once
    spec = ModelSpec.model_validate_json(entry)
    if not spec.trust:
        _confine(spec, folder)
    return check_model(spec)


def _confine(spec: ModelSpec, folder: Path) -> None:
    """Let a model that the bank does not trust write nowhere but in a folder."""
    from cte_dask.inference.confinement import forbid_writes
    from cte_dask.models.source import fetch
    from cte_dask.storage import is_url

    if is_url(spec.source):
        fetch(spec)  # into the cache, while that may be written
    forbid_writes(folder)
