"""The voxels of a block: read once, with the widest context that any model wants."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cte_dask.tiles import Block, Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.experiment import Experiment
    from cte_dask.perturb import Perturbation

__all__ = ["Window", "margins", "read_box", "read_window", "shifted"]

READ_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Window:
    """The voxels of a block with the widest halo among the models, on the device."""

    voxels: Any
    start: Shape

    @classmethod
    def on(cls, device: str, voxels: NDArray[Any], start: Shape) -> Window:
        """Return a window of some voxels on ``"cpu"`` or ``"cuda"``."""
        if device == "cuda":
            import cupy

            return cls(cupy.asarray(voxels), start)
        return cls(voxels, start)

    def frame(self, start: Shape, shape: Shape) -> Any:
        """Return a view of the box at `start`."""
        low = shifted(start, self.start, -1)
        return self.voxels[tuple(slice(a, a + s) for a, s in zip(low, shape, strict=True))]


def margins(
    experiment: Experiment, perturbations: Iterable[Perturbation] | None = None
) -> tuple[Shape, Shape]:
    """Return the context that a block's read adds before its start and behind its stop.

    Parameters
    ----------
    experiment
        The run.
    perturbations
        What is wanted of it; by default its own. Some read more than the unperturbed pass.
    """
    tile = experiment.grid.tile
    wanted = [None, *(experiment.perturbations if perturbations is None else perturbations)]
    boxes = [c.view(tile, p).box for c in experiment.candidates for p in wanted]
    before = [max(b[i] for b, _ in boxes) for i in range(3)]
    after = [max(s[i] - b[i] - tile[i] for b, s in boxes) for i in range(3)]
    return (before[0], before[1], before[2]), (after[0], after[1], after[2])


def read_window(
    experiment: Experiment, block: Block, perturbations: Iterable[Perturbation] | None = None
) -> Window:
    """Read a block with its margins, once for all models; a failing read is tried again.

    Parameters
    ----------
    experiment, block
        The run and one of its blocks.
    perturbations
        As of `margins`.

    Raises
    ------
    OSError
        If the store fails every time.
    """
    before, after = margins(experiment, perturbations)
    last = block.tiles[-1].start
    start = shifted(block.start, before, -1)
    stop = shifted(shifted(last, experiment.grid.tile, 1), after, 1)
    return Window.on(experiment.device, read_box(experiment, start, stop), start)


def read_box(experiment: Experiment, start: Shape, stop: Shape) -> NDArray[Any]:
    """Read a box of the target; a failing read is tried again.

    Raises
    ------
    OSError
        If the store fails every time.
    """
    for attempt in range(READ_ATTEMPTS - 1):
        try:
            return experiment.volume.read(start, stop)
        except OSError:
            time.sleep(0.1 * 4**attempt)
    return experiment.volume.read(start, stop)


def shifted(a: Shape, b: Shape, sign: int) -> Shape:
    """Return a + sign·b."""
    return a[0] + sign * b[0], a[1] + sign * b[1], a[2] + sign * b[2]
