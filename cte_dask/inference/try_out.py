"""Every pass of one batch of noise, to count its operations or to time it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cte_dask.inference.graph.paths import example_masks
from cte_dask.inference.graph.trace import flops_of

if TYPE_CHECKING:
    from cte_dask.inference.passes import Passes
    from cte_dask.inference.predictor import Predictor
    from cte_dask.perturb import Draw
    from cte_dask.perturb.kinds import Warp
    from cte_dask.perturb.views import View

__all__ = ["flops_per_tile", "try_out"]


def flops_per_tile(ready: Predictor, draws: Sequence[Draw]) -> int:
    """Count the floating-point operations of one tile under every draw (2 a multiply-add).

    Parameters
    ----------
    ready
        The model.
    draws
        The perturbed runs.
    """
    plain = ready.passes.run_by("torch")
    for view, warp in _moves(ready, draws):
        ready.passes_of(view, warp, plain)  # which they are opened for once
    counted = flops_of(lambda: try_out(ready, draws, plain))
    return counted * ready.samples_per_tile // ready.batch


def try_out(ready: Predictor, draws: Sequence[Draw], passes: Passes | None = None) -> None:
    """Run every pass of one batch of uniform noise.

    Parameters
    ----------
    ready, draws
        As `flops_per_tile` takes them.
    passes
        What runs them, if it is not the model's own.
    """
    x, passes = ready.example(), passes or ready.passes
    ones = example_masks(x, ready.path.channels if ready.path else (), random=False)
    masks = [ones for d in draws if d.perturbation.space == "feature"]
    with ready.arithmetic():
        list(passes.run(x, masks, core=passes.core))
        for view, warp in _moves(ready, draws):
            other = ready.passes_of(view, warp, passes)
            list(other.run(ready.example(view), [], core=other.core))


def _moves(ready: Predictor, draws: Sequence[Draw]) -> Iterator[tuple[View, Warp | None]]:
    """Yield what each run perturbed in input space sees, and how its voxels are moved."""
    for perturbation in (d.perturbation for d in draws if d.perturbation.space == "input"):
        view = ready.view(perturbation)
        yield view, perturbation.warp(view, [(0, 0)] * ready.batch)
