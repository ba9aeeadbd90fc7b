"""``cte models check``: try each model of a bank in a process of its own.

A model may hang, run out of memory or take its process down; the others are still reported.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from cte_dask.inference.trial import ModelReport
from cte_dask.models.bank import ModelBank
from cte_dask.models.spec import ModelSpec

__all__ = ["ModelReport", "check_bank", "check_spec"]


def check_bank(bank: ModelBank, *, timeout: float = 120, jobs: int = 2) -> list[ModelReport]:
    """Load each model in its own subprocess and run one tile.

    Parameters
    ----------
    bank
        The models.
    timeout
        Seconds after which a model is given up.
    jobs
        Models tried at the same time; each needs the memory of a process with torch.

    Returns
    -------
    list of ModelReport
        One for each model, in the order of the bank; a failure is a report, never an exception.
    """
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        return list(pool.map(lambda spec: check_spec(spec, timeout=timeout), bank))


def check_spec(spec: ModelSpec, *, timeout: float = 120) -> ModelReport:
    """Check one model in a subprocess; see :func:`check_bank`."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "cte_dask.inference.check"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_same_path(),
        start_new_session=True,
    )
    try:
        out, err = process.communicate(spec.model_dump_json(exclude_unset=True), timeout=timeout)
    except subprocess.TimeoutExpired:
        return _failed(spec, f"gave no answer in {timeout:g} s")
    finally:
        _end(process)
    if process.returncode == 0 and out:
        return _from_json(out)
    return _failed(spec, _how_it_ended(process.returncode, err))


def _failed(spec: ModelSpec, why: str) -> ModelReport:
    return ModelReport(name=spec.name, ok=False, reason=why)


def _how_it_ended(code: int, err: str) -> str:
    if code < 0:
        return f"crashed with {signal.Signals(-code).name}"
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    return f"ended with exit code {code}" + (f": {lines[-1][:300]}" if lines else "")


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and whatever it started: they are a session of their own."""
    with suppress(ProcessLookupError, PermissionError):  # nothing of it is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _same_path() -> dict[str, str]:
    """Return this environment with this process's import path: the same model must be found."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path}


def _from_json(text: str) -> ModelReport:
    data: dict[str, Any] = json.loads(text)
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    return ModelReport(**plain)


@contextmanager
def _own_stdout() -> Iterator[int]:
    """Yield the real standard output; meanwhile what a model prints goes to standard error."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        yield real
    finally:
        os.close(real)


def _main() -> None:
    from cte_dask.inference.trial import check_model
    from cte_dask.models.network import ModelError

    spec = ModelSpec.model_validate_json(sys.stdin.read())
    with _own_stdout() as out:
        try:
            report = check_model(spec)
        except ModelError as error:
            report = _failed(spec, str(error).removeprefix(f"model {spec.name!r}: "))
        os.write(out, json.dumps(asdict(report)).encode())


if __name__ == "__main__":
    _main()
