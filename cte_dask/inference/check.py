"""``cte models check``: try each model of a bank in a process of its own.

A model may hang, run out of memory or take its process down; the others are still reported.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cte_dask.inference.trial import ModelReport
from cte_dask.models.bank import ModelBank
from cte_dask.models.spec import ModelSpec

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["ModelReport", "check_bank", "check_spec"]

PATIENCE = 5
"""Seconds by the clock for each second of processor time: other work may go on beside it."""

# Processes are forked from one that has torch loaded, where the system can.
_CONTEXT: Any = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
_PRELOADED = ["cte_dask.inference.trial"]

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
            _abandon(futures, running)
            raise
    return reports


def check_spec(spec: ModelSpec, *, timeout: float = 120) -> ModelReport:
    """Check one model in a process of its own; see :func:`check_bank`."""
    return _checked(spec, timeout, set())


def _abandon(futures: list[Future[ModelReport]], running: set[Any]) -> None:
    for future in futures:
        future.cancel()
    for process in tuple(running):
        _kill(process)


def _checked(spec: ModelSpec, timeout: float, running: set[Any]) -> ModelReport:
    if _CONTEXT.get_start_method() == "forkserver":
        _CONTEXT.set_forkserver_preload(_PRELOADED)
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder, receiver:
        speech = Path(folder) / "speech"
        entry = spec.model_dump_json(exclude_unset=True)
        process = _CONTEXT.Process(target=_main, args=(entry, sender, timeout, str(speech)))
        process.start()
        sender.close()
        running.add(process)
        try:
            report = _answer(receiver, process, timeout)
        finally:
            running.discard(process)
            _kill(process)
        if report is not None:
            return report
        said = speech.read_text(errors="replace") if speech.exists() else ""
        return _failed(spec, _ending(process.exitcode, said, timeout))


def _answer(receiver: Connection, process: Any, timeout: float) -> ModelReport | None:
    """Return a model's report; None if its process ends, or goes on too long, without one."""
    deadline = time.monotonic() + PATIENCE * timeout
    while time.monotonic() < deadline:
        if receiver.poll(0.1):
            with suppress(EOFError):
                report: ModelReport = receiver.recv()
                return report
        if not process.is_alive():
            break
    return None


def _failed(spec: ModelSpec, why: str) -> ModelReport:
    return ModelReport(name=spec.name, ok=False, reason=why)


def _ending(code: int | None, said: str, timeout: float) -> str:
    if code is None or code == -signal.SIGKILL:
        return f"gave no answer in {PATIENCE * timeout:g} s"
    if hasattr(signal, "SIGXCPU") and code == -signal.SIGXCPU:
        return f"gave no answer in {timeout:g} s of processor time"
    if code < 0:
        return f"crashed with {signal.Signals(-code).name}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"ended with exit code {code}" + (f": {lines[-1][:300]}" if lines else "")


def _kill(process: Any) -> None:
    """End the process and whatever it started: they are a session of their own."""
    with suppress(ProcessLookupError, PermissionError, AttributeError):  # nothing of it is left
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _main(entry: str, sender: Connection, timeout: float, speech: str) -> None:
    """Check a model; what it prints goes to a file, whoever of its children says it."""
    from cte_dask.arrays import set_threads
    from cte_dask.inference.trial import check_model
    from cte_dask.models.network import ModelError

    _apart(timeout, speech)
    set_threads(1)  # several are checked at once
    spec = ModelSpec.model_validate_json(entry)
    try:
        if not spec.trust:
            _confine(spec, Path(speech).parent)
        report = check_model(spec)
    except (ModelError, ValueError) as error:
        report = _failed(spec, str(error).removeprefix(f"model {spec.name!r}: "))
    sender.send(report)


def _confine(spec: ModelSpec, folder: Path) -> None:
    """Let a model that the bank does not trust write nowhere but in a folder."""
    from cte_dask.inference.confinement import forbid_writes
    from cte_dask.models.source import fetch
    from cte_dask.storage import is_url

    if is_url(spec.source):
        fetch(spec)  # into the cache, while that may be written
    forbid_writes(folder)


def _apart(timeout: float, speech: str) -> None:
    """Become a session of one's own with limited processor time, and speak into a file."""
    if hasattr(os, "setsid"):
        import resource

        os.setsid()
        seconds = max(1, round(timeout))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(speech, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(file, stream)
