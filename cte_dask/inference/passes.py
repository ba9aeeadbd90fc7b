"""Forward passes of one network over one frame: shared, fused and cut to the core where proven."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cte_dask.inference.graph.inductor_passes import InductorPasses
from cte_dask.inference.graph.openvino_passes import OpenVinoPasses
from cte_dask.inference.graph.paths import FeaturePath, Split, example_masks
from cte_dask.inference.graph.places import Core, inner_view
from cte_dask.inference.graph.together import CompiledPasses

__all__ = ["Passes", "Seen", "alike", "correlation", "fitting", "padded"]


COMPILERS: dict[str, Callable[[Split], CompiledPasses]] = {
    "openvino": OpenVinoPasses,
    "inductor": InductorPasses,
}
"""What compiles the passes of a split network, by the name of the runtime."""


@dataclass(frozen=True, slots=True)
class Passes:
    """How a network's passes are run.

    Parameters
    ----------
    forward
        The network: what every other way must equal.
    path
        The network, traced for batches of one extent; None where it cannot be.
    extent
        That extent ([z,] y, x).
    compiled
        The passes of `path`, compiled; None where PyTorch runs them.
    runtime
        What shall run them; see `run_by`.
    """

    forward: nn.Module
    path: FeaturePath | None
    extent: tuple[int, ...]
    compiled: CompiledPasses | None = None
    runtime: str = "torch"

    @property
    def core(self) -> Core | None:
        """Where the tile lies in outputs that are cut to it; None if none can be."""
        return None if self.path is None else self.path.core

    def run_by(self, runtime: str) -> Passes:
        """Return the same passes run by ``"torch"``, or compiled where they are split."""
        compiler = COMPILERS.get(runtime)
        split = self.path if isinstance(self.path, Split) else None
        compiled = compiler(split) if compiler and split else None
        return replace(self, compiled=compiled, runtime=runtime)

    def along(self, path: FeaturePath | None, x: Tensor) -> Passes:
        """Return what runs batches shaped like `x` along another path, by the same runtime."""
        return Passes(self.forward, path, tuple(x.shape[2:])).run_by(self.runtime)

    def framed(self, output: Tensor) -> Tensor:
        """Return an output that is cut to the tile at its place in the frame, with zeros around."""
        cut = None if self.path is None else self.path.cut_at
        if cut is None:
            return output
        frame = output.new_zeros(*output.shape[:2], *self.extent)
        inner_view(frame, cut).copy_(output)
        return frame

    @property
    def form(self) -> tuple[object, ...]:
        """How passes are run, weights aside: equal forms of equal networks cost the same."""
        if self.path is None:
            return (self.extent,)
        savings = (getattr(self.path, "once", None) is not None, self.core is not None)
        return (self.extent, type(self.path), self.path.layers, *savings, self.compiled is None)

    def run(
        self, x: Tensor, masks: Sequence[Sequence[Tensor]], *, core: Core | None
    ) -> Iterable[Tensor]:
        """Yield the output of the unperturbed pass, then one a set of masks.

        Parameters
        ----------
        x
            A batch (N, C, [z,] y, x).
        masks
            For each pass under feature perturbation one mask a perturbed layer.
        core
            `core`, to have outputs cut to the tile and what it needs around; None for whole ones.
        """
        # a trace may hold the extent that it was made with: other ones go the plain way
        if self.path is None or tuple(x.shape[2:]) != self.extent:
            yield fitting(self.forward(x), x)
            return
        if self.compiled is not None:
            for output in self.compiled.run(x, masks, cropped=core is not None):
                yield fitting(output, x) if core is None else output
            return
        state = self.path.encode(x, cropped=core is not None)
        ones = example_masks(x, self.path.channels, random=False)
        for layers in (ones, *masks):
            output = self.path.decode(state, layers, cropped=core is not None)
            yield fitting(output, x) if core is None else output


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the whole network gives for a batch.

    Parameters
    ----------
    x
        The batch, (N, C, [z,] y, x).
    output
        Maps of the same extent.
    """

    x: Tensor
    output: Tensor


def fitting(output: object, x: Tensor) -> Tensor:
    """Return what a network gives for a batch if it is one image of the same extent a sample.

    Raises
    ------
    ValueError
        If it is not.
    """
    if isinstance(output, Tensor) and (len(output), *output.shape[2:]) == (len(x), *x.shape[2:]):
        return output
    got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise ValueError(f"an input of shape {tuple(x.shape)} gives {got}: not maps of the same extent")


def padded(x: Tensor, size: int) -> Tensor:
    """Repeat the last sample until the batch is full: a batch's shape never changes."""
    missing = size - len(x)
    return x if missing == 0 else torch.cat([x, x[-1:].expand(missing, *x.shape[1:])])


def alike(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Tell whether two outputs differ by no more than a part of the largest value.

    Parameters
    ----------
    one, other
        Outputs of one shape: numbers, or labels, which may be numbered otherwise.
    tolerance
        The part. NaN must be at the same places.
    """
    if not one.is_floating_point():
        return bool(torch.equal(one > 0, other > 0))
    if bool((one.isnan() != other.isnan()).any()):
        return False
    one, other = (v.nan_to_num().float() for v in (one, other))
    return float((one - other).abs().max()) <= tolerance * max(float(one.abs().max()), 1e-6)


def correlation(one: Tensor, other: Tensor) -> float:
    """Return Pearson's correlation of two masks (the phi coefficient); 0 if one is constant.

    Parameters
    ----------
    one, other
        Boolean, of one shape.
    """
    a, b = (m.double() - m.double().mean() for m in (one, other))
    norm = float(a.norm() * b.norm())
    return float((a * b).sum()) / norm if norm else 0.0
