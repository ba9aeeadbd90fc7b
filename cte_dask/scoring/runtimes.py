"""Which runtime runs a model's passes: PyTorch, or OpenVINO or inductor where that is faster.

A long run compiles each network and times it against PyTorch on the spot; what was chosen, and what
the trial cost, is part of the experiment, so that every worker and every resumed run does the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cte_dask.inference.settings import TORCH, Runtime
from cte_dask.perturb import draws_of

if TYPE_CHECKING:
    from cte_dask.inference.predictor import Predictor
    from cte_dask.perturb import Perturbation

__all__ = ["BY_TORCH", "RUNTIMES", "RuntimeChoice", "check_runtime"]

RUNTIMES = "auto", "torch", "openvino", "inductor"
PLACES = {"openvino": "cpu", "inductor": "cuda"}
"""The device that a runtime is offered on; PyTorch runs on any."""

LONG_SECONDS = 60.0
"""Of one model's passes in one worker: shorter ones are not worth a trial."""


def check_runtime(name: str, device: str) -> None:
    """Refuse a runtime that does not exist, is not installed, or is not for a device.

    Raises
    ------
    ValueError
        If it is.
    """
    if name not in RUNTIMES:
        raise ValueError(f"--runtime {name!r} must be one of {', '.join(RUNTIMES)}")
    if PLACES.get(name, device) != device:
        there = {"cpu": "processors", "cuda": "NVIDIA GPUs"}[PLACES[name]]
        raise ValueError(f"--runtime {name} is of {there}, not of {device}: use auto")
    if name == "openvino":
        from cte_dask.inference.graph.openvino_passes import check_installed

        check_installed()


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """How the runtime of each model is chosen.

    Parameters
    ----------
    asked
        One of `RUNTIMES`.
    tiles
        Tiles that a worker is expected to score; None if that is not known, so that a run counts as
        short.
    seconds
        Time that a model's passes may take in a worker; None if nothing bounds it.
    known
        Runtimes by the names of candidates, of the same run before; None if there is none.
    """

    asked: str = "torch"
    tiles: int | None = None
    known: Mapping[str, str] | None = None
    seconds: float | None = None

    def choose(
        self, name: str, ready: Predictor, perturbations: Sequence[Perturbation], *, seconds: float
    ) -> Runtime:
        """Try a model's passes compiled, and leave it with those that it shall use.

        Parameters
        ----------
        name
            Name of the candidate.
        ready
            The loaded model, changed in place.
        perturbations
            Those of the run that it supports.
        seconds
            What some of its passes took for one batch.
        """
        asked = self.asked if self.known is None else self.known.get(name, "torch")
        batches = (self.tiles or 0) * ready.samples_per_tile / ready.batch
        if self.seconds is not None and seconds > 0:
            batches = min(batches, self.seconds / seconds)
        if asked == "torch" or (asked == "auto" and seconds * batches < LONG_SECONDS):
            return TORCH
        from cte_dask.inference.runtime_trial import try_compiled

        draws = draws_of(perturbations, 1)
        return try_compiled(ready, draws, batches=batches if asked == "auto" else None)


BY_TORCH = RuntimeChoice()
