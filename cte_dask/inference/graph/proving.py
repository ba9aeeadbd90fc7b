"""Proving that a split network is the plain one, and finding the form that it runs fastest in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cte_dask.inference.device import rounding
from cte_dask.inference.graph import winograd
from cte_dask.inference.graph.convolutions import offer
from cte_dask.inference.graph.fold_and_fuse import fused
from cte_dask.inference.graph.merge_upsampling import merge_upsampling
from cte_dask.inference.graph.narrow import cut_to
from cte_dask.inference.graph.paths import Form, Split, example_masks
from cte_dask.inference.graph.places import Core, inner_view
from cte_dask.inference.graph.skip_once import halved
from cte_dask.inference.memory import out_of_memory

__all__ = [
    "DIFFERS",
    "Proven",
    "cut_elsewhere",
    "faster",
    "formed",
    "is_same",
    "other_input",
    "prove",
]

offer(winograd.convolved)

DIFFERS = "the split network differs from the plain one"


@dataclass(frozen=True, slots=True)
class Proven:
    """A split that equals the plain pass, and what it gave for one batch and masks."""

    split: Split
    x: Tensor
    masks: list[Tensor]
    state: tuple[Tensor, ...]
    output: Tensor


def prove(
    split: Split,
    x: Tensor,
    masks: list[Tensor],
    want: Tensor,
    *,
    plain: Callable[[Tensor, Sequence[Tensor]], Tensor],
) -> Proven:
    """Compare a cut graph with the plain pass; the second decode catches a spoilt state."""
    with torch.no_grad():
        state = split.encode(x)
        for _ in range(2):
            _require_equal(got := split.decode(state, masks), want)
        # a number that the trace holds fast was right for the input it was traced with alone
        other = other_input(x)
        _require_equal(split.run(other, masks), plain(other, masks))
    return Proven(split, x, masks, state, got)


def other_input(x: Tensor) -> Tensor:
    """Return a second input: other values at other places."""
    return 0.3 * x.flip(-1) + 0.5


def _require_equal(got: Tensor, want: Tensor) -> None:
    if not torch.equal(got, want) and not torch.allclose(got, want, rtol=1e-5, atol=1e-6):
        raise ValueError(DIFFERS)


def faster(proven: Proven, core: Core | None) -> Split:
    """Fuse a split and cut it to the core, as far as its results differ by rounding alone."""
    split = proven.split
    with torch.no_grad():
        quick = _fused(split, proven.x.device)
        forms = [form for form in (_halved(quick), quick) if form is not None]
        candidates = (
            path
            for form in forms
            for path in (cut_to(form, core) if core else None, form)
            if path is not None
        )
        return next((path for path in candidates if _fits(path, proven)), split)


def _fits(split: Split, proven: Proven) -> bool:
    x, masks, want = proven.x, proven.masks, proven.output
    if not is_same(split, x, masks, want):
        return False
    return split.inner is None or is_same(split, x, masks, want, core=split.inner.core)


def cut_elsewhere(split: Split, x: Tensor, core: Core | None) -> Split:
    """Return a proven split for a tile that lies elsewhere in its output, uncut where it must be.

    Parameters
    ----------
    split
        The network.
    x
        A batch of the shape that it was made for.
    core
        Where the tile lies; None for everywhere.
    """
    whole = replace(split, inner=None)
    cut = cut_to(whole, core) if core else None
    with torch.no_grad():
        masks = example_masks(x, split.channels, random=False)
        same = cut is not None and is_same(cut, x, masks, whole.run(x, masks), core=core)
    return cut if cut is not None and same else whole


def formed(split: Split, form: Form, device: torch.device) -> Split:
    """Return a split in a form that was found for its architecture, not cut to a tile yet.

    Raises
    ------
    ValueError
        If its graph does not take that form.
    """
    if form.kind == "split":
        return split
    path: Split | None = _fused(split, device)
    if path is not None and form.kind == "once":
        path = _halved(path)
    if path is None:
        raise ValueError(f"no convolution over a skip in the form {form.kind!r}")
    return path


def _fused(split: Split, device: torch.device) -> Split:
    """Return a split with its norms folded and its activations fused."""
    prefix, suffix = (fused(half, device) for half in (split.prefix, split.suffix))
    for half in (prefix, suffix):
        merge_upsampling(half)
    return replace(split, prefix=prefix, suffix=suffix, traced=(split.prefix, split.suffix))


def _halved(split: Split) -> Split | None:
    """Return a split with half of its convolutions over skips run once; None if it has none."""
    halves = halved(split.suffix)
    if halves is None:
        return None
    once, suffix = halves
    merge_upsampling(suffix, once)
    return replace(split, once=once, suffix=suffix)


def is_same(
    path: Split, x: Tensor, masks: Sequence[Tensor], want: Tensor, *, core: Core | None = None
) -> bool:
    """Tell whether a path gives what is wanted, in the core if it is cut to that."""
    # rounding grows with the size of the sums, not of each result
    tolerance = rounding(x) * float(want.abs().max())
    cropped = core is not None and path.inner is not None
    try:
        got = path.run(x, masks, cropped=cropped)
    except RuntimeError as error:  # a graph that holds the extents it was traced with
        if out_of_memory(error):
            raise
        return False
    if core is not None and cropped:
        want = inner_view(want, core)
    return got.shape == want.shape and float((got - want).abs().max()) <= tolerance
